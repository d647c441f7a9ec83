"""Every preset is a whole params.yaml that parses, with the pins that are known."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from medqa.runtime import params

ROOT = Path(__file__).parent.parent
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *PRESETS], ids=lambda path: path.name)
def test_it_parses(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("medqa/miniature/corpus", "data/raw"):
        Path(folder).mkdir(parents=True)
    for name in ("sft.jsonl", "preference_train.json", "preference_dev.json", "preference_test.json"):
        Path("data/raw", name).touch()
    params.read_params(path)


def revisions(part: Any) -> Iterator[str]:
    """Every `revision` at any depth of a nested mapping."""
    for key, value in part.items() if isinstance(part, dict) else ():
        if key == "revision":
            yield value
        else:
            yield from revisions(value)


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *PRESETS], ids=lambda path: path.name)
def test_every_revision_is_a_commit(path: Path) -> None:
    raw = yaml.safe_load(path.read_text())
    commits = list(revisions(raw))
    assert len(commits) == path.read_text().count("revision:")
    assert not [revision for revision in commits if not re.fullmatch("[0-9a-f]{40}", str(revision))]


def test_the_real_preset_is_what_the_project_is_for() -> None:
    preset = yaml.safe_load((ROOT / "presets" / "qwen2.5-1.5b.yaml").read_text())
    models, data, generate = preset["models"], preset["data"], preset["generate"]
    assert models["base"] == {
        "source": "hub",
        "repo": "Qwen/Qwen2.5-1.5B-Instruct-GPTQ-Int4",
        "revision": "4f5a0e31008e2966e8f787964bcc4e1105e03dc3",
    }
    assert models["judge"] == {
        "source": "hub",
        "repo": "Qwen/Qwen2.5-3B-Instruct",
        "revision": "aa8e72537993ba99e69dfaafa59ed015b17504d1",
    }
    assert data["sft"]["revision"] == "8930b349985de8345df14d65eb894cf8fce36d9c"
    assert data["preference"]["revision"] == "761eb7935310ba662a96d93c5af342e5269d5759"
    assert (generate["n"], generate["temperature"], generate["top_p"]) == (2, 0.7, 0.95)
