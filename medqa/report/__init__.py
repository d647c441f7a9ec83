"""The report: one page with all results of a run."""

from medqa.report.contents import RunPaths, build, read_metrics
from medqa.report.terminal_table import render as render_table

__all__ = ["RunPaths", "build", "read_metrics", "render_table"]
