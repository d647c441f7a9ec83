"""medqa.metrics: what an answer covers, the option it settles on, and intervals that hold what they promise."""

import random
import time

import numpy as np
import pytest

from medqa import metrics

CHOICES = [
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
    # Other ways to say it.
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


TONGUES = [
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
    # Marks that are not seen
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


@pytest.mark.parametrize(("answer", "letter"), [*CHOICES, *TONGUES])
def test_choice(answer: str, letter: str) -> None:
    assert metrics.read_option(answer) == letter


@pytest.mark.parametrize(
    ("answer", "letter"), [*TEN, *(case for case in CHOICES if case[0] != "E"), *TONGUES]
)
def test_choice_of_ten(answer: str, letter: str) -> None:
    assert metrics.read_option(answer, "ABCDEFGHIJ") == letter


def test_a_letter_that_the_question_does_not_offer_is_no_choice() -> None:
    assert metrics.read_option("The answer is D", "ABC") == ""
    assert metrics.read_option("E", "ABCDE") == "E"


@pytest.mark.parametrize(
    "part",
    ["\n", " \n", "-\n", " ", "A ", "B, A or ", "(", "B ( ", "not ", "not B but ", "answer ", "answer is B ", 
     "n't the ", "the answer is the option ", "答案", "选B", "B、", "I, ", "\\boxed{", "B\u0300\u0316"],
)  # fmt: skip
def test_choice_takes_linear_time(part: str) -> None:
    def seconds(length: int) -> float:
        answer = "answer" + part * (length // len(part)) + "x"
        began = time.process_time()
        metrics.read_option(answer, "ABCDEFGHIJ")
        return time.process_time() - began

    seconds(100)
    # Twice the text takes twice the time; four times would be the square.
    assert seconds(100_000) < 3 * seconds(50_000) + 0.1


@pytest.mark.parametrize(
    ("answer", "point", "held"),
    [
        ("It causes Chest  pain, mostly.", "chest pain", True),
        ("pain in the chest", "chest pain", False),  # short points count word for word
        ("chest pains", "chest pain", False),
        ("", "chest pain", False),
        ("Drink water and rest, avoid smoke.", "Drink water, rest, and avoid all alcohol.", True),
        ("Drink water and rest.", "Drink water, rest, and avoid all alcohol.", False),
        ("anything", "That is as it was.", False),  # nothing but stop words: they must be there
        ("as that is, it was", "That is as it was.", True),
        # Scripts without spaces: up to four characters as they are; of up to eight none may be missing.
        ("患者有胸痛和发热。", "胸痛", True),
        ("高血糖和低血压", "高血压", False),
        ("要多休息，多喝水。", "多喝水，多休息。", True),
        ("原发性低血压", "原发性高血压", False),
        ("维生素B6缺乏", "维生素B12缺乏", False),
        ("建议患者多饮水，注意休息。", "患者应当多喝水并注意休息。", True),
        ("一般首选血管紧张素转换酶抑制剂（ACEI）治疗。", "首选药物是血管紧张素转换酶抑制剂。", True),
        (
            "感冒通常由病毒引起，一般一周内可以自行好转，不需要使用抗生素。",
            "患者应当多喝水并注意休息。",
            False,
        ),
        ("水分を十分に取り、安静にしてください。", "安静にして水分を十分にとることが大切です。", True),
        (
            "風邪はウイルスによって起こり、一週間ほどで治ります。",
            "安静にして水分を十分にとることが大切です。",
            False,
        ),
        ("ควรพักผ่อนให้เพียงพอและดื่มน้ำมากๆ", "ผู้ป่วยควรดื่มน้ำมากๆและพักผ่อน", True),
        ("ไข้หวัดเกิดจากเชื้อไวรัส มักหายได้เองภายในหนึ่งสัปดาห์", "ผู้ป่วยควรดื่มน้ำมากๆและพักผ่อน", False),
        ("बुखार और खाँसी के साथ दर्द", "बुखार और खाँसी", True),
    ],
)
def test_covers(answer: str, point: str, held: bool) -> None:
    assert metrics.covers(answer, point) == held


def test_key_point_recall_is_a_share() -> None:
    assert metrics.key_point_recall("fever and a rash", ["fever", "rash", "chest pain"]) == pytest.approx(
        2 / 3
    )


@pytest.mark.parametrize(
    ("answer", "reference", "f1"),
    [
        ("fever, rash", "Rash. Fever!", 1),
        ("fever", "rash", 0),
        ("", "rash", 0),
        ("", "", 0),
        ("fever fever", "fever", 2 / 3),
        ("a b c d", "a b", 2 / 3),
        ("低血压", "高血压", 2 / 3),
        ("多饮水", "胸痛", 0),
    ],
)
def test_token_f1(answer: str, reference: str, f1: float) -> None:
    assert metrics.token_f1(answer, reference) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("answer", "reference", "f1"),
    [
        ("Fever, rash.", "fever rash!", 1),
        ("rash fever", "fever rash", 1 / 2),  # either word, but not both in order
        ("fever", "rash", 0),
        ("", "rash", 0),
        ("", "", 0),
        ("fever fever", "fever", 2 / 3),
        ("police kill the gunman", "police killed the gunman", 3 / 4),  # as in the paper
        ("the gunman kill police", "police killed the gunman", 1 / 2),
        ("a x b y c z", "a b c", 2 * 3 / (6 + 3)),
        ("a b c d e f g", "c d x a b e", 2 * 3 / (7 + 6)),  # a b e, or c d e
    ],
)
def test_rouge_l(answer: str, reference: str, f1: float) -> None:
    assert metrics.rouge_l(answer, reference) == pytest.approx(f1)
    assert metrics.rouge_l(reference, answer) == metrics.rouge_l(answer, reference)


def table_of_lengths(first: list[str], second: list[str]) -> int:
    """The length of the longest common subsequence by the textbook's table."""
    above = [0] * (len(second) + 1)
    for word in first:
        row = [0]
        for place, other in enumerate(second):
            row.append(above[place] + 1 if word == other else max(above[place + 1], row[-1]))
        above = row
    return above[-1]


def test_common_subsequences_are_as_long_as_the_textbook_says() -> None:
    draw = random.Random(0)
    for _ in range(300):
        first, second = (
            draw.choices("abcdefgh"[: draw.randint(1, 8)], k=draw.randint(0, 90)) for _ in range(2)
        )
        assert metrics.longest_common_subsequence(first, second) == table_of_lengths(first, second)


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("", 0),
        ("a b c", 0),
        ("a b c d", 0),
        ("a a a a", 1 / 2),
        ("a b c a b c", 1 / 4),
        ("a b c. A B C a b c", 4 / 7),
    ],
)
def test_repetition(answer: str, share: float) -> None:
    assert metrics.repetition(answer) == pytest.approx(share)


CHINESE = (
    "高血压是一种常见的慢性疾病，主要表现为动脉血压持续升高。患者早期可能没有明显的症状，部分人会出现头痛、头晕、心悸和耳鸣等不适。"
    "长期血压控制不佳会损害心脏、大脑、肾脏和眼底等重要器官，引起冠心病、脑卒中、肾功能衰竭和视网膜病变。治疗包括改善生活方式和药物治疗。"
    "患者应减少食盐摄入，控制体重，戒烟限酒，适当运动，并保持心情愉快。医生会根据患者的年龄、病情和合并症选择合适的药物，并定期监测血压。"
)
JAPANESE = (
    "高血圧は、動脈の血圧が持続的に高くなる慢性的な病気です。初期には自覚症状がないことが多いですが、頭痛やめまいなどがみられることがあります。"
    "治療には生活習慣の改善と薬物療法があります。塩分を控え、体重を管理し、禁煙や節酒、適度な運動を心がけることが大切です。"
)
THAI = (
    "โรคความดันโลหิตสูงเป็นโรคเรื้อรังที่พบบ่อย ผู้ป่วยส่วนใหญ่มักไม่มีอาการในระยะแรก บางรายอาจมีอาการปวดศีรษะ เวียนศีรษะ ใจสั่น หรือหูอื้อ "
    "การรักษาประกอบด้วยการปรับเปลี่ยนพฤติกรรมและการใช้ยา ผู้ป่วยควรลดการบริโภคเกลือ ควบคุมน้ำหนัก งดสูบบุหรี่ และพักผ่อนให้เพียงพอ"
)


@pytest.mark.parametrize("text", [CHINESE, JAPANESE, THAI])
def test_a_text_without_spaces_repeats_little_and_its_loop_much(text: str) -> None:
    assert metrics.repetition(text) < 0.02
    assert metrics.repetition(text[:20] * 10) > 0.8
    assert metrics.repetition(f"{text} {text[:12] * 20}") > 0.3


def test_mean_interval_covers_the_true_mean_in_95_of_100_trials() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(1000):
        mean, low, high = metrics.mean_interval(rng.normal(3, 2, size=100), seed=trial, samples=400)
        assert low <= mean <= high
        covered += low <= 3 <= high
    assert 930 <= covered <= 970


def test_mean_interval_is_determined_by_its_seed() -> None:
    values = [0.1, 0.5, 0.9, 0.4]
    assert metrics.mean_interval(values, 1, 100) == metrics.mean_interval(values, 1, 100)
    assert metrics.mean_interval(values, 1, 100)[1:] != metrics.mean_interval(values, 2, 100)[1:]
    assert metrics.mean_interval([0.5], 0, 100) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([1.0] * 552, 0.99334, 1),
        ([0.0] * 80, 0, 0.04506),
        ([0.0], 0, 0.975),
        ([1.0], 0.025, 1),
        ([0.5] * 9, 0.5, 0.5),
    ],
)
def test_a_share_is_never_certain(values: list[float], low: float, high: float) -> None:
    assert metrics.share_interval(values, 0, 100) == pytest.approx((values[0], low, high), abs=1e-5)


def test_a_share_between_is_bootstrapped() -> None:
    values = [1.0] * 9 + [0.0]
    assert metrics.share_interval(values, 0, 200) == metrics.mean_interval(values, 0, 200)
