"""Tiny models trained from scratch, and the embedded corpus that they and the pipeline learn from."""
