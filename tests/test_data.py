"""medqa.data and the embedded corpus: no held-out prompt is trained on, and every row is counted."""

import json
import random
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_rows import EXAM, preference_row, sft_row, write_lines, write_rows

from medqa import data, hub, jsonl, metrics, option_reading, records
from medqa.data import MedicalData, load_medical_data, raw_rows, row_groups
from medqa.data.row_table import RowTable, TableRow
from medqa.miniature import embedded, embedded_rows
from medqa.runtime import presets
from medqa.runtime.errors import UserError
from medqa.runtime.sections import DataParams
from medqa.sources import ultramedical
from medqa.sources.options import list_options, prompt_key
from medqa.sources.ultramedical import ParsedRow
from stages import data as stage

CORPUS = Path(__file__).parents[1] / "medqa" / "miniature" / "corpus"
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
    "near_duplicate": 0.65,
}
EMBEDDED = FILES | {
    "sft": {"source": "embedded"},
    "preference": {"source": "embedded"},
    "question_kinds": ["open"],
}


def make_rows() -> dict[str, list[Any]]:
    return {
        "sft": [sft_row(f"s{n}", f"What is disease {n}?") for n in range(30)],
        "train": [preference_row(f"t{n}", f"What cures disease {n}?") for n in range(30)],
        "dev": [preference_row(f"d{n}", f"What causes disease {n}?") for n in range(15)],
        "test": [preference_row(f"e{n}", f"Who gets disease {n}?") for n in range(15)],
    }


def load(folder: Path, rows: dict[str, list[Any]], seed: int = 0, **changes: Any) -> MedicalData:
    for name, lines in rows.items():
        write_lines(folder / f"{name}.jsonl", lines)
    return load_medical_data(folder, DataParams(**FILES | changes), seed)


def adds_up(counts: dict[str, Any]) -> bool:
    """Whether every group's reasons make up what was read, and the groups make up the whole."""
    for output in counts.values():
        groups = [output["all"], *output["kinds"].values(), *output["label_types"].values()]
        if any(group["read"] != sum(group.values()) - group["read"] for group in groups):
            return False
        for split in filter(None, (output["kinds"], output["label_types"])):
            if {key: sum(group[key] for group in split.values()) for key in output["all"]} != output["all"]:
                return False
    return True


def total(loaded: MedicalData, output: str) -> dict[str, int]:
    return data.count_outcomes(loaded.audit)[output]["all"]


def outcome(loaded: MedicalData, output: str, row: str) -> tuple[str, str]:
    """What became of the row with this id, and the reason."""
    (audit,) = (audit for audit in loaded.audit if audit.output == output and audit.row == row)
    return audit.outcome, audit.reason


@pytest.fixture(scope="module")
def made() -> MedicalData:
    return load_medical_data(CORPUS, DataParams(**EMBEDDED), seed=0)


def test_rows_of_files_come_out_whole(tmp_path: Path) -> None:
    rows = make_rows()
    rows["dev"] = [
        preference_row(
            "MedQA,1",
            EXAM,
            "The answer is B.",
            "The answer is A.",
            golden_answer="B",
            key_points=["statins"],
            labelled_by="model: GPT-4",
        ),
        preference_row(
            "e",
            "What is angina?",
            "Chest pain.",
            "A rash.",
            "hard",
            golden_answer="Pain.",
            key_points=["pain"],
            attribute="symptoms",
        ),
    ]
    loaded = load(tmp_path, rows)
    assert loaded.sft[0] == records.Example("s0", "open", "What is disease 0?", "Rest.")
    assert loaded.questions[0] == records.Question("t0", "What cures disease 0?", "Rest.")
    letter, text = (next(row for row in loaded.held_out if row.id == row_id) for row_id in ("MedQA,1", "e"))
    assert letter == records.HeldOut(
        "MedQA,1",
        "exam",
        EXAM,
        "The answer is B: statins.",
        ("statins",),
        "B",
        "The answer is B.",
        "The answer is A.",
        "model: GPT-4",
        ("kind: exam", "label type: easy", "length: short", "source: MedQA"),
    )
    assert text == records.HeldOut(
        "e",
        "open",
        "What is angina?",
        "Pain.",
        ("pain",),
        "",
        "Chest pain.",
        "A rash.",
        "unknown",
        ("attribute: symptoms", "kind: open", "label type: hard", "length: short"),
    )
    labelled = {row.id: row for row in loaded.labelled}
    for row in (letter, text):
        assert (labelled[row.id].labelled_by, labelled[row.id].groups) == (row.labelled_by, row.groups)
    assert data.count_labellers(loaded.labelled) == {"model: GPT-4": 1, "unknown": 16}
    # A pair without a reference of its own has none: its chosen answer must not be compared with itself.
    assert {row.reference for row in loaded.labelled} == {"The answer is B: statins.", "Pain.", ""}


def turned(row: dict[str, Any], change: Any) -> dict[str, Any]:
    """The row with its turns changed: of an SFT row, or the chosen ones of a preference row."""
    key = "conversations" if "conversations" in row else "chosen"
    return row | {key: change(row[key])}


def without(row: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != key}


GOOD = {"sft": sft_row("x", "Why?"), "dev": preference_row("x", "Why?")}
# Of each source the eight kinds of damage. What is bytes cannot stand in a parquet file.
DAMAGE = {
    "sft": [
        ("torn JSON", b'{"id": "x", "type": "Open-End"'),
        ("invalid UTF-8", b'{"id": "\xff"}'),
        ("type is not text", GOOD["sft"] | {"type": None}),
        ("missing key type", without(GOOD["sft"], "type")),
        ("an empty turn", sft_row("x", "Why?", " ")),
        ("no gpt turn", turned(GOOD["sft"], lambda turns: turns[:1])),
        ("wrong order of roles", turned(GOOD["sft"], lambda turns: turns[::-1])),
        ("turns are not a list of messages", turned(GOOD["sft"], lambda turns: None)),
    ],
    "dev": [
        ("torn JSON", b'{"prompt_id": "x", "prompt": "Why?"'),
        ("invalid UTF-8", b'{"prompt_id": "\xff"}'),
        ("prompt is not text", GOOD["dev"] | {"prompt": None}),
        ("missing key label_type", without(GOOD["dev"], "label_type")),
        ("an empty turn", preference_row("x", "Why?", "...")),
        ("no assistant turn", turned(GOOD["dev"], lambda turns: turns[:1])),
        ("wrong order of roles", turned(GOOD["dev"], lambda turns: turns[::-1])),
        ("the prompt differs between columns", GOOD["dev"] | {"prompt": "Something else?"}),
    ],
}
CASES = [
    pytest.param(source, ending, raw, reason, id=f"{source}{ending} {reason}")
    for source, damage in DAMAGE.items()
    for ending in (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".parquet")
    for reason, raw in damage
    # The columns of a parquet file are the same for all rows.
    if ending != ".parquet" or not (isinstance(raw, bytes) or reason.startswith("missing key"))
]


@pytest.mark.parametrize(("source", "ending", "raw", "reason"), CASES)
def test_a_damaged_row_is_quarantined_with_its_location_and_reason(
    tmp_path: Path, source: str, ending: str, raw: Any, reason: str
) -> None:
    rows = make_rows()
    good = [row.get("id", row.get("prompt_id")) for row in rows[source]]
    rows[source].insert(3, raw)
    write_rows(tmp_path / f"{source}{ending}", rows.pop(source))
    paths = {key: dict(FILES[key]) for key in ("sft", "preference")}
    paths["sft" if source == "sft" else "preference"]["path" if source == "sft" else source] = (
        f"{source}{ending}"
    )
    loaded = load(tmp_path, rows, max_bad_share=0.1, **paths)
    assert [(row.id, row.file, row.line, row.reason) for row in loaded.quarantine] == [
        (f"{source}:{source}{ending}:000000004", f"{source}{ending}", 4, reason)
    ]
    assert adds_up(data.count_outcomes(loaded.audit))
    for output in ("sft",) if source == "sft" else ("held_out", "labelled"):
        assert {row.id for row in getattr(loaded, output)} >= set(good)
        assert total(loaded, output)["quarantined"] == 1
        assert data.count_outcomes(loaded.audit)[output]["kinds"]["unknown"]["quarantined"] == 1
    assert jsonl.write(tmp_path / "quarantine.jsonl", loaded.quarantine) == 1


def test_invalid_utf8_in_parquet_is_quarantined(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = make_rows()
    table = pyarrow.Table.from_pylist(rows.pop("sft"))
    ids = [b"\xff", *(f"s{n}".encode() for n in range(1, 30))]
    parquet.write_table(
        table.set_column(0, "id", pyarrow.array(ids).view(pyarrow.string())), tmp_path / "sft.parquet"
    )
    loaded = load(tmp_path, rows, max_bad_share=0.1, sft={"source": "files", "path": "sft.parquet"})
    assert [(row.line, row.reason) for row in loaded.quarantine] == [(1, "invalid UTF-8")]
    assert len(loaded.sft) == 29


def test_too_many_bad_rows_stop_with_the_commonest_reasons(tmp_path: Path) -> None:
    rows = make_rows()
    damage = [b"{", sft_row("x", ""), {"id": "x"}, sft_row("x", "Why?") | {"type": "Essay"}]
    rows["sft"] += [raw for times, raw in enumerate(damage, 1) for _ in range(times)]
    with pytest.raises(UserError) as error:
        load(tmp_path, rows, max_bad_share=0.24)
    assert str(error.value) == (
        "10 of 40 rows of sft are bad, over data.max_bad_share = 0.24: "
        "unknown type (4); missing key type (3); an empty turn (2)"
    )
    assert len(load(tmp_path, rows, max_bad_share=0.25).quarantine) == 10


def test_rows_come_in_every_common_file(tmp_path: Path) -> None:
    rows = make_rows()
    texts = {
        "lines": "".join(json.dumps(row) + "\n" for row in rows["sft"]),
        "an array": json.dumps(rows["sft"], indent=1),
        "an array a line": "".join(json.dumps(rows["sft"][n : n + 10]) + "\n" for n in (0, 10, 20)),
        "an object with a list": json.dumps({"data": rows["sft"]}),
    }
    expected = list(load(tmp_path, rows).sft)
    for text in texts.values():
        (tmp_path / "sft.jsonl").write_text(text)
        loaded = load(tmp_path, {name: lines for name, lines in rows.items() if name != "sft"})
        assert list(loaded.sft) == expected
        assert (
            len({audit.id for audit in loaded.audit if audit.output == "sft"})
            == total(loaded, "sft")["read"]
            == 30
        )


def test_what_kept_rows_lost_is_counted(tmp_path: Path) -> None:
    rows = make_rows()
    later = [{"from": "human", "value": "Sure?"}, {"from": "gpt", "value": "Yes."}]
    first = [{"from": "system", "value": "Be brief."}, *rows["sft"][0]["conversations"], *later]
    rows["sft"][0] |= {"conversations": first}
    rows["sft"][1]["conversations"] += later
    rows["dev"].append(preference_row("exam", EXAM))
    loaded = load(tmp_path, rows)
    assert outcome(loaded, "sft", "s0") == ("kept", "system turn left out; later turns left out")
    counts = data.count_outcomes(loaded.audit)
    assert adds_up(counts)
    assert counts["sft"]["remarks"] == {"later_turns_left_out": 2, "system_turn_left_out": 1}
    assert (
        counts["held_out"]["remarks"]
        == counts["labelled"]["remarks"]
        == {"options_without_a_golden_answer": 1}
    )
    assert "remarks" not in counts["questions"]


def test_the_stage_reports_what_kept_rows_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_rows()
    rows["sft"][0]["conversations"].append({"from": "human", "value": "Sure?"})
    raw = tmp_path / "data" / "raw"
    raw.mkdir(parents=True)
    for name, lines in rows.items():
        write_lines(raw / ("sft.jsonl" if name == "sft" else f"preference_{name}.json"), lines)
    (tmp_path / "params.yaml").write_text(presets.read_text("files", CORPUS.parents[2] / "presets"))
    monkeypatch.chdir(tmp_path)
    names = ("sft", "questions", "held_out", "labelled", "quarantine", "audit", "provenance", "metrics")
    summary = stage.main(*(tmp_path / "out" / name for name in names))
    counts = "30 labelled pairs (labelled by: unknown), 0 rows quarantined"
    assert summary.endswith(f"{counts}; sft: later turns left out in 1 rows")


def test_pairs_of_one_text_twice_are_no_labels(tmp_path: Path) -> None:
    rows = make_rows()
    rows["dev"].append(preference_row("same", "Why?", "So.", "So."))
    loaded = load(tmp_path, rows, max_bad_share=0.1)
    assert [row.reason for row in loaded.quarantine] == ["chosen and rejected are the same"]
    assert all(row.chosen != row.rejected for row in [*loaded.labelled, *loaded.held_out])


def test_five_options_have_a_gold_letter_and_a_reference(tmp_path: Path) -> None:
    rows = make_rows()
    rows["dev"].append(preference_row("exam", EXAM + "\nE. oxygen", golden_answer="(e)"))
    loaded = load(tmp_path, rows)
    exam = next(row for row in loaded.held_out if row.id == "exam")
    assert (exam.kind, exam.gold, exam.reference) == ("exam", "E", "The answer is E: oxygen.")


@pytest.mark.parametrize("name", ["sft", "train", "dev", "test"])
def test_a_source_that_is_empty_or_not_there_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"{name}\.jsonl is empty"):
        load(tmp_path, make_rows() | {name: []})
    with pytest.raises(UserError, match=rf"{name}\.jsonl: no row in it"):
        load(tmp_path, make_rows() | {name: [b"[]"]})
    (tmp_path / f"{name}.jsonl").unlink()
    with pytest.raises(UserError, match=rf"{name}\.jsonl is not there"):
        load(tmp_path, {key: rows for key, rows in make_rows().items() if key != name})


def test_a_kind_that_no_row_has_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no row for questions; loosen data\.\*_kinds"):
        load(tmp_path, make_rows(), question_kinds=["exam"])


@pytest.mark.parametrize("split", ["dev", "test"])
@pytest.mark.parametrize(
    ("held_out", "copy"),
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
    tmp_path: Path, split: str, held_out: str, copy: str, held_out_kinds: list[str]
) -> None:
    rows = make_rows()
    rows[split].append(preference_row("h", held_out, golden_answer="A" if held_out == EXAM else None))
    rows["dev"].append(preference_row("l", "Context: angina\nIs it so?"))
    rows["train"].append(preference_row("copy", copy))
    rows["sft"].append(sft_row("copy", copy, kind="Exam"))
    loaded = load(tmp_path, rows, held_out_kinds=held_out_kinds)
    assert "copy" not in {row.id for row in [*loaded.sft, *loaded.questions]}
    for output in ("sft", "questions"):
        assert total(loaded, output)["contaminated"] == 1
        assert outcome(loaded, output, "copy") == ("contaminated", f"{split}:{split}.jsonl:000000016")


LONG = (
    "A 54-year-old teacher comes with crushing chest pain since the morning. He smokes, takes no medicines, "
    "and his father died of a stroke. Which drug should be given first?"
)
EDITED = LONG.replace("teacher", "farmer").replace(
    "He smokes, takes no medicines", "He takes no medicines, smokes"
)


@pytest.mark.parametrize("near_duplicate", [0.65, None])
def test_a_near_duplicate_of_a_held_out_prompt_is_in_no_training_row(
    tmp_path: Path, near_duplicate: float | None
) -> None:
    rows = make_rows()
    rows["test"].append(preference_row("h", LONG))
    rows["train"] += [
        preference_row("near", EDITED),
        preference_row("near2", EDITED, "Tea."),
        preference_row("x", "Why?"),
    ]
    rows["sft"] += [sft_row("near", EDITED), sft_row("far", LONG.replace("chest pain", "headache")[:90])]
    loaded = load(tmp_path, rows, near_duplicate=near_duplicate)
    expected = ("near_duplicate", "test:test.jsonl:000000016") if near_duplicate else ("kept", "")
    assert outcome(loaded, "questions", "near") == outcome(loaded, "sft", "near") == expected
    assert total(loaded, "questions")["near_duplicate"] == (2 if near_duplicate else 0)
    assert outcome(loaded, "sft", "far") == outcome(loaded, "questions", "x") == ("kept", "")
    assert adds_up(data.count_outcomes(loaded.audit))


def test_every_row_has_an_outcome_for_every_output(tmp_path: Path) -> None:
    rows = make_rows()
    rows["train"] += [
        preference_row("t0", "what cures disease 0", "Tea.", "Rum."),
        preference_row("exam", EXAM),
    ]
    rows["dev"] += [b"{", preference_row("human", "Why?", label_type="human")]
    loaded = load(tmp_path, rows, max_bad_share=0.1, question_kinds=["open"], max_sft=10)
    audit = list(loaded.audit)
    assert jsonl.write(tmp_path / "audit.jsonl", audit) == len(audit) == 30 + 32 + 2 * (17 + 15)
    assert [row.id for row in audit] == sorted(row.id for row in audit)
    assert list(jsonl.read(tmp_path / "audit.jsonl", records.RowAudit)) == audit
    for output in ("sft", "questions", "held_out", "labelled"):
        kept = {row.row for row in audit if row.output == output and row.outcome == "kept"}
        assert kept == {row.id for row in getattr(loaded, output)}
    assert [row.reason for row in audit if row.outcome == "duplicate"] == ["train:train.jsonl:000000001"]
    assert outcome(loaded, "questions", "exam") == ("other_kind", "")
    counts = data.count_outcomes(audit)
    assert adds_up(counts)
    assert counts["sft"]["all"] == dict.fromkeys(counts["sft"]["all"], 0) | {
        "read": 30,
        "over_limit": 20,
        "kept": 10,
    }
    assert counts["sft"]["label_types"] == {}
    assert counts["questions"]["kinds"]["exam"]["other_kind"] == 1
    assert counts["labelled"]["label_types"]["human"]["kept"] == 1
    assert counts["labelled"]["label_types"]["unknown"]["quarantined"] == 1


def test_a_prompt_that_recurs_is_one_question_and_as_many_labels(tmp_path: Path) -> None:
    rows = make_rows()
    rows["train"] += [
        preference_row("t0", "what cures disease 0", "Tea.", "Rum."),
        preference_row("t0", "Other?"),
    ]
    rows["dev"] += [
        preference_row("d0", "What causes disease 0?", "Tea.", "Rum."),
        rows["dev"][0],
        rows["test"][0],
    ]
    rows["sft"] += [sft_row("s0", "What is disease 0?", "rest"), sft_row("s0", "What is disease 0?", "Tea.")]
    loaded = load(tmp_path, rows)
    assert {
        name: total(loaded, name)["duplicate"] for name in ("questions", "held_out", "labelled", "sft")
    } == {
        "questions": 1,
        "held_out": 3,
        "labelled": 2,
        "sft": 1,
    }
    assert adds_up(data.count_outcomes(loaded.audit))
    for name in ("sft", "questions", "held_out", "labelled"):
        jsonl.write(tmp_path / "out.jsonl", getattr(loaded, name))  # raises if an id comes twice


def test_limits_keep_the_same_rows_whatever_their_order(tmp_path: Path) -> None:
    rows = make_rows()
    # Prompts that recur, with other answers and under other ids.
    rows["train"] += [preference_row(f"u{n}", f"what cures disease {n}", f"Tea {n}.") for n in range(20)]
    rows["dev"] += [preference_row(f"d{n}", f"What causes disease {n}?", f"Tea {n}.") for n in range(15)]
    rows["sft"] += [sft_row(f"a{n}", f"what is disease {n}", "REST") for n in range(20)]
    limits = {"max_sft": 7, "max_questions": 8, "max_held_out": 9, "max_labelled": 10}

    def kept(loaded: MedicalData) -> list[list[Any]]:
        each = (loaded.sft, loaded.questions, loaded.held_out, loaded.labelled)
        return [sorted(rows, key=lambda row: row.id) for rows in each]

    first = load(tmp_path, rows, **limits)
    assert [len(rows) for rows in kept(first)] == [7, 8, 9, 10]
    assert adds_up(data.count_outcomes(first.audit))
    for order in range(3):
        shuffled = {name: random.Random(order).sample(lines, len(lines)) for name, lines in rows.items()}
        assert kept(load(tmp_path, shuffled, **limits)) == kept(first)
    assert kept(load(tmp_path, rows, seed=1, **limits)) != kept(first)


def test_texts_are_not_kept_in_memory(tmp_path: Path) -> None:
    rows = make_rows()
    rows["sft"] = [sft_row(f"s{n}", f"What is disease {n}?", f"Rest {n} " + "x" * 24000) for n in range(1000)]
    rows["train"] += [
        preference_row(f"u{n}", f"What cures disease {n}?", "Tea" + "x" * 30000) for n in range(30, 350)
    ]
    for name, lines in rows.items():
        write_lines(tmp_path / f"{name}.jsonl", lines)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    del rows
    tracemalloc.start()
    loaded = load_medical_data(tmp_path, DataParams(**FILES), 0)
    assert jsonl.write(tmp_path / "out.jsonl", loaded.sft, ordered=True) == 1000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 30e6 and peak < 0.4 * size


def test_rows_are_a_sequence(made: MedicalData) -> None:
    whole = list(made.questions)
    assert len(made.questions) == len(whole)
    assert [made.questions[0], made.questions[-1]] == [whole[0], whole[-1]]
    for part in (
        slice(3, 7),
        slice(None, 2),
        slice(-2, None),
        slice(None, None, 50),
        slice(9, 0, -3),
        slice(5, 2),
    ):
        assert made.questions[part] == whole[part]
    with pytest.raises(IndexError):
        made.questions[len(whole)]


@pytest.mark.parametrize(
    ("ids", "written"),
    [
        (["a", "a", "a~2"], ["a", "a~2", "a~2~2"]),
        (["q", "q#1"], ["q", "q%231"]),
        (["q#1", "q%231", "q%25231", "q%231"], ["q%231", "q%25231", "q%25231~2", "q%2525231"]),
    ],
    ids=["repeated", "with a #", "different by escaping alone"],
)
def test_written_ids_are_unique_and_hold_no_hash(tmp_path: Path, ids: list[str], written: list[str]) -> None:
    rows = make_rows()
    rows["train"] = [preference_row(row_id, f"What cures gout {n}?") for n, row_id in enumerate(ids)]
    loaded = load(tmp_path, rows, max_questions=len(ids) - 1)
    assert [row.id for row in load(tmp_path, rows).questions] == written
    # The audit names a kept row by its id in the output, and any other row by its id in the source.
    left_out = [row.row for row in loaded.audit if row.output == "questions" and row.outcome == "over_limit"]
    assert len(left_out) == 1 and left_out[0] in ids


def test_a_full_disk_is_an_os_error() -> None:
    table = RowTable()
    table.execute("PRAGMA max_page_count = 20")
    with pytest.raises(OSError, match="No space left on device"):
        for line in range(10_000):
            table.add(TableRow("sft", "a.json", line), None)


def test_files_of_one_name_are_distinguished(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "train.json" for folder in "ab"]
    for path in paths:
        path.parent.mkdir()
        write_rows(path, [sft_row("x", "Why?")])
    assert [row.file for row in raw_rows.read_files(paths)] == ["a/train.json", "b/train.json"]
    assert [row.file for row in raw_rows.read_files(paths[:1])] == ["train.json"]


def test_metrics_are_counted_from_the_files(tmp_path: Path, made: MedicalData) -> None:
    audit, provenance = tmp_path / "audit.jsonl", tmp_path / "provenance.jsonl"
    jsonl.write(audit, made.audit, ordered=True)
    jsonl.write(
        provenance,
        [
            records.Provenance("sft", "hub", "a/b", "c0ffee"),
            records.Provenance("preference", "files", "x", ""),
        ],
    )
    files = {output: tmp_path / output for output in data.OUTPUTS}
    for output, file in files.items():
        jsonl.write(file, getattr(made, output), ordered=True)
    result = stage.compute_metrics({}, audit, provenance, **files)
    assert result["labelled"].pop("labelled_by") == {"code": 552}
    lengths = {output: result[output].pop("mean_chars") for output in files}
    assert lengths["sft"]["answer"] == pytest.approx(sum(len(row.answer) for row in made.sft) / len(made.sft))
    reference = sum(len(row.reference) for row in made.held_out) / len(made.held_out)
    assert lengths["held_out"]["answer"] == pytest.approx(reference)
    assert result == data.count_outcomes(made.audit) | {"sft_commit": "c0ffee"}


def test_a_higher_limit_keeps_what_a_lower_one_kept(tmp_path: Path) -> None:
    low, high = (load(tmp_path, make_rows(), max_sft=limit).sft for limit in (5, 12))
    assert set(low) < set(high)


def test_the_embedded_corpus_is_large_enough() -> None:
    topics = embedded.topics(CORPUS)
    names = [condition["name"] for condition in yaml.safe_load((CORPUS / "conditions.yaml").read_text())]
    assert len(set(names)) == len(names) >= 150
    assert len(list(embedded_rows.sft_rows(topics, 0))) >= 3000
    assert sum(map(len, embedded_rows.preference_rows(topics, 0).values())) >= 1200


def test_the_embedded_corpus_has_what_the_original_has(made: MedicalData) -> None:
    assert {row.label_type for row in made.labelled} == set(ultramedical.GRADES)
    assert {row.kind for row in made.sft} == {"open", "exam", "literature"}
    assert {row.kind for row in made.held_out} == {"open", "exam"}
    assert made.quarantine == []
    for name in ("sft", "questions"):
        assert total(made, name)["contaminated"] >= 20
        # Its questions are templates: one word apart, and yet other questions.
        assert total(made, name)["near_duplicate"] == 0
    assert total(made, "questions")["duplicate"] >= 100


def test_embedded_rows_have_their_attribute_and_are_labelled_by_code(made: MedicalData) -> None:
    attributes = {f"attribute: {topic.attribute}" for topic in embedded.topics(CORPUS)}
    for rows in (made.held_out, made.labelled):
        assert {row.groups[0] for row in rows} == attributes
        assert {row.labelled_by for row in rows} == {"code"}


@pytest.mark.parametrize(
    ("reference", "length"),
    [("", None), ("...", None), ("a " * 30, "short"), ("a " * 31, "medium"), ("a " * 80, "medium")]
    + [("a " * 81, "long"), ("汉" * 60, "short"), ("汉" * 61, "medium")],
)
def test_a_reference_is_short_medium_or_long(reference: str, length: str | None) -> None:
    groups = row_groups.row_groups(ParsedRow("x", "open", "Why?", "So."), reference)
    assert groups == ("kind: open", *([f"length: {length}"] if length else []))


@pytest.mark.parametrize(
    ("row_id", "source"),
    [("MedQA,1592", "MedQA"), ("Medical-Instruction-120k,3,4", "Medical-Instruction-120k")]
    + [("12,34", None), ("plain", None), (",1", None), (" A b ,1", "A b")],
)
def test_the_source_is_what_comes_before_the_comma(row_id: str, source: str | None) -> None:
    groups = row_groups.row_groups(ParsedRow(row_id, "open", "Why?", "So."), "")
    assert groups == ("kind: open", *([f"source: {source}"] if source else []))


@pytest.mark.parametrize(
    ("repo", "labellers"),
    [
        ("TsinghuaC3I/UltraMedical-Preference", {"model: GPT-4": 15, "people": 14, "code": 1}),
        ("some/fork", {"unknown": 29, "code": 1}),
    ],
)
def test_a_row_says_who_labelled_it_or_the_card_of_its_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repo: str, labellers: dict[str, int]
) -> None:
    rows = make_rows()
    rows["test"] = [row | {"label_type": "human"} for row in rows["test"]]
    rows["test"][0]["metadata"]["labelled_by"] = "code"
    paths = [write_lines(tmp_path / f"{name}.jsonl", lines) for name, lines in rows.items()]
    monkeypatch.setattr(hub, "fetch_dataset", lambda *_: ("c0ffee", paths))
    params = DataParams(**FILES | {"preference": {"source": "hub", "repo": repo, "revision": "c0ffee"}})
    assert data.count_labellers(load_medical_data(tmp_path, params, 0).labelled) == labellers


def test_no_embedded_held_out_prompt_is_trained_on(made: MedicalData) -> None:
    held_out = {prompt_key(row.question) for row in [*made.held_out, *made.labelled]}
    trained = {prompt_key(row.question) for row in [*made.sft, *made.questions]}
    assert held_out and trained and not held_out & trained


def test_embedded_counts_add_up(made: MedicalData) -> None:
    counts = data.count_outcomes(made.audit)
    assert adds_up(counts)
    for name in ("sft", "questions", "held_out", "labelled"):
        assert counts[name]["all"]["kept"] == len(getattr(made, name))
    assert counts["held_out"]["all"]["read"] == counts["labelled"]["all"]["read"] == 552


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
        assert list_options(row.question)[row.gold] == row.key_points[0]
        assert (
            option_reading.read_option(row.reference)
            == option_reading.read_option(row.chosen)
            == row.gold
            != option_reading.read_option(row.rejected)
        )


@pytest.mark.parametrize("seed", [0, 1])
def test_no_topic_is_dealt_twice(seed: int) -> None:
    topics = embedded.topics(CORPUS)
    dealt = [topic.id for part in embedded_rows.split_topics(topics, seed).values() for topic in part]
    assert sorted(dealt) == sorted(topic.id for topic in topics)
    assert len(set(dealt)) == len(dealt)


def test_the_same_seed_gives_the_same_rows(made: MedicalData) -> None:
    again, other = (load_medical_data(CORPUS, DataParams(**EMBEDDED), seed) for seed in (0, 1))
    for name in ("sft", "questions", "held_out", "labelled", "audit", "provenance"):
        assert list(getattr(again, name)) == list(getattr(made, name))
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
    wording = {
        "questions": ["What is {name}?"],
        "answer": "{points}",
        "textbook": ["{points}"],
        "exam": "Which?",
    }
    (tmp_path / "templates.yaml").write_text(yaml.safe_dump({"what": wording}))
    (tmp_path / "conditions.yaml").write_text(conditions)
    with pytest.raises(UserError, match="conditions.yaml"):
        embedded.topics(tmp_path)


def test_a_corpus_that_is_not_there_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must hold conditions.yaml and templates.yaml"):
        data.load_medical_data(tmp_path, DataParams(**EMBEDDED), 0)
