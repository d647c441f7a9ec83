"""The report in a real Chromium: opened as a file, clicked, typed into, narrow and wide, light and dark."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import browser
import pytest
from browser import Browser
from fake_run import HOSTILE, LONG, report_params, write_run

from medqa import jsonl, report
from medqa.records import Answer, HeldOut, Judged, Question
from medqa.report import RunPaths

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.BINARY is None, reason="no chromium here (Debian: apt-get install chromium)"),
]

VIEWS = [(360, False), (360, True), (1280, False), (1280, True)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(run: RunPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "index.html"
    path.write_text(report.build(run, report_params()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(params=VIEWS, ids=[f"{width} {'dark' if dark else 'light'}" for width, dark in VIEWS])
def view(request: pytest.FixtureRequest, chromium: Browser, page: Path) -> Iterator[Browser]:
    """The page freshly opened; whatever a test does, it must not complain, load anything or run a payload."""
    chromium.complaints.clear()
    chromium.requests.clear()
    chromium.open(page, *request.param)
    yield chromium
    assert chromium.run("typeof window.pwned") == "undefined"
    assert chromium.complaints == []
    assert chromium.requests == [page.as_uri()]
    assert chromium.run("document.documentElement.scrollWidth <= window.innerWidth")


def matched(view: Browser, panel: str) -> int:
    """The count that the page shows, after comparing it with the rows that are there."""
    text = view.run(f"document.querySelector('#panel-{panel} .count').textContent")
    count, total = map(int, re.fullmatch(r"(\d+) of (\d+) rows match", text).groups())
    shown = view.run(f"document.querySelectorAll('#panel-{panel} .row').length")
    assert total == 60 and shown == min(count, 20)
    return count


def choose(view: Browser, select: str, value: str) -> None:
    """Select from a list, whose pop-up is no part of the page and cannot be clicked in a headless browser."""
    view.run(
        f"(s => {{ s.value = {json.dumps(value)}; s.dispatchEvent(new Event('input', {{bubbles: true}})) }})"
        f"(document.querySelector({json.dumps(select)}))"
    )


def test_filters_of_the_questions_match_the_data(view: Browser, run: RunPaths) -> None:
    questions = list(jsonl.read(run.data / "questions.jsonl", Question))
    scores: dict[str, list[float]] = {}
    texts = {row.id: f"{row.question} {row.reference}" for row in questions}
    for row in jsonl.read(run.data / "judged.jsonl", Judged):
        texts[row.question_id] += f" {row.text}"
        if row.score is not None:
            scores.setdefault(row.question_id, []).append(row.score)
    wide = sum(max(pair) - min(pair) >= 0.25 for pair in scores.values())
    fever = sum("fever" in text.lower() for text in texts.values())
    assert 0 < wide < 60 and 0 < fever < 60
    assert matched(view, "questions") == 60
    view.type("#questions-margin", "0.25")
    assert matched(view, "questions") == wide
    view.click("#panel-questions [data-do=clear]")
    view.type("#questions-text", "FEVER")
    assert matched(view, "questions") == fever
    view.type("#questions-text", " of nothing at all")
    assert matched(view, "questions") == 0
    view.click("#panel-questions [data-do=clear]")
    choose(view, "#questions-outcome", "unscored")
    assert matched(view, "questions") == 6
    choose(view, "#questions-kind", "open")
    assert matched(view, "questions") == 0  # every tenth is unscored, and every second literature


def test_filters_of_the_held_out_questions_match_the_data(view: Browser, run: RunPaths) -> None:
    held_out = list(jsonl.read(run.data / "heldout.jsonl", HeldOut))
    sft, dpo = (list(jsonl.read(run.data / "answers" / f"{name}.jsonl", Answer)) for name in ("sft", "dpo"))
    worse = [after.score < before.score - 0.02 for before, after in zip(sft, dpo, strict=True)]
    exam = [row.kind == "exam" for row in held_out]
    assert 0 < sum(worse) < 60
    assert view.run("document.querySelector('#panel-held-out').offsetHeight") == 0
    view.click("#tab-held-out")
    assert view.run("document.querySelector('#panel-questions').offsetHeight") == 0
    assert matched(view, "held-out") == 60
    choose(view, "#held-out-flag", "dpo_worse")
    assert matched(view, "held-out") == sum(worse)
    choose(view, "#held-out-kind", "exam")
    assert matched(view, "held-out") == sum(both == (True, True) for both in zip(worse, exam, strict=True))


def test_hostile_text_is_read_and_does_nothing(view: Browser) -> None:
    for panel, first in (("questions", "What of"), ("held-out", "Held")):
        view.click(f"#tab-{panel}")
        for number, text in enumerate(HOSTILE):
            view.click(f"#panel-{panel} .row:nth-child({number + 1}) summary")
            view.run("new Promise(done => setTimeout(done, 20))")
            selector = f"#panel-{panel} .row:nth-child({number + 1}) .text"
            texts = view.run(f"[...document.querySelectorAll('{selector}')].map(e => e.textContent)")
            assert texts[0] == f"{first} {number}? {text}" and texts[1] == text
    assert (
        view.run("document.querySelectorAll('.row img, .row a, .row script, .row style, .row svg').length")
        == 0
    )
    assert "\ufffd" not in view.run("document.querySelector('#rows').textContent")


def test_pages_turn_by_mouse_and_by_keyboard(view: Browser) -> None:
    def page() -> str:
        return view.run("document.querySelector('#panel-questions .page').textContent")

    view.click("#panel-questions [data-do=previous]")
    assert page() == "page 1 of 3"
    view.click("#panel-questions [data-do=next]")
    assert page() == "page 2 of 3"
    first = view.run("document.querySelector('#panel-questions .question').textContent")
    view.press("ArrowRight")
    view.press("ArrowRight")
    assert page() == "page 3 of 3"
    view.press("ArrowLeft")
    assert page() == "page 2 of 3"
    assert first.startswith("What of 20?")
    view.run("document.querySelector('#tab-questions').focus()")
    view.press("ArrowRight")
    assert view.run("document.activeElement.id") == "tab-held-out"
    assert view.run("document.querySelector('#tab-held-out').getAttribute('aria-selected')") == "true"


def test_a_button_shows_the_rest_of_a_long_answer(view: Browser) -> None:
    view.click("#tab-held-out")
    view.type("#held-out-text", "Held 59?")
    assert matched(view, "held-out") == 1
    view.click("#panel-held-out .row summary")
    view.run("new Promise(done => setTimeout(done, 50))")
    longest = (
        "Math.max(...[...document.querySelectorAll('#panel-held-out .text')].map(e => e.textContent.length))"
    )
    assert view.run(longest) < 1300
    view.click("#panel-held-out .row .more")
    assert view.run(longest) == len(LONG)


def test_an_answer_shows_its_measures_by_name(view: Browser) -> None:
    view.click("#tab-held-out")
    view.click("#panel-held-out .row summary")
    view.run("new Promise(done => setTimeout(done, 50))")
    labels = "document.querySelector('#panel-held-out .row .scores').querySelectorAll('dt')"
    names = view.run(f"[...{labels}].map(e => e.innerText)")
    assert names[-4:-1] == ["key-point recall", "token F1", "ROUGE-L"] and names[-1].startswith("coverage")
    notes = view.run("document.querySelector('#panel-held-out .row .notes').textContent")
    assert "log-likelihood of the reference −1.65 nats per token" in notes


def test_long_texts_in_tables_need_no_scrolling(view: Browser) -> None:
    view.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    for label in (
        "attacks",
        "models",
        "agreement by group",
        "measures by group",
        "measures of the models",
        "paired gains",
    ):
        table = f"document.querySelector('.scroll[aria-label=\"{label}\"]')"
        assert view.run(f"{table}.scrollWidth <= {table}.clientWidth"), label


def test_everything_has_a_name_and_can_be_read(view: Browser) -> None:
    assert view.run("[...document.querySelectorAll('input, select')].every(e => e.labels.length === 1)")
    assert view.run(
        "[...document.querySelectorAll('svg[role=img]')].every(e => e.getAttribute('aria-label'))"
    )
    assert view.run("new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size") == view.run(
        "document.querySelectorAll('[id]').length"
    )
    # The contrast of text and paper, as WCAG counts it.
    light, dark = sorted(
        view.run(
            "[['color', 'body'], ['backgroundColor', 'body'], ['color', '.note']].map(([key, selector]) => "
            "getComputedStyle(document.querySelector(selector))[key].match(/\\d+/g).slice(0, 3).map(Number))"
        )[1:],
        reverse=True,
    )
    assert (luminance(light) + 0.05) / (luminance(dark) + 0.05) >= 4.5


def test_it_prints(chromium: Browser, page: Path) -> None:
    chromium.open(page, 800)
    printed = chromium.call("Page.printToPDF", printBackground=False)
    assert len(printed["data"]) > 20_000


def test_screenshots_into_a_folder(chromium: Browser, page: Path, tmp_path: Path) -> None:
    folder = Path(os.environ.get("MEDQA_SHOTS", tmp_path))
    folder.mkdir(exist_ok=True)
    for width, dark in VIEWS:
        chromium.open(page, width, dark)
        path = folder / f"{width}-{'dark' if dark else 'light'}.png"
        chromium.shoot(path)
        assert path.stat().st_size > 50_000


def luminance(colour: list[int]) -> float:
    """Of an sRGB colour, from 0 to 1 (WCAG 2)."""
    parts = [part / 255 for part in colour]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
