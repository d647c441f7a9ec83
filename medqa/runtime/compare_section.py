"""Section `compare` of params.yaml: what DPO may lose, and what counts as a difference."""

from pydantic import Field

from medqa.runtime.fields import Float, Int, Ratio, Section, Share


class Guards(Section):
    """What DPO may lose; beyond one of these the verdict is "worse". Against SFT and base, if not stated."""

    max_repetition_rise: Share
    """Of the share of repeated word trigrams."""
    max_phrase_rise: Share
    """Of the share of answers that hold the same four words. Against SFT only."""
    max_length_ratio: Ratio
    """Of the mean lengths, either way. Against SFT only."""
    max_cut_off_rise: Share
    """Of the share of answers that the token limit cut off."""
    max_unscored_rise: Share
    """Of the share of answers that failed, or that the judge could not score."""
    max_chosen_logprob_drop: Float = Field(ge=0)
    """Nats per token, of the answer that is labelled better."""
    max_exam_unreadable_rise: Share
    """Of the share of multiple-choice answers without a readable letter."""
    max_exam_accuracy_drop: Share
    """Of the share of right multiple-choice answers."""
    max_group_drop: Share
    """Of the mean score of a group of questions. Against base only."""


class CompareParams(Section):
    """Section `compare`: the paired differences between the models."""

    bootstrap_samples: Int = Field(ge=100)
    """For the confidence intervals."""
    tie: Share
    """Score difference up to which two answers are a tie."""
    max_recited: Share
    """Share of DPO's answers that repeat the reference (ROUGE-L of 0.95), as of leaked questions; 1: any."""
    guards: Guards
