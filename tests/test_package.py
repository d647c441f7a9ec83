"""`import medqa` offers the four functions of the project's first description, and loads nothing for them."""

import subprocess
import sys
import time

import pytest

import medqa

HEAVY = ("torch", "transformers", "datasets", "dvc", "pydantic", "yaml", "numpy")


def test_the_import_is_light() -> None:
    code = f"import sys, medqa; sys.exit(any(name in sys.modules for name in {HEAVY}))"
    started = time.perf_counter()
    assert subprocess.run([sys.executable, "-c", "pass"]).returncode == 0
    bare = time.perf_counter() - started
    started = time.perf_counter()
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert time.perf_counter() - started < 2 * bare + 0.1


@pytest.mark.parametrize("name", medqa.FUNCTIONS)
def test_each_function_is_there(name: str) -> None:
    assert callable(getattr(medqa, name)) and name in dir(medqa)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'train'"):
        medqa.train  # noqa: B018
