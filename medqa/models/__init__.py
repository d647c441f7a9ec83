"""The model directories that params.yaml asks for: where each comes from, and how it is made."""

from medqa.models.directory import make, summary

__all__ = ["make", "summary"]
