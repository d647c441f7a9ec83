"""medqa.report.run_card: sizes from the weights themselves, and nothing that the files do not hold."""

import json
from pathlib import Path

import numpy as np
import pytest
from fake_run import report_params, write_run
from safetensors.numpy import save_file

from medqa import compare
from medqa.report import RunPaths, contents, run_card
from medqa.runtime.data_section import HubRows, PreferenceFiles, SftFile
from medqa.runtime.fields import Section


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    return write_run(tmp_path_factory.mktemp("run"))


def facts(run: RunPaths, adapters: list[str], **sources: Section) -> dict[str, str]:
    names = contents.METRICS
    metrics = {name: json.loads((run.metrics / f"{name}.json").read_text()) for name in names}
    params = report_params()
    params = params.model_copy(update={"data": params.data.model_copy(update=sources)})
    return dict(run_card.facts(run.models, metrics, adapters, params))


def test_the_card_names_models_sizes_data_labels_and_seed(run: RunPaths) -> None:
    card = facts(run, ["sft", "dpo"])
    assert card["base model"].endswith("comes with the project, 3,048 parameters, 4 bits, licence made here")
    assert card["SFT, DPO"] == "LoRA adapters of the base, 200 parameters each"
    assert card["judge"] == "Qwen/Qwen2.5-3B-Instruct@aa8e72537993, licence qwen-research"
    assert card["judge of the evaluation"] == "fake/judge"
    assert card["data"] == "the embedded corpus, which code made"
    assert card["rows"].startswith("60 to fine-tune on; 60 preference questions, ")
    assert "60 held-out questions (60 open); 60 labelled pairs" in card["rows"]
    assert (card["labelled by"], card["seed"]) == ("code (60)", "0, numbers as float32")


HUB = HubRows(source="hub", repo="A/B", revision="8930b349985de8345df14d65eb894cf8fce36d9c")
FILE = SftFile(source="files", path="mine/sft.jsonl")
FILES = PreferenceFiles(source="files", train="train.json", dev="mine/dev.json", test="test.json")


@pytest.mark.parametrize(
    ("sft", "preference", "words"),
    [
        (HUB, HUB, "A/B@8930b349985d"),
        (
            FILE,
            FILES,
            "fine-tuning on the file sft.jsonl; "
            "preferences and evaluation on the files train.json, dev.json, test.json",
        ),
    ],
)
def test_the_card_names_the_source_of_the_data(
    run: RunPaths, sft: HubRows | SftFile, preference: HubRows | PreferenceFiles, words: str
) -> None:
    assert facts(run, ["sft"], sft=sft, preference=preference)["data"] == words


def test_adapters_of_other_sizes_have_lines_of_their_own(run: RunPaths, tmp_path: Path) -> None:
    changed = write_run(tmp_path)
    save_file({"a": np.zeros((3, 7), np.float32)}, changed.models / "dpo" / "adapter_model.safetensors")
    card = facts(changed, ["sft", "dpo", *compare.CONTROLS])
    assert "200 parameters" in card["SFT, placebo, oracle"] and "21 parameters" in card["DPO"]


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (999_999, "999,999"),
        (1_051_264, "1.05 million"),
        (135_000_000, "135 million"),
        (1.54e9, "1.54 billion"),
    ],
)
def test_sizes_in_words(count: int, words: str) -> None:
    assert run_card.size_in_words(int(count)) == f"{words} parameters"


def test_the_size_of_a_pin_is_not_known(run: RunPaths) -> None:
    assert run_card.size(run.models / "judge") is None
