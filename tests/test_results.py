"""bench.results: the page of docs/ follows from the JSON beside it; logs and differences are read right."""

import json

import yaml

from bench import results

LOG = """Running stage 'models@base':
> python -m stages.models --name base
base:  50%|#####     | 1/2\rmodels: base in models/base (licence apache-2.0) (261 s, peak memory 2.2 GB)
Running stage 'sft':
sft: base: 210 quantised layers dequantised
sft: 100 steps on 800 rows, loss 2.612 to 1.965 (426 s, peak memory 3.2 GB)
"""


def test_the_page_is_made_from_the_json() -> None:
    stored = json.loads((results.DOCS / "results.json").read_text(encoding="utf-8"))
    assert (results.DOCS / "results.md").read_text(encoding="utf-8") == results.page(stored)


def test_a_log_names_each_stage_with_time_and_memory() -> None:
    rows = [(row["stage"], row["seconds"], row["peak_gb"]) for row in results.stages(LOG)]
    assert rows == [("models@base", 261, 2.2), ("sft", 426, 3.2)]


def test_what_differs_from_the_preset_is_named() -> None:
    params = yaml.safe_load(results.PRESET.read_text(encoding="utf-8"))
    assert results.differences(params | {"seed": 7, "corpus": "elsewhere"}) == {}
    params["models"]["judge"]["steps"] = 9
    assert results.differences(params) == {"models.judge.steps": "9"}


def test_a_stage_that_did_not_run_again_has_no_time() -> None:
    stored = json.loads((results.DOCS / "results.json").read_text(encoding="utf-8"))
    experiment = stored["experiments"][0]
    rerun = experiment | {"seed": 8, "stages": experiment["stages"][1:]}
    page = results.page(stored | {"experiments": [experiment, rerun]})
    first = experiment["stages"][0]
    line = f"| {first['stage']} | {first['seconds']} s | kept | {first['peak_gb']} |"
    assert line in page and "| gain | seed 0 | seed 8 | mean |" in page
