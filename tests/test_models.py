"""Models from scratch: a tokenizer that round-trips, a real GPTQ checkpoint, a judge's examples as rows."""

import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import CORPUS

from medqa import model, models, prompts
from medqa.miniature import (
    corrupted_answers,
    embedded,
    judge_prompts,
    scratch,
    token_rows,
    train_scratch,
    training_text,
)
from medqa.miniature.corrupted_answers import JudgeExample
from medqa.miniature.token_rows import TokenRow
from medqa.runtime.errors import UserError


@pytest.fixture(scope="module")
def tok():
    return scratch.tokenizer(["Fever and cough are symptoms of influenza."] * 10, 400)


def judge_examples(count: int, seed: int) -> list[JudgeExample]:
    facts = training_text.embedded_facts(embedded.topics(CORPUS), random.Random(seed))
    return corrupted_answers.judge_examples(facts, count, seed)


def rows_of(tok, examples: list[JudgeExample]) -> list[TokenRow]:
    return token_rows.example_rows(tok, judge_prompts.labelled_prompts(examples, "judge-short", seed=0), 2000)


@pytest.mark.parametrize("text", ["Fever!", "naïve café 12 µg", "日本語", "\U0001f637", "a  b\n\nc", ""])
def test_the_tokenizer_round_trips_any_text(tok, text: str) -> None:
    assert tok.decode(tok(text).input_ids) == text


def test_labels_and_control_tokens_are_single_tokens(tok) -> None:
    for text in (*prompts.LABELS, *scratch.CONTROL_TOKENS):
        assert len(tok.encode(text)) == 1


def test_the_base_is_gptq_and_carries_no_calibration_text(tiny_base) -> None:
    saved = json.loads((tiny_base / "config.json").read_text())
    quantised = saved["quantization_config"]
    assert (quantised["quant_method"], quantised["bits"], quantised["group_size"]) == ("gptq", 4, 128)
    assert quantised["dataset"] is None
    assert saved["architectures"] == ["Qwen2ForCausalLM"]
    layer = model.load(tiny_base, "float32").model.layers[0].mlp.up_proj
    assert hasattr(layer, "dequantize_weight")


def test_a_branch_sees_the_prefix_and_itself_only(tok) -> None:
    """A row with three branches gives the label logits that three separate prompts give."""
    example = next(example for example in judge_examples(10, seed=0) if example.spans)
    net = scratch.model(tok, 64, 2, 32, seed=0).eval()
    together = train_scratch.label_logits(net, rows_of(tok, [example]))
    judged = prompts.judge("judge-short", "", example.reference, example.candidate)
    for name, logits in zip(prompts.CRITERIA, together, strict=True):
        text = tok.apply_chat_template(judged[name], tokenize=False, add_generation_prompt=True)
        alone = net(input_ids=tok(text, return_tensors="pt").input_ids).logits[0, -1]
        assert torch.allclose(logits, alone, atol=1e-4)


def test_a_row_has_the_labels_of_its_example(tok) -> None:
    examples = judge_examples(20, seed=1)
    for example, row in zip(examples, rows_of(tok, examples), strict=True):
        expected = [prompts.LABELS[example.labels[name]] for name in prompts.CRITERIA]
        assert list(tok.decode(row.labels)) == expected


def test_point_labels_are_on_the_tokens_of_the_points(tok) -> None:
    examples = judge_examples(20, seed=2)
    for example, row in zip(examples, rows_of(tok, examples), strict=True):
        for is_right in (True, False):
            points = "".join(
                example.candidate[start:stop] for start, stop, right in example.spans if right == is_right
            )
            labelled = zip(row.ids, row.point_labels, strict=True)
            tokens = [token for token, label in labelled if label == int(is_right)]
            assert tok.decode(tokens).replace(" ", "") == points.replace(" ", "")


def test_chunks_keep_every_token() -> None:
    documents = [[n] * (n % 7 + 1) for n in range(50)]
    rows = token_rows.chunk_documents(documents, 8, passes=2, seed=0)
    count = sum(len(row.ids) for row in rows)
    assert count >= 2 * sum(map(len, documents)) - 2 and all(len(row.ids) <= 8 for row in rows)


def write_answers(path: Path, rows: int, sentences: int) -> None:
    lines = ["not json"]
    for n in range(rows):
        answer = " ".join(f"Sentence {part} of answer {n} tells something." for part in range(sentences))
        turns = [{"from": "human", "value": f"Question {n}?"}, {"from": "gpt", "value": answer}]
        row = {"id": f"r{n}", "type": "Open-End", "conversations": turns, "answer": None, "score": None}
        lines.append(json.dumps(row))
    path.write_text("\n".join(lines))


@pytest.mark.parametrize("sentences", [1, 2, 3, 4])
def test_a_file_of_the_users_is_training_text(tmp_path: Path, sentences: int) -> None:
    write_answers(tmp_path / "own.jsonl", 30, sentences)
    text = training_text.load("own.jsonl", tmp_path, 0)
    assert len(text.documents) == len(text.chats) == len(text.turns) == 30
    for document, chat in zip(text.documents, text.chats, strict=True):
        assert " ".join(turn["content"] for turn in chat) == document and all(t["content"] for t in chat)
    fact = next(text.facts)
    assert len(fact.points) == min(sentences, training_text.POINTS) <= len(fact.wrong_points)
    assert not set(fact.points) & set(fact.wrong_points)
    assert len(corrupted_answers.judge_examples(text.facts, 50, seed=0, hard=True)) == 50


def test_short_answers_are_left_out_where_there_are_longer_ones(tmp_path: Path) -> None:
    for name, sentences in (("long", 3), ("short", 1)):
        write_answers(tmp_path / name, 9, sentences)
    (tmp_path / "own.jsonl").write_text(
        (tmp_path / "long").read_text() + "\n" + (tmp_path / "short").read_text()
    )
    text = training_text.load("own.jsonl", tmp_path, 0)
    assert len(text.documents) == 18 and len(text.chats) == 9


def test_a_file_with_too_little_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    with pytest.raises(UserError, match="must hold at least 2 rows .*; it holds rows of Alpaca"):
        training_text.load("own.jsonl", tmp_path, 0)
    write_answers(tmp_path / "own.jsonl", 2, 3)
    with pytest.raises(UserError, match="own.jsonl must hold more than 6 different sentences"):
        next(training_text.load("own.jsonl", tmp_path, 0).facts)


@pytest.mark.parametrize("steps", [5, 9, 10, 11, 20])
def test_any_number_of_steps_trains(tok, steps: int) -> None:
    rows = token_rows.chunk_documents([tok("fever and cough").input_ids] * 8, 8, passes=1, seed=0)
    source = SimpleNamespace(steps=steps, batch_size=2, learning_rate=0.01)
    losses = train_scratch.train(scratch.model(tok, 32, 1, 16, seed=0), rows, source, 0, "test")
    assert len(losses) == steps and all(loss == loss for loss in losses)


@pytest.mark.parametrize(
    ("metrics", "text"),
    [
        ({}, "made here"),
        ({"repo": "a/b", "commit": "0" * 40, "licence": "mit", "files": 3}, "a/b, mit"),
        (
            {"sha256": "0" * 64, "licence": "mit", "steps": 120, "final_loss": 0.123456789},
            "mit, 120 steps, loss 0.123",
        ),
        (
            {"validation_examples": 1000, "validation_accuracy": 0.861},
            "right on 86.1% of 1,000 validation examples",
        ),
    ],
)
def test_the_line_of_the_stage_has_no_hash_and_round_numbers(metrics: dict[str, object], text: str) -> None:
    assert models.headline(metrics) == text
