"""What generation and judging ask of a model."""

from medqa.engines.base import (
    Completion,
    Engine,
    Failure,
    Labels,
    Likelihood,
    Request,
    Sampling,
    compute,
    sample_seed,
)
from medqa.engines.loading import load

__all__ = [
    "Completion",
    "Engine",
    "Failure",
    "Labels",
    "Likelihood",
    "Request",
    "Sampling",
    "compute",
    "load",
]
__all__ += ["sample_seed"]
