"""What each training step changed: paired differences between models on the same held-out questions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from medqa import groups, guards, judge_trust, metrics, verdict
from medqa.records import Answer, JudgedPair
from medqa.runtime.errors import UserError
from medqa.runtime.sections import CompareParams

CONTROLS = ("placebo", "oracle")  # of DPO; each may be switched off
TRAINED = ("base", "sft", "dpo")  # and what they start from; always there
MODELS = (*TRAINED, *CONTROLS)
COMPARISONS = {  # the later model first; controls last
    "sft_over_base": ("sft", "base"),
    "dpo_over_sft": ("dpo", "sft"),
    "dpo_over_base": ("dpo", "base"),
    "dpo_over_placebo": ("dpo", "placebo"),
    "oracle_over_sft": ("oracle", "sft"),
    "oracle_over_dpo": ("oracle", "dpo"),
}
GROUPED = ("dpo_over_sft", "dpo_over_base")  # the comparisons that are also made by group


def preference_margin(row: Answer) -> float | None:
    """How much likelier the answer labelled better is than the other, in nats per token of each.

    DPO lowers both sides: that the better answer's own log-probability does not fall too far is a guard.
    """
    if not row.chosen_tokens or not row.rejected_tokens:
        return None
    return row.chosen_logprob / row.chosen_tokens - row.rejected_logprob / row.rejected_tokens


# What is compared of each answer; None if it has no such value. Of repetition and cut_off, less is better.
MEASURES: dict[str, Callable[[Answer], float | None]] = {
    "score": lambda row: row.score,
    "key_point_recall": lambda row: row.key_point_recall,
    "token_f1": lambda row: row.token_f1,
    "rouge_l": lambda row: row.rouge_l,
    "coverage": lambda row: row.coverage,
    "reference_logprob": lambda row: (
        row.reference_logprob / row.reference_tokens if row.reference_tokens else None
    ),
    "preference_margin": preference_margin,
    "repetition": lambda row: row.repetition,
    "cut_off": lambda row: float(row.finish_reason == "length"),
}
RECITED = 0.95  # the ROUGE-L from which an answer repeats the reference


def compare(
    answers: Mapping[str, Sequence[Answer]],
    agreed: Sequence[JudgedPair],
    params: CompareParams,
    seed: int,
    calibrated: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A verdict on DPO with its reasons, what it rests on, and the paired gains of each of COMPARISONS.

    `answers` maps base, sft, dpo, and the controls that are on, to answers to the same questions; `agreed`
    are the labelled pairs as a judge sees them; `calibrated` is what `calibration.summary` gives, if
    anything. Comparisons with a control that is off are left out. In each comparison, `paired` counts the
    open questions that both models answered: all measures but the score are compared on these. `compared`
    counts those of them for which both answers have a score. Each mean gain has a 95% interval; the gains in
    log-probabilities are in nats per token. Of judged scores there are also the shares of wins, losses and
    ties, where a tie is a difference of at most `tie`. The comparisons in GROUPED have the score's gain by
    group, as `groups.means` gives it; `worst_group` has the lowest gain over the base. Raises UserError if
    questions or judges differ.
    """
    if len({tuple(row.id for row in rows) for rows in answers.values()}) != 1:
        raise UserError("the evaluations answer different questions; rerun the stage evaluate for all models")
    judges = {row.judge for rows in answers.values() for row in rows}
    if len(judges) != 1:
        raise UserError("the evaluations have different judges; rerun the stage evaluate for all models")
    result = _evidence(answers, judge_trust.scored_pairs(agreed, *judges), params, seed)
    result |= _comparisons(answers, params, seed)
    result["worst_group"] = groups.worst(result["dpo_over_base"]["by"], "score_gain")
    if calibrated:
        result["people"] = calibrated
    findings = verdict.findings(result, params)
    decision, reason = verdict.decide(findings)
    conditions = {
        finding.name: {"holds": finding.holds, "sentence": finding.sentence} for finding in findings
    }
    return {"verdict": decision, "reason": reason, "conditions": conditions, **result}


def _comparisons(
    answers: Mapping[str, Sequence[Answer]], params: CompareParams, seed: int
) -> dict[str, dict[str, Any]]:
    result = {}
    for name, (after, before) in COMPARISONS.items():
        if {after, before} <= answers.keys():
            pairs = list(zip(answers[after], answers[before], strict=True))
            result[name] = _gains(pairs, params, seed)
            if name in GROUPED:
                result[name] |= groups.means(_group_gains(pairs), seed, params.bootstrap_samples)
    return result


def _evidence(
    answers: Mapping[str, Sequence[Answer]], pairs: Sequence[JudgedPair], params: CompareParams, seed: int
) -> dict[str, Any]:
    """What the verdict rests on besides the comparisons."""
    dpo, sft, base = answers["dpo"], answers["sft"], answers["base"]
    over_sft, over_base = guards.regressions(dpo, sft), guards.regressions(dpo, base)
    over_base = {name: value for name, value in over_base.items() if name not in guards.TAUGHT_BY_SFT}
    compared = [pair for pair in zip(dpo, sft, strict=True) if _both_scored(pair)]
    recited = [row.rouge_l >= RECITED for row in dpo if _is_open_answer(row)]
    return {
        "failed_guards": ", ".join(guards.failed_guards(over_sft, params.guards)),
        "guards": over_sft,
        "failed_guards_over_base": ", ".join(guards.failed_guards(over_base, params.guards)),
        "guards_over_base": over_base,
        "judge": judge_trust.over_baselines(pairs, seed, params.bootstrap_samples),
        "length": judge_trust.length_adjusted(pairs, compared, seed, params.bootstrap_samples),
        "recited": fmean(recited) if recited else 0.0,
    }


def _is_open_answer(row: Answer) -> bool:
    return row.correct is None and row.finish_reason != "failed"


def _both_scored(pair: tuple[Answer, Answer]) -> bool:
    return all(_is_open_answer(row) and row.score is not None for row in pair)


def _gains(rows: Sequence[tuple[Answer, Answer]], params: CompareParams, seed: int) -> dict[str, Any]:
    pairs, gains = paired_gains(rows)
    result: dict[str, Any] = {"paired": pairs, "compared": len(gains["score"])}
    for name, values in gains.items():
        result |= metrics.named_interval(f"{name}_gain", values, seed, params.bootstrap_samples)
    return result | _win_shares(gains["score"], params.tie)


def paired_gains(rows: Iterable[tuple[Answer, Answer]]) -> tuple[int, dict[str, list[float]]]:
    """How many open questions both models answered, and their gains in each of MEASURES.

    `rows` holds the later and the earlier model's answer to each question. A gain is left out where one of
    the answers has no such value.
    """
    pairs = [pair for pair in rows if all(map(_is_open_answer, pair))]
    gains = {}
    for name, value in MEASURES.items():
        sides = [(value(after), value(before)) for after, before in pairs]
        gains[name] = [after - before for after, before in sides if None not in (after, before)]
    return len(pairs), gains


def _group_gains(rows: Iterable[tuple[Answer, Answer]]) -> list[tuple[tuple[str, ...], dict[str, float]]]:
    """The groups of each open question that is judged in both models, and its gain in score."""
    pairs = filter(_both_scored, rows)
    return [(after.groups, {"score_gain": after.score - before.score}) for after, before in pairs]


def _win_shares(gains: Sequence[float], tie: float) -> dict[str, float]:
    """The shares of wins, losses and ties; empty without any gain."""
    # Scores have six decimals; the rest of a difference is binary noise.
    gains = [round(gain, 6) for gain in gains]
    wins, losses = sum(gain > tie for gain in gains), sum(gain < -tie for gain in gains)
    counts = {"wins": wins, "losses": losses, "ties": len(gains) - wins - losses}
    return {name: count / len(gains) for name, count in counts.items()} if gains else {}
