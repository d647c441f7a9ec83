"""What each training step changed: paired differences between models on the same held-out questions."""

from collections.abc import Collection, Mapping, Sequence
from itertools import compress, zip_longest
from typing import Any

import numpy as np

from medqa import groups, guards, judge_trust, metrics, verdict
from medqa.answer_measures import Measure, among, is_answered, is_cut_off, per_token
from medqa.columns import Columns, collect, present
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


# What is compared of open answers. Of repetition and cut_off, less is better, and all open answers have them.
VALUES: dict[str, Measure] = {
    "score": lambda row: row.score,
    "key_point_recall": lambda row: row.key_point_recall,
    "token_f1": lambda row: row.token_f1,
    "rouge_l": lambda row: row.rouge_l,
    "coverage": lambda row: row.coverage,
    "reference_logprob": per_token("reference"),
    "preference_margin": preference_margin,
    "repetition": lambda row: row.repetition,
    "cut_off": is_cut_off,
}
MEASURES = {name: among(is_answered, value) for name, value in VALUES.items()}
RECITED = 0.95  # the ROUGE-L from which an answer repeats the reference


def compare(
    answers: Mapping[str, Collection[Answer]],
    agreed: Sequence[JudgedPair],
    params: CompareParams,
    seed: int,
    calibrated: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A verdict on DPO with its reasons, what it rests on, and the paired gains of each of COMPARISONS.

    `answers` maps base, sft, dpo, and the controls that are on, to answers to the same questions; they may be
    on the disk, and are read several times. `agreed` are the labelled pairs as a judge sees them;
    `calibrated` is what `calibration.summary` gives, if anything. Comparisons with a control that is off are
    left out. In each comparison, `paired` counts the open questions that both models answered: all measures
    but the score are compared on these. `compared` counts those of them for which both answers have a score.
    Each mean gain has a 95% interval; the gains in log-probabilities are in nats per token. Of judged scores
    there are also the shares of wins, losses and ties, where a tie is a difference of at most `tie`. The
    comparisons in GROUPED have the score's gain by group, as `groups.means` gives it; `worst_group` has the
    lowest gain over the base. Raises UserError if questions or judges differ.
    """
    judge = _common_judge(answers)
    columns = {model: collect(rows, MEASURES) for model, rows in answers.items()}
    recited = present(columns["dpo"]["rouge_l"]) >= RECITED
    result = _evidence(answers, judge_trust.scored_pairs(agreed, judge), params, seed)
    result["recited"] = float(recited.mean()) if len(recited) else 0.0
    result |= _comparisons(answers, columns, params, seed)
    result["worst_group"] = groups.worst(result["dpo_over_base"]["by"], "score_gain")
    if calibrated:
        result["people"] = calibrated
    findings = verdict.findings(result, params)
    decision, reason = verdict.decide(findings)
    conditions = {
        finding.name: {"holds": finding.holds, "sentence": finding.sentence} for finding in findings
    }
    return {"verdict": decision, "reason": reason, "conditions": conditions, **result}


def _common_judge(answers: Mapping[str, Collection[Answer]]) -> str:
    """The judge of all answers, which are to the same questions."""
    judges = set()
    for rows in zip_longest(*answers.values()):
        if len({row and row.id for row in rows}) != 1:
            raise UserError(
                "the evaluations answer different questions; rerun the stage evaluate for all models"
            )
        judges |= {row.judge for row in rows}
    if len(judges) != 1:
        raise UserError("the evaluations have different judges; rerun the stage evaluate for all models")
    return judges.pop()


def _comparisons(
    answers: Mapping[str, Collection[Answer]],
    columns: Mapping[str, Columns],
    params: CompareParams,
    seed: int,
) -> dict[str, dict[str, Any]]:
    result = {}
    for name, (after, before) in COMPARISONS.items():
        if {after, before} <= answers.keys():
            gains = paired_gains(columns[after], columns[before])
            result[name] = _gain_metrics(gains, params, seed)
            if name in GROUPED:
                compared = ~np.isnan(columns[after]["score"] - columns[before]["score"])
                names = compress((row.groups for row in answers[after]), compared)
                values = {"score_gain": gains["score"]}
                result[name] |= groups.means(names, values, seed, params.bootstrap_samples)
    return result


def _evidence(
    answers: Mapping[str, Collection[Answer]], pairs: Sequence[JudgedPair], params: CompareParams, seed: int
) -> dict[str, Any]:
    """What the verdict rests on besides the comparisons."""
    dpo, sft, base = answers["dpo"], answers["sft"], answers["base"]
    over_sft, over_base = guards.regressions(dpo, sft), guards.regressions(dpo, base)
    over_base = {name: value for name, value in over_base.items() if name not in guards.TAUGHT_BY_SFT}
    compared = (pair for pair in zip(dpo, sft, strict=True) if _both_scored(pair))
    return {
        "failed_guards": ", ".join(guards.failed_guards(over_sft, params.guards)),
        "guards": over_sft,
        "failed_guards_over_base": ", ".join(guards.failed_guards(over_base, params.guards)),
        "guards_over_base": over_base,
        "judge": judge_trust.over_baselines(pairs, seed, params.bootstrap_samples),
        "length": judge_trust.length_adjusted(pairs, compared, seed, params.bootstrap_samples),
    }


def _both_scored(pair: tuple[Answer, Answer]) -> bool:
    return all(is_answered(row) and row.score is not None for row in pair)


def paired_gains(after: Columns, before: Columns) -> Columns:
    """The gains in each of MEASURES, from the columns of the later and the earlier model's answers.

    A question is left out where one of the two answers has no such value.
    """
    return {name: present(after[name] - before[name]) for name in MEASURES}


def _gain_metrics(gains: Columns, params: CompareParams, seed: int) -> dict[str, Any]:
    result: dict[str, Any] = {"paired": len(gains["cut_off"]), "compared": len(gains["score"])}
    named = {f"{name}_gain": values for name, values in gains.items()}
    result |= metrics.named_intervals(named, seed, params.bootstrap_samples)
    return result | _win_shares(gains["score"], params.tie)


def _win_shares(gains: np.ndarray, tie: float) -> dict[str, float]:
    """The shares of wins, losses and ties; empty without any gain."""
    # Scores have six decimals; the rest of a difference is binary noise.
    gains = gains.round(6)
    wins, losses = int((gains > tie).sum()), int((gains < -tie).sum())
    counts = {"wins": wins, "losses": losses, "ties": len(gains) - wins - losses}
    return {name: count / len(gains) for name, count in counts.items()} if len(gains) else {}
