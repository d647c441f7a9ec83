"""medqa.data.decontamination: planted near-duplicates match, and questions that only look alike do not."""

import random
import time
from pathlib import Path

import pytest

from medqa.data.decontamination import Decontamination
from medqa.miniature import embedded, embedded_rows
from medqa.sources.options import list_options, prompt_key

CORPUS = Path(__file__).parents[1] / "medqa" / "miniature" / "corpus"
THRESHOLD = 0.65
TOPICS = embedded.topics(CORPUS)
TEMPLATES = [topic.question(form) for topic in TOPICS for form in range(len(topic.templates.questions))]
# Words that no question of the embedded corpus has, and that many questions of real data do.
FURTHER = ("How is {} treated?", "How is {} diagnosed?", "Why does {} occur?", "How does {} show itself?")
TEMPLATES += [form.format(name) for name in sorted({topic.name for topic in TOPICS}) for form in FURTHER]
LONG = (
    "A 54-year-old teacher comes with crushing chest pain since the morning. He smokes, takes no medicines, "
    "and his father died of a stroke. Which drug should be given first?"
)

CHINESE = (
    "患者男，54岁，教师，今晨起突发胸骨后压榨样疼痛，向左肩放射，伴大汗、恶心。"
    "吸烟三十年，父亲死于脑卒中。首先应给予哪种药物？"
)


def decontamination(
    held_out: list[str], others: list[str], threshold: float | None = THRESHOLD
) -> Decontamination:
    result = Decontamination(threshold)
    for key in sorted({prompt_key(prompt) for prompt in [*held_out, *others]}):
        result.count_words(key)
    for prompt in held_out:
        result.add_held_out(prompt_key(prompt))
    return result


@pytest.mark.parametrize(
    ("held_out", "edited"),
    [
        ("What are the symptoms of asthma?", "What were the symptoms of asthma?"),
        ("What are the symptoms of asthma?", "In asthma, what are the symptoms?"),
        ("What are the symptoms of asthma?", "Please tell me what the main symptoms of asthma are"),
        ("What are the symptoms of asthma?", "What are the manifestations of asthma?"),
        ("What is the first treatment of anaemia?", "What is the first treatment of anemia?"),
        ("What causes tumours?", "What causes tumuors?"),
        ("What causes kidney stones?", "What causes kidney stone?"),
        ("What are the symptoms of asthma?", "What are the symptoms of asthhma?"),
        ("What are the symptoms of diabetes?", "What are the symptoms of diabtes?"),
        ("How are haemorrhage and oedema treated?", "How are hemorrhage and edema treated?"),
        (
            "What is the behaviour of a tumour of the oesophagus?",
            "What is the behavior of a tumor of the esophagus?",
        ),
        ("高血压的症状有哪些？", "请问高血压的主要症状是什么呢？"),
        ("什么是痛风？", "痛风是什么"),
        ("高血圧の症状は何ですか？", "高血圧の主な症状を教えてください。"),
        (CHINESE, CHINESE.replace("教师", "农民")),
        (
            "What are the most dangerous complications of asthma?",
            "Could you please kindly tell me what are the most dangerous complications of asthma?",
        ),
        (
            "Who gave first the name of measles to the strawberry red rash of young children?",
            "Who gave first the name of measles to the strawberry rash of young children?",
        ),
        (LONG, LONG.replace("teacher", "farmer")),
        (LONG, LONG.replace("54", "45")),
        (LONG, "Which drug should be given first? " + LONG.replace(" Which drug should be given first?", "")),
        (LONG, LONG.replace("He smokes, takes no medicines", "He takes no medicines, smokes")),
        (LONG, LONG.upper()),
    ],
)
def test_an_edited_prompt_is_the_same(held_out: str, edited: str) -> None:
    assert decontamination([held_out], [*TEMPLATES, edited]).match(prompt_key(edited)) == prompt_key(held_out)


@pytest.mark.parametrize(
    ("held_out", "other"),
    [
        ("What are the symptoms of asthma?", "What are the symptoms of gout?"),
        ("What are the symptoms of asthma?", "What are the causes of asthma?"),
        ("What are the symptoms of asthma?", "What are the symptoms of cardiac asthma?"),
        ("How is asthma treated?", "How is asthma diagnosed?"),
        ("How is asthma treated?", "Why is asthma treated?"),
        ("What is hepatitis A?", "What is hepatitis B?"),
        ("What is hepatitis A?", "What is hepatitis?"),
        ("What is hepatitis A?", "What to do for hepatitis A?"),
        ("What is type 1 diabetes?", "What is type 2 diabetes?"),
        ("What causes hypothyroidism?", "What causes hyperthyroidism?"),
        ("What helps against asthma?", "What does not help against asthma?"),
        ("What is dysphagia?", "What is dysphasia?"),
        ("Where is the ileum?", "Where is the ilium?"),
        ("dysphagia", "dysphasia"),
        ("高血压的症状有哪些？", "低血压的症状有哪些？"),
        ("高血压", "低血压"),
        ("原发性高血压患者的首选治疗药物是什么？", "原发性低血压患者的首选治疗药物是什么？"),
        ("高血压会引起低血糖吗？", "低血压会引起高血糖吗？"),
        ("什么是痛风？", "为什么会痛风？"),
        ("乙型肝炎怎么治疗？", "丙型肝炎怎么治疗？"),
        ("高血圧の症状は何ですか？", "低血圧の症状は何ですか？"),
        ("โรคความดันโลหิตสูงคืออะไร", "โรคความดันโลหิตต่ำคืออะไร"),
        ("고혈압의 증상은 무엇인가요?", "저혈압의 증상은 무엇인가요?"),
        ("Что такое гипертония?", "Что такое гипотония?"),
        (LONG, "A 54-year-old teacher comes with a rash. Which drug should be given first?"),
        (LONG, LONG.replace("chest pain since the morning", "headache").replace("smokes", "drinks")[:95]),
    ],
)
def test_another_question_is_another(held_out: str, other: str) -> None:
    assert decontamination([held_out], [*TEMPLATES, other]).match(prompt_key(other)) is None


def test_two_words_of_the_corpus_are_two_words() -> None:
    pairs = [("prostate", "prostrate"), ("mucus", "mucous"), ("facial", "fascial"), ("causal", "casual")]
    forms = ("What is {}?", "Define {}", "{}", "Who is at risk of {}?")
    held_out, others = ([form.format(pair[side]) for pair in pairs for form in forms] for side in (0, 1))
    checked = decontamination(held_out, [*TEMPLATES, *others])
    assert [other for other in others if checked.match(prompt_key(other))] == []
    # Of a rare word and one of the corpus, the rare one may be a slip.
    assert decontamination(held_out, ["Define prostrate"]).match("define prostrate") == "define prostate"


LONG_FORM = (
    "a teacher comes to the clinic with {} since the morning and takes no drugs "
    "what should be done first to help"
)


@pytest.mark.parametrize(
    "form", ["{}", "define {}", "what is {}", LONG_FORM, f"which helps against {{}} | {' | '.join('wxyz')}"]
)
def test_prompts_that_share_all_but_a_name_take_linear_time(form: str) -> None:
    rng = random.Random(0)
    names = sorted({"".join(rng.choices("bcdfghklmnprst", k=8)) for _ in range(4000)})

    def seconds(count: int) -> float:
        keys = [form.format(name) for name in names[:count]]
        checked = Decontamination(THRESHOLD)
        began = time.process_time()
        for key in keys:
            checked.count_words(key)
        for key in keys[::3]:
            checked.add_held_out(key)
        assert sum(checked.match(key) is not None for key in keys) == len(keys[::3])
        return time.process_time() - began

    # Four times the prompts take about four times the time; the square would be sixteen. A busy machine may
    # spoil one try.
    assert any(seconds(4000) < 8 * seconds(1000) + 0.1 for _ in range(3))


def test_without_a_threshold_nothing_matches() -> None:
    assert decontamination([LONG], [], threshold=None).match(prompt_key(LONG)) is None


# How a copy is edited. In a short question only words beside its subject change: with another subject or
# another interrogative it is another question.
RARE = ("illness", "physician", "sizeable", "elderly", "sudden", "hospital", "clinic", "yesterday")


def word_changed(prompt: str, rng: random.Random) -> str:
    if len(prompt.split()) < 12 and "\n" not in prompt:
        forms = ("What", "Which", "How", "Who", "Why", "When", "Describe")
        form = next(form for form in forms if form in prompt)
        return prompt.replace(form, {"What": "Which", "Which": "What"}.get(form, f"Please: {form}"), 1)
    words = prompt.split(" ")
    index = rng.choice([n for n, word in enumerate(words) if "\n" not in word and not word.endswith(".")])
    words[index] = rng.choice(RARE)
    return " ".join(words)


def clauses_swapped(prompt: str, rng: random.Random) -> str:
    stem, _, options = prompt.partition("\n")
    words = stem.split(" ")
    cut = rng.randrange(1, len(words))
    return f"{' '.join(words[cut:])} {' '.join(words[:cut])}\n{options}"


def options_reordered(prompt: str, rng: random.Random) -> str:
    stem, *lines = prompt.split("\n")
    options = [line[3:] for line in lines]
    rng.shuffle(options)
    changed = word_changed(stem, rng)
    return "\n".join(
        [changed, *(f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=True))]
    )


def prompts(rng: random.Random) -> dict[str, list[str]]:
    """Short questions, vignettes and exams; of each, the first are held out and the others trained on."""
    facts = [topic.textbook(form) for topic in TOPICS for form in range(3)]
    vignettes = [" ".join(rng.sample(facts, rng.randint(2, 12))) + " What is it?" for _ in range(2000)]
    exams = [embedded_rows.exam_question(topic, TOPICS, rng, 0)[0] for topic in TOPICS]
    exams += [f"{vignette} {exam}" for vignette, exam in zip(vignettes[1000:], exams, strict=False)]
    return {
        name: rng.sample(texts, len(texts))
        for name, texts in (("short", TEMPLATES), ("long", vignettes[:1000]), ("exam", exams))
    }


def test_planted_near_duplicates_match_and_others_do_not() -> None:
    rng = random.Random(0)
    made = prompts(rng)
    held_out = made["short"][:100] + made["long"][:100] + made["exam"][:100]
    others = [prompt for texts in made.values() for prompt in texts[100:]]
    exact = [
        change(prompt)
        for prompt in rng.sample(held_out, 100)
        for change in (rng.choice([str.upper, "\n{} ".format]),)
    ]
    edited = [
        rng.choice([word_changed, clauses_swapped])(prompt, rng) for prompt in rng.sample(held_out[:200], 66)
    ]
    edited += [options_reordered(prompt, rng) for prompt in rng.sample(held_out[200:], 34)]
    checked = decontamination(held_out, [*others, *exact, *edited])
    keys = {prompt_key(prompt) for prompt in held_out}
    assert sum(prompt_key(prompt) in keys for prompt in exact) == 100
    assert sum(prompt_key(prompt) not in keys for prompt in edited) >= 95  # they are edited indeed
    assert sum(checked.match(prompt_key(prompt)) in keys for prompt in edited) >= 95
    assert len(others) > 5000
    assert sum(checked.match(prompt_key(prompt)) is not None for prompt in others) < 0.01 * len(others)


def test_the_closest_held_out_prompt_is_named() -> None:
    near = LONG.replace("teacher", "farmer")
    far = near.replace("morning", "evening").replace("father", "mother")
    for order in ([near, far], [far, near]):
        assert decontamination(order, TEMPLATES).match(prompt_key(LONG)) == prompt_key(near)


def test_exams_of_one_template_that_share_options_are_others() -> None:
    rng = random.Random(1)
    exams = [embedded_rows.exam_question(topic, TOPICS, rng, 0)[0] for topic in TOPICS]
    checked = decontamination(exams[::5], [*TEMPLATES, *exams])
    rest = [exam for n, exam in enumerate(exams) if n % 5]
    assert all(list_options(exam) for exam in rest)
    assert sum(checked.match(prompt_key(exam)) is not None for exam in rest) <= 0.005 * len(rest)
