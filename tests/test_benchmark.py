"""medqa.benchmark: rows and their checks, contamination, accuracy, and lm-eval's choices on the same rows."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import fake_benchmarks
import pytest
import yaml

from medqa import data, hub, jsonl
from medqa.benchmark import contamination, harness, questions, results, tasks
from medqa.records import BenchmarkAnswer, Example, Question
from medqa.runtime import params
from medqa.runtime.benchmark_section import BenchmarkParams, HubFile, RowFile
from medqa.runtime.errors import UserError
from stages import benchmark

ROOT = Path(__file__).parent.parent
BASE = ROOT / "medqa" / "miniature" / "shipped" / "base"  # quantised by GPTQ
EXAM = {"question": "Which vitamin cures scurvy?", "choices": ["A", "B", "C", "D"], "answer": 2}


def file_of(folder: Path, *rows: Any) -> RowFile:
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return RowFile(source="files", path="rows.jsonl")


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        (
            "mmlu_anatomy",
            EXAM | {"answer": 4},
            "answer = 4 must be an option (A, B, C, D) or its number from 0",
        ),
        ("mmlu_anatomy", EXAM | {"answer": -1}, "answer = -1 must be"),
        ("mmlu_anatomy", EXAM | {"answer": True}, "answer = True must be"),
        ("mmlu_anatomy", {"question": "Why?", "answer": 1}, "has no choices: mmlu_anatomy needs the columns"),
        ("medmcqa", EXAM, "has no opa, opb, opc, opd, cop: medmcqa needs the columns opa, opb,"),
        ("pubmedqa", {"question": "Why?", "final_decision": "yes"}, "has no CONTEXTS: pubmedqa needs"),
        (
            "pubmedqa",
            {"QUESTION": "Why?", "CONTEXTS": [], "final_decision": "Yes"},
            "= 'Yes' must be an option",
        ),
        ("mmlu_anatomy", "text", "is no row with columns"),
    ],
)
def test_a_row_that_is_no_question_is_one_sentence(tmp_path: Path, task: str, row: Any, message: str) -> None:
    good = {"QUESTION": "Why?", "CONTEXTS": ["So."], "final_decision": "no"} if task == "pubmedqa" else EXAM
    if task == "medmcqa":
        good = {"question": "Why?", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "cop": 0}
    with pytest.raises(UserError) as caught:
        questions.read(tasks.load(task), file_of(tmp_path, good, row), tmp_path)
    assert f"rows.jsonl, row 2{':' if 'must' in message or 'is no' in message else ''} " in str(caught.value)
    assert message in str(caught.value)


def test_a_file_without_rows_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rows\.jsonl is empty"):
        questions.read(tasks.load("medmcqa"), file_of(tmp_path), tmp_path)


def test_rows_of_the_hub_and_of_lm_eval_are_the_same_questions(tmp_path: Path) -> None:
    hub_row = {"question": "Why?", "context": {"contexts": ["So.", "Or."]}, "final_decision": "maybe"}
    harness_row = {"QUESTION": "Why?", "CONTEXTS": ["So.", "Or."], "final_decision": "maybe"}
    source = file_of(tmp_path, hub_row, harness_row)
    first, second = questions.read(tasks.load("pubmedqa"), source, tmp_path)
    assert first.row == second.row == harness_row and first.expected == "maybe"
    assert first.prompts() == ["Why?", "So.\nOr.\nWhy?"]


def test_the_limit_draws_by_the_seed_and_ids_stay(tmp_path: Path) -> None:
    source = file_of(tmp_path, *(EXAM | {"question": f"Why {number}?"} for number in range(40)))

    rows = questions.read(tasks.load("mmlu_anatomy"), source, tmp_path)

    def drawn(limit: int | None, seed: int) -> list[str]:
        return [row.id for row in questions.draw(rows, limit, seed)]

    assert drawn(None, 0) == [f"mmlu_anatomy:{number:06}" for number in range(1, 41)]
    assert drawn(10, 0) == sorted(drawn(10, 0)) and set(drawn(5, 0)) < set(drawn(10, 0))
    assert drawn(10, 0) != drawn(10, 1)


def test_a_file_of_the_hub_is_fetched_by_its_pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fetch(*words: Any) -> tuple[str, list[Path]]:
        calls.append(words)
        return "c" * 40, [tmp_path / file_of(tmp_path, EXAM).path]

    monkeypatch.setattr(hub, "fetch_dataset", fetch)
    source = HubFile(source="hub", repo="cais/mmlu", revision="c" * 40, file="anatomy/test.parquet")
    (row,) = questions.read(tasks.load("mmlu_anatomy"), source, tmp_path)
    assert row.expected == "C"
    key = "benchmark.sources.mmlu_anatomy.revision"
    assert calls == [("cais/mmlu", "c" * 40, ["anatomy/test.parquet"], key)]


STEM = (
    "A 40 year old sailor has bleeding gums, loose teeth and bruises after months without fresh fruit. Why?"
)
OPTIONS = "\nA. Too little vitamin C\nB. A bleeding disorder\nC. An infection\nD. Leukaemia"
TURNED = "\n(A) Leukaemia\n(B) An infection\n(C) A bleeding disorder\n(D) Too little vitamin C"
COLDS = [(f"sft:{number}", f"What helps against case {number} of a cold?") for number in range(3, 40)]
UNRELATED = "A 70 year old gardener falls and cannot lift his left arm, and his speech is slurred. What now?"


@pytest.mark.parametrize(
    ("training", "threshold", "contaminated"),
    [
        (STEM + OPTIONS, 0.65, True),
        (STEM.upper() + TURNED, 0.65, True),
        (STEM, 0.65, True),  # without the options
        (STEM.replace("sailor", "pirate") + OPTIONS, 0.65, True),
        (STEM.replace("sailor", "pirate") + OPTIONS, None, False),  # null: equal ones only
        (STEM + OPTIONS, None, True),
        (UNRELATED + OPTIONS, 0.65, False),
        (UNRELATED, 0.65, False),
    ],
)
def test_a_question_that_training_repeats_is_contaminated(
    training: str, threshold: float | None, contaminated: bool
) -> None:
    rows = [("sft:1", "What is gout?"), ("sft:2", training)]
    rows += COLDS
    repeats = contamination.repeating_rows({"q": [STEM, STEM + OPTIONS]}, lambda: rows, threshold)
    assert repeats == ({"q": "sft:2"} if contaminated else {})


def test_one_training_row_may_repeat_several_questions() -> None:
    prompts = {"a": [STEM], "b": [STEM.replace("sailor", "cook")], "c": [STEM], "d": [UNRELATED]}
    rows = [("sft:1", STEM.replace("sailor", "pirate")), *COLDS]
    repeats = contamination.repeating_rows(prompts, lambda: rows, 0.65)
    assert repeats == dict.fromkeys("abc", "sft:1")


def test_training_loses_what_repeats_a_benchmark_and_nothing_else() -> None:
    corpus, section = ROOT / "medqa" / "miniature" / "corpus", params.read_params(ROOT / "params.yaml").data
    plain = data.load_medical_data(corpus, section, 0)
    repeated = plain.sft[7].question, plain.questions[7].question
    prompts = {"medmcqa:000001": [repeated[0].upper()], "medmcqa:000002": [repeated[1], UNRELATED]}
    clean = data.load_medical_data(corpus, section, 0, prompts)
    for output in ("sft", "questions"):
        before, after = ({row.id: row.question for row in getattr(each, output)} for each in (plain, clean))
        assert before.items() > after.items()
        assert set(repeated) & set(before.values()) and not set(repeated) & set(after.values())
    assert [*clean.held_out] == [*plain.held_out] and [*clean.labelled] == [*plain.labelled]
    lost = {row.reason for row in clean.audit if row.reason.startswith("benchmark:")}
    assert lost == {f"benchmark:{id}" for id in prompts}


def answer(number: int, choice: str, contaminated_by: str = "", task: str = "medmcqa") -> BenchmarkAnswer:
    options = ("A", "B", "C", "D") if task == "medmcqa" else ("yes", "no", "maybe")
    id, expected = f"{task}:{number:06}", options[0]
    values = (id, task, choice, expected, choice == expected, options, (0.0,) * len(options), contaminated_by)
    return BenchmarkAnswer(*values)


def test_accuracy_is_by_task_with_and_without_contaminated_questions() -> None:
    rows = [answer(1, "A"), answer(2, "B"), answer(3, "A", "sft:1"), answer(4, "A", "sft:2")]
    result = results.summary([*rows, answer(1, "yes", "sft:9", "pubmedqa")], 0, 500)
    assert result["questions"] == 5 and list(result["by"]) == ["medmcqa", "pubmedqa"]
    exam, abstracts = result["by"].values()
    assert (exam["rows"], exam["accuracy"], exam["clean_accuracy"], exam["contaminated"]) == (
        4,
        0.75,
        0.5,
        0.5,
    )
    assert exam["accuracy_low"] < 0.75 < exam["accuracy_high"] and exam["chance"] == 0.25
    assert abstracts["chance"] == pytest.approx(1 / 3) and abstracts["contaminated"] == 1
    assert "clean_accuracy" not in abstracts  # no question is clean
    assert results.summary([], 0, 500) == {"questions": 0, "by": {}}


def test_the_choice_is_the_first_of_the_likeliest(tmp_path: Path) -> None:
    (question,) = questions.read(tasks.load("mmlu_anatomy"), file_of(tmp_path, EXAM), tmp_path)
    for logprobs, choice in (((-3.0, -1.0, -2.0, -1.0), "B"), ((-3.0, -2.0, -1.0, -9.0), "C")):
        (row,) = results.answers([question], {question.id: logprobs}, {})
        assert (row.choice, row.correct, row.logprobs) == (choice, choice == "C", logprobs)


def of_lm_eval(task: str, path: Path, folder: Path) -> dict[str, Any]:
    """lm-eval's shipped definition of a task, with its data set replaced by a file."""
    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    definition = Path(lm_eval.tasks.__file__).parent / DEFINITIONS[task]
    kind = "parquet" if path.suffix == ".parquet" else "json"
    files = dict.fromkeys(("train", "validation", "test", "dev"), str(path))
    changes = {"dataset_path": kind, "dataset_name": None, "tag": None}
    kwargs = {"data_files": files, "cache_dir": str(folder / "cache")}
    return load_yaml(definition, resolve_func=True) | changes | {"dataset_kwargs": kwargs}


DEFINITIONS = {
    "medqa_4options": "medqa/medqa.yaml",
    "medmcqa": "medmcqa/medmcqa.yaml",
    "pubmedqa": "pubmedqa/pubmedqa.yaml",
    "mmlu_professional_medicine": "mmlu/default/mmlu_professional_medicine.yaml",
}


def as_lm_eval_reads(task: str, path: Path) -> Path:
    """A file of rows; those of PubMedQA in the columns of lm-eval's own data set."""
    if task != "pubmedqa":
        return path
    rows = [
        row.row for row in questions.read(tasks.load(task), RowFile(source="files", path=str(path)), path)
    ]
    renamed = path.with_suffix(".jsonl")
    renamed.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return renamed


@pytest.mark.parametrize("rows", [12, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("task", DEFINITIONS)
def test_each_choice_is_that_of_lm_eval(
    task: str, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm_eval = pytest.importorskip("lm_eval")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    source = fake_benchmarks.write_all(tmp_path, rows, (task,))[task]
    rows_read = questions.read(tasks.load(task), RowFile(**source), tmp_path)
    compute = params.read_params(ROOT / "params.yaml").compute.model_copy(update={"row_cache": False})
    policy = harness.load(BASE, None, "float32", compute)
    answers = results.answers(rows_read, harness.option_logprobs(policy, rows_read, False), {})
    plain = lm_eval.models.huggingface.HFLM(pretrained=policy.model, tokenizer=policy.tokenizer, batch_size=1)
    definition = of_lm_eval(task, as_lm_eval_reads(task, Path(source["path"])), tmp_path)
    monkeypatch.setattr(lm_eval.evaluator, "add_env_info", lambda _: None)  # calls pip
    manager = lm_eval.tasks.TaskManager(include_defaults=False)
    reference = lm_eval.simple_evaluate(plain, tasks=[definition], bootstrap_iters=0, task_manager=manager)
    samples = reference["samples"][task]
    assert len(samples) == len(answers) == rows
    for row, sample in zip(answers, samples, strict=True):
        logprobs = [logprob for logprob, _ in sample["filtered_resps"]]
        assert row.logprobs == pytest.approx(logprobs, abs=2e-6)
        assert row.choice == row.options[logprobs.index(max(logprobs))]
        assert row.correct == bool(sample["acc"])
        prompts = {prompt for prompt, _ in sample["arguments"]}
        assert len(prompts) == 1 and [option for _, option in sample["arguments"]] == [
            f" {option}" for option in row.options
        ]
    correct = sum(row.correct for row in answers) / rows
    assert reference["results"][task]["acc,none"] == pytest.approx(correct)


def refuse(*_: Any) -> None:
    raise AssertionError("a benchmark opened a socket")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all benchmark files, training prompts and a params.yaml that names every task."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDQA_CACHE", str(tmp_path / "cache"))
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    sources = fake_benchmarks.write_all(tmp_path / "files", 3)
    raw["benchmark"] |= {"tasks": list(sources), "sources": sources, "limit": None}
    raw["corpus"] = str(ROOT / raw["corpus"])
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    source = RowFile(**sources["medmcqa"])
    repeated = questions.read(tasks.load("medmcqa"), source, tmp_path)[1].prompts()[1]
    jsonl.write(Path("sft.jsonl"), [Example("s1", "exam", repeated, "The answer is A.")])
    jsonl.write(Path("questions.jsonl"), [Question("q1", "What is gout?", "A disease.")])
    return tmp_path


def run_stage(folder: Path, name: str = "base") -> tuple[str, dict[str, Any]]:
    """The stage on the base: its line and its metrics."""
    training = {"sft": folder / "sft.jsonl", "preference": folder / "questions.jsonl"}
    out = {"answers": folder / f"{name}.jsonl", "metrics": folder / f"{name}.json"}
    line = benchmark.main(BASE, BASE, **training, **out)
    return line, json.loads(out["metrics"].read_text())


def test_the_stage_runs_offline_and_goes_on_from_the_row_cache(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    line, metrics = run_stage(project)
    assert line.startswith("accuracy of base: medmcqa ") and list(metrics["by"]) == sorted(
        fake_benchmarks.TASKS
    )
    rows = list(jsonl.read(project / "base.jsonl", BenchmarkAnswer))
    assert len(rows) == 3 * len(fake_benchmarks.TASKS)
    assert {row.id: row.contaminated_by for row in rows if row.contaminated_by} == {
        "medmcqa:000002": "sft:s1"
    }
    assert metrics["by"]["medmcqa"]["contaminated"] == pytest.approx(1 / 3, abs=1e-4)
    assert jsonl.rounded(benchmark.compute_metrics(params.read_params(), project / "base.jsonl")) == metrics

    from lm_eval.models.huggingface import HFLM

    monkeypatch.setattr(HFLM, "loglikelihood", refuse)  # all rows are in the cache
    run_stage(project, "again")
    assert (project / "again.jsonl").read_bytes() == (project / "base.jsonl").read_bytes()


def test_the_chat_template_changes_the_prompts(project: Path) -> None:
    pytest.importorskip("lm_eval")
    run_stage(project)
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["benchmark"] |= {"chat_template": True}
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    run_stage(project, "chat")
    plain, chat = (jsonl.read_all(project / f"{name}.jsonl", BenchmarkAnswer) for name in ("base", "chat"))
    assert all(before.logprobs != after.logprobs for before, after in zip(plain, chat, strict=True))


def test_without_lm_eval_there_is_one_sentence(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "find_spec", lambda _: None)
    with pytest.raises(
        UserError, match=r"needs lm-eval: pip install -c constraints\.txt -e '\.\[benchmark\]'"
    ):
        run_stage(project)


def test_a_stage_that_is_off_reads_nothing_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # its params.yaml names no task
    absent = dict.fromkeys(("base", "policy", "sft", "preference"), tmp_path / "absent")
    out = {"answers": tmp_path / "answers.jsonl", "metrics": tmp_path / "metrics.json"}
    assert benchmark.main(**absent, **out) == "benchmark.tasks names no task"
    assert out["answers"].read_text() == jsonl.NO_ROWS and json.loads(out["metrics"].read_text()) == {
        "questions": 0,
        "by": {},
    }


def test_a_stage_that_is_off_loads_no_torch() -> None:
    code = "import sys, stages.benchmark; sys.exit(any(n in sys.modules for n in ('torch', 'lm_eval')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ["medqa"]}, "benchmark.tasks"),
        ({"tasks": ["medmcqa"], "sources": {}}, "tasks names medmcqa, and sources has no medmcqa: add it"),
        ({"tasks": ["medmcqa", "medmcqa"]}, "tasks names medmcqa twice"),
        ({"limit": 0}, "benchmark.limit = 0"),
        ({"sources": {"medmcqa": {"source": "files"}}}, "benchmark.sources.medmcqa.path is missing"),
        (
            {"tasks": ["medmcqa"], "sources": {"medmcqa": {"source": "files", "path": "gone.json"}}},
            "benchmark.sources.medmcqa.path = 'gone.json': no such file in",
        ),
    ],
)
def test_a_mistake_in_the_section_is_one_line(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["benchmark"] |= changes
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(UserError) as caught:
        params.read_params(path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_every_task_has_a_definition_and_a_pin() -> None:
    section: BenchmarkParams = params.read_params(ROOT / "params.yaml").benchmark
    assert set(section.sources) == set(fake_benchmarks.TASKS)
    for name, source in section.sources.items():
        assert tasks.load(name).definition["task"] == name
        assert isinstance(source, HubFile) and len(source.revision) == 40
    anatomy = tasks.load("mmlu_anatomy").definition["description"]
    assert anatomy == tasks.load("mmlu_medical_genetics").definition["description"].replace(
        "medical genetics", "anatomy"
    )
