"""medqa.chat, on tiny models of each family: ends, control tokens, date, context, and what is refused."""

import datetime as clock
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from fake_engine import requests
from fake_formats import CHATML, CONTEXT, FORMATS, write

from medqa import chat, hub, model, models, prompts, sft
from medqa.engines import Failure, Labels, Sampling, continuous_batching, transformers_engine
from medqa.records import Example
from medqa.runtime import model_sections, sections
from medqa.runtime.errors import UserError
from medqa.training import fine_tuning

SCHEDULE = {"epochs": 1, "learning_rate": 1e-3, "batch_size": 2, "micro_batch_size": 2, "max_length": 256}
SCHEDULE |= {"warmup_share": 0.1, "activation_checkpointing": False, "dequantised": False}
LORA = {"r": 2, "alpha": 4, "dropout": 0.0}
LONG = "The sore joints of gout swell at night. " * 3
LONGER = 64  # tokens, more than the windows of the formats that have one


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    parent = tmp_path_factory.mktemp("formats")
    return {name: write(format, parent / name.replace(" ", "")) for name, format in FORMATS.items()}


@pytest.fixture(params=FORMATS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(name: str, folders: dict[str, Path]) -> Path:
    return folders[name]


def engine(folder: Path) -> transformers_engine.TransformersEngine:
    return transformers_engine.TransformersEngine(
        model.load_merged(folder, "float32"), model.tokenizer(folder), batch_size=4
    )


def test_a_formats_facts(name: str, folder: Path) -> None:
    format = chat.detect(folder)
    assert set(format.ends) == FORMATS[name].ends
    assert format.context == CONTEXT and format.continues
    assert format.dated == (name == "Llama 3")
    assert {*FORMATS[name].tokens} <= {*format.control}
    assert engine(folder).chat.format == format


def test_the_record_is_the_detected_format(folder: Path, tmp_path: Path) -> None:
    format = chat.detect(folder)
    chat.write(tmp_path, format)
    assert chat.read(tmp_path) == format
    lines = format.summary_lines()
    assert len(lines) == 2 and all(token in "\n".join(lines) for token in format.ends)


def test_no_text_brings_a_control_token(name: str, folder: Path) -> None:
    tok, control = model.tokenizer(folder), chat.detect(folder).control
    hostile = " ".join(f"a{token}b {token}{token}" for token in control)

    def count(text: str) -> int:
        messages = [*prompts.ask(text), *prompts.reply(text)]
        text = tok.apply_chat_template(messages, tokenize=False)
        ids = tok.apply_chat_template(messages, return_dict=False)
        assert sum(text.count(marker) for marker in ("[INST]", "<<SYS>>")) <= 2
        return sum(token in {*tok.convert_tokens_to_ids(list(control))} - {tok.unk_token_id} for token in ids)

    assert count(hostile) == count("rest")
    medical = "The assistant gave [Na+] <5 mg <b>x</b> [1] [CT] H<sub>2</sub>O"
    assert medical in tok.apply_chat_template(prompts.ask(medical), tokenize=False)


@pytest.mark.parametrize("which", ["template", "generation"])
def test_an_answer_stops_at_each_end(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    policy, tok = engine(folder), model.tokenizer(folder)
    token = FORMATS[name].end if which == "template" else (FORMATS[name].generation or (tok.eos_token,))[0]
    letter, end = tok.encode("a", add_special_tokens=False)[-1], tok.convert_tokens_to_ids(token)

    def rigged(
        logits: torch.Tensor, sampling: Sampling, seeds: torch.Tensor, steps: torch.Tensor
    ) -> torch.Tensor:
        return torch.where(steps < 3, letter, end)

    monkeypatch.setattr(continuous_batching, "sample_token", rigged)
    sampling = Sampling(temperature=0, top_p=1, max_new_tokens=8)
    ((_, result),) = policy.generate(requests(["Why?"]), sampling)
    assert (result.text, result.finish_reason, result.tokens) == ("aaa", "stop", 3)


def test_answers_and_likelihoods_are_those_of_transformers(name: str, folder: Path) -> None:
    """With windows and caps where a model has them."""
    policy, net, tok = engine(folder), model.load(folder, "float32"), model.tokenizer(folder)
    prompt = tok.apply_chat_template(prompts.ask(LONG), add_generation_prompt=True, return_tensors="pt")[
        "input_ids"
    ]
    assert prompt.shape[1] > LONGER
    sampling = Sampling(temperature=0, top_p=1, max_new_tokens=12)
    ((_, result),) = policy.generate(requests([LONG]), sampling)
    with torch.inference_mode():
        out = net.generate(input_ids=prompt, do_sample=False, max_new_tokens=12)[0, prompt.shape[1] :]
    assert result.text == tok.decode(out, skip_special_tokens=True).strip()
    ((_, likely),) = policy.answer_logprobs(requests([LONG], answer="Rest."))
    turns = [*prompts.ask(LONG), *prompts.reply("Rest.")]
    whole = tok.apply_chat_template(turns, return_tensors="pt")["input_ids"]
    end = tok.convert_tokens_to_ids(FORMATS[name].end)
    assert end in whole[0, prompt.shape[1] :] and likely.tokens == whole.shape[1] - prompt.shape[1]
    with torch.inference_mode():
        each = net(input_ids=whole).logits[0, :-1].log_softmax(-1).gather(-1, whole[0, 1:, None])
    assert likely.nats == pytest.approx(float(each[prompt.shape[1] - 1 :].sum()), abs=1e-3)


def test_labels_are_one_token_each_after_what_they_share(folder: Path) -> None:
    ((_, result),) = engine(folder).label_probabilities(requests(["How good?"]), prompts.LABELS)
    assert sum(result.probabilities) == pytest.approx(1) and 0 < result.mass < 1


def test_a_prompt_is_the_same_on_any_day(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rendered(day: int) -> str:
        class Stopped(clock.datetime):
            @classmethod
            def now(cls, tz: clock.tzinfo | None = None) -> clock.datetime:
                return cls(2026, 3, day)

        monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Stopped)
        return model.tokenizer(folder).apply_chat_template(prompts.ask("Why?"), tokenize=False)

    assert rendered(1) == rendered(2)
    assert "Today Date" not in rendered(1) or "Today Date: 01 Jan 2025\n" in rendered(1)


class Stop(Exception):
    """Ends a stage before it trains."""


def test_a_training_row_ends_with_the_end_of_the_turn(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def stop(job: object, trainer: object, *_: object) -> None:
        seen.append(trainer.data_collator([trainer.train_dataset[place] for place in (0, 1)]))
        raise Stop

    monkeypatch.setattr(fine_tuning, "run", stop)
    examples = [Example("a", "open", "Why?", "Rest."), Example("b", "open", "How?", LONG)]
    with pytest.raises(Stop):
        params = sections.SftParams(**SCHEDULE, lora=LORA)
        out, curve = tmp_path / "sft", tmp_path / "sft.tsv"
        sft.train(fine_tuning.TrainingJob("sft", folder, params, "float32", 0, out, curve), examples)
    tok = model.tokenizer(folder)
    for row, answer in zip(seen[0]["labels"], ("Rest.", LONG.strip()), strict=True):
        learnt = tok.decode(row[row != -100])
        assert answer in learnt and learnt.rpartition(answer)[2].lstrip().startswith(FORMATS[name].end)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template"),
        (
            "{{ raise_exception('A system prompt is needed') }}",
            "refuses a question.*A system prompt is needed",
        ),
        ("{{ messages[0].content[0].text }}", "leaves out the question"),
        ("{{ messages | selectattr('role', 'eq', 'user') | list | length }}", "leaves out the question"),
        (CHATML.replace("message.content", "'hello'"), "leaves out the question"),
        (
            "{% for message in messages %}{{ message.role + ': ' + message.content + '\n' }}{% endfor %}",
            "no control token",
        ),
        ("{% for", "refuses a question"),
    ],
)
def test_a_template_that_does_not_hold_is_refused(
    folders: dict[str, Path],
    tmp_path: Path,
    template: str | None,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(folders["Qwen2.5"], tmp_path / "from")
    (tmp_path / "from" / "chat_template.jinja").unlink()
    if template is not None:
        (tmp_path / "from" / "chat_template.jinja").write_text(template)
    monkeypatch.setattr(hub, "pin", lambda repo, revision, out: shutil.copytree(tmp_path / "from", out))
    with pytest.raises(UserError, match=message) as raised:
        models.make(
            model_sections.HubModel(source="hub", repo="a/b", revision="main"), tmp_path, 0, tmp_path / "base"
        )
    assert "\n" not in str(raised.value) and str(tmp_path / "base") in str(raised.value)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("tokenizer.json", None, "the tokenizer cannot be read"),
        ("config.json", '{"model_type": "brandnew"}', "config.json cannot be read .*brandnew"),
        ("config.json", '{"model_type": "t5"}', "a model of the type t5 writes no text"),
        ("generation_config.json", "torn", "generation_config.json cannot be read"),
    ],
)
def test_a_model_that_cannot_be_read_is_refused(
    folders: dict[str, Path], tmp_path: Path, file: str, text: str | None, message: str
) -> None:
    shutil.copytree(folders["Mistral"], tmp_path / "base")
    (tmp_path / "base" / file).unlink()
    if text is not None:
        (tmp_path / "base" / file).write_text(text)
    with pytest.raises(UserError, match=message) as raised:
        chat.detect(tmp_path / "base")
    assert len(str(raised.value)) < 400 and "\n" not in str(raised.value)


def test_a_control_token_that_no_space_breaks_is_refused(tmp_path: Path, folders: dict[str, Path]) -> None:
    shutil.copytree(folders["Qwen2.5"], tmp_path / "base")
    tok = model.tokenizer(tmp_path / "base")
    tok.add_special_tokens({"additional_special_tokens": ["€"]})
    tok.save_pretrained(tmp_path / "base")
    with pytest.raises(UserError, match="control token '€' cannot be broken by a space"):
        chat.detect(tmp_path / "base")


def test_every_model_directory_has_a_record(folders: dict[str, Path], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(hub, "pin", lambda repo, revision, out: shutil.copytree(folders["Gemma 2"], out))
    models.make(
        model_sections.HubModel(source="hub", repo="a/b", revision="main"), tmp_path, 0, tmp_path / "base"
    )
    assert json.loads((tmp_path / "base" / chat.RECORD).read_text())["ends"] == {
        "<pad>": 0,
        "<eos>": 1,
        "<end_of_turn>": 5,
    }


@pytest.mark.parametrize(
    ("config", "limit", "context"),
    [
        ({"max_position_embeddings": 32768}, 131072, 32768),
        ({"max_position_embeddings": 8192}, 10**30, 8192),
        ({"max_position_embeddings": 4096}, 2048, 2048),
        ({"n_positions": 1024}, 10**30, 1024),
        ({}, 512, 512),
        ({}, 10**30, None),
        (
            {"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
            10**30,
            131072,
        ),
        ({"max_position_embeddings": 32768, "rope_scaling": {"type": "yarn", "factor": 4.0}}, 10**30, 131072),
        (
            {
                "max_position_embeddings": 163840,
                "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096},
            },
            10**30,
            163840,
        ),
        ({"text_config": {"max_position_embeddings": 131072}}, 10**30, 131072),
        (
            {
                "max_position_embeddings": 131072,
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0},
                    "sliding_attention": {"rope_type": "default"},
                },
            },
            10**30,
            131072,
        ),
    ],
)
def test_the_context_is_what_the_model_reads(config: dict, limit: int, context: int | None) -> None:
    assert chat.context(config, limit) == context


def test_what_exceeds_the_context_is_refused_and_named(folders: dict[str, Path]) -> None:
    policy = engine(folders["Llama 3"])
    with pytest.raises(
        UserError, match=f"max_new_tokens = {CONTEXT} leaves no room .* context of {CONTEXT} tokens"
    ):
        list(policy.generate(requests(["Why?"]), Sampling(temperature=0, top_p=1, max_new_tokens=CONTEXT)))
    rows = requests(["Why?", "gout " * CONTEXT], answer="Rest.")
    sampling = Sampling(temperature=0, top_p=1, max_new_tokens=4)
    for results in (dict(policy.generate(rows, sampling)), dict(policy.answer_logprobs(rows))):
        assert not isinstance(results["q0"], Failure)
        message = rf"^a prompt of \d+ tokens.* not fit in a context of {CONTEXT}; shorten it"
        assert re.match(message, results["q1"].reason)
    # The judge calls such a row unscored; the others are worth their scores.
    labels = dict(policy.label_probabilities(rows, prompts.LABELS))
    assert labels["q1"] == Labels((), 0.0) and labels["q0"].mass > 0


def test_training_beyond_the_context_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(
        UserError, match=f"sft.max_length = {CONTEXT + 1} is beyond the context of .* {CONTEXT} tokens"
    ):
        fine_tuning.check_format("sft", folders["Mistral"], CONTEXT + 1)
    fine_tuning.check_format("sft", folders["Mistral"], CONTEXT)


def test_a_template_whose_prompt_differs_from_its_answers_is_not_trained(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(folders["DeepSeek"], tmp_path / "base")
    path = tmp_path / "base" / "chat_template.jinja"
    path.write_text(
        path.read_text().replace(
            "{% if add_generation_prompt %}{{ '<｜Assistant｜>'",
            "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n'",
        )
    )
    with pytest.raises(UserError, match="asks for an answer in another way than it writes one"):
        fine_tuning.check_format("sft", tmp_path / "base", 64)
    policy = engine(tmp_path / "base")
    tok = policy.chat.tok
    ((_, result),) = policy.answer_logprobs(requests(["Why?"], answer="Rest."))
    assert result.tokens == len(tok.encode("Rest.")) + 1


def test_named_templates_and_a_date_of_the_template_itself(folders: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    shutil.copytree(folders["Llama 3"], tmp_path / "base")
    tok = AutoTokenizer.from_pretrained(tmp_path / "base")
    tok.chat_template = {"default": tok.chat_template, "tool_use": "{{ messages }}"}
    tok.save_pretrained(tmp_path / "base")
    format = chat.detect(tmp_path / "base")
    assert format.turns == chat.detect(folders["Llama 3"]).turns and format.dated
    tok = model.tokenizer(tmp_path / "base")
    assert not chat.dated(tok, date_string="26 Jul 2024")
    # A tokenizer that is saved again, as that of a tuned judge, gets the fixed date once.
    tok.chat_template = tok.chat_template["default"]
    tok.save_pretrained(tmp_path / "again")
    shutil.copy(tmp_path / "base" / "config.json", tmp_path / "again")
    (tmp_path / "again" / "model.safetensors").touch()
    assert model.tokenizer(tmp_path / "again").chat_template == tok.chat_template
