"""A made-up run: every file that the report reads, of any size, with texts that try to be markup."""

import json
import random
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from medqa import compare, jsonl, pairs
from medqa.records import (
    Answer,
    AttackResult,
    Candidate,
    Example,
    HeldOut,
    Judged,
    JudgedPair,
    Labelled,
    Pair,
    Quarantined,
    Question,
    RowAudit,
)
from medqa.report import RunPaths, labels
from medqa.runtime import params, sections

ROOT = Path(__file__).parent.parent
HOSTILE = (
    "<script>window.pwned = 1</script>",
    "</script><script>window.pwned = 2</script>",
    "<!-- <script> --><img src=x onerror='window.pwned = 3'>",
    "&amp; &lt;b&gt; \"quotes\" 'single' `tick` {{ 7 * 7 }} {% raw %} ${1}",
    "]]><svg onload=window.pwned=4><style>*{display:none}</style>",
    "مرحبا بالعالم ‮ reversed עברית",
    "🩺 👩🏽‍⚕️ 漢字 \u2028 \u0000 \u001b[31m e\u0301",
    "Pneumonoultramicroscopicsilicovolcanoconiosis" * 8,
    "javascript:window.pwned=5 <a href=javascript:window.pwned=6>x</a> <meta http-equiv=refresh content=0>",
)
# Of the base, by GPTQ: 256 words of 8 weights each, what GPTQ stores beside them, and 1,000 plain weights.
PACKED = {"qweight": (2, 128), "qzeros": (1, 16), "scales": (1, 128), "g_idx": (16,), "weight": (10, 100)}
SKILLS = {"base": 0.25, "sft": 0.45, "dpo": 0.65, "placebo": 0.5, "oracle": 0.75}  # mean score of each model
ATTRIBUTES = ("symptoms", "<b>cause", "treatment")
WORDS = [
    "aspirin",
    "rest",
    "fever",
    "cough",
    "pain",
    "blood",
    "test",
    "statins",
    "biopsy",
    "nausea",
    "the",
    "with",
    "and",
]
LONG = "The treatment includes rest and aspirin. " * 660  # 27,060 characters
PAIRS = sections.PairsParams(policy="best_worst", min_margin=0.05, max_length_ratio=None)


def write_run(folder: Path, size: int = 60, hostile: tuple[str, ...] = HOSTILE, seed: int = 0) -> RunPaths:
    """Write a run of `size` preference questions and as many held-out ones under the folder."""
    rng = random.Random(seed)
    run = RunPaths(ROOT / "dvc.yaml", folder / "data", folder / "metrics", folder / "models")
    _rows(run.data, rng, size, hostile)
    _models(run.models)
    for name, metrics in _metrics(size, rng).items():
        jsonl.write_metrics(run.metrics / f"{name}.json", metrics)
    _curves(run.metrics / "curves", rng)
    return run


def report_params(max_rows: int = 400) -> sections.Params:
    """The parameters of the report, with another limit of rows."""
    changes = {"report": sections.ReportParams(max_rows=max_rows), "pairs": PAIRS}
    return params.read_params(ROOT / "params.yaml").model_copy(update=changes)


def text(rng: random.Random, least: int = 4, most: int = 60) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(least, most))).capitalize() + "."


def _rows(data: Path, rng: random.Random, size: int, hostile: tuple[str, ...]) -> None:
    def hostile_text(number: int, prefix: str = "") -> str:
        return f"{prefix}{hostile[number] if number < len(hostile) else text(rng)}"

    questions = [
        Question(f"q{n:05}", hostile_text(n, f"What of {n}? "), hostile_text(n)) for n in range(size)
    ]
    jsonl.write(data / "questions.jsonl", questions)
    judged = [
        _judged(row, n, sample, hostile_text(n), rng) for n, row in enumerate(questions) for sample in (0, 1)
    ]
    jsonl.write(data / "judged.jsonl", judged)
    candidates = [
        Candidate(**{key: getattr(row, key) for key in Candidate.__annotations__}) for row in judged
    ]
    jsonl.write(data / "candidates.jsonl", candidates)
    jsonl.write(data / "pairs.jsonl", pairs.build(judged, PAIRS)[0])
    held_out = [_held_out(n, hostile_text(n, f"Held {n}? "), hostile_text(n), rng) for n in range(size)]
    jsonl.write(data / "heldout.jsonl", held_out)
    for name in compare.CONTROLS:
        jsonl.write(data / "controls" / f"{name}.jsonl", jsonl.read(data / "pairs.jsonl", Pair))
    for name, skill in SKILLS.items():
        texts = [LONG if n == size - 1 else hostile_text(n) for n in range(size)]
        answers = [_answer(row, answer, skill, rng) for row, answer in zip(held_out, texts, strict=True)]
        jsonl.write(data / "answers" / f"{name}.jsonl", answers)
    jsonl.write(data / "sft.jsonl", [Example(f"s{n:05}", "open", text(rng), text(rng)) for n in range(size)])
    types = ("easy", "hard", "length", "human")
    labelled = [
        Labelled(
            f"l{n:05}",
            types[n % 4],
            text(rng),
            "",
            text(rng),
            text(rng),
            labelled_by="code",
            groups=(f"label type: {types[n % 4]}",),
        )
        for n in range(size)
    ]
    jsonl.write(data / "labelled.jsonl", labelled)
    jsonl.write(data / "quarantine.jsonl", [Quarantined("sft:x:3", "x", 3, "torn JSON", hostile_text(0))])
    audit = [
        RowAudit(f"questions:train:x:{n:05}", "questions", row.id, kind, types[n % 4], "kept", "")
        for n, (row, kind) in enumerate(zip(questions, cycle(("open", "literature"))))
    ]
    jsonl.write(data / "audit.jsonl", audit)
    jsonl.write(data / "agreement.jsonl", [_judged_pair(row, rng) for row in labelled])
    kinds = ("key", "verdict", "padding")
    attacks = [
        AttackResult(
            f"l0#{n:02}", f"attack {n}", kinds[n % 3], hostile_text(n), rng.random() / 2, None, 0.8, 0.9
        )
        for n in range(30)
    ]
    jsonl.write(data / "attacks.jsonl", attacks)


def _judged(row: Question, number: int, sample: int, answer: str, rng: random.Random) -> Judged:
    common = {"id": f"{row.id}#{sample}", "question_id": row.id, "sample": sample}
    common |= {"question": row.question, "reference": row.reference}
    if number % 10 == 9:
        unscored = dict.fromkeys(("accuracy", "completeness", "key_points", "score"))
        unscored |= {"finish_reason": "stop", "mass": 0.1, "unscored": "label mass under 0.5"}
        return Judged(**common, **unscored, text=answer, truncated_chars=0)
    each = [round(rng.random(), 6) for _ in range(3)] if number % 7 else [0.5, 0.5, 0.5]
    return Judged(
        **common,
        **dict(zip(("accuracy", "completeness", "key_points"), each, strict=True)),
        score=round(fmean(each), 6),
        text=f"{answer} ({sample})",
        finish_reason="length" if number % 13 == 5 else "stop",
        mass=0.97,
        truncated_chars=0,
        unscored="",
    )


def _held_out(number: int, question: str, reference: str, rng: random.Random) -> HeldOut:
    kind = ("open", "exam")[number % 4 == 3]
    gold = "B" if kind == "exam" else ""
    groups = (f"attribute: {ATTRIBUTES[number % 3]}", f"kind: {kind}")
    texts = (question, reference, (), gold, reference, text(rng))
    return HeldOut(f"h{number:05}", kind, *texts, "code", groups)


def _answer(row: HeldOut, answer: str, skill: float, rng: random.Random) -> Answer:
    each = [round(min(1.0, max(0.0, rng.gauss(skill, 0.2))), 6) for _ in range(3)]
    choice = rng.choice("ABCD") if row.gold else ""
    return Answer(
        id=row.id,
        kind=row.kind,
        text=answer,
        finish_reason="stop",
        tokens=len(answer.split()),
        key_point_recall=round(rng.random(), 2),
        token_f1=0.4,
        rouge_l=0.35,
        coverage=0.6,
        repetition=0.01,
        choice=choice,
        correct=choice == row.gold if row.gold else None,
        chosen_logprob=-20.0,
        rejected_logprob=-20.0 - rng.gauss(skill, 0.5),
        chosen_tokens=12,
        reference_logprob=-33.0,
        reference_tokens=20,
        judge="fake/judge",
        accuracy=each[0],
        completeness=each[1],
        key_points=each[2],
        score=round(fmean(each), 6),
        mass=0.98,
        truncated_chars=0,
        unscored="",
        groups=row.groups,
    )


def _judged_pair(row: Labelled, rng: random.Random) -> JudgedPair:
    sides = [round(rng.random(), 3), round(rng.random() * 0.7, 3)]
    values = (*sides, 0.9, 12, 14, -20.0, -22.0, 0.7, 0.4, True, "judge (x)", row.labelled_by, row.groups)
    return JudgedPair(row.id, row.label_type, *values)


def _models(folder: Path) -> None:
    for number, name in enumerate(SKILLS):
        (folder / name).mkdir(parents=True)
        weights = {"lora_A.weight": np.full((4, 50), number, np.float32)}
        if name == "base":
            weights = {f"mlp.{part}": np.zeros(shape, np.int32) for part, shape in PACKED.items()}
            (folder / name / "config.json").write_text(json.dumps({"quantization_config": {"bits": 4}}))
        file = "model.safetensors" if name == "base" else "adapter_model.safetensors"
        save_file(weights, folder / name / file)
    (folder / "judge").mkdir()
    pin = {
        "repo": "Qwen/Qwen2.5-3B-Instruct",
        "commit": "aa8e72537993ba99e69dfaafa59ed015b17504d1",
        "licence": "qwen-research",
        "files": {"model.safetensors": "0" * 64},
    }
    (folder / "judge" / "pin.json").write_text(json.dumps(pin))


def _interval(name: str, mean: float, half: float) -> dict[str, float]:
    return {name: mean, f"{name}_low": mean - half, f"{name}_high": mean + half}


def _metrics(size: int, rng: random.Random) -> dict[str, dict[str, Any]]:
    audit = ("quarantined", "other_kind", "contaminated", "near_duplicate", "duplicate", "over_limit")
    left = dict(zip(audit, (3, 0, 4, 2, 5, 10), strict=True))
    counts = {"read": size + sum(left.values()), **left, "kept": size}
    output = {"all": counts, "kinds": {"open": counts}, "label_types": {}}
    left_out = {f"left_out_{reason}": size // 20 for reason in pairs.REASONS}
    made = {"questions": size, "pairs": size - sum(left_out.values()), **left_out}
    made |= {"margin_mean": 0.31, "chosen_longer": 0.53, "score_length_correlation": -0.04}
    gain = {"paired": size, "compared": size - 4, "wins": 0.5, "losses": 0.1, "ties": 0.4}
    means = {"score": 0.2, "key_point_recall": 0.21, "token_f1": 0.1, "rouge_l": 0.11, "coverage": 0.06}
    means |= {"preference_margin": 0.04, "reference_logprob": 0.54, "repetition": -0.02, "cut_off": -0.51}
    for name, mean in means.items():
        gain |= _interval(f"{name}_gain", mean, 0.06)
    by = {
        name: {"rows": size, **_interval("agreement", mean, 0.04)}
        | _interval("longer_wins", 0.5, 0.05)
        | _interval("likelier_wins", 0.55, 0.05)
        | _interval("more_similar_wins", 0.76, 0.05)
        for name, mean in (
            ("all", 0.82),
            *((f"label type: {n}", x) for n, x in (("easy", 0.93), ("hard", 0.71), ("human", 0.78))),
        )
    }
    group_gains = {
        f"attribute: {name}": {"rows": size // 3, **_interval("score_gain", mean, 0.1)}
        for name, mean in zip(ATTRIBUTES, (0.4, 0.05, -0.3), strict=True)
    }
    attacks = {"tried": 900, "unscored": 0, **_interval("attack_rate", 0.021, 0.01)}
    attacks |= {"padding_tried": 300, **_interval("padding_gain", -0.01, 0.02)}
    evaluated = {
        f"evaluate/{name}": {
            "questions": size,
            "unscored": 0,
            "judge": "fake/judge",
            **_interval("score", mean, 0.05),
            **_interval("key_point_recall", mean - 0.02, 0.05),
            **{f"judged_{key}": mean for key in ("accuracy", "completeness", "key_points")},
            **_interval("token_f1", 0.6, 0.03),
            **_interval("rouge_l", 0.5, 0.03),
            **_interval("coverage", 0.65, 0.03),
            **_interval("reference_logprob", -1.65, 0.2),
            "repetition": 0.01,
            "tokens": 61.2,
            "cut_off": 0.0,
            "exam_accuracy": 0.3,
            "preference_alignment": 0.9,
            "by": {name: {"rows": size // 3, **_interval("score", mean, 0.1)} for name in group_gains},
            "small_groups": 1,
        }
        for name, mean in SKILLS.items()
    }
    benchmarked = {
        "medqa_4options": {"rows": 1273, **_interval("accuracy", 0.3, 0.02), "chance": 0.25}
        | {"contaminated": 0.125, **_interval("clean_accuracy", 0.28, 0.03)},
        "pubmedqa": {"rows": 1000, **_interval("accuracy", 0.5, 0.03), "chance": 1 / 3, "contaminated": 1.0},
    }
    evaluated |= {
        f"benchmark/{name}": {"questions": 2273, "by": benchmarked} for name in ("base", "sft", "dpo")
    }
    return evaluated | {
        "data": {
            **dict.fromkeys(("sft", "questions", "held_out"), output),
            "labelled": output | {"labelled_by": {"code": size}},
        },
        "models/base": {"parameters": 1051264, "final_loss": 0.4},
        "models/judge": {"repo": "Qwen/Qwen2.5-3B-Instruct", "commit": "aa8e", "files": 12},
        "sft": {"examples": size, "steps": 100, "first_loss": 3.4, "final_loss": 0.5},
        "generate": {"candidates": 2 * size, "candidates_cut_off": 0.0},
        "judge": {
            "judged": 2 * size,
            "judged_unscored": size // 5,
            "mean_score": 0.5,
            "judged_shortened": 4,
            "order": {name: _order(size, name) for name in labels.ORDERS},
        },
        "pairs": made,
        **dict.fromkeys(
            ("dpo", *compare.CONTROLS),
            {"pairs": made["pairs"], "steps": 33, "first_margin": 0.0, "final_accuracy": 0.96},
        ),
        "agreement": {
            "judge": "fake/judge",
            "pairs": size,
            "unscored": 1,
            "without_reference": 2,
            "ties": 0,
            "mass_mean": 0.97,
            "mass_least": 0.91,
            "reliability": [
                {"confidence": 0.53, "right": 0.55, "pairs": size // 2},
                {"confidence": 0.88, "right": 0.91, "pairs": size // 2},
            ],
            "calibration_error": 0.04,
            "trust": {"pairs": size, **_interval("over_similarity", 0.06, 0.06)},
            "by": by,
            "attacks": attacks,
        },
        "compare": {
            "verdict": "worse",
            "reason": "the judge's score changed by +0.200 (95% interval +0.140 to +0.260) over SFT",
            "conditions": {
                "guards": {"holds": False, "sentence": "DPO exceeds a limit: exam unreadable rise"},
                "over_length": {"holds": True, "sentence": "the judge agrees more often than by length"},
                "over_likelihood": {"holds": True, "sentence": "the judge agrees more often than the base"},
                "score": {"holds": True, "sentence": "log-probability changes by -0.010"},
            },
            "failed_guards": "exam_unreadable_rise",
            "guards": {"repetition_rise": 0.001, "length_ratio": 1.15, "exam_unreadable_rise": 0.9},
            "worst_group": {"name": "attribute: treatment", **group_gains["attribute: treatment"]},
            **dict.fromkeys(compare.COMPARISONS, gain),
            **dict.fromkeys(compare.GROUPED, gain | {"by": group_gains, "small_groups": 2}),
            "people": _people(),
        },
    }


def _people() -> dict[str, Any]:
    model = {"scored": 40, "correlation": 0.71, "score": 0.65}
    model |= _interval("bias", 0.24, 0.03) | _interval("calibrated_score", 0.41, 0.04)
    gain = {"scored": 40, "score_gain": 0.2, **_interval("calibrated_score_gain", 0.05, 0.06)}
    names = ("sft_over_base", "dpo_over_sft", "dpo_over_base")
    models = {"base": {"scored": 3}, "sft": model, "dpo": model}
    counts = {"people": 2, "scores": 120, "empty": 1, "stale": 0}
    return {**counts, "models": models, "comparisons": dict.fromkeys(names, gain)}


def _order(size: int, name: str) -> dict[str, Any]:
    is_clear = name.endswith("_clear")
    shares = _interval("agreement", 0.85 if is_clear else 0.75, 0.04) | _interval("longer_wins", 0.45, 0.05)
    return {"questions": size // 2 if is_clear else size, **shares}


def _curves(folder: Path, rng: random.Random) -> None:
    with jsonl.atomic_write(folder / "sft.tsv") as file:
        file.write("step\tloss\tlearning_rate\n")
        file.writelines(f"{n}\t{3 / n**0.5 + rng.random() / 5:.4f}\t0.001\n" for n in range(1, 101))
    for name, rate in (("dpo", 1.0), ("placebo", 0.3), ("oracle", 0.8)):
        with jsonl.atomic_write(folder / f"{name}.tsv") as file:
            file.write("step\tloss\tlearning_rate\tmargin\taccuracy\tchosen_logprob\trejected_logprob\n")
            for n in range(1, 34):
                file.write(f"{n}\t{0.7 - rate * n / 200:.4f}\t0.001\t{rate * n / 80:.4f}\t")
                file.write(f"{min(1, 0.5 + rate * n / 50):.4f}\t{-5 - n / 40}\t{-5 - n / 20}\n")


def switch_off(run: RunPaths, name: str) -> None:
    """Leave of a control what its stages write where params.yaml switches it off."""
    comparisons = run.metrics / "compare.json"
    compared = json.loads(comparisons.read_text(encoding="utf-8"))
    rest = {key: value for key, value in compared.items() if name not in key.split("_")}
    jsonl.write_metrics(comparisons, rest)
    for path in (run.models / name).iterdir():
        path.unlink()
    for folder in ("controls", "answers"):
        jsonl.write(run.data / folder / f"{name}.jsonl", [])
    nothing = {"judge": "", "questions": 0, "failed": 0, "unscored": 0, "shortened": 0}
    jsonl.write_metrics(run.metrics / "evaluate" / f"{name}.json", nothing)
    jsonl.write_metrics(run.metrics / f"{name}.json", {"pairs": 0})
    curve = run.metrics / "curves" / f"{name}.tsv"
    curve.write_text(curve.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")


def pair_ids(run: RunPaths) -> set[str]:
    """The questions that gave a pair."""
    return {row.id for row in jsonl.read(run.data / "pairs.jsonl", Pair)}
