"""What the README shows of the embedded run: `python -m bench.readme` after `dvc repro`.

It copies the numbers of `metrics/` and three sample answers into docs/embedded.json, and makes the README's
block from that file and from docs/results.json.
"""

import json
import sys
from pathlib import Path
from typing import Any

from bench import results, runs, table
from bench.checkout import ROOT
from medqa import jsonl, records, report
from medqa.compare import TRAINED
from medqa.report import labels

BEGIN = "<!-- python -m bench.readme writes from here -->"
EMBEDDED, README = ROOT / "docs" / "embedded.json", ROOT / "README.md"
EXAM = ("exam_accuracy", "exam_accuracy_low", "exam_accuracy_high")


def numbers(metrics: Path) -> dict[str, Any]:
    """The numbers that the block shows, from the files in `metrics`."""
    compared, agreement = (_read(metrics / f"{name}.json") for name in ("compare", "agreement"))
    evaluations = {name: _read(metrics / "evaluate" / f"{name}.json") for name in TRAINED}
    ends = ("", "_low", "_high")
    gains = [f"{measure}_gain{end}" for measure in ("score", "rouge_l") for end in ends]
    over = ("sft_over_base", "dpo_over_sft", "dpo_over_placebo")
    return {
        "last_lines": report.render_table(report.read_metrics(metrics), Path("report/index.html")),
        "exam": {model: {name: evaluations[model][name] for name in EXAM} for model in TRAINED},
        "conditions": len(compared["conditions"]),
        "gains": {name: {gain: compared[name][gain] for gain in gains} for name in over},
        "questions": compared["dpo_over_sft"]["compared"],
        "agreement": agreement["by"]["all"],
        "attacks": agreement["attacks"],
    }


def block(embedded: dict[str, Any], real: dict[str, Any]) -> str:
    """The README's block in Markdown: the last lines of the run, gains, samples, and the real weights.

    `embedded` is docs/embedded.json, `real` is docs/results.json.
    """
    shown, samples = embedded["numbers"], embedded["samples"]
    lines = ["```", shown["last_lines"], "```", "", _text(shown), "", *_samples(samples), _real(real)]
    return "\n".join(lines) + "\n"


def _text(shown: dict[str, Any]) -> str:
    gains = (
        f"{labels.COMPARISONS[name]} {_gain(values, 'score_gain')} in score and "
        f"{_gain(values, 'rouge_l_gain')} in ROUGE-L"
        for name, values in shown["gains"].items()
    )
    pairs, attacks = shown["agreement"], shown["attacks"]
    exam = ", ".join(
        f"{labels.MODELS[model].name} {values[EXAM[0]]:.2f}" for model, values in shown["exam"].items()
    )
    return (
        f"All {shown['conditions']} conditions of the verdict are in the report. Paired over "
        f"{shown['questions']} open questions: {'; '.join(gains)}. The judge agrees with the labels, which "
        f"code made, in {_mean(pairs, 'agreement')} of {pairs['rows']} pairs (*longer wins* "
        f"{pairs['longer_wins']:.2f}, *likelier wins* {pairs['likelier_wins']:.2f}); "
        f"{attacks['attack_rate']:.1%} of {attacks['tried']:,} attacks on it succeed, and padding adds "
        f"{_gain(attacks, 'padding_gain', digits=3)}. Multiple choice, where 0.25 is chance: {exam}."
    )


def _real(real: dict[str, Any]) -> str:
    gains = (
        f"{labels.COMPARISONS[name]} {_gain(values, 'token_f1_gain', digits=3)}"
        for name, values in real["over_seeds"].items()
    )
    return (
        f"Real weights, SmolLM2-135M on questions of the NIH, {len(real['experiments'])} seeds, token F1: "
        f"{'; '.join(gains)}. The verdict there is {real['verdict']}."
    )


def _samples(samples: list[dict[str, Any]]) -> list[str]:
    lines = []
    for sample in samples:
        lines.append(f"> **{sample['question']}**<br>")
        for model in TRAINED:
            text = " ".join(sample[model]["text"].split())
            lines.append(f"> {labels.MODELS[model].name} (score {sample[model]['score']:.2f}): {text}<br>")
        lines.append("")
    return lines


def _mean(values: dict[str, float], name: str) -> str:
    return f"{values[name]:.2f} ({values[f'{name}_low']:.2f} to {values[f'{name}_high']:.2f})"


def _gain(values: dict[str, float], name: str, digits: int = 2) -> str:
    mean, low, high = (f"{values[f'{name}{end}']:+.{digits}f}" for end in ("", "_low", "_high"))
    return f"{mean} ({low} to {high})"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> int:
    """Write docs/embedded.json and the README's block from the finished run of this checkout."""
    answers = {
        model: jsonl.read_all(ROOT / "data" / "answers" / f"{model}.jsonl", records.Answer)
        for model in TRAINED
    }
    held_out = jsonl.read_all(ROOT / "data" / "heldout.jsonl", records.HeldOut)
    embedded = {
        "machine": runs.machine(),
        "numbers": numbers(ROOT / "metrics"),
        "samples": results.samples(answers, {row.id: row.question for row in held_out}),
    }
    with jsonl.atomic_write(EMBEDDED) as file:
        file.write(json.dumps(embedded, indent=1, ensure_ascii=False) + "\n")
    table.insert(README, BEGIN, block(embedded, _read(ROOT / "docs" / "results.json")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
