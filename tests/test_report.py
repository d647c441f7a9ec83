"""medqa.report: what is on the page is what is in the files, and nothing in them can become markup."""

import json
import random
import re
import shutil
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_run import HOSTILE, ROOT, given, pair_ids, write_run

from medqa import jsonl, pairs, records, report
from medqa.report import Folders, browse, charts, lineage, page, tables
from medqa.report.charts import Series
from medqa.runtime.errors import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def html(run: Folders) -> str:
    return report.build(run, given())


@pytest.fixture
def copy(run: Folders, tmp_path: Path) -> Folders:
    """A run of the test's own, to change."""
    folders = {name: tmp_path / name for name in ("data", "metrics", "models")}
    for name, path in folders.items():
        shutil.copytree(getattr(run, name), path)
    return Folders(run.pipeline, **folders)


SHOWN = {"corpus": "some/corpus", "models": {"base": {}, "judge": {}}, "evaluate": {"judge": "other"}}


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def rows(html: str, name: str) -> list[dict[str, Any]]:
    """The rows that a tab browses."""
    return json.loads(re.search(rf'id="rows-{name}">(.*?)</script>', html, re.DOTALL)[1])


def change(folder: Path, name: str, **values: Any) -> None:
    path = folder / f"{name}.json"
    path.write_text(
        json.dumps({key: it for key, it in (json.loads(path.read_text()) | values).items() if it != {}})
    )


def test_the_same_files_give_the_same_bytes_wherever_they_lie(run: Folders, copy: Folders, html: str) -> None:
    assert report.build(copy, given()) == html
    assert str(run.data) not in html and str(ROOT) not in html


def test_the_page_asks_for_nothing_and_runs_nothing_else(html: str) -> None:
    elements = Elements(html).found
    assert not {tag for tag, _ in elements} & {
        "img",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "audio",
        "video",
    }
    links = [
        attrs[key] for _, attrs in elements for key in ("src", "href", "action", "srcset") if key in attrs
    ]
    assert {link for link in links if not link.startswith("#")} == {"data:,"}
    assert not re.search(r"url\(|@import|innerHTML|insertAdjacent|document\.write|eval\(", html)
    assert not [key for _, attrs in elements for key in attrs if key.startswith("on") or key == "style"]
    policy = next(
        attrs["content"] for tag, attrs in elements if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; style-src 'sha256-") and "unsafe" not in policy


def test_text_of_the_data_is_never_markup(run: Folders, html: str) -> None:
    plain = write_run(run.data.parent / "plain", hostile=())

    def counted(text: str) -> Counter[str]:
        # How many ticks a chart has depends on the lengths of the texts.
        return Counter(tag for tag, _ in Elements(text).found if tag not in ("line", "text"))

    assert counted(html) == counted(report.build(plain, given()))
    told = {row["question"] for row in rows(html, "questions")}
    assert all(f"What of {number}? {text}" in told for number, text in enumerate(HOSTILE))


@pytest.mark.parametrize("text", [*HOSTILE, "\ud800 half a pair", "<\u2028>&"])
def test_embedded_json_is_the_same_text_and_ends_nowhere(text: str) -> None:
    told = page.embedded({"a": text})
    assert not re.search("[<>&\u2028]", told)
    assert json.loads(told) == {"a": text}


def test_half_a_surrogate_pair_reaches_the_page_as_itself(copy: Folders) -> None:
    path = copy.data / "questions.jsonl"
    lines = path.read_text().split("\n")
    lines[20] = json.dumps(json.loads(lines[20]) | {"question": "half \ud800 of it"})
    path.write_text("\n".join(lines))
    html = report.build(copy, given())
    assert html.encode("utf-8")
    assert "half \ud800 of it" in {row["question"] for row in rows(html, "questions")}


def test_every_question_says_what_became_of_it(run: Folders, html: str) -> None:
    shown = rows(html, "questions")
    assert {row["id"] for row in shown if row["outcome"] == "pair"} == pair_ids(run)
    _, counts = pairs.build(jsonl.read(run.data / "judged.jsonl", records.Judged), given().pairs)
    outcomes = Counter(row["outcome"] for row in shown)
    assert {f"left_out_{name}": total for name, total in outcomes.items() if name != "pair"} == {
        name: total for name, total in counts.items() if name.startswith("left_out_") and total
    }
    made = {row.id: row for row in jsonl.read(run.data / "pairs.jsonl", records.Pair)}
    for row in (row for row in shown if row["outcome"] == "pair"):
        sides = {answer["role"]: answer for answer in row["answers"]}
        pair = made[row["id"]]
        assert (sides["chosen"]["text"], sides["rejected"]["text"]) == (pair.chosen, pair.rejected)
        assert row["margin"] == pytest.approx(pair.chosen_score - pair.rejected_score)
    assert {row["kind"] for row in shown} == {"open", "literature"}


def test_a_tab_holds_a_draw_that_does_not_depend_on_order(run: Folders) -> None:
    html = report.build(run, given(max_rows=7))
    assert len(rows(html, "questions")) == len(rows(html, "held")) == 7
    assert html.count("7 of 60 rows are on this page") == 2
    ids = [f"q{number}" for number in range(1000)]
    picked, total = browse.pick(ids, 10)
    random.Random(1).shuffle(ids)
    assert (picked, total) == browse.pick(ids, 10) and len(picked) == 10 and total == 1000
    assert browse.pick([], 3) == (set(), 0)


def held(folder: Path, changes: dict[str, dict[str, Any]], tie: float = 0.02) -> dict[str, Any]:
    """The first held-out question as it is browsed, after changes to the answers of some models."""
    for name, values in changes.items():
        path = folder / "answers" / f"{name}.jsonl"
        answers = list(jsonl.read(path, records.Answer))
        jsonl.write(path, [replace(answers[0], **values), *answers[1:]])
    return browse.held_out_questions(folder, tie, 1000).rows[0]


FLAT = {
    "score": 0.5,
    "key_point_recall": 0.5,
    "rejected_logprob": -30.0,
    "finish_reason": "stop",
    "correct": None,
}


@pytest.mark.parametrize(
    ("changed", "flags"),
    [
        ({}, []),
        ({"dpo": {"score": 0.4}}, ["dpo_worse"]),
        ({"dpo": {"score": 0.49}}, []),
        ({"dpo": {"score": 0.6, "key_point_recall": 0.4}}, ["recall"]),
        ({"dpo": {"score": 0.6, "key_point_recall": 0.6}}, []),
        ({"base": {"rejected_logprob": -19.0}}, ["likelier"]),
        ({"sft": {"score": None, "unscored": "label mass"}}, ["unscored"]),
        ({"base": {"finish_reason": "length"}}, ["cut_off"]),
        ({"base": {"correct": False, "choice": ""}}, ["wrong_letter"]),
        ({"base": {"chosen_logprob": None, "rejected_logprob": None}}, []),
    ],
)
def test_flags_of_a_held_out_question(
    copy: Folders, changed: dict[str, dict[str, Any]], flags: list[str]
) -> None:
    assert held(copy.data, {name: FLAT | changed.get(name, {}) for name in browse.MODELS})["flags"] == flags


def test_a_torn_row_is_named(copy: Folders) -> None:
    with open(copy.data / "judged.jsonl", "a") as file:
        file.write('{"id": ')
    with pytest.raises(UserError, match=r"judged\.jsonl, line 121: not a Judged record"):
        report.build(copy, given())


def test_the_verdict_and_the_guard_that_failed_are_in_the_heading(copy: Folders, html: str) -> None:
    assert '<span class="verdict worse">worse</span>' in html
    assert "Guard failed: rise in unreadable multiple choice." in html
    change(copy.metrics, "compare", verdict="no clear change", failed_guards="")
    calm = report.build(copy, given())
    assert (
        '<span class="verdict no-clear-change">no clear change</span>' in calm and "No guard failed." in calm
    )


@pytest.mark.parametrize(
    ("low", "loud"), [(0.01, False), (0.0, True), (-0.1, True)], ids=["above", "at zero", "below"]
)
def test_a_judge_that_does_not_beat_longer_wins_is_told_loudly(copy: Folders, low: float, loud: bool) -> None:
    change(copy.metrics, "agreement", over_longer_low=low)
    assert report.build(copy, given()).count("does not beat choosing the longer answer") == 2 * loud


def test_what_the_pipeline_can_leave_out_is_told_as_none(copy: Folders) -> None:
    for name in ("base", "sft", "dpo"):
        change(
            copy.metrics,
            f"evaluate/{name}",
            **dict.fromkeys(("score", "score_low", "score_high", "token_f1"), {}),
        )
    change(
        copy.metrics, "agreement", **dict.fromkeys(("over_longer", "over_longer_low", "over_longer_high"), {})
    )
    change(copy.metrics, "agreement", by={"all": {"rows": 0}}, attacks={}, calibration_error={})
    nothing = dict.fromkeys(("sft_over_base", "dpo_over_sft", "dpo_over_base"), {"paired": 0, "compared": 0})
    change(copy.metrics, "compare", guards={}, **nothing)
    for name in ("attacks", "agreement", "pairs"):
        (copy.data / f"{name}.jsonl").write_text("")
    text = Elements(report.build(copy, given())).text
    assert "not comparable" in text and "no labelled pair was scored" in text and "none" in text


def test_gains_are_a_row_for_each_measure_and_a_cell_for_each_two_models(run: Folders, html: str) -> None:
    compare = json.loads((run.metrics / "compare.json").read_text())
    compare["dpo_over_base"] = {"paired": 3, "compared": 0, "rouge_l_gain": 0.5}
    told = {row["label"]: row for row in tables.gains(compare)}
    measures = [
        "judged score",
        "key-point recall",
        "token F1",
        "ROUGE-L",
        "log-likelihood of references, nats per token",
    ]
    measures += ["repetition (less is better)", "share cut off (less is better)"]
    assert [label for label, row in told.items() if row["signed"]] == measures
    assert [one["value"] for one in told["ROUGE-L"]["cells"]] == [0.11, 0.11, 0.5]
    assert told["ROUGE-L"]["cells"][0] == {"value": 0.11, "low": 0.05, "high": 0.17}
    assert [one["value"] for one in told["judged score"]["cells"]] == [0.2, 0.2, None]
    assert [one["value"] for one in told["of these, both judged"]["cells"]] == [56, 56, 0]
    for measure in measures:
        assert f'<th scope="row">{measure}</th>' in html
    for title in ("Gain in token F1 and ROUGE-L", "Gain in log-likelihood of references, nats per token"):
        assert f"<figcaption>{title}</figcaption>" in html


def test_unknown_measures_are_shown_under_their_own_name() -> None:
    base = {"new_one": 1.0, "score": 0.5, "score_low": 0.4, "score_high": 0.6, "judge": "j"}
    told = tables.side_by_side({"base": base})
    assert [row["label"] for row in told] == ["judged score, 0 to 1", "new one"]
    assert told[0]["cells"] == [{"value": 0.5, "low": 0.4, "high": 0.6}]


def test_the_funnel_adds_up(run: Folders, html: str) -> None:
    counts = json.loads((run.metrics / "data.json").read_text())["questions"]["all"]
    told = tables.funnel(counts)
    assert told[0]["rows"] == sum(row["rows"] for row in told[1:]) and told[0]["share"] == 1
    assert "of a kind not asked for" not in html and "nearly leaked" in html
    made = json.loads((run.metrics / "pairs.json").read_text())
    down = tables.pair_funnel(60, {"judge": {}, "generate": {}, "pairs": made})
    assert sum(row["rows"] for row in down if row["style"] in ("lost", "kept")) == 60


def test_lineage_is_in_order_and_counts_the_files(run: Folders, html: str, tmp_path: Path) -> None:
    backwards = yaml.safe_load(run.pipeline.read_text())
    backwards["stages"] = dict(reversed(backwards["stages"].items()))
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(backwards, sort_keys=False))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(SHOWN))
    stages = lineage.stages(tmp_path / "dvc.yaml", "some/corpus")
    names = [stage["name"] for stage in stages]
    assert "report" not in names and names.index("sft") < names.index("generate") < names.index(
        "evaluate@dpo"
    )
    for place, stage in enumerate(stages):
        later = {path for other in stages[place:] for path in other["writes"]}
        assert not later & set(stage["reads"])
    assert "some/corpus" in stages[names.index("data")]["reads"] and "${" not in str(stages)
    (told,) = lineage.files(run.data, ["judged"])
    assert told["rows"] == 120 and told["sha256"] in html
    assert "Qwen/Qwen2.5-3B-Instruct@aa8e72537993ba99e69dfaafa59ed015b17504d1" in html


def test_the_licence_of_each_model_is_shown(html: str) -> None:
    shown = re.findall(
        r'<th scope="row">(\w+)</th><td data-of="identity">.*?<td data-of="licence">(.*?)</td>', html
    )
    assert dict(shown) == {
        "base": "made here",
        "judge": "qwen-research",
        "sft": "made here",
        "dpo": "made here",
    }


def test_lineage_goes_over_sections_and_into_them(tmp_path: Path) -> None:
    each = {"deps": ["models/${key}", "models/${evaluate.judge}"], "outs": [{"out/${key}": {"cache": False}}]}
    each["cmd"] = "true"
    written = {"stages": {"each": {"foreach": "${models}", "do": each}}}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(written))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(SHOWN))
    stages = lineage.stages(tmp_path / "dvc.yaml", "some/corpus")
    assert [stage["name"] for stage in stages] == ["each@base", "each@judge"]
    assert stages[0]["reads"] == ["models/base", "models/other"] and stages[1]["writes"] == ["out/judge"]


def test_parameters_are_on_the_page_but_for_compute(html: str) -> None:
    shown = Elements(html).text
    assert "max_new_tokens: 40" in shown and "generate_batch_size" not in shown


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (1, 100, [20, 40, 60, 80, 100]),
        (-0.1, 0.3, [-0.1, 0, 0.1, 0.2, 0.3]),
    ],
)
def test_ticks_are_round(low: float, high: float, wanted: list[float]) -> None:
    assert charts.ticks(low, high) == wanted


def test_bins_hold_every_count_and_the_last_one_the_tail() -> None:
    edges, (first, second) = charts.binned([Counter({3: 400, 27: 9, 27_000: 2}), Counter({12: 5})])
    assert (sum(first), sum(second)) == (411, 5)
    assert edges == [0, *range(2, 30, 2)] and (first[1], first[-1]) == (400, 11) and second[6] == 5
    assert charts.binned([Counter()]) == ([0, 1], [[0]])


def test_charts_of_odd_input() -> None:
    named = Series("<b>", "sft")
    assert charts.lines("t", "x", [(named, [])]) == charts.dots("t", [("a", [])], 0, 1, None) == ""
    for points in ([(1, 2)], [(1, 0), (2, 0)], [(n, n % 7) for n in range(10_000)]):
        drawn = charts.lines("<t>", "x", [(named, points), (named, points)])
        assert "nan" not in drawn and "<b>" not in drawn and "&lt;b&gt;" in drawn
        assert len(drawn) < 40_000


def test_numbers_for_people() -> None:
    assert [page.number(value) for value in (None, 5000, -0.1234, 1234.5)] == [
        "–",
        "5,000",
        "−0.123",
        "1,234.500",
    ]
    assert [page.signed(value) for value in (None, 0.5, -0.5)] == ["–", "+0.500", "−0.500"]


def test_the_stage_writes_the_page(
    run: Folders, html: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.report import main

    monkeypatch.chdir(ROOT)
    out = tmp_path / "report" / "index.html"
    assert "million characters" in main(run.pipeline, run.data, run.metrics, run.models, out)
    assert out.read_text(encoding="utf-8") == html
