"""Models from scratch: a tokenizer that round-trips, a real GPTQ checkpoint, a judge's lessons as rows."""

import json
import random
from itertools import islice

import pytest
import torch
from conftest import CORPUS

from medqa import attacks, model, prompts
from medqa.miniature import corrupted_answers, embedded, scratch, train_scratch, training_text
from medqa.runtime.errors import UserError

LURES = attacks.training_attacks()


@pytest.fixture(scope="module")
def tok():
    return scratch.tokenizer(["Fever and cough are symptoms of influenza."] * 10, 400)


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
    facts = embedded.facts(embedded.topics(CORPUS), random.Random(0))
    lesson = corrupted_answers.judge_example(next(islice(facts, 3, None)), LURES, random.Random(0))
    (row,) = train_scratch.example_rows(tok, [lesson], "judge-short", 2000)
    net = scratch.model(tok, 64, 2, 32, seed=0).eval()
    table = train_scratch._table([row], net)
    labels = (table.weights[:, 1:] > 0) & (table.branches[:, 1:] > 0)
    together = net(input_ids=table.ids[:, :-1], **table.extra).logits[labels]
    asked = prompts.judge("judge-short", "", lesson.reference, lesson.candidate)
    for name, logits in zip(prompts.CRITERIA, together, strict=True):
        text = tok.apply_chat_template(asked[name], tokenize=False, add_generation_prompt=True)
        alone = net(input_ids=tok(text, return_tensors="pt").input_ids).logits[0, -1]
        assert torch.allclose(logits, alone, atol=1e-4)


def test_every_label_of_a_row_is_the_lessons(tok) -> None:
    facts = embedded.facts(embedded.topics(CORPUS), random.Random(1))
    lessons = [
        corrupted_answers.judge_example(fact, LURES, random.Random(n))
        for n, fact in enumerate(islice(facts, 20))
    ]
    for lesson, row in zip(
        lessons, train_scratch.example_rows(tok, lessons, "judge-short", 2000), strict=True
    ):
        targets = zip(row.ids, row.weights, row.branches, strict=True)
        told = [tok.decode([token]) for token, weight, branch in targets if weight and branch]
        assert told == [prompts.LABELS[lesson.labels[name]] for name in prompts.CRITERIA]


def test_marks_stand_on_the_tokens_of_the_points(tok) -> None:
    facts = embedded.facts(embedded.topics(CORPUS), random.Random(2))
    lessons = [
        corrupted_answers.judge_example(fact, LURES, random.Random(n))
        for n, fact in enumerate(islice(facts, 20))
    ]
    for lesson, row in zip(
        lessons, train_scratch.example_rows(tok, lessons, "judge-short", 2000), strict=True
    ):
        for wanted in (True, False):
            told = "".join(
                lesson.candidate[first:last] for first, last, right in lesson.points if right == wanted
            )
            marked = [token for token, mark in zip(row.ids, row.marks, strict=True) if mark == int(wanted)]
            assert tok.decode(marked).replace(" ", "") == told.replace(" ", "")


def test_packing_keeps_every_token() -> None:
    texts = [[n] * (n % 7 + 1) for n in range(50)]
    rows = train_scratch.chunk_documents(texts, 8, passes=2, seed=0)
    counted = sorted(token for row in rows for token in row.ids)
    assert len(counted) >= 2 * sum(map(len, texts)) - 2 and all(len(row.ids) <= 8 for row in rows)


def test_reading_a_file_of_the_users(tmp_path) -> None:
    rows = []
    for n in range(30):
        answer = " ".join(f"Sentence {part} of answer {n} tells something." for part in range(4))
        turns = [{"from": "human", "value": f"Question {n}?"}, {"from": "gpt", "value": answer}]
        rows.append(
            {"id": f"r{n}", "type": "Open-End", "conversations": turns, "answer": None, "score": None}
        )
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\nnot json\n")
    read = training_text.gather("own.jsonl", tmp_path, 0)
    assert len(read.texts) == len(read.chats) == 30
    fact = next(read.facts)
    assert len(fact.points) == training_text.POINTS <= len(fact.wrong) and not set(fact.points) & set(
        fact.wrong
    )


def test_a_file_without_long_answers_is_refused(tmp_path) -> None:
    (tmp_path / "own.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    with pytest.raises(UserError, match="must hold at least 2 rows .*; it holds rows of Alpaca"):
        training_text.gather("own.jsonl", tmp_path, 0)


@pytest.mark.parametrize("steps", [5, 9, 10, 11, 20])
def test_any_number_of_steps_trains(tok, steps: int) -> None:
    rows = train_scratch.chunk_documents([tok("fever and cough").input_ids] * 8, 8, passes=1, seed=0)
    losses = train_scratch.train(scratch.model(tok, 32, 1, 16, seed=0), rows, steps, 2, 0.01, 0, "test")
    assert len(losses) == steps and all(loss == loss for loss in losses)
