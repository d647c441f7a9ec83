"""The report's page."""

from medqa.report.page.render import embedded, fragment, number, render, signed

__all__ = ["embedded", "fragment", "number", "render", "signed"]
