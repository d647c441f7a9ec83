"""`make gpu-bundle`: wheels for a machine with a GPU and no network, and a script that runs bench.gpu there.

The machine has Python 3.12, torch 2.11 or newer, numpy, pandas and pyarrow of its own. The script runs the
checkout that the folder is in.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Set
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from medqa.runtime.errors import UserError

ROOT = Path(__file__).parent.parent
FOLDER = "gpu-bundle"
MAX_MB = 60
MACHINE = {"torch", "numpy", "pandas", "pyarrow"}  # pyarrow alone is 55 MB, and comes with pandas
# What bench.gpu never imports; gptqmodel requires maturin, but it is a build tool for Rust.
UNUSED = {"dvc", "rensa", "ruamel-yaml-clib", "maturin"}
TARGET = {"python_version": "3.12", "python_full_version": "3.12.0", "extra": ""}
RUN = f"""#!/bin/sh
python3 -c "import numpy, pandas, pyarrow, torch" && cd "$(dirname "$0")/.." && SITE=$(mktemp -d) && \
python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$SITE" {FOLDER}/*.whl && \
PYTHONPATH="$SITE" exec python3 -m bench.gpu "$@"
"""


def packages() -> dict[str, str]:
    """Name and installed version of all packages that the project needs and the machine lacks."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return closure(project["dependencies"], MACHINE | UNUSED)


def closure(requirements: Iterable[str], excluded: Set[str] = frozenset()) -> dict[str, str]:
    """Name and installed version of what these requirements need on Python 3.12, by their metadata."""
    versions: dict[str, str] = {}
    remaining = list(requirements)
    while remaining:
        requirement = Requirement(remaining.pop())
        name = canonicalize_name(requirement.name)
        if name in excluded or name in versions:
            continue
        if requirement.marker is None or requirement.marker.evaluate(TARGET):
            versions[name] = metadata.version(name)
            remaining += metadata.requires(name) or []
    return dict(sorted(versions.items()))


def write(python: str, out: Path) -> int:
    """Fetch or build the wheels with Python 3.12 and write the folder, all or nothing; its size in bytes.

    Raises UserError for another interpreter, a wheel that is not available, or a folder that is too large.
    """
    path = shutil.which(python)
    version = subprocess.run([path or "false", "-V"], capture_output=True, text=True).stdout
    if not version.startswith("Python 3.12."):
        raise UserError(
            f"{python} is not Python 3.12, which wheels are built for; give one: make {FOLDER} PYTHON312=PATH"
        )
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        new = Path(folder, out.name)
        pins = [f"{name}=={version}" for name, version in packages().items()]
        pip = [sys.executable, "-m", "pip", "--python", path, "--disable-pip-version-check"]
        if subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(new), *pins]).returncode:
            raise UserError("pip could not fetch or build the wheels; it says above which")
        size = sum(wheel.stat().st_size for wheel in new.iterdir())
        if size > MAX_MB * 1e6:
            raise UserError(
                f"the wheels take {size / 1e6:.0f} MB, more than {MAX_MB}; see UNUSED in bench/bundle.py"
            )
        (new / "run").write_text(RUN, encoding="utf-8")
        (new / "run").chmod(0o755)
        shutil.rmtree(out, ignore_errors=True)
        new.rename(out)
    return size


def main() -> int:
    """Write the folder; an error of the user is one line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--python", default="python3.12", help="an interpreter of Python 3.12 (%(default)s)")
    try:
        size = write(parser.parse_args().python, ROOT / FOLDER)
    except UserError as error:
        print(f"{FOLDER}: {error}", file=sys.stderr)
        return 1
    print(f"{FOLDER}: {size / 1e6:.1f} MB; carry this checkout with it to the GPU and run {FOLDER}/run there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
