"""Every preset is a whole params.yaml that parses, with the pins that are known, in the layout of DVC."""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from medqa.commands import preset as command
from medqa.commands.cli import main
from medqa.runtime import params, presets
from medqa.runtime.errors import UserError

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "presets"
NAMES = presets.names(FOLDER)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the presets and a params.yaml that is the base."""
    (tmp_path / "presets").symlink_to(FOLDER)
    for folder in ("medqa/miniature/corpus", "data/raw"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("sft.jsonl", "preference_train.json", "preference_dev.json", "preference_test.json"):
        (tmp_path / "data" / "raw" / name).touch()
    (tmp_path / "params.yaml").write_text(presets.read_text("base", FOLDER))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines_that_change(before: str, after: str) -> list[str]:
    diff = difflib.ndiff(before.splitlines(), after.splitlines())
    return [line for line in diff if line.startswith("+ ")]


@pytest.mark.parametrize("name", NAMES)
def test_it_parses(project: Path, name: str) -> None:
    assert main(["preset", name, "--force"]) == 0
    params.read_params()


def test_the_committed_params_are_the_base() -> None:
    assert (ROOT / "params.yaml").read_text() == presets.read_text("base", FOLDER)


@pytest.mark.parametrize("name", NAMES[1:])
def test_it_holds_only_what_differs_and_what_the_base_has(name: str) -> None:
    base = command.flat(presets.read("base", FOLDER))
    own = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    merged = {key: own.pop(key) for key in ("models", "data") if key in own}
    own.get("sft", {}).pop("lora", None)  # in braces: replaced whole
    values = command.flat(own)
    assert not {key for key, value in values.items() if base.get(key, "") == value}
    assert {key for key in values if not key.startswith("compute.servers.")} <= base.keys()
    assert presets.read(name, FOLDER)["models"] == merged["models"]
    # The layout that text is merged by.
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    assert all((len(line) - len(line.lstrip(" "))) % 2 == 0 for line in lines)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "change", ["dpo.beta=0.25", "data.max_sft=100", "judge.min_mass=0.75", "pairs.max_length_ratio=1.5"]
)
def test_what_dvc_sets_is_a_change_of_one_line(project: Path, name: str, change: str) -> None:
    """If it fails, dump the file once by `dvc exp run -S`, and see what DVC makes of it."""
    from dvc.utils.hydra import apply_overrides

    main(["preset", name])
    before = Path("params.yaml").read_text()
    apply_overrides("params.yaml", [change])
    key, value = change.split("=")
    changed = lines_that_change(before, Path("params.yaml").read_text())
    assert len(changed) == 1 and f"{key.split('.')[1]}: {value}" in changed[0]


BASE = """# schema
# The base.

# How to read it.

a: 1 # first
models:
  base: # of the policy
    source: shipped
    name: tiny # its name

b:
  c: 2 # kept
  # Above d.
  d: 3
  e: {x: 1, y: 2}

f: 4
"""
OVERLAY = """# Another.

models:
  base:
    source: hub # pinned
  more:
    source: wheel

b:
  # Now
  # two lines.
  d: 5
  e: {x: 9}
"""
MERGED = """# schema
# Another.

# How to read it.

a: 1 # first
models:
  base:
    source: hub # pinned
  more:
    source: wheel

b:
  c: 2 # kept
  # Now
  # two lines.
  d: 5
  e: {x: 9}

f: 4
"""


def test_text_is_merged_with_its_comments_and_models_whole() -> None:
    assert presets.merge(BASE, OVERLAY) == MERGED
    assert presets.merge(BASE, "# The base.\n") == BASE
    several = presets.merge(BASE, "# The base.\n\nf: 5\ng: 6\nh:\n- 7\n")
    assert several == BASE.replace("f: 4\n", "f: 5\ng: 6\nh:\n- 7\n")


def test_presets_replace_each_other_but_not_what_a_user_changed(
    project: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["preset"]) == 0
    listed = capsys.readouterr().out
    assert all(f"{name} " in listed for name in NAMES) and "params.yaml equals base." in listed
    assert main(["preset", "files"]) == 0
    shown = capsys.readouterr().out
    assert '+corpus: "data/raw"' in shown and "-sft.epochs: 3" in shown and "seed" not in shown
    assert main(["preset", "files"]) == 0 and "equals files" in capsys.readouterr().out
    assert main(["preset", "smollm2"]) == 0 and capsys.readouterr()
    own = Path("params.yaml").read_text().replace("beta: 0.1", "beta: 0.3")
    Path("params.yaml").write_text(own)
    assert main(["preset"]) == 0 and "nearest to smollm2, other in dpo.beta" in capsys.readouterr().out
    assert main(["preset", "base"]) == 1
    out, err = capsys.readouterr()
    assert "+dpo.beta: 0.3" in out and len(out.splitlines()) == 4
    assert "--force" in err and len(err.splitlines()) == 1
    assert Path("params.yaml").read_text() == own
    assert main(["preset", "base", "--force"]) == 0
    assert Path("params.yaml").read_text() == presets.read_text("base", FOLDER)


@pytest.mark.parametrize("text", ["{", "- a\n", "# only a comment of mine\n"])
def test_a_broken_file_is_not_replaced_unasked(project: Path, text: str) -> None:
    Path("params.yaml").write_text(text)
    assert main(["preset"]) == 0
    assert main(["preset", "base"]) == 1 and Path("params.yaml").read_text() == text
    assert main(["preset", "base", "--force"]) == 0
    Path("params.yaml").unlink()
    assert main(["preset"]) == 0
    assert main(["preset", "files"]) == 0 and params.read_params().corpus == "data/raw"


def test_an_unknown_preset_is_one_sentence(project: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["preset", "none"]) == 1
    assert "'none' is no preset; there are base, files, " in capsys.readouterr().err
    with pytest.raises(UserError, match=r"base.yaml is not there"):
        presets.names(project / "data")


def revisions(part: Any) -> Iterator[str]:
    """Every `revision` at any depth of a nested mapping."""
    for key, value in part.items() if isinstance(part, dict) else ():
        if key == "revision":
            yield value
        else:
            yield from revisions(value)


@pytest.mark.parametrize("name", NAMES)
def test_every_revision_is_a_commit(name: str) -> None:
    commits = list(revisions(presets.read(name, FOLDER)))
    assert len(commits) == presets.read_text(name, FOLDER).count("revision:")
    assert not [revision for revision in commits if not re.fullmatch("[0-9a-f]{40}", str(revision))]


def test_the_real_preset_is_what_the_project_is_for() -> None:
    preset = presets.read("qwen2.5-1.5b", FOLDER)
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
