"""Tests, a file a module, and the pipeline end to end."""
