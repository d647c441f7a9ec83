"""medqa.option_reading: the options of a question, and the one that an answer settles on."""

import time

import pytest

from medqa.option_reading import option_letters, read_option

ENGLISH = [
    # Just the letter.
    ("B", "B"),
    ("B.", "B"),
    ("(B)", "B"),
    ("b", "B"),
    ("c)", "C"),
    ("**D**", "D"),
    ("\uff22", "B"),  # full-width
    ("\uff08\uff23\uff09", "C"),
    ("A. Aspirin", "A"),
    ("D: fever", "D"),
    ("C - stroke", "C"),
    ("B\n\nExplanation: C is a beta blocker, D a diuretic.", "B"),
    # The letter that is called the answer.
    ("Answer: (B)", "B"),
    ("Answer: b", "B"),
    ("answer is c.", "C"),
    ("The answer is B: chest pain.", "B"),
    ("The correct answer is option D.", "D"),
    ("**Answer:** C", "C"),
    ("### Answer\nB", "B"),
    ("The best answer would be A because aspirin is given first.", "A"),
    ("Answer\uff1a\uff22", "B"),
    (r"\boxed{C}", "C"),
    (r"So the dose is halved: $\boxed{\text{(D)}}$", "D"),
    (r"The final answer is \(\mathrm{A}\).", "A"),
    ("A patient with chest pain needs aspirin. Answer: B", "B"),
    ("A. rest\nB. aspirin\nC. surgery\nD. fluids\nAnswer: C", "C"),
    ("Option A is wrong. Option B is wrong. The answer is C.", "C"),
    # Other sentences.
    ("Option D is correct", "D"),
    ("B is the correct answer.", "B"),
    ("Of these, (C) is right.", "C"),
    ("I choose option a.", "A"),
    ("I would go with B.", "B"),
    ("I think it's D.", "D"),
    ("Option A is incorrect, option C is correct.", "C"),
    # Denials.
    ("The answer is not B", ""),
    ("The answer isn't C.", ""),
    ("The answer is not A but C", "C"),
    ("The answer isn't B, it's D.", "D"),
    ("The answer isn\u2019t B, it\u2019s D.", "D"),
    ("It is not A. The answer is C.", "C"),
    ("The answer is not A, the answer is C.", "C"),
    ("The answer is A, not B.", "A"),
    ("The answer is A rather than D.", "A"),
    ("The answer is neither A nor B.", ""),
    ("I would not choose B.", ""),
    ("Option B is not correct.", ""),
    # Several, or none.
    ("It could be A or C", ""),
    ("The answer is A or C.", ""),
    ("Answer: B, D", ""),
    ("A and C", ""),
    ("A. rest\nB. aspirin", ""),
    ("The answer is A. No, the answer is C.", ""),
    ("I am not sure", ""),
    ("I cannot answer a medical question. Please see a doctor.", ""),
    ("None of the above", ""),
    ("", ""),
    # Letters that are no option.
    ("A patient with fever needs rest.", ""),
    ("The answer is a beta blocker.", ""),
    ("The best option is a diuretic.", ""),
    ("The answer is hepatitis B.", ""),
    ("Vitamin D is given.", ""),
    ("B cells make antibodies.", ""),
    ("The answer is C-reactive protein.", ""),
    ("Answer: A1c", ""),
    ("As an AI, I cannot say.", ""),
    ("E", ""),
]


LANGUAGES = [
    # Chinese
    ("答案是B", "B"),
    ("答案：Ｂ", "B"),
    ("选B", "B"),
    ("选择 B", "B"),
    ("正确答案为（C）", "C"),
    ("【答案】B 【解析】A项错误", "B"),
    ("B选项正确", "B"),
    ("B 是正确答案。", "B"),
    ("选项A错误，选项C正确", "C"),
    ("B、阿司匹林", "B"),
    ("我认为是B", "B"),
    ("答案不是A，而是C", "C"),
    ("选A不选B", "A"),
    ("答案不是B", ""),
    ("不能选B", ""),
    ("B不正确", ""),
    ("答案是A或者B", ""),
    ("答案是B细胞", ""),
    ("答案是维生素B。", ""),
    ("首选B超检查", ""),
    ("维生素B", ""),
    ("B细胞", ""),
    ("乙型B", ""),
    ("C反应蛋白升高", ""),
    # Japanese, Korean, Thai
    ("正解は「D」です", "D"),
    ("答えはC", "C"),
    ("正解はBではなくCです。", "C"),
    ("答えはBではありません。", ""),
    ("答えはB型肝炎です", ""),
    ("정답은 B입니다.", "B"),
    ("정답은 A가 아니라 B입니다", "B"),
    ("정답은 B형 간염입니다", ""),
    ("ตอบ ข้อ B", "B"),
    ("คำตอบคือ B", "B"),
    ("ข้อ B ผิด", ""),
    # Others
    ("Правильный ответ — B", "B"),
    ("La respuesta correcta es la B.", "B"),
    ("La opción C es correcta.", "C"),
    ("La respuesta no es B", ""),
    ("La réponse est B", "B"),
    ("Die richtige Antwort ist A.", "A"),
    ("الإجابة الصحيحة هي C", "C"),
    ("सही उत्तर B है", "B"),
    ("Đáp án: B", "B"),
    # Invisible characters
    ("\ufeffB\u200f", "B"),
    ("The answer:\u200bB", "B"),
]
TEN = [
    ("E", "E"),
    ("F. Gout", "F"),
    ("(J)", "J"),
    ("Option H is correct", "H"),
    ("The answer is E because it is.", "E"),
    ("The answer is E or F", ""),
    ("答案是E", "E"),
    ("Hepatitis E", ""),
    ("E. coli", ""),
    ("The answer is H. pylori", ""),
    ("La risposta e la spiegazione", ""),
    # The letter I and the pronoun
    ("I", "I"),
    ("I. Warfarin", "I"),
    ("The answer is I.", "I"),
    ("I choose I", "I"),
    ("I is correct", "I"),
    ("I think it is B", "B"),
    ("i think it is b", "B"),
    ("I, as a doctor, would choose B", "B"),
    ("I'm sure it is G", "G"),
    ("I was told the answer is B", "B"),
    ("Answer: I am not sure", ""),
    ("I cannot say", ""),
    ("so I would be right", ""),
    ("type I error", ""),
]


@pytest.mark.parametrize(("answer", "letter"), [*ENGLISH, *LANGUAGES])
def test_options(answer: str, letter: str) -> None:
    assert read_option(answer) == letter


@pytest.mark.parametrize(
    ("answer", "letter"), [*TEN, *(case for case in ENGLISH if case[0] != "E"), *LANGUAGES]
)
def test_options_of_ten(answer: str, letter: str) -> None:
    assert read_option(answer, "ABCDEFGHIJ") == letter


def test_a_letter_that_the_question_does_not_list_is_no_option() -> None:
    assert read_option("The answer is D", "ABC") == ""
    assert read_option("E", "ABCDE") == "E"


@pytest.mark.parametrize(
    "part",
    ["\n", " \n", "-\n", " ", "A ", "B, A or ", "(", "B ( ", "not ", "not B but ", "answer ", "answer is B ", 
     "n't the ", "the answer is the option ", "答案", "选B", "B、", "I, ", "\\boxed{", "B\u0300\u0316"],
)  # fmt: skip
def test_reading_takes_linear_time(part: str) -> None:
    def seconds(length: int) -> float:
        answer = "answer" + part * (length // len(part)) + "x"
        began = time.process_time()
        read_option(answer, "ABCDEFGHIJ")
        return time.process_time() - began

    seconds(100)
    # Twice the text takes twice the time; four times would be the square.
    assert seconds(100_000) < 3 * seconds(50_000) + 0.1


@pytest.mark.parametrize(
    ("question", "letters"),
    [
        ("Which?\nA. x\nB. y\nC. z\nD. w\nE. v", "ABCDE"),
        ("Which? (a) x (b) y (c) z", "ABC"),
        ("下列哪项正确？\nＡ．高\nＢ．低\nＣ．中\nＤ．无", "ABCD"),
        ("哪项？A、高 B、低 C、中 D、无 E、都", "ABCDE"),
        ("Which?" + "".join(f"\n{letter}) {letter}" for letter in "ABCDEFGHIJ"), "ABCDEFGHIJ"),
        ("Which?\nA - x\nB - y\nC - z\nD - w\nE - v", "ABCDE"),
        ("Which?\n**A** x\n**B** y\n**C** z", "ABC"),
        ("Hepatitis A. or B. or E. coli?", "ABCD"),  # fewer than three in a row
        ("Why?", "ABCD"),
    ],
)
def test_option_letters(question: str, letters: str) -> None:
    assert option_letters(question) == letters
