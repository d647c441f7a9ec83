"""`medqa check` as a user calls it: the table, what is wrong in params.yaml, and a run that cannot fit."""

import dataclasses
import shutil
from argparse import Namespace
from pathlib import Path

import pytest
import yaml

from bench import checkout
from medqa import attacks
from medqa.commands import check, cli
from medqa.commands.project import plan
from medqa.estimates import machine, table, workload
from medqa.runtime import measurements
from medqa.runtime.params import read_params

HERE = machine.Machine("cpu", memory_gb=16.0, gpu_gb=0.0, disk_gb=50.0)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone: no output, no cache, no earlier run."""
    folder = tmp_path_factory.mktemp("clone")
    checkout.copy(folder)
    shutil.copyfile(checkout.ROOT / "dvc.lock", folder / "dvc.lock")
    checkout.commit(folder)
    return folder


@pytest.fixture
def project(clone: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The clone as the working folder, on a machine whose speed is known."""
    monkeypatch.chdir(clone)
    monkeypatch.setenv("MEDQA_CACHE", str(tmp_path))
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setattr(machine, "inspect", lambda: HERE)
    monkeypatch.setattr(check, "products_per_second", lambda dtype: 85e9)
    return clone


def test_a_fresh_clone_has_a_row_per_stage_and_a_total(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.run(Namespace(json=False)) == 0
    lines = capsys.readouterr().out.splitlines()
    stages = list(plan().outputs)
    assert lines[0] == "params.yaml is right" and lines[1].split()[:2] == ["stage", "time"]
    assert [line.split()[0] for line in lines[2 : 2 + len(stages)]] == stages and "dpo" in stages
    assert lines[2 + len(stages)].startswith("total") and max(map(len, lines)) <= table.WIDTH
    assert table.UNKNOWN not in "\n".join(lines)


def test_measured_stages_count_as_measured(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = read_params().model_dump(mode="json", exclude={"compute": {"servers"}})
    options = {"questions": project / "rows.jsonl", "base": Path("models/base")}
    (project / "rows.jsonl").write_text('{"id": "a"}\n' * 983)
    row = measurements.measure("generate", 13.0, options, params)
    measurements.append(dataclasses.replace(row, row_seconds=8.0, peak_gb=0.64, reused=0.0, skipped=0))
    check.run(Namespace(json=False))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("generate")]
    assert line.split()[-1] == "measured" and "0.6 GB" in line and "~" not in line


def test_a_machine_that_is_too_small_is_refused_in_one_sentence(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "inspect", lambda: dataclasses.replace(HERE, memory_gb=0.2))
    assert cli.main(["check"]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("medqa check: stage ") and shown.err.count("\n") == 1
    assert "and this machine has 0.2 GB; " in shown.err and "total" in shown.out


@pytest.mark.parametrize(
    ("section", "key", "message"),
    [
        ("sft", "epoch", "sft has an unknown key 'epoch'; did you mean epochs?"),
        ("", "spt", "did you mean sft?"),
    ],
)
def test_a_mistake_in_params_is_one_sentence(
    project: Path, capsys: pytest.CaptureFixture[str], section: str, key: str, message: str
) -> None:
    original = Path("params.yaml").read_text()
    raw = yaml.safe_load(original)
    (raw[section] if section else raw)[key] = 1
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    try:
        assert cli.main(["check"]) == 1
    finally:
        Path("params.yaml").write_text(original)
    shown = capsys.readouterr()
    assert message in shown.err and "Traceback" not in shown.err and not shown.out


def test_a_folder_without_dvc_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project: Path
) -> None:
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_bytes((project / name).read_bytes())
    (tmp_path / "medqa/miniature/corpus").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check"]) == 1


def test_the_attacks_are_counted() -> None:
    assert len(attacks.evaluation_attacks()) == workload.ATTACKS
