"""The labels of the report: what metrics, outcomes, models and comparisons are called on the page."""

from medqa.report.charts import Series

MODELS = {
    "base": Series("base", "base"),
    "sft": Series("SFT", "sft"),
    "dpo": Series("DPO", "dpo"),
    "placebo": Series("placebo", "placebo"),
    "oracle": Series("oracle", "oracle"),
}
VERDICTS = {
    "improved": "DPO made the answers better: every condition for saying so holds.",
    "no clear change": "DPO changed too little to call the answers better or worse.",
    "worse": "DPO lost what it may not lose, or its answers are worse.",
    "not shown": "The answers may be better, but this run does not show it.",
}
COMPARISONS = {
    "sft_over_base": "SFT over base",
    "dpo_over_sft": "DPO over SFT",
    "dpo_over_base": "DPO over base",
    "dpo_over_placebo": "DPO over placebo",
    "oracle_over_sft": "oracle over SFT",
    "oracle_over_dpo": "oracle over DPO",
}
GAINS = {
    "score": "judged score",
    "key_point_recall": "key-point recall",
    "token_f1": "token F1",
    "rouge_l": "ROUGE-L",
    "coverage": "coverage of the reference",
    "reference_logprob": "log-likelihood of references, nats per token",
    "preference_margin": "log-probability of the answer labelled better less the other, nats per token",
    "repetition": "repetition (less is better)",
    "cut_off": "share cut off (less is better)",
}
COUNTS = {
    "paired": "questions that both models answered",
    "compared": "of these, both judged",
}
RESULTS = {"wins": "won", "ties": "tied", "losses": "lost"}  # of a comparison, by judged score
SOURCES = {  # of models in params.yaml
    "shipped": "comes with the project",
    "scratch": "trained here from random weights",
    "tuned": "tuned here",
    "tuned_encoder": "an encoder tuned here",
    "gguf": "converted from a GGUF file",
    "wheel": "from a package",
}
RANKERS = {
    "agreement": Series("judge", "judge"),
    "longer_wins": Series("longer wins", "longer"),
    "likelier_wins": Series("likelier wins", "likelier"),
    "more_similar_wins": Series("more similar wins", "similar"),
}
ORDERS = {
    "token_f1": "by token F1",
    "token_f1_clear": "by token F1, clearer half",
    "rouge_l": "by ROUGE-L",
    "rouge_l_clear": "by ROUGE-L, clearer half",
}
# In display order. A measure that is not listed follows under its own name.
MEASURES = {
    "questions": "held-out questions",
    "failed": "questions that the model could not answer",
    "unscored": "unscored open questions",
    "score": "judged score, 0 to 1",
    "judged_accuracy": "judged accuracy",
    "judged_completeness": "judged completeness",
    "judged_key_points": "judged key points",
    "key_point_recall": "key-point recall (no judge)",
    "token_f1": "token F1 against the reference",
    "rouge_l": "ROUGE-L against the reference",
    "coverage": "coverage of the reference, by embeddings",
    "reference_logprob": "log-likelihood of the reference, nats per token",
    "exam_accuracy": "multiple choice right (0.25 is chance)",
    "exam_unreadable": "multiple choice unreadable",
    "preference_alignment": "preference alignment: answers labelled better are likelier",
    "tokens": "tokens per answer",
    "cut_off": "cut off by the token limit",
    "repetition": "repeated word trigrams (repetition)",
    "shortened": "open questions that the judge saw shortened",
    "chosen_logprob": "log-probability of answers labelled better, nats per token",
    "small_groups": "groups too small to measure",
}
OUTPUTS = {
    "questions": "Preference questions",
    "sft": "SFT rows",
    "held_out": "Held-out questions",
    "labelled": "Labelled pairs",
}
OUTCOMES = {
    "quarantined": "could not be read: quarantined",
    "other_kind": "of a kind that is not selected",
    "contaminated": "contaminated: a held-out question",
    "near_duplicate": "near-duplicate of a held-out question",
    "duplicate": "duplicate",
    "over_limit": "over the limit",
}
GUARDS = {
    "repetition_rise": "rise in repetition",
    "phrase_rise": "rise of a phrase of four words",
    "length_ratio": "length, DPO to SFT",
    "cut_off_rise": "rise in share cut off",
    "unscored_rise": "rise in share without a score",
    "chosen_logprob_drop": "drop in log-probability of answers labelled better",
    "exam_unreadable_rise": "rise in unreadable multiple choice",
    "exam_accuracy_drop": "drop in multiple choice right",
}


def label(labels: dict[str, str], key: str) -> str:
    """The label of a key; the key as words if it has none."""
    return labels.get(key, key.replace("_", " "))
