"""docs/results.md and the JSON behind it, from finished experiments: `python -m bench.results NAME NAME`.

Each experiment is a seed of one preset, run by `dvc exp run --queue -S seed=…`. Numbers come from the metrics
of each, intervals over seeds from the answers of all, sample answers from those of the first, times and
memory from the logs of the stages.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import yaml

from bench import results_page, runs, stage_log
from bench.checkout import DVC, ROOT
from medqa import compare, jsonl, metrics, verdict
from medqa.columns import collect
from medqa.commands.preset import flat
from medqa.records import Answer
from medqa.runtime import presets

DOCS, PRESET = ROOT / "docs", "smollm2-files"
BOOTSTRAP_SAMPLES = 2000
Answers = dict[str, list[Answer]]  # by model; a control that is switched off has none

METRICS = (
    "data",
    "judge",
    "agreement",
    "compare",
    "pairs",
    "models/judge",
    *(f"evaluate/{model}" for model in compare.MODELS),
)


def experiment(name: str) -> dict[str, Any]:
    """The parameters, metrics and stages of an experiment. Raises CalledProcessError if it does not exist."""
    commit = _commit(name)
    params = yaml.safe_load(_output("git", "show", f"{commit}:params.yaml"))
    return {
        "name": name,
        "seed": params["seed"],
        "other": differences(params),
        "metrics": {
            path: json.loads(_output("git", "show", f"{commit}:metrics/{path}.json")) for path in METRICS
        },
        "stages": stages(_output(*DVC, "queue", "logs", name)),
    }


def differences(params: dict[str, Any]) -> dict[str, str]:
    """The parameters that differ from the preset as it is now, but for seed and corpus, and their values."""
    preset = flat(presets.read(PRESET, ROOT / presets.FOLDER))
    return {
        key: value
        for key, value in flat(params).items()
        if preset.get(key) != value and key not in ("seed", "corpus")
    }


def stages(log: str) -> list[dict[str, Any]]:
    """Each stage in a log, with its seconds and peak memory in GB, without its line: that may name paths."""
    rows = stage_log.stages(re.split(r"[\r\n]+", log))
    return [{key: row[key] for key in ("stage", "seconds", "peak_gb")} for row in rows]


def read_answers(name: str) -> Answers:
    """The answers of each model of an experiment."""
    return {
        model: [Answer(**row) for row in _rows(name, f"data/answers/{model}.jsonl")]
        for model in compare.MODELS
    }


def over_seeds(experiments: Sequence[Answers]) -> dict[str, dict[str, float]]:
    """The mean gains over the seeds by comparison, with 95% intervals over seeds and questions.

    A comparison with a model that one of the experiments lacks is left out.
    """
    result: dict[str, dict[str, float]] = {}
    for name, (after, before) in compare.COMPARISONS.items():
        if not all(answers[after] and answers[before] for answers in experiments):
            continue
        gains = [
            compare.paired_gains(*(collect(answers[side], compare.MEASURES) for side in (after, before)))
            for answers in experiments
        ]
        result[name] = {}
        for measure in compare.MEASURES:
            groups = [each[measure] for each in gains]
            if all(map(len, groups)):
                interval = metrics.hierarchical_interval(groups, 0, BOOTSTRAP_SAMPLES)
                result[name] |= metrics.named(f"{measure}_gain", interval)
    return result


def samples(answers: Answers, questions: dict[str, str]) -> list[dict[str, Any]]:
    """The answers to three questions: where DPO's token F1 is highest, in the middle and lowest.

    `questions` are the texts by id; the references are not ours to copy.
    """
    order = sorted((row.token_f1, row.id) for row in answers["dpo"] if row.correct is None)
    by_id = {model: {row.id: row for row in rows} for model, rows in answers.items() if rows}
    return [
        {
            "question": questions[key],
            **{
                model: {"text": rows[key].text, "token_f1": rows[key].token_f1, "score": rows[key].score}
                for model, rows in by_id.items()
            },
        }
        for _, key in (order[-1], order[len(order) // 2], order[0])
    ]


def _rows(name: str, path: str) -> list[dict[str, Any]]:
    import dvc.api

    return [json.loads(line) for line in dvc.api.read(path, rev=_commit(name)).splitlines()]


def _commit(name: str) -> str:
    return _output("git", "for-each-ref", "--format=%(objectname)", f"refs/exps/**/{name}").split()[0]


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main() -> int:
    """Write docs/results.json and docs/results.md from the named experiments."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="+", help="experiments, one per seed")
    names = parser.parse_args().names
    answers = [read_answers(name) for name in names]
    questions = {row["id"]: row["question"] for row in _rows(names[0], "data/heldout.jsonl")}
    experiments = [experiment(name) for name in names]
    gains = jsonl.rounded(over_seeds(answers))
    verdicts = [each["metrics"]["compare"]["verdict"] for each in experiments]
    result = {
        "machine": runs.machine(),
        "experiments": experiments,
        "verdict": ": ".join(verdict.decide_over_seeds(verdicts, gains)),
        "over_seeds": gains,
        "samples": samples(answers[0], questions),
    }
    DOCS.mkdir(exist_ok=True)
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    (DOCS / "results.json").write_text(text, encoding="utf-8")
    (DOCS / "results.md").write_text(results_page.page(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
