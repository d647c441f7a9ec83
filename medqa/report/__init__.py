"""The report: one page with all results of a run."""

from medqa.report.contents import RunPaths, build

__all__ = ["RunPaths", "build"]
