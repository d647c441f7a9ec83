"""medqa.verdict: each condition on its own, their order, and the verdict over seeds."""

from typing import Any

import pytest
from fake_trial import PARAMS

from medqa import metrics, verdict


def interval(name: str, mean: float, half: float = 0.03) -> dict[str, float]:
    return metrics.named(name, (mean, mean - half, mean + half))


def gains(**means: float) -> dict[str, Any]:
    """The metrics of a comparison in which 60 of 120 answers changed."""
    result: dict[str, Any] = {"paired": 120, "compared": 120, "wins": 0.3, "losses": 0.2, "ties": 0.5}
    for name, mean in (
        {"score": 0.1, "key_point_recall": 0.1, "token_f1": 0.1, "rouge_l": 0.1} | means
    ).items():
        result |= interval(f"{name}_gain", mean)
    return result


def evidence(**changes: Any) -> dict[str, Any]:
    """Metrics of `compare` on which every condition holds, with changes."""
    judge = {"pairs": 200, "length_wins": 0.5, "likelihood_wins": 0.5, **interval("agreement", 0.8)}
    judge |= {"length_choice": "shorter", "likelihood_choice": "likelier"}
    return {
        "failed_guards": "",
        "failed_guards_over_base": "",
        "dpo_over_sft": gains(preference_margin=0.1),
        "dpo_over_placebo": gains(),
        "judge": judge | interval("over_length", 0.3) | interval("over_likelihood", 0.3),
        "length": {"bias": 0.1, "growth": 0.2, **interval("adjusted_gain", 0.08)},
        "recited": 0.0,
        "dpo_over_base": {"by": {"attribute: test": {"rows": 30, **interval("score_gain", 0.2)}}},
    } | changes


def judged(**changes: float) -> dict[str, Any]:
    return {"judge": evidence()["judge"] | changes}


def group(mean: float, half: float = 0.03, rows: int = 30) -> dict[str, Any]:
    """A second group beside the one of `evidence`."""
    by = evidence()["dpo_over_base"]["by"]
    return {
        "dpo_over_base": {"by": by | {"kind: open": {"rows": rows, **interval("score_gain", mean, half)}}}
    }


def scored_by_people(mean: float) -> dict[str, Any]:
    gain = {"scored": 40, **interval("calibrated_score_gain", mean)}
    return {"people": {"comparisons": {"dpo_over_sft": gain}}}


def test_all_conditions_together_make_an_improvement() -> None:
    decision, reason = verdict.decide(verdict.findings(evidence(), PARAMS))
    assert decision == "improved"
    assert reason == (
        "the judge's score changes by +0.100 (95% interval +0.070 to +0.130) over SFT; "
        "the score is +0.100 (95% interval +0.070 to +0.130) above the placebo's; "
        "adjusted for length, the score changes by +0.080 (95% interval +0.050 to +0.110) "
        "(the judge gives +0.100 per log of the words ratio); "
        "the worst of 1 groups of questions over the base is attribute: test +0.200 "
        "(95% interval +0.170 to +0.230)"
    )


@pytest.mark.parametrize(
    ("changes", "name", "expected", "words"),
    [
        ({"failed_guards": "cut_off_rise"}, "guards", "worse", "against SFT: cut off rise"),
        ({"failed_guards_over_base": "length_ratio"}, "guards_over_base", "worse", "the base: length ratio"),
        (
            {"dpo_over_sft": gains(key_point_recall=-0.04)},
            "key_point_recall",
            "worse",
            "recall changes by -0.040",
        ),
        ({"dpo_over_sft": gains(preference_margin=-0.04)}, "preference_margin", "worse", "by -0.040"),
        ({"dpo_over_sft": gains(token_f1=-0.04, rouge_l=0.01)}, "overlap", "worse", "token F1 by -0.040"),
        ({"dpo_over_sft": gains(token_f1=0.02, rouge_l=-0.04)}, "overlap", "worse", "ROUGE-L by -0.040"),
        ({"dpo_over_sft": gains(score=-0.04)}, "score", "worse", "changes by -0.040"),
        ({"dpo_over_sft": gains(score=0.02)}, "score", "no clear change", "-0.010 to +0.050"),
        ({"dpo_over_sft": gains() | {"ties": 0.96}}, "score", "no clear change", "on 5 questions only"),
        (
            {"dpo_over_sft": {"paired": 9, "compared": 0}},
            "score",
            "no clear change",
            "no question has two judged",
        ),
        ({"dpo_over_placebo": gains(score=0.03)}, "placebo", "no clear change", "turned round at random"),
        ({"dpo_over_placebo": {"paired": 9, "compared": 0}}, "placebo", "no clear change", "unknown amount"),
        (
            judged(over_length_low=0.0),
            "over_length",
            "not shown",
            "than choosing the shorter answer (0.500)",
        ),
        (
            judged(over_likelihood_low=-0.1),
            "over_likelihood",
            "not shown",
            "not clearly more often than choosing the likelier",
        ),
        ({"recited": 0.11}, "recited", "not shown", "0.110 of the answers repeat the reference (limit 0.1)"),
        (group(-0.2), "groups", "worse", "fall against the base: kind: open -0.200"),
        (
            {"length": {"bias": 0.5, **interval("adjusted_gain", 0.02)}},
            "length",
            "no clear change",
            "+0.500 per",
        ),
        (
            scored_by_people(-0.1),
            "people",
            "worse",
            "calibrated by people's scores, the score changes by -0.1",
        ),
    ],
)
def test_a_condition_that_does_not_hold_decides(changes: dict, name: str, expected: str, words: str) -> None:
    conditions = verdict.findings(evidence(**changes), PARAMS)
    assert [finding.name for finding in conditions if not finding.holds] == [name]
    decision, reason = verdict.decide(conditions)
    assert decision == expected and words in reason
    assert "the worst of" in reason or name == "groups"


@pytest.mark.parametrize(
    "changes",
    [
        {"dpo_over_sft": gains(rouge_l=-0.04)},  # another order of the same facts
        {"dpo_over_sft": gains(key_point_recall=-0.02)},  # its interval holds 0
        {"recited": 0.1},
        group(-0.2, half=0.25),  # may be chance
        group(-0.05, half=0.01),  # the limit itself
        group(-0.9, rows=19),  # too few to judge
        scored_by_people(-0.02),  # its interval holds 0
        {"people": {"comparisons": {"dpo_over_sft": {"scored": 3}}}},
        {"dpo_over_base": {"by": {}}},
    ],
)
def test_what_is_no_clear_loss_denies_nothing(changes: dict) -> None:
    assert verdict.decide(verdict.findings(evidence(**changes), PARAMS))[0] == "improved"


def test_without_a_placebo_there_is_nothing_to_beat() -> None:
    without = evidence()
    del without["dpo_over_placebo"]
    decision, reason = verdict.decide(verdict.findings(without, PARAMS))
    assert decision == "improved" and "no placebo was trained" in reason


def test_the_deciding_reason_comes_first_and_the_others_follow() -> None:
    """What needs no judge decides even where the judge cannot be trusted; then doubt of the judge."""
    changes = judged(over_length_low=-0.1) | {"dpo_over_sft": gains(score=-0.1)}
    assert verdict.decide(verdict.findings(evidence(**changes), PARAMS))[0] == "not shown"
    changes |= {"failed_guards": "cut_off_rise", "judge": {"pairs": 0}, "length": {}}
    decision, reason = verdict.decide(verdict.findings(evidence(**changes), PARAMS))
    assert decision == "worse" and reason.startswith("DPO exceeds a limit against SFT")
    assert "no labelled pair has scores" in reason and "score changes by -0.100" in reason


ABOVE, ACROSS = interval("score_gain", 0.1), interval("score_gain", 0.01)


@pytest.mark.parametrize(
    ("verdicts", "over_sft", "over_placebo", "expected"),
    [
        (["improved"] * 3, ABOVE, ABOVE, "improved"),
        (["improved"] * 3, ABOVE, None, "improved"),
        (["improved", "no clear change", "improved"], ABOVE, ABOVE, "improved"),
        (["improved"] * 3, ACROSS, ABOVE, "no clear change"),
        (["improved"] * 3, ABOVE, ACROSS, "no clear change"),
        (["improved"] * 2, ABOVE, ABOVE, "not shown"),
        (["improved", "improved", "worse"], ABOVE, ABOVE, "worse"),
        (["improved", "improved", "not shown"], ABOVE, ABOVE, "not shown"),
        (["worse", "improved", "not shown"], ABOVE, ABOVE, "worse"),
    ],
)
def test_the_verdict_over_seeds(
    verdicts: list[str], over_sft: dict, over_placebo: dict | None, expected: str
) -> None:
    over = {"dpo_over_sft": over_sft} | ({"dpo_over_placebo": over_placebo} if over_placebo else {})
    assert verdict.decide_over_seeds(verdicts, over)[0] == expected
    assert verdict.decide_over_seeds(verdicts, {})[0] != "improved"
