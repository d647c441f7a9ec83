"""Raw rows out of files, and their parsing."""

from medqa.sources.files import read_rows
from medqa.sources.raw_row import RawRow

__all__ = ["RawRow", "read_rows"]
