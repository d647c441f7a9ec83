"""The report's page."""

from medqa.report.page.render import embedded, number, render, signed

__all__ = ["embedded", "number", "render", "signed"]
