"""Small things that several tests share."""

from pathlib import Path

import pytest
from fault_place import models, place  # noqa: F401 - fixtures

from medqa.runtime.environment import set_up

set_up()

ROOT = Path(__file__).parent.parent
CORPUS = ROOT / "medqa" / "miniature" / "corpus"


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantised base that has hardly been trained: real in format, poor in knowledge."""
    from medqa.models import make
    from medqa.runtime.model_sections import ScratchModel

    source = ScratchModel(
        source="scratch",
        text="embedded",
        vocabulary=600,
        width=128,
        layers=2,
        head=64,
        steps=5,
        batch_size=8,
        learning_rate=0.001,
        max_length=64,
    )
    out = tmp_path_factory.mktemp("models") / "base"
    make(source, CORPUS, seed=0, out=out)
    return out
