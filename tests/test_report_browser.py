"""The report in a real Chromium: opened as a file, clicked, typed into, narrow and wide, light and dark."""

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
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

# Keeps the text of every file that the page offers to save, in `texts`.
RECORD_FILES = (
    "texts = []; Original = Blob; Blob = class extends Original "
    "{ constructor(parts, options) { super(parts, options); texts.push(parts.join('')); } }; 0"
)
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


def pause(view: Browser) -> None:
    """Let the page follow a link or fill a row."""
    view.run("new Promise(done => setTimeout(done, 30))")


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
    view.click("#tab-questions")
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
    open_ended = [row.kind == "open" for row in held_out]
    worse = [
        is_open and after.score < before.score - 0.02
        for is_open, before, after in zip(open_ended, sft, dpo, strict=True)
    ]
    causes = sum("attribute: <b>cause" in row.groups for row in held_out)
    assert 0 < sum(worse) < 45
    assert view.run("document.querySelector('#panel-questions').offsetHeight") == 0
    assert matched(view, "held-out") == 60
    choose(view, "#held-out-result", "dpo_over_sft-losses")
    assert matched(view, "held-out") == sum(worse)
    choose(view, "#held-out-kind", "exam")
    assert matched(view, "held-out") == 0
    view.click("#panel-held-out [data-do=clear]")
    choose(view, "#held-out-group", "attribute: <b>cause")
    assert matched(view, "held-out") == causes
    view.click("#tab-questions")
    assert view.run("document.querySelector('#panel-held-out').offsetHeight") == 0


def test_every_number_with_a_link_opens_as_many_rows(view: Browser) -> None:
    links = view.run(
        "[...document.querySelectorAll('a[href*=\"result=\"]')].map(e => e.getAttribute('href'))"
    )
    # Counts of groups in made-up metrics are not those of the rows.
    links = [link for link in links if "group" not in link]
    assert len(links) == 18
    for link in links:
        count = int(view.run(f"document.querySelector('a[href=\"{link}\"]').textContent"))
        view.run(f"document.querySelector('a[href=\"{link}\"]').click()")
        pause(view)
        assert matched(view, "held-out") == count
    view.click("#panel-held-out [data-do=clear]")
    view.run(f"document.querySelector('a[href=\"{links[-1]}\"]').click()")  # to where the page already is
    pause(view)
    assert matched(view, "held-out") == count


def test_the_address_opens_a_row_of_either_tab(view: Browser) -> None:
    for panel, id in (("held-out", "h00008"), ("questions", "q00041"), ("held-out", "h00059")):
        view.run(f"location.hash = '#row={id}'")
        pause(view)
        row = f"document.querySelector('#panel-{panel} .row[open]')"
        assert id in view.run(f"{row}.querySelector('.row-details > .notes').textContent")
        assert view.run(f"{row}.querySelector('.row-details > .notes a').hash") == f"#row={id}"
        assert view.run(f"{row}.firstElementChild === document.activeElement")
    assert view.run("document.getElementById('no-row').hidden")
    for strange in ("#row=", "#row=h99999", "#tab=constructor", "#tab=nothing&kind=open", "#=", "#%"):
        view.run(f"location.hash = {json.dumps(strange)}")
        pause(view)
    view.run("location.hash = '#row=nothing'")
    pause(view)
    assert not view.run("document.getElementById('no-row').hidden")


def test_an_address_that_is_opened_afresh_shows_its_row(
    chromium: Browser, page: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(page, tmp_path))
    chromium.open(path, 360, fragment="#row=h00041")
    assert chromium.run("document.querySelectorAll('#panel-held-out .row[open]').length") == 1
    assert chromium.run("scrollY") > 1000


def test_the_csv_holds_the_filtered_rows_and_no_formula(view: Browser) -> None:
    view.run(RECORD_FILES)
    view.click("#panel-held-out [data-do=download]")
    rows = list(csv.DictReader(io.StringIO(view.run("texts[0]").removeprefix("\ufeff"), newline="")))
    assert len(rows) == 60 and len({row["id"] for row in rows}) == 60
    by_id = {row["id"]: row for row in rows}
    for number, text in enumerate(HOSTILE):
        assert by_id[f"h{number:05}"]["question"] == f"Held {number}? {text}"
        assert by_id[f"h{number:05}"]["DPO"] == text
    assert {row["DPO: right or wrong"] for row in rows if row["kind"] == "exam"} == {"right", "wrong"}
    assert all(row["DPO: judged score"] == "" for row in rows if row["kind"] == "exam")
    assert all(-1 < float(row["gain"]) < 1 for row in rows if row["kind"] == "open")
    choose(view, "#held-out-kind", "exam")
    view.click("#panel-held-out [data-do=download]")
    assert len(list(csv.DictReader(io.StringIO(view.run("texts[1]"))))) == 15


def test_cells_of_the_csv_that_begin_a_formula_have_an_apostrophe(
    chromium: Browser, run: RunPaths, tmp_path: Path
) -> None:
    formulas = ["=1+1", "+1", "-1", "@a", "\t=1", "a =1", '=HYPERLINK("x","y")']
    path = tmp_path / "index.html"
    copied = write_run(tmp_path / "run")
    rows = jsonl.read_all(copied.data / "heldout.jsonl", HeldOut)
    changed = [replace(row, reference=text) for row, text in zip(rows, formulas, strict=False)]
    jsonl.write(copied.data / "heldout.jsonl", changed + rows[len(formulas) :])
    path.write_text(report.build(copied, report_params()), encoding="utf-8")
    chromium.open(path, 360)
    chromium.run(RECORD_FILES)
    chromium.click("#panel-held-out [data-do=download]")
    text = chromium.run("texts[0]").removeprefix("\ufeff")
    cells = {row["id"]: row["reference"] for row in csv.DictReader(io.StringIO(text, newline=""))}
    expected = ["'=1+1", "'+1", "'-1", "'@a", "'\t=1", "a =1", '\'=HYPERLINK("x","y")']
    assert [cells[f"h{number:05}"] for number in range(len(formulas))] == expected


def test_multiple_choice_shows_the_letter_instead_of_a_score(view: Browser) -> None:
    choose(view, "#held-out-kind", "exam")
    labels = view.run("[...document.querySelectorAll('#panel-held-out .tag')].map(e => e.textContent)")
    assert all(re.search(r"DPO [A-D] (right|wrong)", label) for label in labels)
    view.click("#panel-held-out .row summary")
    pause(view)
    assert view.run("document.querySelectorAll('#panel-held-out .row .letter').length") == 5
    assert view.run("document.querySelectorAll('#panel-held-out .row meter').length") == 0


def test_a_link_to_a_folded_section_unfolds_it(view: Browser) -> None:
    assert not view.run("document.querySelector('#funnel table').checkVisibility()")
    view.click("nav a[href='#funnel']")
    pause(view)
    assert view.run("document.querySelector('#funnel table').checkVisibility()")


def test_hostile_text_is_read_and_does_nothing(view: Browser) -> None:
    for panel, first in (("questions", "What of"), ("held-out", "Held")):
        for number, text in enumerate(HOSTILE):
            view.run(f"location.hash = '#row={first[0].lower().replace('w', 'q')}{number:05}'")
            pause(view)
            selector = f"#panel-{panel} .row[open] .text"
            texts = view.run(f"[...document.querySelectorAll('{selector}')].map(e => e.textContent)")
            assert texts[0] == f"{first} {number}? {text}" and texts[1] == text
    markup = ".row :is(img, script, style, svg), .row a:not([href^='#row='])"
    assert view.run(f'document.querySelectorAll("{markup}").length') == 0
    assert "\ufffd" not in view.run("document.querySelector('#rows').textContent")


def test_pages_turn_by_mouse_and_by_keyboard(view: Browser) -> None:
    def page() -> str:
        return view.run("document.querySelector('#panel-questions .page').textContent")

    view.click("#tab-questions")
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
    pause(view)
    longest = (
        "Math.max(...[...document.querySelectorAll('#panel-held-out .text')].map(e => e.textContent.length))"
    )
    assert view.run(longest) < 1300
    view.click("#panel-held-out .row .more")
    assert view.run(longest) == len(LONG)


def test_an_answer_shows_its_measures_by_name(view: Browser) -> None:
    view.click("#tab-held-out")
    view.click("#panel-held-out .row summary")
    pause(view)
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
    chromium.call("Emulation.setEmulatedMedia", media="print")
    heights = chromium.run("[...document.querySelectorAll('.fold > section')].map(each => each.offsetHeight)")
    assert len(heights) == 4 and min(heights) > 50  # paper cannot be unfolded


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
