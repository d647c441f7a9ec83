"""medqa.data and the embedded corpus: nothing held out is trained on, nothing is lost uncounted, order is no matter."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_rows import EXAM, preference_row, sft_row, write_lines

from medqa import data, embedded, metrics, records, ultramedical
from medqa.data import MedicalData, Params, load_medical_data
from medqa.params import UserError

CORPUS = Path(__file__).parents[1] / "medqa" / "corpus"
KINDS = ["open", "exam", "literature"]
FILES = {
    "sft": {"source": "files", "path": "sft.jsonl"},
    "preference": {"source": "files", "train": "train.jsonl", "dev": "dev.jsonl", "test": "test.jsonl"},
    "sft_kinds": KINDS,
    "question_kinds": KINDS,
    "held_out_kinds": KINDS,
    "max_sft": None,
    "max_questions": None,
    "max_held_out": None,
    "max_labelled": None,
    "max_bad_share": 0,
}
EMBEDDED = FILES | {"sft": {"source": "embedded"}, "preference": {"source": "embedded"}, "question_kinds": ["open"]}


def some_rows() -> dict[str, list[Any]]:
    return {
        "sft": [sft_row(f"s{n}", f"What is disease {n}?") for n in range(30)],
        "train": [preference_row(f"t{n}", f"What cures disease {n}?") for n in range(30)],
        "dev": [preference_row(f"d{n}", f"What causes disease {n}?") for n in range(15)],
        "test": [preference_row(f"e{n}", f"Who gets disease {n}?") for n in range(15)],
    }


def load(folder: Path, rows: dict[str, list[Any]], seed: int = 0, **changes: Any) -> MedicalData:
    for name, some in rows.items():
        write_lines(folder / f"{name}.jsonl", some)
    return load_medical_data(folder, Params(**FILES | changes), seed)


def adds_up(counts: dict[str, int]) -> bool:
    left_out = sum(counts[reason] for reason in ("other_kind", "leaked", "duplicate", "over_limit"))
    by_kind = sum(counts.get(f"kept_{kind}", 0) for kind in KINDS)
    return counts["from"] == left_out + counts["kept"] and counts["kept"] == by_kind


@pytest.fixture(scope="module")
def made() -> MedicalData:
    return load_medical_data(CORPUS, Params(**EMBEDDED), seed=0)


def test_rows_of_files_come_out_whole(tmp_path: Path) -> None:
    rows = some_rows()
    rows["dev"] = [
        preference_row("d", EXAM, "The answer is B.", "The answer is A.", golden_answer="B", key_points=["statins"]),
        preference_row("e", "What is angina?", "Chest pain.", "A rash.", golden_answer="Pain.", key_points=["pain"]),
    ]
    loaded = load(tmp_path, rows)
    assert loaded.sft[0] == records.Example("s0", "open", "What is disease 0?", "Rest.")
    assert loaded.questions[0] == records.Question("t0", "What cures disease 0?", "Rest.")
    letter, told = (next(row for row in loaded.held_out if row.id == row_id) for row_id in "de")
    assert letter == records.HeldOut(
        "d", "exam", EXAM, "The answer is B: statins.", ("statins",), "B", "The answer is B.", "The answer is A."
    )
    assert told == records.HeldOut("e", "open", "What is angina?", "Pain.", ("pain",), "", "Chest pain.", "A rash.")
    # A pair without a reference of its own has none: its chosen answer must not be compared with itself.
    assert {row.reference for row in loaded.labelled} == {"The answer is B: statins.", "Pain.", ""}


DAMAGE = [
    (b'{"id": "x", "type": "Open-End"', "torn JSON or invalid UTF-8"),
    (b'{"id": "\xff"}', "torn JSON or invalid UTF-8"),
    (sft_row("x", "Why?") | {"id": 7}, "id is not text"),
    ({"id": "x", "conversations": []}, "missing key type"),
    (sft_row("x", "Why?", " "), "an empty turn"),
    ({**sft_row("x", "Why?"), "conversations": sft_row("x", "Why?")["conversations"][:1]}, "no gpt turn"),
    ({**sft_row("x", "Why?"), "conversations": sft_row("x", "Why?")["conversations"][::-1]}, "wrong order of roles"),
]


@pytest.mark.parametrize(("raw", "reason"), DAMAGE, ids=[f"{n} {reason}" for n, (_, reason) in enumerate(DAMAGE)])
def test_a_damaged_row_is_quarantined_with_its_place_and_reason(tmp_path: Path, raw: Any, reason: str) -> None:
    rows = some_rows()
    rows["sft"].insert(3, raw)
    loaded = load(tmp_path, rows, max_bad_share=0.1)
    assert [(row.id, row.file, row.line, row.reason) for row in loaded.quarantine] == [
        ("sft:sft.jsonl:000000004", "sft.jsonl", 4, reason)
    ]
    assert loaded.metrics["source_sft"] == {"read": 31, "kept": 30, "quarantined": 1}
    assert sorted(row.id for row in loaded.sft) == sorted(f"s{n}" for n in range(30))
    assert records.write(tmp_path / "quarantine.jsonl", loaded.quarantine) == 1


def test_a_prompt_that_differs_between_columns_is_quarantined(tmp_path: Path) -> None:
    rows = some_rows()
    rows["dev"][0]["prompt"] = "Something else?"
    loaded = load(tmp_path, rows, max_bad_share=0.1)
    assert [(row.id, row.reason) for row in loaded.quarantine] == [
        ("dev:dev.jsonl:000000001", "the prompt differs between columns")
    ]


def test_too_many_bad_rows_stop_with_the_commonest_reasons(tmp_path: Path) -> None:
    rows = some_rows()
    damage = [b"{", sft_row("x", ""), {"id": "x"}, sft_row("x", "Why?") | {"type": "Essay"}]
    rows["sft"] += [raw for times, raw in enumerate(damage, 1) for _ in range(times)]
    with pytest.raises(UserError) as told:
        load(tmp_path, rows, max_bad_share=0.24)
    assert str(told.value) == (
        "10 of 40 rows of sft are bad, over data.max_bad_share = 0.24: "
        "unknown type (4); missing key type (3); an empty turn (2)"
    )
    assert len(load(tmp_path, rows, max_bad_share=0.25).quarantine) == 10


@pytest.mark.parametrize("name", ["sft", "train", "dev", "test"])
def test_a_source_that_is_empty_or_not_there_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"{name}\.jsonl is empty"):
        load(tmp_path, some_rows() | {name: []})
    (tmp_path / f"{name}.jsonl").unlink()
    with pytest.raises(UserError, match=rf"{name}\.jsonl is not there"):
        load(tmp_path, {key: rows for key, rows in some_rows().items() if key != name})


def test_a_kind_that_no_row_has_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no row for questions; loosen data\.\*_kinds"):
        load(tmp_path, some_rows(), question_kinds=["exam"])


@pytest.mark.parametrize("split", ["dev", "test"])
@pytest.mark.parametrize(
    ("held", "leak"),
    [
        ("What is angina?", "What is angina?"),
        ("What is angina?", " what  is ANGINA"),
        ("What is type-2 diabetes?", "what is type 2 diabetes"),
        (EXAM, EXAM.replace("A. aspirin", "A. rest").replace("D. rest", "D. aspirin")),
        (EXAM, EXAM.upper().replace("A.", "(A)")),
    ],
    ids=["same", "case and space", "punctuation", "order of options", "marks of options"],
)
@pytest.mark.parametrize("held_out_kinds", [KINDS, ["literature"]], ids=["evaluated", "not evaluated"])
def test_a_held_out_prompt_is_in_no_training_row(
    tmp_path: Path, split: str, held: str, leak: str, held_out_kinds: list[str]
) -> None:
    rows = some_rows()
    rows[split].append(preference_row("h", held, golden_answer="A" if held == EXAM else None))
    rows["dev"].append(preference_row("l", "Context: angina\nIs it so?"))
    rows["train"].append(preference_row("leak", leak))
    rows["sft"].append(sft_row("leak", leak, kind="Exam"))
    loaded = load(tmp_path, rows, held_out_kinds=held_out_kinds)
    assert "leak" not in {row.id for row in [*loaded.sft, *loaded.questions]}
    assert loaded.metrics["sft"]["leaked"] == loaded.metrics["questions"]["leaked"] == 1


def test_a_prompt_that_recurs_is_one_question_and_as_many_labels(tmp_path: Path) -> None:
    rows = some_rows()
    rows["train"] += [preference_row("t0", "what cures disease 0", "Tea.", "Rum."), preference_row("t0", "Other?")]
    rows["dev"] += [preference_row("d0", "What causes disease 0?", "Tea.", "Rum."), rows["dev"][0], rows["test"][0]]
    rows["sft"] += [sft_row("s0", "What is disease 0?", "rest"), sft_row("s0", "What is disease 0?", "Tea.")]
    loaded = load(tmp_path, rows)
    assert {name: loaded.metrics[name]["duplicate"] for name in ("questions", "held_out", "labelled", "sft")} == {
        "questions": 1,
        "held_out": 3,
        "labelled": 2,
        "sft": 1,
    }
    for name in ("sft", "questions", "held_out", "labelled"):
        assert adds_up(loaded.metrics[name])
        records.write(tmp_path / "out.jsonl", getattr(loaded, name))  # raises if an id comes twice


def test_limits_keep_the_same_rows_whatever_their_order(tmp_path: Path) -> None:
    rows = some_rows()
    # Prompts that recur, with other answers and under other ids.
    rows["train"] += [preference_row(f"u{n}", f"what cures disease {n}", f"Tea {n}.") for n in range(20)]
    rows["dev"] += [preference_row(f"d{n}", f"What causes disease {n}?", f"Tea {n}.") for n in range(15)]
    rows["sft"] += [sft_row(f"a{n}", f"what is disease {n}", "REST") for n in range(20)]
    limits = {"max_sft": 7, "max_questions": 8, "max_held_out": 9, "max_labelled": 10}

    def kept(loaded: MedicalData) -> list[list[Any]]:
        each = (loaded.sft, loaded.questions, loaded.held_out, loaded.labelled)
        return [sorted(some, key=lambda row: row.id) for some in each]

    first = load(tmp_path, rows, **limits)
    assert [len(some) for some in kept(first)] == [7, 8, 9, 10]
    for name in ("sft", "questions", "held_out", "labelled"):
        assert adds_up(first.metrics[name])
    for order in range(3):
        shuffled = {name: random.Random(order).sample(some, len(some)) for name, some in rows.items()}
        assert kept(load(tmp_path, shuffled, **limits)) == kept(first)
    assert kept(load(tmp_path, rows, seed=1, **limits)) != kept(first)


def test_a_higher_limit_keeps_what_a_lower_one_kept(tmp_path: Path) -> None:
    low, high = (load(tmp_path, some_rows(), max_sft=limit).sft for limit in (5, 12))
    assert set(low) < set(high)


def test_the_embedded_corpus_is_large_enough() -> None:
    topics = embedded.topics(CORPUS)
    names = [condition["name"] for condition in yaml.safe_load((CORPUS / "conditions.yaml").read_text())]
    assert len(set(names)) == len(names) >= 150
    assert len(list(embedded.sft_rows(topics, 0))) >= 3000
    assert sum(map(len, embedded.preference_rows(topics, 0).values())) >= 1200


def test_the_embedded_corpus_has_what_the_original_has(made: MedicalData) -> None:
    assert {row.label_type for row in made.labelled} == {"easy", "hard", "length", "human"}
    assert {row.kind for row in made.sft} == {"open", "exam", "literature"}
    assert {row.kind for row in made.held_out} == {"open", "exam"}
    assert made.quarantine == []
    for name in ("sft", "questions"):
        assert made.metrics[name]["leaked"] >= 20
    assert made.metrics["questions"]["duplicate"] >= 100


def test_no_embedded_held_out_prompt_is_trained_on(made: MedicalData) -> None:
    held = {ultramedical.prompt_key(row.question) for row in [*made.held_out, *made.labelled]}
    trained = {ultramedical.prompt_key(row.question) for row in [*made.sft, *made.questions]}
    assert held and trained and not held & trained


def test_embedded_counts_add_up(made: MedicalData) -> None:
    count = made.metrics
    for name in ("sft", "questions", "held_out", "labelled"):
        assert adds_up(count[name])
        assert count[name]["kept"] == len(getattr(made, name))
    assert count["sft"]["from"] == count["source_sft"]["kept"]
    assert count["questions"]["from"] == count["source_train"]["kept"]
    assert count["held_out"]["from"] == count["source_dev"]["kept"] + count["source_test"]["kept"]


def test_embedded_references_hold_their_key_points(made: MedicalData) -> None:
    open_ones = [row for row in made.held_out if row.kind == "open"]
    assert len(open_ones) >= 100
    for row in open_ones:
        assert len(row.key_points) == embedded.POINTS
        assert metrics.key_point_recall(row.reference, row.key_points) == 1, row.id


def test_embedded_exams_have_their_gold_letter(made: MedicalData) -> None:
    exams = [row for row in made.held_out if row.kind == "exam"]
    assert set(Counter(row.gold for row in exams)) == set("ABCD")
    for row in exams:
        assert ultramedical.options(row.question)[row.gold] == row.key_points[0]
        assert metrics.choice(row.reference) == metrics.choice(row.chosen) == row.gold != metrics.choice(row.rejected)


@pytest.mark.parametrize("seed", [0, 1])
def test_no_topic_is_dealt_twice(seed: int) -> None:
    topics = embedded.topics(CORPUS)
    dealt = [topic.id for some in embedded.deal(topics, seed).values() for topic in some]
    assert sorted(dealt) == sorted(topic.id for topic in topics)
    assert len(set(dealt)) == len(dealt)


def test_the_same_seed_gives_the_same_rows(made: MedicalData) -> None:
    again, other = (load_medical_data(CORPUS, Params(**EMBEDDED), seed) for seed in (0, 1))
    assert again == made
    assert {row.id for row in other.held_out} != {row.id for row in made.held_out}


@pytest.mark.parametrize(
    "conditions",
    [
        "- name: gout\n  what: [joint pain, a rash]",
        "- what: [a, b, c]",
        "gout",
        "",
        "- gout",
        "- name: gout\n  what: [[a], b, c]",
    ],
    ids=["two points", "no name", "text", "empty", "list of text", "nested"],
)
def test_a_corpus_that_is_wrong_is_a_user_error(tmp_path: Path, conditions: str) -> None:
    wording = {"questions": ["What is {name}?"], "answer": "{points}", "textbook": ["{points}"], "exam": "Which?"}
    (tmp_path / "wordings.yaml").write_text(yaml.safe_dump({"what": wording}))
    (tmp_path / "conditions.yaml").write_text(conditions)
    with pytest.raises(UserError, match="conditions.yaml"):
        embedded.topics(tmp_path)


def test_a_corpus_that_is_not_there_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must hold conditions.yaml and wordings.yaml"):
        data.load_medical_data(tmp_path, Params(**EMBEDDED), 0)
