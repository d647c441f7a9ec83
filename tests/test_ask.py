"""medqa ask and medqa chat: the text of `evaluate`, word by word, and one sentence where that cannot be."""

import io
import shutil
from pathlib import Path

import fake_policies
import pytest

from medqa import evaluate, model, policies, prompts, streaming
from medqa.commands import cli
from medqa.engines import Sampling
from medqa.engines.transformers_engine import TransformersEngine
from medqa.runtime.errors import UserError
from medqa.runtime.params import read_params

QUESTION = "What are the symptoms of gout?"
GREEDY = Sampling(temperature=0, top_p=1, max_new_tokens=16)
NOTICE = "Not for clinical use"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    fake_policies.write(folder)
    return folder


@pytest.fixture
def run(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(finished)
    return finished


def test_streamed_answers_are_those_of_evaluate(run: Path) -> None:
    params, rows = read_params(), fake_policies.held_out()
    for name in ("base", "dpo"):
        base, adapter = policies.folders(name, Path("models"))
        batched = TransformersEngine(model.load_merged(base, "float32", adapter), model.tokenizer(base), 8)
        responses = evaluate.answer_questions(batched, rows, params.evaluate)
        expected = {row.id: response for row, response in zip(rows, responses, strict=True)}
        assert len({response.completion.text for response in expected.values()}) > 1
        single = policies.load(name, params, Path("models"))
        for row in rows:
            parts: list[str] = []
            answer = streaming.stream(single, prompts.ask(row.question), GREEDY, parts.append)
            assert answer == expected[row.id].completion and "".join(parts) == answer.text
            assert len(parts) > 1 or " " not in answer.text  # word by word


def test_ask_prints_one_answer_and_says_once_what_it_is_not_for(run: Path, capsys) -> None:
    engine = policies.load("dpo", read_params(), Path("models"))
    reasons = set()
    for question in (QUESTION, "What are the symptoms of asthma?"):
        assert cli.main(["ask", question]) == 0
        shown = capsys.readouterr()
        answer = streaming.stream(engine, prompts.ask(question), GREEDY, lambda part: None)
        assert shown.out == f"dpo: {answer.text}\n"
        assert shown.err.count(NOTICE) == 1
        cut_off = "cut off by evaluate.max_new_tokens = 16" in shown.err
        assert cut_off == (answer.finish_reason == "length")
        reasons.add(answer.finish_reason)
    assert reasons == {"stop", "length"}


def test_all_models_answer_and_the_judge_scores_each(run: Path, capsys) -> None:
    assert cli.main(["ask", QUESTION, "--model", "all", "--reference", "Fever and cough."]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert shown.err.count(NOTICE) == 1
    assert all(sum(line.startswith(f"{name}: ") for line in lines) == 1 for name in ("base", "sft", "dpo"))
    assert "accuracy  completeness    key points         score" in lines[-4]
    for line, name in zip(lines[-3:], ("base", "sft", "dpo"), strict=True):
        first, *scores = line.split()
        assert first == name and len(scores) == 4 and all(0 <= float(score) <= 1 for score in scores)


def test_a_temperature_samples_by_the_seed(run: Path, capsys) -> None:
    shown = []
    for seed in ("1", "1", "2"):
        assert cli.main(["ask", QUESTION, "--temperature", "1.5", "--seed", seed]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] != shown[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ask", " "], "the question is empty"),
        (["ask", "Why?", "--temperature", "9"], "--temperature 9 must be from 0 to 5"),
        (["chat", "--temperature", "nan"], "--temperature nan must be from 0 to 5"),
        (["ask", "gout " * 3000], "does not fit|do not fit"),
    ],
)
def test_mistakes_are_one_sentence(run: Path, capsys, words: list[str], message: str) -> None:
    import re

    assert cli.main(words) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"medqa {words[0]}: ") and re.search(message, error)


@pytest.mark.parametrize("words", [["ask", "Why?"], ["chat"], ["ask", "Why?", "--model", "all"]])
def test_without_a_finished_run_it_names_the_command_that_makes_one(
    finished: Path, tmp_path: Path, monkeypatch, capsys, words: list[str]
) -> None:
    shutil.copy(finished / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 1
    assert capsys.readouterr().err.endswith("holds no model yet; make it with dvc repro\n")


def test_chat_remembers_the_turns_before(run: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{QUESTION}\nAnd of asthma?\n\nnever read\n"))
    assert cli.main(["chat"]) == 0
    shown = capsys.readouterr()
    engine = policies.load("dpo", read_params(), Path("models"))
    first = streaming.stream(engine, prompts.ask(QUESTION), GREEDY, lambda part: None).text
    turns = [*prompts.ask(QUESTION), *prompts.reply(first), *prompts.ask("And of asthma?")]
    second = streaming.stream(engine, turns, GREEDY, lambda part: None).text
    assert shown.out == f"you: dpo: {first}\nyou: dpo: {second}\nyou: "
    assert shown.err.count(NOTICE) == 1


def test_the_end_of_the_input_ends_a_chat(run: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert cli.main(["chat", "--model", "base"]) == 0
    assert capsys.readouterr().out == "you: \n"


def test_an_unreadable_run_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="models/base holds no model yet"):
        policies.folders("dpo", tmp_path / "models")
