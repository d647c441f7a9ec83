"""The Makefile in a folder of any name, and for a user of whom the system knows little."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
# Stands for Python: makes a copy of itself as the environment's, and notes how it is called.
PYTHON = """#!/bin/sh
printf '%s\\n' "$*" >> called
printf '%s\\n' "$PATH" >> paths
printf '%s\\n' "$HOME" "$USER" > user
if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
while [ $# -gt 0 ]; do [ "$1" != -c ] || [ -f "$2" ] || exit 7; shift; done
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / 'my work (1) it\'s "q" $HOME $(touch ran) `touch ran`; touch ran é'
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "params.yaml"):
        shutil.copyfile(ROOT / name, folder / name)
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return folder


def make(folder: Path, *words: str, **changes: str) -> None:
    env = {
        key: value for key, value in os.environ.items() if key not in ("HOME", "USER", "LOGNAME", "MAKEFLAGS")
    }
    command = ["make", f"PYTHON={folder.parent / 'python'}", *words]
    done = subprocess.run(command, cwd=folder, env=env | changes, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(folder.parent.rglob("ran"))


def test_a_folder_of_any_name_is_installed_in_and_run_in(project: Path) -> None:
    make(project, "repro", HOME="/home/me", USER="me")
    called = (project / "called").read_text().splitlines()
    assert called[0] == "-m venv .venv" and sum("-c constraints.txt" in line for line in called) == 2
    # Without git DVC is told so, before it starts.
    wanted = [
        "-m dvc config --local core.no_scm true",
        "-m medqa check",
        "-m dvc repro",
    ]
    assert called[-3:] == wanted
    assert (project / "paths").read_text().splitlines()[-1].startswith(f"{project}/.venv/bin:")
    assert (project / "user").read_text() == "/home/me\nme\n"


def test_dvc_is_not_told_so_in_a_repository(project: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    make(project, "repro")
    assert "core.no_scm" not in (project / "called").read_text()


def test_a_user_without_home_and_name_has_them_for_dvc(project: Path) -> None:
    make(project, "repro")
    home, user = (project / "user").read_text().splitlines()
    assert home == f"{project}/.medqa/home" and user
