"""medqa.data.raw_rows: which files are read, and how the error describes those of another shape."""

import json
from pathlib import Path
from typing import Any

import pytest
from fake_rows import preference_row, sft_row, write_rows
from test_data import FILES, GOOD, load, make_rows, total

from medqa import hub
from medqa.data import load_medical_data
from medqa.runtime.errors import UserError
from medqa.runtime.sections import DataParams

TURNS = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
MEDQA = {
    "question": "Why?",
    "options": {"A": "x", "B": "y"},
    "answer_idx": "A",
    "answer": "x",
    "meta_info": "step1",
}
MEDMCQA = {
    "id": "1",
    "question": "Why?",
    "opa": "x",
    "opb": "y",
    "opc": "z",
    "opd": "w",
    "cop": 1,
    "exp": None,
}
PUBMEDQA = {
    "pubid": 1,
    "question": "Why?",
    "context": {"contexts": ["x"]},
    "long_answer": "So.",
    "final_decision": "yes",
}
# What people bring as the file of a source, and how the error describes it.
SHAPES = [
    ("sft", [{"conversations": GOOD["sft"]["conversations"]}], "holds rows of ShareGPT (conversations)"),
    (
        "sft",
        [{"instruction": "Why?", "input": "", "output": "So."}],
        "holds rows of Alpaca (instruction, output)",
    ),
    ("sft", [{"messages": TURNS}], "holds rows of OpenAI's messages (messages)"),
    ("sft", [MEDQA], "holds rows of MedQA (question, options, answer_idx)"),
    ("sft", [MEDMCQA], "holds rows of MedMCQA (question, opa, opb, cop)"),
    ("sft", [PUBMEDQA], "holds rows of PubMedQA (question, context, long_answer)"),
    (
        "sft",
        [{"1": {"QUESTION": "Why?"}, "2": {"QUESTION": "When?"}}],
        "is one object over many rows (keys 1, 2)",
    ),
    (
        "sft",
        [{"id": {"0": "x"}, "type": {"0": "Exam"}, "conversations": {"0": []}}],
        "is one object over many rows",
    ),
    (
        "sft",
        [{"features": [{}], "rows": [{"row_idx": 0}], "total": 1}],
        "holds rows of the Hub's data set viewer",
    ),
    ("sft", [GOOD["dev"]], "holds rows of UltraMedical-Preference (label_type, chosen, rejected)"),
    ("sft", [{"foo": 1, "bar": 2}], "holds rows of foo, bar,"),
    ("sft", [{"name": "x", "info": {}, "list": [{}, {}]}], "is an object that holds rows under list"),
    ("sft", ["x"], "holds texts"),
    (
        "sft",
        [GOOD["sft"] | {"conversations": TURNS}],
        "has no list of turns with from and value under conversations",
    ),
    (
        "sft",
        [GOOD["sft"] | {"conversations": [{"from": "user", "value": "Why?"}]}],
        "names the roles user in conversations, not human and gpt",
    ),
    ("dev", [GOOD["sft"]], "holds rows of UltraMedical (type, conversations)"),
    (
        "dev",
        [{"prompt": "Why?", "chosen": "So.", "rejected": "No."}],
        "holds rows of preferences without labels",
    ),
    ("dev", [{"chosen": TURNS, "rejected": TURNS}], "holds rows of preferences without prompts"),
    ("dev", [GOOD["dev"] | {"chosen": "So."}], "has no list of turns with role and content under chosen"),
]


@pytest.mark.parametrize(("source", "rows", "message"), SHAPES, ids=[message for *_, message in SHAPES])
def test_rows_of_another_shape_are_named(tmp_path: Path, source: str, rows: list[Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        load(tmp_path, make_rows() | {source: rows * 3})
    assert f"; {source}.jsonl {message}" in str(error.value)
    assert ": write " in str(error.value) and "\n" not in str(error.value)


def test_a_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    lines = [
        json.dumps(sft_row(f"{n}", "Caf\u00e9?"), ensure_ascii=False).encode("latin-1") for n in range(3)
    ]
    with pytest.raises(UserError, match=r"invalid UTF-8 \(3\); sft\.jsonl is not in UTF-8: save it as UTF-8"):
        load(tmp_path, make_rows() | {"sft": lines})


COMMIT = "c" * 40


def hub_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, sft: tuple[str, ...], preference: tuple[str, ...]
) -> DataParams:
    """Parameters for two data sets of the Hub that hold files of these names, each with its own name as a
    row's id.
    """

    def fetch(repo: str, revision: str, patterns: list[str], key: str) -> tuple[str, list[Path]]:
        names = {"me/sft": sft, "me/pairs": preference}[repo]
        paths = [folder / repo / "test" / COMMIT / name for name in sorted(names)]
        for path, name in zip(paths, sorted(names), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            row = (
                sft_row(name, f"What is {name}?")
                if repo == "me/sft"
                else preference_row(name, f"Why {name}?")
            )
            write_rows(path, [row])
        return COMMIT, paths

    monkeypatch.setattr(hub, "fetch_dataset", fetch)
    repos = {"sft": "me/sft", "preference": "me/pairs"}
    return DataParams(
        **FILES | {key: {"source": "hub", "repo": repo, "revision": "x"} for key, repo in repos.items()}
    )


THREE = ("train.json", "dev.json", "test.json")


@pytest.mark.parametrize(
    ("files", "read"),
    [
        (("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"), 1),
        (("default/train/0000.parquet", "other/train/0000.parquet", "default/validation/0000.parquet"), 2),
        (("my_train_set.jsonl", "my_eval_set.jsonl", "rest.jsonl"), 1),
        (("a.jsonl", "b.jsonl", "dataset_infos.json", "dataset_dict.json", "state.json", ".meta.json"), 2),
        (("pretraining.jsonl", "latest.jsonl"), 2),
    ],
)
def test_of_a_hub_set_the_training_files_are_taught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: tuple[str, ...], read: int
) -> None:
    loaded = load_medical_data(tmp_path, hub_of(tmp_path, monkeypatch, files, THREE), 0)
    assert total(loaded, "sft")["read"] == read
    assert not any(
        "test" in row.id or "valid" in row.id or "eval" in row.id for row in loaded.sft if read == 1
    )


@pytest.mark.parametrize("dev", ["validation", "valid", "val", "eval", "dev"])
@pytest.mark.parametrize(
    "form", ["data/{}-00000-of-00001.parquet", "{}.json", "{}/0.parquet", "pairs_{}.jsonl.gz"]
)
def test_a_hub_sets_splits_are_read_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dev: str, form: str
) -> None:
    files = tuple(form.format(split) for split in ("train", dev, "test"))
    loaded = load_medical_data(tmp_path, hub_of(tmp_path, monkeypatch, ("a.json",), files), 0)
    assert [row.id for row in loaded.questions] == [files[0]]
    assert {row.id for row in loaded.held_out} == set(files[1:])


def test_a_hub_set_without_a_split_names_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ("train.json", "test.json", "notes.json")
    with pytest.raises(UserError) as error:
        load_medical_data(tmp_path, hub_of(tmp_path, monkeypatch, ("a.json",), files), 0)
    assert "has no file of dev (no split: notes.json; test: test.json; train: train.json)" in str(error.value)
    with pytest.raises(UserError, match=r"has no file of train \(test: test\.json\)"):
        load_medical_data(tmp_path, hub_of(tmp_path, monkeypatch, ("test.json",), THREE), 0)
