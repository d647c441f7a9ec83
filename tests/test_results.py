"""bench.results: the page of docs/ follows from the JSON beside it; logs and differences are read right."""

import json
from dataclasses import replace

import pytest
from test_compare import answers

from bench import results, results_page
from medqa import jsonl
from medqa.runtime import presets

LOG = """Running stage 'models@base':
> python -m stages.models --name base
base:  50%|#####     | 1/2\rmodels: base in models/base (licence apache-2.0) (261 s, peak memory 2.2 GB)
Running stage 'sft':
sft: base: 210 quantised layers dequantised
sft: 100 steps on 800 rows, loss 2.612 to 1.965 (426 s, peak memory 3.2 GB)
"""


def test_the_page_has_the_verdict_over_all_seeds() -> None:
    stored = json.loads((results.DOCS / "results.json").read_text(encoding="utf-8"))
    page = results_page.page(stored | {"verdict": "not shown: there are 2 seeds"})
    assert "Over all seeds the verdict is not shown: there are 2 seeds." in page


def test_the_page_is_made_from_the_json() -> None:
    stored = json.loads((results.DOCS / "results.json").read_text(encoding="utf-8"))
    assert (results.DOCS / "results.md").read_text(encoding="utf-8") == results_page.page(stored)


def test_a_log_names_each_stage_with_time_and_memory() -> None:
    assert results.stages(LOG) == [
        {"stage": "models@base", "seconds": 261, "peak_gb": 2.2},
        {"stage": "sft", "seconds": 426, "peak_gb": 3.2},
    ]


def test_what_differs_from_the_preset_is_named() -> None:
    params = presets.read(results.PRESET, results.ROOT / presets.FOLDER)
    assert results.differences(params | {"seed": 7, "corpus": "elsewhere"}) == {}
    params["models"]["judge"]["steps"] = 9
    assert results.differences(params) == {"models.judge.steps": "9"}


def test_a_stage_that_did_not_run_again_has_no_time() -> None:
    stored = json.loads((results.DOCS / "results.json").read_text(encoding="utf-8"))
    experiment = stored["experiments"][0]
    rerun = experiment | {"seed": 8, "stages": experiment["stages"][1:]}
    page = results_page.page(stored | {"experiments": [experiment, rerun]})
    first = experiment["stages"][0]
    line = f"| {first['stage']} | {first['seconds']:,} s | kept | {first['peak_gb']:.1f} |"
    assert line in page and "| gain | seed 0 | seed 8 | mean |" in page


def experiment(stored: dict, seed: int, controls: tuple[str, ...]) -> dict:
    """An experiment like a stored one, with these controls."""
    metrics = dict(stored["experiments"][0]["metrics"])
    for name in ("placebo", "oracle"):
        metrics[f"evaluate/{name}"] = metrics["evaluate/dpo"] if name in controls else {"questions": 0}
    compared = metrics["compare"] | {"verdict": "worse", "reason": "because"}
    gains = compared.pop("dpo_over_placebo")
    if "placebo" in controls:
        compared["dpo_over_placebo"] = gains
    return stored["experiments"][0] | {"seed": seed, "metrics": metrics | {"compare": compared}}


@pytest.mark.parametrize("controls", [(), ("placebo",), ("placebo", "oracle")])
def test_the_page_has_the_controls_that_all_experiments_have(controls: tuple[str, ...]) -> None:
    stored = json.loads((results.DOCS / "results.json").read_text(encoding="utf-8"))
    experiments = [experiment(stored, seed, controls) for seed in (4, 5)]
    interval = {"token_f1_gain": 0.03, "token_f1_gain_low": 0.01, "token_f1_gain_high": 0.05}
    samples = [sample | dict.fromkeys(controls, sample["dpo"]) for sample in stored["samples"]]
    page = results_page.page(
        stored
        | {"experiments": experiments, "over_seeds": {"dpo_over_placebo": interval}, "samples": samples}
    )
    assert f"| {' | '.join(('', ' base', 'sft', 'dpo', *controls)).lstrip(' |')} |" in page
    assert ("## DPO over placebo" in page) == ("placebo" in controls) == ("0.030 (0.010 to 0.050)" in page)
    assert page.count("- placebo (token F1") == (3 if "placebo" in controls else 0)
    assert "worse: because" in page


def test_a_measure_without_values_has_no_row() -> None:
    stored = json.loads((results.DOCS / "results.json").read_text(encoding="utf-8"))
    label = results_page.MEASURES["repetition"]
    page = results_page.page(stored)
    for run in stored["experiments"]:
        for name, values in run["metrics"].items():
            if name.startswith("evaluate/"):
                values.pop("repetition", None)
    without = results_page.page(stored)
    assert page.count(f"| {label} |") == without.count(f"| {label} |") + 1 > 1


def test_the_table_of_the_judge_has_each_baseline() -> None:
    stored = json.loads((results.DOCS / "results.json").read_text(encoding="utf-8"))
    for run in stored["experiments"]:
        similar = {"more_similar_wins": 0.7, "more_similar_wins_low": 0.6, "more_similar_wins_high": 0.8}
        run["metrics"]["agreement"]["by"]["all"] |= similar
    assert "| *more similar wins* | 0.700 (0.600 to 0.800) |" in results_page.page(stored)


SCORES = {"base": (0.1, 0.1), "sft": (0.4, 0.6), "dpo": (0.8, 0.6), "placebo": (0.3, 0.5)}
SEEDS = [
    {name: answers(*(score + shift for score in scores)) for name, scores in SCORES.items()} | {"oracle": []}
    for shift in (0.0, 0.2)
]


def test_gains_over_seeds_are_those_of_all_answers() -> None:
    gains = results.over_seeds(SEEDS)
    assert list(gains) == ["sft_over_base", "dpo_over_sft", "dpo_over_base", "dpo_over_placebo"]
    assert gains["dpo_over_sft"]["score_gain"] == pytest.approx(0.2)
    assert gains["dpo_over_placebo"]["score_gain"] == pytest.approx(0.3)
    low, high = (gains["dpo_over_placebo"][f"score_gain_{end}"] for end in ("low", "high"))
    assert low == pytest.approx(0.1) and high == pytest.approx(0.5)  # of one question alone, in every seed
    page_interval = jsonl.rounded(gains)["dpo_over_placebo"]
    assert {f"{name}_gain" for name in results_page.MEASURES} <= page_interval.keys()


def test_samples_are_the_best_a_middle_and_the_worst_answer_of_dpo() -> None:
    rows = answers(0.1, 0.2, 0.3)
    better = [replace(row, token_f1=f1) for row, f1 in zip(rows, (0.3, 0.9, 0.6), strict=True)]
    texts = {row.id: f"Why {row.id}?" for row in rows}
    samples = results.samples({"sft": rows, "dpo": better, "placebo": rows, "oracle": []}, texts)
    assert [sample["question"] for sample in samples] == ["Why q1?", "Why q2?", "Why q0?"]
    assert set(samples[0]) == {"question", "sft", "dpo", "placebo"} and samples[0]["dpo"]["token_f1"] == 0.9
