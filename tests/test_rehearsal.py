"""The rehearsal at a tiny shape: checkpoints look like real ones, and the preset's pipeline runs on them."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bench import checkout, checkpoints, rehearsal
from medqa import model

pytestmark = pytest.mark.slow

TINY = checkpoints.Shape(layers=2, width=128, heads=2, kv_heads=2, mlp=384, vocabulary=1024)


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
    return tensors


def test_a_checkpoint_has_the_form_of_a_quantised_one(tiny_base: Path, tmp_path: Path) -> None:
    real = read_tensors(tiny_base)
    shape = replace(TINY, vocabulary=real["model.embed_tokens.weight"].shape[0])
    tokenizer = checkpoints.tokenizer(shape.vocabulary)
    checkpoints.write(shape, tokenizer, quantised=True, seed=0, out=tmp_path / "base")
    made = read_tensors(tmp_path / "base")
    shapes = [{name: tensor.shape for name, tensor in tensors.items()} for tensors in (made, real)]
    assert shapes[0] == shapes[1]
    quantised = (".qweight", ".qzeros", ".scales", ".g_idx", ".bias")
    assert all(made[name].dtype == real[name].dtype for name in real if name.endswith(quantised))
    # Our own quantiser writes the newer format, which stores the zero points without subtracting 1.
    name = "model.layers.0.mlp.down_proj.qzeros"
    assert (made[name] + 0x11111111 == real[name]).all()


def test_it_loads_with_weights_of_the_stated_deviation(tmp_path: Path) -> None:
    checkpoints.write(TINY, checkpoints.tokenizer(1024), quantised=True, seed=0, out=tmp_path / "base")
    plain = model.load(tmp_path / "base", "float32", dequantised=True)
    wide = model.load(tmp_path / "base", "float32")
    ids = torch.arange(100, 150)[None]
    assert torch.allclose(wide(ids).logits, plain(ids).logits, atol=1e-3)
    weight = plain.model.layers[1].mlp.down_proj.weight
    assert weight.shape == (128, 384)
    assert weight.std().item() * 128**0.5 == pytest.approx(checkpoints.DEVIATION, rel=0.05)
    assert abs(weight.mean().item()) < weight.std().item() / 5


GROWTH = """
import sys
from pathlib import Path
from medqa.runtime import environment
environment.set_up()
from peft import LoraConfig, get_peft_model
from medqa import model

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1000 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

folder = Path(sys.argv[1])
model.load(folder, "bfloat16")  # loads the libraries
before = anonymous()
net = model.load(folder, "bfloat16", dequantised=sys.argv[2] == "dequantised")
if sys.argv[2] == "merged":
    net = get_peft_model(net, LoraConfig(target_modules=["q_proj", "up_proj", "down_proj", "gate_proj"]))
    model.merge(net)
print((anonymous() - before) / sum(weight.nbytes for weight in net.parameters()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("use", ["dequantised", "merged"])
def test_plain_weights_take_little_more_than_their_size(tmp_path: Path, use: str) -> None:
    shape = checkpoints.Shape(layers=8, width=1024, heads=8, kv_heads=8, mlp=4096, vocabulary=1024)
    checkpoints.write(shape, checkpoints.tokenizer(1024), quantised=True, seed=0, out=tmp_path / "base")
    command = [sys.executable, "-c", GROWTH, str(tmp_path / "base"), use]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=checkout.ROOT)
    assert 0.7 < float(done.stdout.split()[-1]) < 1.4


def test_a_large_checkpoint_comes_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = checkpoints.tokenizer(1024)
    checkpoints.write(TINY, tokenizer, quantised=False, seed=0, out=tmp_path / "whole")
    monkeypatch.setattr(checkpoints, "SHARD", 300_000)
    checkpoints.write(TINY, tokenizer, quantised=False, seed=0, out=tmp_path / "shards")
    whole, shards = read_tensors(tmp_path / "whole"), read_tensors(tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert whole.keys() == shards.keys() and all((whole[name] == shards[name]).all() for name in whole)
    loaded = model.load(tmp_path / "shards", "bfloat16")
    assert (loaded.get_output_embeddings().weight == whole["model.embed_tokens.weight"]).all()


def test_the_tokenizer_fills_its_vocabulary() -> None:
    tok = checkpoints.tokenizer(20_000)
    assert len(tok) == 20_000 - checkpoints.CONTROL_ROWS + 3
    assert tok.convert_ids_to_tokens(len(tok) - 1) == "<|im_end|>" == tok.eos_token
    text = "What are the symptoms of asthma? 5"
    assert tok.decode(tok(text).input_ids) == text
    assert len(tok.encode("5", add_special_tokens=False)) == 1
    pairs = range(5000, 20_000 - checkpoints.CONTROL_ROWS, 500)
    assert all(len(tok.decode([token]).split()) == 2 for token in pairs)


def test_the_shapes_have_as_many_parameters_as_the_real_models() -> None:
    # Their model cards: 1.54 billion parameters and 1.31 without embeddings; 3.09 and 2.77.
    assert round(checkpoints.BASE.parameters() / 1e9, 2) == 1.54
    assert round(checkpoints.JUDGE.parameters() / 1e9, 2) == 3.09


def test_the_preset_runs_on_it_as_far_as_its_pairs(tmp_path: Path) -> None:
    # The later stages are as in test_pipeline.py, and would take longer than all of this.
    # Of a small vocabulary most tokens are bytes: random answers would be broken text, and make no pairs.
    tiny = replace(TINY, vocabulary=60_000)
    shapes = {"base": tiny, "judge": replace(tiny, width=64)}
    result = rehearsal.rehearse(shapes, rehearsal.OVERRIDES, tmp_path, targets=["pairs"])
    table = rehearsal.table(result)
    assert result["exit_code"] == 0, table
    expected = {"check", "models@base", "models@judge", "data", "sft", "generate", "judge", "pairs"}
    assert {row["stage"] for row in result["stages"]} == expected
    assert all(row["peak_gb"] > 0 and f"\n{row['stage']} " in table for row in result["stages"])
    metrics = tmp_path / "project" / "metrics" / "models"
    pins = {name: json.loads((metrics / f"{name}.json").read_text()) for name in ("base", "judge")}
    assert pins["base"]["commit"] == "4f5a0e31008e2966e8f787964bcc4e1105e03dc3"
    assert pins["judge"]["commit"] == "aa8e72537993ba99e69dfaafa59ed015b17504d1"
    assert pins["judge"]["licence"] == "not stated"  # random weights have no README.md
    assert json.loads((tmp_path / "project" / "metrics" / "pairs.json").read_text())["pairs"] > 0
    assert table.splitlines()[-1].endswith("every stage ran; bfloat16 on a CPU")


def test_a_stage_that_fails_is_in_the_table(tmp_path: Path) -> None:
    shapes = {"base": TINY, "judge": TINY}
    result = rehearsal.rehearse(shapes, {"data.max_bad_share": 2}, tmp_path, targets=["data"])
    assert result["exit_code"] != 0 and not result["stages"]
    assert f"ended with exit code {result['exit_code']}" in rehearsal.table(result)


def test_an_override_has_to_be_in_the_preset(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="dpo.pairs"):
        rehearsal.project(tmp_path / "project", {"dpo.pairs": 1})
