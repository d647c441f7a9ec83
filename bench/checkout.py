"""Copies of this checkout in which a pipeline can run without touching the original."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
DVC = (sys.executable, "-m", "dvc")


def copy(folder: Path, *parts: str) -> None:
    """Copy the files that git lists, or only those of these parts, as they are now; without dvc.lock."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *parts]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listing.splitlines():
        if (ROOT / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)


def commit(folder: Path) -> None:
    """Make the folder a git repository with one commit of all files."""
    identity = ["-c", "user.name=medqa", "-c", "user.email=medqa@localhost"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "start"]):
        subprocess.run(["git", *command], cwd=folder, check=True)


def environment() -> dict[str, str]:
    """This environment with this interpreter first, without variables that point to another project."""
    prefixes = ("DVC_", "MEDQA_", "GIT_", "HF_")
    variables = {key: value for key, value in os.environ.items() if not key.startswith(prefixes)}
    return variables | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
