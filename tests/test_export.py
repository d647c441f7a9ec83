"""medqa export: every format answers as the run's model does, and what does not load back is not written."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import fake_policies
import pytest
import tiny_gguf
import torch
from huggingface_hub import ModelCard

from medqa import export, jsonl, model, policies, prompts
from medqa.commands import cli
from medqa.export import checks, formats, gguf_file, licences, ollama
from medqa.models import gguf
from medqa.records import HeldOut
from medqa.runtime import presets
from medqa.runtime.errors import UserError
from medqa.runtime.params import read_params

ROWS = 100


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    fake_policies.write(folder, rows=ROWS)
    return folder


@pytest.fixture
def run(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(finished)
    monkeypatch.setenv("MEDQA_CACHE", str(finished / "cache"))
    return finished


@pytest.fixture(scope="module")
def merged(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An exported folder, and what the command printed."""
    out = tmp_path_factory.mktemp("exported") / "merged"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(finished)
        patch.setenv("MEDQA_CACHE", str(finished / "cache"))
        scores = export.export(export.Target("dpo", "merged", out, ROWS), read_params())
    return out, scores.table("dpo", "merged")


def test_merged_weights_answer_as_the_adapter_beside_its_base(run: Path, merged) -> None:
    out, table = merged
    assert f"{ROWS} of {ROWS}" in table
    # The run's own model is merged too: here the adapter stays beside the quantised base.
    tok = model.tokenizer(run / "models" / "base")
    beside = model.load(run / "models" / "base", "float32", run / "models" / "dpo")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    alone = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    plain_tok = AutoTokenizer.from_pretrained(out)
    rows = list(jsonl.read(run / "data" / "heldout.jsonl", HeldOut))
    questions = [row.question for row in rows]
    first = write(beside, tok, questions)
    assert first == write(alone, plain_tok, questions)
    assert len(set(first)) > 20  # an adapter that says one thing would prove nothing


def write(net, tok, questions: list[str]) -> list[str]:
    """The greedy answers, by transformers' own generation."""
    batch = tok.apply_chat_template(
        [prompts.ask(question) for question in questions],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
        padding=True,
    )
    with torch.inference_mode():
        written = net.generate(**batch, do_sample=False, max_new_tokens=16)
    return tok.batch_decode(written[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)


def test_the_folder_is_whole(merged) -> None:
    out, table = merged
    expected = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    expected |= {"tokenizer_config.json", "chat_template.jinja", "README.md", "NOTICE"}
    assert {path.name for path in out.iterdir()} == expected
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation["do_sample"] is False and generation["max_new_tokens"] == 16
    assert {path.name for path in out.parent.iterdir()} == {"merged"}  # nothing half-written beside it
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1  # other users may read all of it or none


def test_the_card_has_the_runs_numbers_and_a_head_that_the_hub_reads(merged) -> None:
    out, table = merged
    card = ModelCard.load(out / "README.md")
    assert card.data.license == "apache-2.0" and card.data.pipeline_tag == "text-generation"
    assert {"dpo", "not-for-clinical-use"} <= set(card.data.tags)
    metrics = json.loads((fake_policies.ROOT / "metrics" / "evaluate" / "dpo.json").read_text())
    compared = json.loads((fake_policies.ROOT / "metrics" / "compare.json").read_text())
    for text in (
        "**Not for clinical use.**",
        table.replace("| dpo ", "| DPO "),
        f"{metrics['score']:.3f} ({metrics['score_low']:.3f} to {metrics['score_high']:.3f})",
        f"Verdict on DPO: {compared['verdict']}",
        *(condition["sentence"] for condition in compared["conditions"].values()),
        "| SFT rows | 100 |",
        "learning_rate 0.0003",
        "It is a tiny model",
    ):
        assert text in card.content, text
    assert "Not for clinical use" in (out / "NOTICE").read_text()


@pytest.mark.parametrize("policy", ["dpo", "base"])
def test_a_gguf_file_gives_the_same_answers(run: Path, tmp_path: Path, capsys, policy: str) -> None:
    out = tmp_path / "gguf"
    assert cli.main(["export", str(out), "--model", policy, "--format", "gguf", "--rows", "20"]) == 0
    shown = capsys.readouterr()
    assert "20 of 20" in shown.out and f"medqa push OWNER/NAME {out}" in shown.out
    text = (out / "Modelfile").read_text()
    assert "FROM ./model.gguf" in text and 'PARAMETER stop "<|im_end|>"' in text
    assert "num_predict 16" in text and "temperature 0" in text
    assert ModelCard.load(out / "README.md").data.library_name == "gguf"


def test_int4_is_scored_and_carries_no_row_of_the_training_text(run: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "gptq"
    assert cli.main(["export", str(out), "--format", "gptq", "--rows", "20"]) == 0
    assert " of 20" in capsys.readouterr().out
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    assert config["bits"] == 4 and config["group_size"] == 128 and config["dataset"] is None
    net, tok = formats.read("gptq", out, "float32")
    assert all(write(net, tok, ["What is gout?", "What is asthma?"]))


def test_a_llama_is_written_with_its_rotations_in_llama_cpps_order(tmp_path: Path) -> None:
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    weights = tiny_gguf.write(first)
    net, tok = gguf.convert(first)
    gguf_file.write(net, tok, second, "mit")
    from gguf import GGUFReader

    reader = GGUFReader(second)
    assert {tensor.name for tensor in reader.tensors} == set(weights)
    for tensor in reader.tensors:
        assert (tensor.data == weights[tensor.name]).all(), tensor.name
    again, again_tok = gguf.convert(second)
    assert checks.digests(again) == checks.digests(net)
    assert again_tok("Of 12 ab.").input_ids == tok("Of 12 ab.").input_ids
    assert gguf.licence(second) == "mit"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_come_back_bit_for_bit(run: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    base = run / "models" / "base"
    net = formats.merge(base, None, str(dtype).removeprefix("torch."))
    gguf_file.write(net, model.tokenizer(base), tmp_path / "model.gguf", "mit")
    again, _ = gguf.convert(tmp_path / "model.gguf")
    assert checks.digests(again.to(dtype)) == checks.digests(net)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "gemma3"}, "of the types qwen2, llama, and this one is of the type gemma3"),
        ({"rope_parameters": {"rope_type": "yarn"}}, r"no scaled rotary positions \(yarn\)"),
    ],
)
def test_what_gguf_cannot_hold_is_refused(fields: dict, message: str) -> None:
    config = SimpleNamespace(**{"model_type": "qwen2", "rope_parameters": {}} | fields)
    with pytest.raises(UserError, match=message):
        gguf_file.check(config)


TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}:\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
TEMPLATE += "{% if add_generation_prompt %}<|im_start|>assistant:\n{% endif %}"


def spoil_template(out: Path) -> None:
    (out / "chat_template.jinja").write_text(TEMPLATE)


def spoil_weights(out: Path) -> None:
    content = bytearray((out / "model.safetensors").read_bytes())
    content[-100] ^= 1
    (out / "model.safetensors").write_bytes(content)


def tear(name: str) -> Callable[[Path], None]:
    return lambda out: (out / name).write_bytes((out / name).read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("format", "spoil", "message"),
    [
        ("merged", spoil_template, "the exported chat template makes the prompt '<|im_start|>user:"),
        ("merged", spoil_weights, "does not load back as it was written"),
        ("merged", tear("model.safetensors"), "the exported merged does not load back"),
        ("gguf", tear("model.gguf"), "the exported gguf does not load back"),
        ("gguf", lambda out: (out / "model.gguf").unlink(), "the exported gguf does not load back"),
    ],
)
def test_a_wrong_export_fails_the_command(
    run: Path, tmp_path: Path, capsys, monkeypatch, format: str, spoil: Callable[[Path], None], message: str
) -> None:
    sound = formats.write
    monkeypatch.setattr(formats, "write", lambda *words: (sound(*words), spoil(words[-1])))
    assert cli.main(["export", str(tmp_path / "out"), "--format", format, "--rows", "5"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("medqa export: ") and message in error and "nothing was written" in error
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_template_in_a_gguf_file_fails_too(run: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    from gguf import GGUFWriter

    sound = GGUFWriter.add_chat_template
    monkeypatch.setattr(GGUFWriter, "add_chat_template", lambda writer, text: sound(writer, TEMPLATE))
    assert cli.main(["export", str(tmp_path / "out"), "--format", "gguf", "--rows", "5"]) == 1
    assert "the exported chat template makes the prompt" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["models"], "models is there already and is not empty; name another folder"),
        (["params.yaml"], "params.yaml is there already and is not empty; name another folder"),
        (["out", "--rows", "0"], "--rows 0 must be at least 1"),
    ],
)
def test_mistakes_are_one_sentence(run: Path, capsys, words: list[str], message: str) -> None:
    assert cli.main(["export", *words]) == 1
    assert capsys.readouterr().err == f"medqa export: {message}\n"


def test_metrics_that_are_missing_are_named_before_any_work(run: Path, tmp_path: Path, monkeypatch, capsys):
    for name in ("params.yaml", "models", "data"):
        (tmp_path / name).symlink_to(run / name)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", "out"]) == 1
    error = capsys.readouterr().err
    assert error == "medqa export: metrics/evaluate/base.json cannot be read; make it with dvc repro\n"


def test_without_a_finished_run_it_names_the_command(run: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    (tmp_path / "params.yaml").write_text((run / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", "out"]) == 1
    assert "models/base holds no model yet; make it with dvc repro" in capsys.readouterr().err


DEFAULT = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_default_system_prompt_goes_into_the_modelfile(run: Path) -> None:
    tok = model.tokenizer(run / "models" / "base")
    assert ollama.turn_template(tok) == (
        "<|im_start|>user\n{{ .Prompt }}<|im_end|>\n<|im_start|>assistant\n{{ .Response }}<|im_end|>\n"
    )
    tok.chat_template = DEFAULT
    expected = "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
    assert ollama.turn_template(tok).startswith(f"{expected}<|im_start|>user\n")
    from medqa.chat import ChatFormat

    text = ollama.modelfile(tok, ChatFormat(ends={"<|im_end|>": 2}), "model.gguf", 16)
    assert 'SYSTEM """Be kind."""' in text
    tok.chat_template = "{% for m in messages %}{{ loop.index }}{{ m['role'] }}{{ m['content'] }}{% endfor %}"
    with pytest.raises(UserError, match="more than a system prompt and equal turns"):
        ollama.turn_template(tok)


def test_licences_say_what_they_allow(run: Path) -> None:
    research = licences.Licensed("judge", "Qwen/Qwen2.5-3B-Instruct", "qwen-research")
    assert "research and evaluation only" in research.allows
    assert research.metadata() == {"license": "other", "license_name": "qwen-research"}
    assert licences.Licensed("base", "x", "not stated").metadata() == {}
    raw = presets.read("qwen2.5-1.5b", fake_policies.ROOT / "presets")
    params = read_params()
    data = params.data.model_validate(raw["data"])
    models = {"base": policies.model_dir("base", Path("models"))}
    parts = licences.parts(params.model_copy(update={"data": data}), models)
    assert [part.licence for part in parts] == ["apache-2.0", "mit", "mit"]
    assert parts[1].name.startswith("TsinghuaC3I/UltraMedical at ")


@pytest.mark.slow
def test_the_exported_model_answers_in_a_real_server(run: Path, merged) -> None:
    from openai import OpenAI
    from real_server import serving

    from medqa import streaming
    from medqa.engines import Sampling

    out, _ = merged
    engine = policies.load("dpo", read_params(), Path("models"))
    with serving(out) as address:
        client = OpenAI(base_url=address, api_key="none", timeout=60)
        for row in fake_policies.held_out(5):
            messages = prompts.ask(row.question)
            # `transformers serve` takes no limit of tokens from generation_config.json.
            reply = client.chat.completions.create(model=str(out), messages=messages, max_tokens=16)
            own = streaming.stream(engine, messages, Sampling(0, 1, 16), lambda part: None)
            assert reply.choices[0].message.content == own.text


@pytest.mark.slow
@pytest.mark.parametrize("format", ["merged", "gguf"])
def test_the_exported_model_answers_where_the_project_is_not(run: Path, tmp_path: Path, format: str) -> None:
    out = tmp_path / format
    export.export(export.Target("dpo", format, out, 5), read_params())
    card = (out / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0].replace("FOLDER", str(out))
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    own = write(*formats.read(format, out, "float32"), ["What are the symptoms of asthma?"])
    assert done.stdout.strip() == own[0]
