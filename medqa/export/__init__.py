"""A model of the run as a directory that other programs load: checked, scored, and with a model card."""

from medqa.export.directory import Target, export
from medqa.export.formats import FORMATS

__all__ = ["FORMATS", "Target", "export"]
