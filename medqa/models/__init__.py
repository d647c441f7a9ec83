"""The model directories that params.yaml asks for: where each comes from, and how it is made."""

from medqa.models.directory import describe, headline, make, summary

__all__ = ["describe", "headline", "make", "summary"]
