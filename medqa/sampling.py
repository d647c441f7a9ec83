"""Random draws that depend on ids alone."""

import hashlib


def draw_order(seed: int, row_id: str) -> bytes:
    """The sort key of a random order of rows, the same whatever order they come in."""
    return hashlib.sha256(f"{seed} {row_id}".encode()).digest()
