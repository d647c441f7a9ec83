"""The README: its numbers are those of the committed JSON, its links lead somewhere, and it stays short."""

import json
import re
from pathlib import Path

import pytest

from bench import readme, table

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_block_is_made_from_the_json() -> None:
    embedded, real = (
        json.loads((ROOT / "docs" / f"{name}.json").read_text()) for name in ("embedded", "results")
    )
    shown = TEXT.partition(f"{readme.BEGIN}\n")[2].partition(table.END)[0]
    assert shown == readme.block(embedded, real), "run `python -m bench.readme` after dvc repro"


def test_the_json_has_the_numbers_of_the_committed_metrics() -> None:
    embedded = json.loads((ROOT / "docs" / "embedded.json").read_text())
    assert embedded["numbers"] == readme.numbers(ROOT / "metrics"), "run `python -m bench.readme`"


def test_the_readme_is_short() -> None:
    lines = TEXT.splitlines()
    assert len(lines) <= 175 and max(map(len, lines)) < 1200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", text)
    for link in (first or second for first, second in links):
        if link.startswith("http"):
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        headings = (
            re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE) if heading else []
        )
        slugs = [re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-") for name in headings]
        assert not heading or heading in slugs, link
