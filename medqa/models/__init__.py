"""Where a model directory comes from."""

from medqa.models.directory import make, summary

__all__ = ["make", "summary"]
