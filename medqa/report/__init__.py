"""The report: one page with all that a run found."""

from medqa.report.contents import Folders, build

__all__ = ["Folders", "build"]
