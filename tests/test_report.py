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
from fake_run import HOSTILE, ROOT, pair_ids, report_params, switch_off, write_run

from medqa import jsonl, pairs, records, report, verdict
from medqa.report import RunPaths, charts, contents, held_out, labels, lineage, page, svg, tables
from medqa.report import rows as report_rows
from medqa.report.charts import Series
from medqa.runtime.errors import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def html(run: RunPaths) -> str:
    return report.build(run, report_params())


@pytest.fixture
def copy(run: RunPaths, tmp_path: Path) -> RunPaths:
    """A run of the test's own, to change."""
    folders = {name: tmp_path / name for name in ("data", "metrics", "models")}
    for name, path in folders.items():
        shutil.copytree(getattr(run, name), path)
    return RunPaths(run.pipeline, **folders)


PARAMS = {"corpus": "some/corpus", "models": {"base": {}, "judge": {}}, "encoder": "base"}
PARAMS |= {"evaluate": {"judge": "other"}}


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def tab_rows(html: str, name: str) -> list[dict[str, Any]]:
    return json.loads(re.search(rf'id="rows-{name}">(.*?)</script>', html, re.DOTALL)[1])


def table_row(html: str, label: str) -> list[str]:
    """The cells of the last table row that has this label, as text."""
    cells = re.findall(rf'<th scope="row">{re.escape(label)}</th>(.*?)</tr>', html, re.DOTALL)[-1]
    return [" ".join(Elements(cell).text.split()) for cell in cells.split("</td>")[:-1]]


def change(folder: Path, name: str, **values: Any) -> None:
    """Change metrics in their file; {} removes a key."""
    path = folder / f"{name}.json"
    metrics = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in metrics.items() if value != {}}))


def test_the_same_files_give_the_same_bytes_in_any_folder(run: RunPaths, copy: RunPaths, html: str) -> None:
    assert report.build(copy, report_params()) == html
    assert str(run.data) not in html and str(ROOT) not in html


def test_the_page_loads_nothing_and_runs_nothing_else(html: str) -> None:
    elements = Elements(html).elements
    loading = {"img", "iframe", "object", "embed", "base", "form", "audio", "video"}
    assert not {tag for tag, _ in elements} & loading
    links = [
        attrs[key] for _, attrs in elements for key in ("src", "href", "action", "srcset") if key in attrs
    ]
    assert {link for link in links if not link.startswith("#")} == {"data:,"}
    assert not re.search(r"url\(|@import|innerHTML|insertAdjacent|document\.write|eval\(", html)
    assert not [key for _, attrs in elements for key in attrs if key.startswith("on") or key == "style"]
    policy = next(
        attrs["content"] for _, attrs in elements if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; style-src 'sha256-") and "unsafe" not in policy


def test_text_of_the_data_is_never_markup(run: RunPaths, html: str) -> None:
    plain = write_run(run.data.parent / "plain", hostile=())

    def tags(text: str) -> Counter[str]:
        # How many ticks a chart has depends on the lengths of the texts.
        return Counter(tag for tag, _ in Elements(text).elements if tag not in ("line", "text"))

    assert tags(html) == tags(report.build(plain, report_params()))
    questions = {row["question"] for row in tab_rows(html, "questions")}
    assert all(f"What of {number}? {text}" in questions for number, text in enumerate(HOSTILE))


@pytest.mark.parametrize("text", [*HOSTILE, "\ud800 half a pair", "<\u2028>&"])
def test_embedded_json_is_the_same_text_and_ends_no_element(text: str) -> None:
    embedded = page.embedded({"a": text})
    assert not re.search("[<>&\u2028]", embedded)
    assert json.loads(embedded) == {"a": text}


def test_half_a_surrogate_pair_reaches_the_page_as_itself(copy: RunPaths) -> None:
    path = copy.data / "questions.jsonl"
    lines = path.read_text().split("\n")
    lines[20] = json.dumps(json.loads(lines[20]) | {"question": "half \ud800 of it"})
    path.write_text("\n".join(lines))
    html = report.build(copy, report_params())
    assert html.encode("utf-8")
    assert "half \ud800 of it" in {row["question"] for row in tab_rows(html, "questions")}


def test_every_question_has_its_outcome(run: RunPaths, html: str) -> None:
    rows = tab_rows(html, "questions")
    assert {row["id"] for row in rows if row["outcome"] == "pair"} == pair_ids(run)
    _, counts = pairs.build(jsonl.read(run.data / "judged.jsonl", records.Judged), report_params().pairs)
    outcomes = Counter(row["outcome"] for row in rows)
    expected = {reason: count for reason, count in tables.left_out(counts).items() if count}
    assert {name: count for name, count in outcomes.items() if name != "pair"} == expected
    made = {row.id: row for row in jsonl.read(run.data / "pairs.jsonl", records.Pair)}
    for row in (row for row in rows if row["outcome"] == "pair"):
        sides, pair = {answer["role"]: answer for answer in row["answers"]}, made[row["id"]]
        assert (sides["chosen"]["text"], sides["rejected"]["text"]) == (pair.chosen, pair.rejected)
        assert row["margin"] == pytest.approx(pair.chosen_score - pair.rejected_score, abs=1e-4)
    assert {row["kind"] for row in rows} == {"open", "literature"}


def test_a_chosen_reference_has_its_role(copy: RunPaths) -> None:
    params = report_params()
    params = params.model_copy(
        update={"pairs": params.pairs.model_copy(update={"policy": "reference", "min_margin": 0.0})}
    )
    built, _ = pairs.build(jsonl.read(copy.data / "judged.jsonl", records.Judged), params.pairs)
    jsonl.write(copy.data / "pairs.jsonl", built)
    rows = {row["id"]: row for row in tab_rows(report.build(copy, params), "questions")}
    assert {key for key, row in rows.items() if row["reference_role"]} == {pair.id for pair in built}
    for pair in built:
        row = rows[pair.id]
        assert (row["reference_role"], row["reference"]) == ("chosen", pair.chosen)
        assert row["margin"] == pytest.approx(1 - pair.rejected_score, abs=1e-4)
        assert [answer["role"] for answer in row["answers"] if answer["role"]] == ["rejected"]


def test_the_rows_of_a_tab_do_not_depend_on_order(run: RunPaths) -> None:
    html = report.build(run, report_params(max_rows=7))
    assert len(tab_rows(html, "questions")) == len(tab_rows(html, "held-out")) == 7
    assert html.count("7 of 60 rows are on this page") == 2
    ids = [(number % 2, f"q{number}") for number in range(1000)]
    selected, total = report_rows.select(ids, 10)
    random.Random(1).shuffle(ids)
    assert (selected, total) == report_rows.select(ids, 10) and len(selected) == 10 and total == 1000
    assert all(int(id[1:]) % 2 == 0 for id in selected)
    assert report_rows.select([], 3) == (set(), 0)


PLAIN = {
    "score": 0.5,
    "key_point_recall": 0.5,
    "rejected_logprob": -30.0,
    "finish_reason": "stop",
    "correct": None,
}


@pytest.mark.parametrize(
    ("changes", "flags"),
    [
        ({}, []),
        ({"dpo": {"score": 0.6, "key_point_recall": 0.4}}, ["recall"]),
        ({"dpo": {"score": 0.6, "key_point_recall": 0.6}}, []),
        ({"base": {"rejected_logprob": -19.0}}, ["likelier"]),
        ({"sft": {"score": None, "unscored": "label mass"}}, ["unscored"]),
        ({"base": {"finish_reason": "length"}}, ["cut_off"]),
        ({"base": {"correct": False, "choice": ""}}, ["wrong_letter"]),
        ({"base": {"chosen_logprob": None, "rejected_logprob": None}}, []),
    ],
)
def test_flags_of_a_held_out_question(copy: RunPaths, changes: dict[str, dict], flags: list[str]) -> None:
    for model in labels.MODELS:
        path = copy.data / "answers" / f"{model}.jsonl"
        first, *others = jsonl.read(path, records.Answer)
        jsonl.write(path, [replace(first, **PLAIN | changes.get(model, {})), *others])
    tab = held_out.held_out_tab(held_out.read(copy.data), tie=0.02, limit=1000)
    (row,) = (row for row in tab.rows if row["id"] == first.id)
    assert row["flags"] == flags


def test_the_error_names_a_torn_row(copy: RunPaths) -> None:
    with open(copy.data / "judged.jsonl", "a") as file:
        file.write('{"id": ')
    with pytest.raises(UserError, match=r"judged\.jsonl, line 121: not a Judged record"):
        report.build(copy, report_params())


def test_the_verdict_and_the_guard_that_failed_are_in_the_heading(copy: RunPaths, html: str) -> None:
    assert '<span class="verdict worse">worse</span>' in html
    assert "Guard failed: rise in unreadable multiple choice." in html
    assert "<td>✗ no</td><td>DPO exceeds a limit: exam unreadable rise</td>" in html
    assert "<td>✓ yes</td><td>log-probability changes by −0.010</td>" in html
    reason = "the judge's score changed by -0.010 over the placebo"
    change(copy.metrics, "compare", verdict="no clear change", failed_guards="", reason=reason)
    html = report.build(copy, report_params())
    assert "The judge's score changed by −0.010 over the placebo." in Elements(html).text
    assert '<span class="verdict no-clear-change">no clear change</span>' in html
    assert "No guard failed." in html
    change(copy.metrics, "compare", failed_guards_over_base="unscored_rise")
    html = report.build(copy, report_params())
    assert "Guard failed against the base: rise in share without a score." in html
    assert "No guard failed." not in html


@pytest.mark.parametrize("condition", ["over_length", "over_likelihood"])
def test_a_judge_that_beats_not_each_naive_baseline_has_a_warning(copy: RunPaths, condition: str) -> None:
    loud = "Nothing shows that the judge is worth obeying"
    assert loud not in report.build(copy, report_params())
    conditions = json.loads((copy.metrics / "compare.json").read_text())["conditions"]
    conditions[condition] = {"holds": False, "sentence": "the judge agrees by -0.100"}
    change(copy.metrics, "compare", conditions=conditions)
    html = report.build(copy, report_params())
    assert html.count(loud) == 2 and "the judge agrees by −0.100" in html


def test_what_the_pipeline_can_leave_out_is_shown_as_none(copy: RunPaths) -> None:
    measures = dict.fromkeys(("score", "score_low", "score_high", "token_f1"), {})
    for name in labels.MODELS:
        change(copy.metrics, f"evaluate/{name}", **measures)
    change(copy.metrics, "agreement", by={"all": {"rows": 0}}, attacks={}, calibration_error={})
    nothing = dict.fromkeys(labels.COMPARISONS, {"paired": 0, "compared": 0})
    change(copy.metrics, "compare", guards={}, reason="nothing to compare", **nothing)
    for name in ("attacks", "agreement", "pairs"):
        (copy.data / f"{name}.jsonl").write_text("")
    text = Elements(report.build(copy, report_params())).text
    assert "Nothing to compare." in text and "none" in text


def test_gains_are_one_row_per_measure_and_one_cell_per_comparison(copy: RunPaths) -> None:
    change(copy.metrics, "compare", dpo_over_base={"paired": 3, "compared": 0, "rouge_l_gain": 0.5})
    html = report.build(copy, report_params())
    gain = "+0.110 +0.050 to +0.170"
    assert table_row(html, "ROUGE-L") == ["45", gain, gain, "+0.500", gain, gain, gain]
    assert table_row(html, "judged score")[3] == "none"
    assert table_row(html, "of these, both judged") == ["", "56", "56", "0", "56", "56", "56"]
    for measure in labels.GAINS.values():
        assert len(table_row(html, measure)) == 1 + len(labels.COMPARISONS)
    for title in ("Gain in token F1 and ROUGE-L", "Gain in log-likelihood of references, nats per token"):
        assert f"<figcaption>{title}</figcaption>" in html


@pytest.mark.parametrize("controls", [(), ("placebo",), ("oracle",), ("placebo", "oracle")])
def test_the_page_shows_the_controls_that_are_on(copy: RunPaths, controls: tuple[str, ...]) -> None:
    for name in {"placebo", "oracle"} - set(controls):
        switch_off(copy, name)
    html = report.build(copy, report_params())
    # All stages and parameters are on the page, and so is the whole style sheet.
    rest = re.sub(r'<(ol class="stages"|pre|style).*?</(ol|pre|style)>', "", html, flags=re.DOTALL)
    for name in ("placebo", "oracle"):
        assert (name in rest) == (name in controls)
    assert len(table_row(html, "token F1 against the reference")) == 4 + len(controls)
    rows = tab_rows(html, "held-out")
    assert {len(row["answers"]) for row in rows} == {3 + len(controls)}
    assert ("DPO over placebo" in html, "oracle over SFT" in html) == (
        "placebo" in controls,
        "oracle" in controls,
    )


@pytest.mark.parametrize(("low", "named"), [(0.2, True), (0.25, True), (0.31, False)])
def test_multiple_choice_by_chance_is_said(copy: RunPaths, low: float, named: bool) -> None:
    change(copy.metrics, "evaluate/sft", exam_accuracy=0.35, exam_accuracy_low=low, exam_accuracy_high=0.4)
    html = report.build(copy, report_params())
    assert ("Multiple choice is not clearly better than chance (0.25) in: SFT." in html) == named


def test_groups_are_shown_the_worst_first_and_named_in_words(copy: RunPaths, html: str) -> None:
    names = re.findall(r'<th scope="row">(attribute: .*?)</th>', html)
    assert names == ["attribute: treatment", "attribute: &lt;b&gt;cause", "attribute: symptoms"]
    cells = ["20", "0.250 0.150 to 0.350", "0.450 0.350 to 0.550", "0.650 0.550 to 0.750"]
    assert table_row(html, names[0]) == [*cells, "−0.300 −0.400 to −0.200"]
    text = " ".join(Elements(html).text.split())
    assert "in the group attribute: treatment: −0.300 in judged score (−0.400 to −0.200) on 20 open" in text
    assert "The interval of the gain is above 0 in 1 of 3 groups, and below 0 in 1." in text
    assert "Groups of fewer than 5 questions are not measured: 2." in text
    ungrouped = {"by": {}, "small_groups": 0}
    change(copy.metrics, "compare", worst_group={}, dpo_over_base=ungrouped, dpo_over_sft=ungrouped)
    assert "gains least" not in report.build(copy, report_params())


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"code": 60}, "code (60)"),
        ({"model: GPT-4": 1614, "people": 163}, "the model GPT-4 (1,614); people (163)"),
        ({"unknown": 60}, "unknown, the data do not say (60)"),
    ],
)
def test_the_page_says_who_labelled_and_code_on_top(
    copy: RunPaths, counts: dict[str, int], words: str
) -> None:
    stored = json.loads((copy.metrics / "data.json").read_text())
    change(copy.metrics, "data", labelled=stored["labelled"] | {"labelled_by": counts})
    html = report.build(copy, report_params())
    assert f"Who labelled the pairs: {words}." in html
    header = Elements(html[: html.index("<main>")]).text
    assert ("Code made the labels of this run." in header) == (counts == {"code": 60})


def test_benchmarks_are_shown_where_there_are_any(copy: RunPaths, html: str) -> None:
    assert table_row(html, "medqa_4options") == [
        "1,273",
        "0.250",
        *["0.300 0.280 to 0.320"] * 3,
        "0.125",
        "0.280 0.250 to 0.310",
    ]
    assert table_row(html, "pubmedqa")[-2:] == ["1.000", "none"]
    for name in ("base", "sft", "dpo"):
        (copy.metrics / "benchmark" / f"{name}.json").write_text('{"questions": 0, "by": {}}')
    assert "Benchmarks by lm-eval" in html
    assert "Benchmarks by lm-eval" not in report.build(copy, report_params())


def test_sections_are_in_the_order_of_a_reader_and_the_last_are_folded(html: str) -> None:
    assert re.findall(r'<section id="([a-z]+)"', html) == [name for name, _ in contents.SECTIONS]
    folded = [name for name, _ in contents.SECTIONS if re.search(rf'</summary>\n<section id="{name}"', html)]
    assert folded == ["funnel", "distributions", "curves", "lineage"]
    assert html.index('class="card"') < html.index('id="samples"')


def test_the_top_says_the_verdict_in_words_with_counts(run: RunPaths, html: str) -> None:
    header = " ".join(Elements(html[: html.index("<main>")]).text.split())
    counts = held_out.tallies(held_out.read(run.data), report_params().compare.tie)["dpo_over_sft"]
    assert labels.VERDICTS["worse"] in header and set(labels.VERDICTS) == set(verdict.VERDICTS)
    assert f"DPO wins {counts['wins']}, ties {counts['ties']} and loses {counts['losses']}." in header
    assert "LoRA adapters of the base, 200 parameters each" in header


def test_sample_answers_show_three_models_with_two_measures_and_link_to_their_rows(html: str) -> None:
    samples = re.findall(r'<article class="sample">(.*?)</article>', html, re.DOTALL)
    rows = {row["id"]: row for row in tab_rows(html, "held-out")}
    assert len(samples) == 6
    for sample in samples:
        row = rows[re.search(r'href="#row=([^"]+)"', sample)[1]]
        text = " ".join(Elements(sample).text.split())
        assert " ".join(row["question"].split())[:200] in text
        for answer in row["answers"][:3]:
            assert f"{answer['name']} score {answer['scores'][0]:.2f}, token F1 0.40" in text
    gains = [rows[id]["margin"] for id in re.findall(r'<a href="#row=([^"]+)"', html)][:3]
    assert gains[0] == max(row["margin"] for row in rows.values() if row["margin"] is not None)
    assert gains[0] > gains[1] > gains[2]


def test_numbers_link_to_the_rows_that_they_count(html: str) -> None:
    rows = tab_rows(html, "held-out")
    links = re.findall(r'href="#tab=held-out&amp;result=([a-z_]+-[a-z]+)"[^>]*>(\d+)</a>', html)
    assert len(links) == 3 * len(labels.COMPARISONS)
    for name, count in links:
        assert int(count) == sum(name in row["results"] for row in rows)
    options = re.search(r'<select id="held-out-result".*?</select>', html, re.DOTALL)[0]
    assert all(f'value="{name}"' in options for name, _ in links)
    assert 'href="#tab=held-out&amp;group=attribute%3A%20%3Cb%3Ecause&amp;result=dpo_over_base"' in html


def test_a_fragment_of_an_address_is_one_word() -> None:
    assert page.fragment("a b&c=#+/é") == "a%20b%26c%3D%23%2B%2F%C3%A9"
    assert page.fragment("\ud800") == "%3F"


def test_guards_take_one_line_unless_one_fails(copy: RunPaths, html: str) -> None:
    assert '<details class="guards" open>\n<summary>1 of 3 guards failed</summary>' in html
    change(copy.metrics, "compare", failed_guards="")
    html = report.build(copy, report_params())
    assert '<details class="guards">\n<summary>All 3 guards are within their limits</summary>' in html


def test_the_most_successful_attack_comes_first(copy: RunPaths) -> None:
    scores = {"weak": (0.1, 0.2, 0.3), "strong": (0.7, 0.5, 0.6), "unscored": (None, 0.5, 0.6)}
    scores |= {"reached": (0.5, None, 0.5), "lonely": (0.9, None, None)}
    rows = [
        records.AttackResult(f"l{n}#{name}", name, "key", f"text of {name}", score, None, honest, reference)
        for n in range(2)
        for name, (score, honest, reference) in scores.items()
    ]
    jsonl.write(copy.data / "attacks.jsonl", rows)
    html = report.build(copy, report_params())
    table = html.partition('aria-label="attacks"')[2].partition("</table>")[0]
    assert re.findall(r'<th scope="row">(.*?)</th>', table) == ["strong", "reached", "weak"]
    assert table_row(table, "strong") == ["key", "0.70", "0.50", "0.60", "+0.10", "text of strong"]
    assert "4 of 900 did" in html
    assert html.index("Reliability") < html.index('aria-label="attacks"') < html.index("agreement by group")


def test_labels_for_screen_readers_name_no_style(html: str) -> None:
    spoken = [attrs["aria-label"] for _, attrs in Elements(html).elements if attrs.get("aria-label")]
    styles = {"line", "step", "dashed", "dotted", "mark", "several", "single", "swatch", "whisker", "class"}
    assert len(spoken) > 20
    assert not [text for text in spoken if styles & set(re.findall(r"[a-z]+", text.lower()))]


def test_agreement_has_one_row_per_group(html: str) -> None:
    assert table_row(html, "label type: easy")[:2] == ["60", "0.930 0.890 to 0.970"]


def test_calibrated_scores_stand_beside_raw_ones(copy: RunPaths, html: str) -> None:
    table = html.partition('aria-label="people')[2].partition("</table>")[0]
    assert table_row(table, "base") == ["3", "–", "none", "–", "none"]
    calibrated = ["40", "0.71", "+0.240 +0.210 to +0.270", "0.650", "0.410 0.370 to 0.450"]
    assert table_row(table, "DPO") == calibrated
    assert table_row(table, "DPO over SFT") == ["40", "", "", "+0.200", "+0.050 −0.010 to +0.110"]
    assert "estimated from 120 scores by 2 people" in html and "no longer a random sample" not in html
    people = json.loads((copy.metrics / "compare.json").read_text())["people"]
    change(copy.metrics, "compare", people=people | {"stale": 7, "people": 1})
    html = report.build(copy, report_params())
    assert "by 1 person" in html and "7 of the scores are left out" in html
    change(copy.metrics, "compare", people={})
    assert "calibrated" not in report.build(copy, report_params()).split('id="lineage"')[0].lower()


def test_the_order_of_candidates_is_one_row_per_measure(copy: RunPaths) -> None:
    row = ["30", "0.850 0.810 to 0.890", "0.450 0.400 to 0.500"]
    html = report.build(copy, report_params())
    assert table_row(html, labels.ORDERS["token_f1_clear"]) == row
    change(copy.metrics, "judge", order={})
    assert labels.ORDERS["token_f1_clear"] not in report.build(copy, report_params())


def test_a_guard_shows_its_value_and_limit(html: str) -> None:
    assert table_row(html, "length, DPO to SFT") == ["1.150", "1.500", "✓ yes"]
    assert table_row(html, "rise in unreadable multiple choice")[2] == "✗ no"


def test_unknown_measures_are_shown_under_their_own_name() -> None:
    base = {"new_one": 1.0, "score": 0.5, "score_low": 0.4, "score_high": 0.6, "judge": "j"}
    shown = [labels.label(labels.MEASURES, name) for name in tables.measures([base])]
    assert shown == ["judged score, 0 to 1", "new one"]


def test_the_funnels_add_up(run: RunPaths, html: str) -> None:
    rows = tables.row_funnel(json.loads((run.metrics / "data.json").read_text())["questions"]["all"])
    assert rows[0]["rows"] == sum(row["rows"] for row in rows[1:]) and rows[0]["share"] == 1
    assert "of a kind that is not selected" not in html and "near-duplicate of a held-out question" in html
    made = json.loads((run.metrics / "pairs.json").read_text())
    rows = tables.pair_funnel({"judge": {}, "generate": {}, "pairs": made})
    assert sum(row["rows"] for row in rows if row["style"] in ("lost", "kept")) == 60


def test_lineage_is_in_order_and_counts_the_files(run: RunPaths, html: str, tmp_path: Path) -> None:
    backwards = yaml.safe_load(run.pipeline.read_text())
    backwards["stages"] = dict(reversed(backwards["stages"].items()))
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(backwards, sort_keys=False))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    stages = lineage.stages(tmp_path / "dvc.yaml", "some/corpus")
    names = [stage["name"] for stage in stages]
    assert "report" not in names
    assert names.index("sft") < names.index("generate") < names.index("evaluate@dpo")
    for position, stage in enumerate(stages):
        later = {path for following in stages[position:] for path in following["writes"]}
        assert not later & set(stage["reads"])
    assert "some/corpus" in stages[names.index("data")]["reads"] and "${" not in str(stages)
    (judged,) = lineage.files(run.data, ["judged"])
    assert judged["rows"] == 120 and judged["sha256"] in html
    assert "Qwen/Qwen2.5-3B-Instruct@aa8e72537993ba99e69dfaafa59ed015b17504d1" in html


def test_lineage_expands_foreach_over_a_section(tmp_path: Path) -> None:
    each = {"deps": ["models/${key}", "models/${evaluate.judge}"], "outs": [{"out/${key}": {"cache": False}}]}
    each["cmd"] = "true"
    written = {"stages": {"each": {"foreach": "${models}", "do": each}}}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(written))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    stages = lineage.stages(tmp_path / "dvc.yaml", "some/corpus")
    assert [stage["name"] for stage in stages] == ["each@base", "each@judge"]
    assert stages[0]["reads"] == ["models/base", "models/other"] and stages[1]["writes"] == ["out/judge"]


def test_the_licence_of_each_model_is_shown(html: str) -> None:
    licences = {name: table_row(html, name)[1] for name in ("judge", *labels.MODELS)}
    assert licences == dict.fromkeys(labels.MODELS, "made here") | {"judge": "qwen-research"}


def test_parameters_are_on_the_page_but_for_compute(html: str) -> None:
    text = Elements(html).text
    assert "max_new_tokens: 40" in text and "generate_batch_size" not in text


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (1, 100, [20, 40, 60, 80, 100]),
        (-0.1, 0.3, [-0.1, 0, 0.1, 0.2, 0.3]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert svg.ticks(low, high) == expected


def test_bins_contain_every_count_and_the_last_one_the_tail() -> None:
    edges, (first, second) = charts.binned([Counter({3: 400, 27: 9, 27_000: 2}), Counter({12: 5})])
    assert (sum(first), sum(second)) == (411, 5)
    assert edges == [0, *range(2, 30, 2)] and (first[1], first[-1]) == (400, 11) and second[6] == 5
    assert charts.binned([Counter()]) == ([0, 1], [[0]])


def test_charts_of_unusual_input() -> None:
    series = Series("<b>", "sft")
    assert charts.lines("t", "x", [(series, [])]) == charts.dots("t", [("a", [])], 0, 1, None) == ""
    for points in ([(1, 2)], [(1, 0), (2, 0)], [(n, n % 7) for n in range(10_000)]):
        chart = charts.lines("<t>", "x", [(series, points), (series, points)])
        assert "nan" not in chart and "<b>" not in chart and "&lt;b&gt;" in chart
        assert len(chart) < 40_000


def test_numbers_for_readers() -> None:
    numbers = [page.number(value) for value in (None, 5000, -0.1234, 1234.5)]
    assert numbers == ["–", "5,000", "−0.123", "1,234.500"]
    assert [page.signed(value) for value in (None, 0.5, -0.5)] == ["–", "+0.500", "−0.500"]


def test_the_stage_writes_the_page(
    run: RunPaths, html: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.report import main

    monkeypatch.chdir(ROOT)
    out = tmp_path / "report" / "index.html"
    assert "million characters" in main(run.pipeline, run.data, run.metrics, run.models, out)
    assert out.read_text(encoding="utf-8") == html
