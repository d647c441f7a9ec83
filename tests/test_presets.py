"""Every preset is a whole params.yaml that parses, with the pins that are known."""

from pathlib import Path

import pytest
import yaml

from medqa import params

ROOT = Path(__file__).parent.parent
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *PRESETS], ids=lambda path: path.name)
def test_it_parses(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("medqa/corpus", "data/raw"):
        Path(folder).mkdir(parents=True)
    for name in ("sft.jsonl", "preference_train.json", "preference_dev.json", "preference_test.json"):
        Path("data/raw", name).touch()
    given = params.read(path)
    assert given.keys() == params.SECTIONS.keys()
    judge = given["models"].judge
    # A judge from scratch understands no other prompt than the one it was taught.
    assert judge.source == "hub" or judge.template == given["judge"].template


def test_the_real_preset_is_what_the_project_is_for() -> None:
    given = yaml.safe_load((ROOT / "presets" / "qwen2.5-1.5b.yaml").read_text())
    assert given["models"]["base"]["repo"] == "Qwen/Qwen2.5-1.5B-Instruct-GPTQ-Int4"
    assert given["models"]["judge"] == {
        "source": "hub",
        "repo": "Qwen/Qwen2.5-3B-Instruct",
        "revision": "aa8e72537993ba99e69dfaafa59ed015b17504d1",
    }
    assert given["data"]["preference"]["revision"] == "761eb7935310ba662a96d93c5af342e5269d5759"
    assert (given["generate"]["n"], given["generate"]["temperature"], given["generate"]["top_p"]) == (2, 0.7, 0.95)
