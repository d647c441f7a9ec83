"""What generation and judging ask of a model."""

from medqa.engines.base import (
    Completion,
    Engine,
    Labels,
    Likelihood,
    RowError,
    Sampling,
    called,
    naming,
    placing,
    sample_seed,
)
from medqa.engines.loading import load

__all__ = ["Completion", "Engine", "Labels", "Likelihood", "RowError", "Sampling", "called", "load", "naming"]
__all__ += ["placing", "sample_seed"]
