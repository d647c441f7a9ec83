"""The folder that `make gpu-bundle` writes; a script plays Python 3.12 and its pip."""

from pathlib import Path

import pytest

from bench import bundle
from medqa.runtime.errors import UserError

pytestmark = pytest.mark.slow

FAKE = """#!/bin/sh
[ "$1" = -V ] && echo "Python {version}" && exit
while [ "$1" != --wheel-dir ]; do shift; done
mkdir "$2" && head -c {size} /dev/zero > "$2/trl-1-py3-none-any.whl"
echo "$@" > "$0.arguments"
exit {code}
"""


def fake(folder: Path, version: str = "3.12.1", size: int = 1000, code: int = 0) -> str:
    path = folder / "python3.12"
    path.write_text(FAKE.format(version=version, size=size, code=code))
    path.chmod(0o755)
    return str(path)


def test_the_machine_keeps_its_own_torch() -> None:
    names = bundle.packages().keys()
    needed = "trl gptqmodel optimum datasets pydantic transformers peft pypcre dill"
    assert set(needed.split()) <= names
    assert not names & {"torch", "numpy", "pandas", "pyarrow", "dvc", "maturin"}


def test_a_closure_follows_what_python_3_12_needs() -> None:
    versions = bundle.closure(
        ["datasets; python_version == '3.12'", "dvc; python_version < '3.12'"], {"pandas"}
    )
    assert {"datasets", "pyarrow", "huggingface-hub", "httpx2", "h11"} <= versions.keys()
    assert not versions.keys() & {"dvc", "pandas", "python-dateutil"}


def test_the_folder_replaces_an_old_one(tmp_path: Path) -> None:
    out = tmp_path / "gpu-bundle"
    out.mkdir()
    (out / "old-1-py3-none-any.whl").touch()
    python = fake(tmp_path)
    assert bundle.write(python, out) == 1000
    assert {path.name for path in out.iterdir()} == {"trl-1-py3-none-any.whl", "run"}
    assert f"gptqmodel=={bundle.packages()['gptqmodel']}" in Path(f"{python}.arguments").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"gpu-bundle", "python3.12", "python3.12.arguments"}
    script = (out / "run").read_text()
    assert len(script.splitlines()) == 2 and "--no-index --no-deps" in script and 'bench.gpu "$@"' in script


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": "3.11.7"}, "is not Python 3.12"),
        ({"size": 61_000_000}, "61 MB, more than 60"),
        ({"code": 1}, "could not fetch or build"),
    ],
)
def test_an_error_leaves_the_old_folder(tmp_path: Path, change: dict, reason: str) -> None:
    out = tmp_path / "gpu-bundle"
    out.mkdir()
    (out / "old-1-py3-none-any.whl").touch()
    with pytest.raises(UserError, match=reason):
        bundle.write(fake(tmp_path, **change), out)
    assert [path.name for path in out.iterdir()] == ["old-1-py3-none-any.whl"]


def test_the_error_without_python_3_12_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="PYTHON312=PATH"):
        bundle.write(str(tmp_path / "nowhere"), tmp_path / "gpu-bundle")
