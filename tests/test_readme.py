"""The README: its numbers are those of the committed JSON, its links lead somewhere, and it stays short."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench import readme, table

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def read(name: str) -> dict[str, Any]:
    return json.loads((ROOT / name).read_text(encoding="utf-8"))


def test_the_block_is_made_from_the_json() -> None:
    shown = TEXT.partition(f"{readme.BEGIN}\n")[2].partition(table.END)[0]
    block = readme.block(read("docs/embedded.json"), read("docs/results.json"))
    assert shown == block, "run `python -m bench.readme` after dvc repro"


def test_the_json_has_the_numbers_of_the_committed_metrics() -> None:
    numbers = readme.numbers(ROOT / "metrics")
    assert read("docs/embedded.json")["numbers"] == numbers, "run `python -m bench.readme` after dvc repro"


def test_the_readme_is_short() -> None:
    assert len(TEXT.splitlines()) <= 175


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"(?:\]\(|src=\"|srcset=\")([^)\s\"]+)", text):
        path, _, heading = link.partition("#")
        if not link.startswith("http"):
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), link
            assert not heading or heading in headings(target), link


def headings(page: Path) -> list[str]:
    """The headings of a page as GitHub links to them."""
    names = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-") for name in names]
