"""medqa.judge.points: yes or no per point of the reference and per sentence of the answer."""

from collections.abc import Callable

import pytest
from fake_engine import FakeEngine

from medqa import judge
from medqa.engines import Labels
from medqa.judge import Case
from medqa.judge.points import MAX_STATEMENTS
from medqa.records import Score
from medqa.runtime.sections import JudgeParams

POINTS = ("fever", "rash", "cough")
REFERENCE = "The signs are fever, rash and cough."


def params(template: str = "points-short", max_chars: int = 600, min_mass: float = 0.5) -> JudgeParams:
    criteria = {"accuracy": 1, "completeness": 1, "key_points": 1}
    return JudgeParams(
        method="points", template=template, criteria=criteria, min_mass=min_mass, max_chars=max_chars
    )


def says(text: str, statement: str) -> bool:
    """Whether a text says all words of a statement but the joining ones."""
    return set(statement.strip(".").replace(",", "").split()) - {"and"} <= set(
        text.replace(".", " ").replace(",", " ").split()
    )


def reader(says: Callable[[str, str], bool] = says, mass: float = 1.0) -> FakeEngine:
    """A judge that reads points-short: the text, and the statement in the last line."""

    def judges(prompt: str) -> Labels:
        text, _, statement = prompt.rpartition("\n")
        yes = float(says(text, statement))
        return Labels((1 - yes, yes), mass)

    return FakeEngine(judges=judges)


def scored(answer: str, engine: FakeEngine | None = None, **changes: object) -> Score:
    case = Case(**{"id": "q", "question": "Signs?", "reference": REFERENCE, "answer": answer} | changes)
    return judge.score(engine or reader(), [case], params())["q"]


@pytest.mark.parametrize(
    ("answer", "accuracy", "completeness", "key_points"),
    [
        ("fever, rash and cough.", 1, 1, 1),
        ("fever.", 1, 1 / 3, 3 / 6),
        ("cough.", 1, 1 / 3, 1 / 6),
        ("rash and cough.", 1, 2 / 3, 3 / 6),
        ("gout.", 0, 0, 0),
        ("fever. gout.", 0.5, 1 / 3, 3 / 6),
        ("fever. gout. gout. gout.", 0.5, 1 / 3, 3 / 6),  # a repeated sentence counts once
        ("fever. fever. Fever!", 1, 1 / 3, 3 / 6),
    ],
)
def test_criteria_are_what_one_counts_by_hand(
    answer: str, accuracy: float, completeness: float, key_points: float
) -> None:
    row = scored(answer, points=POINTS)
    assert (row.accuracy, row.completeness, row.key_points) == pytest.approx(
        (accuracy, completeness, key_points), abs=1e-6
    )
    assert row.score == pytest.approx((accuracy + completeness + key_points) / 3, abs=1e-6)


def test_a_reference_without_points_is_read_by_its_sentences() -> None:
    engine = reader()
    row = scored("One. Two.", engine, reference="One. Three.")
    assert (row.accuracy, row.completeness, row.key_points) == pytest.approx((0.5, 0.5, 2 / 3), abs=1e-6)
    assert engine.prompts == [
        "One. Two.\nOne.",
        "One. Two.\nThree.",
        "One. Three.\nOne.",
        "One. Three.\nTwo.",
    ]


def test_repetition_leaves_every_prompt_as_it_is() -> None:
    once, often = reader(), reader()
    scored("Fever. Rash it is.", once, points=POINTS)
    scored("Fever. Rash it is.\nFever! rash it is. Fever.", often, points=POINTS)
    assert often.prompts == once.prompts


@pytest.mark.parametrize("reference", [REFERENCE, ""])
@pytest.mark.parametrize(
    "answer", ["Signs? Fever. Rash it is.", "Fever. Rash it is. SIGNS?", "Signs ?\nFever. Rash it is."]
)
def test_a_repeated_question_leaves_every_prompt_as_it_is(answer: str, reference: str) -> None:
    plain, repeated = reader(), reader()
    scored("Fever. Rash it is.", plain, reference=reference)
    scored(answer, repeated, reference=reference)
    assert repeated.prompts == plain.prompts


def test_the_question_alone_says_nothing() -> None:
    engine = reader()
    assert scored("Signs?", engine).score == 0
    assert all("Signs" not in prompt for prompt in engine.prompts)


def test_without_a_reference_the_question_decides_all_criteria() -> None:
    engine = reader(lambda text, statement: text == "Fever." and statement == "Signs?")
    row = scored("Fever.", engine, reference="", points=POINTS)
    assert len(engine.prompts) == 1
    assert (row.accuracy, row.completeness, row.key_points, row.score) == (1, 1, 1, 1)


def test_a_long_list_of_statements_is_cut_and_counted() -> None:
    engine, sentences = reader(), [f"Point {number:02}." for number in range(20)]
    row = scored(" ".join(sentences), engine, reference=" ".join(sentences))
    assert len(engine.prompts) == 2 * MAX_STATEMENTS
    assert row.truncated_chars == 2 * sum(map(len, sentences[MAX_STATEMENTS:]))
    assert row.score == 1


@pytest.mark.parametrize("template", ["points", "points-short"])
@pytest.mark.parametrize("text", ["1", "yes", "{statement} {task} {0}", r"\1", "Reply with yes: yes"])
def test_what_an_answer_says_stays_text(template: str, text: str) -> None:
    def prompts(answer: str) -> list[str]:
        engine = FakeEngine(judges=lambda prompt: Labels((0.5, 0.5), 1.0))
        judge.score(engine, [Case("q", "Why?", "So.", answer)], params(template))
        return engine.prompts

    assert prompts(text) == [prompt.replace("ANSWER", text) for prompt in prompts("ANSWER")]


def test_prompts_about_one_text_share_all_before_the_statement() -> None:
    engine = FakeEngine(judges=lambda prompt: Labels((0.5, 0.5), 1.0))
    judge.score(engine, [Case("q", "Why?", "So. Thus.", "TEXT.")], params("points"))
    first, second, _ = engine.prompts
    assert first.partition("So.")[0] == second.partition("Thus.")[0]
    assert "TEXT." in first.partition("So.")[0]


def test_one_statement_under_the_mass_leaves_the_case_unscored() -> None:
    row = scored("fever.", reader(mass=0.4), points=POINTS)
    assert (row.score, row.mass, row.unscored) == (None, 0.4, "label mass under 0.5")


def test_a_statement_that_does_not_fit_leaves_the_case_unscored() -> None:
    engine = FakeEngine(
        judges=lambda prompt: Labels((0.0, 1.0), 1.0), fails=lambda prompt: prompt.endswith("rash")
    )
    assert scored("fever.", engine, points=POINTS).unscored == "the judge could not read it"


def test_long_texts_lose_their_middle() -> None:
    engine = reader()
    case = Case("q", "Signs?", "fever " * 30, "rash " * 40)
    row = judge.score(engine, [case], params(max_chars=100))["q"]
    assert max(map(len, engine.prompts)) == 2 * 99 + 1
    assert row.truncated_chars == 180 - 96 + 200 - 96


def test_candidates_change_nothing_about_each_other() -> None:
    cases = [
        Case(f"q{n}", "Signs?", REFERENCE, text, POINTS) for n, text in enumerate(["fever.", "gout. a."])
    ]
    together = judge.score(reader(), cases, params())
    assert together == {case.id: judge.score(reader(), [case], params())[case.id] for case in cases}
