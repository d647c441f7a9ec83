"""Every section of params.yaml, in the order of the file. The longest have modules of their own."""

from typing import Literal

from pydantic import Field, model_validator

from medqa.runtime.benchmark_section import BenchmarkParams as BenchmarkParams
from medqa.runtime.compare_section import CompareParams as CompareParams
from medqa.runtime.compare_section import Guards as Guards
from medqa.runtime.compute_section import ComputeParams as ComputeParams
from medqa.runtime.data_section import DataParams
from medqa.runtime.fields import (
    TEMPLATES,
    Corpus,
    Count,
    Dtype,
    Float,
    Int,
    JudgeTemplate,
    LearningRate,
    Ratio,
    Section,
    Seed,
    Share,
)
from medqa.runtime.model_sections import ModelsParams


class TrainingParams(Section):
    """The keys that the sections `sft` and `dpo` share."""

    epochs: Float = Field(gt=0)
    """Passes over the rows."""
    learning_rate: LearningRate
    """The highest, after warm-up."""
    batch_size: Count
    """Rows (or pairs) per optimiser step."""
    micro_batch_size: Count
    """Rows (or pairs) in memory at once; it divides `batch_size`."""
    max_length: Int = Field(ge=16)
    """Tokens per row, prompt and answer."""
    warmup_share: Float = Field(ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    activation_checkpointing: bool
    """Saves memory, costs time."""
    dequantised: bool
    """Dequantise the base once instead of in every step: faster, but takes more memory."""

    @model_validator(mode="after")
    def _whole_steps(self) -> "TrainingParams":
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size = {self.batch_size} must be a multiple of "
                f"micro_batch_size = {self.micro_batch_size}"
            )
        return self


class Lora(Section):
    """The shape of the adapter, which is on the attention and MLP projections."""

    r: Count
    """Rank."""
    alpha: Count
    """The adapter's output is multiplied by alpha / r."""
    dropout: Float = Field(ge=0, lt=1)
    """Share of the adapter's inputs that a step leaves out."""


class SftParams(TrainingParams):
    """Section `sft`: supervised fine-tuning."""

    lora: Lora
    """The adapter, also that of `dpo`."""


class GenerateParams(Section):
    """Section `generate`: the candidates."""

    n: Int = Field(ge=2, le=64)
    """Candidates per question."""
    temperature: Float = Field(ge=0, le=5)
    """Of sampling; 0 is greedy."""
    top_p: Float = Field(gt=0, le=1)
    """Share of the probability that is sampled from (nucleus sampling)."""
    max_new_tokens: Count
    """Tokens per answer; a longer one is cut off."""


class Criteria(Section):
    """The weight of each criterion in the score."""

    accuracy: Float = Field(ge=0)
    completeness: Float = Field(ge=0)
    key_points: Float = Field(ge=0)

    @model_validator(mode="after")
    def _positive_sum(self) -> "Criteria":
        if self.accuracy + self.completeness + self.key_points <= 0:
            raise ValueError("at least one criterion needs a weight above 0")
        return self


class JudgeParams(Section):
    """Section `judge`: how answers are scored."""

    method: Literal["grades", "points"]
    """`grades`: a grade of the whole answer per criterion; `points`: yes or no per point of the reference."""
    template: JudgeTemplate
    """The prompt, a file of medqa/prompts for that method."""
    criteria: Criteria
    """Weights of the mean score."""
    min_mass: Share
    """Probability that the labels must hold together; below it an answer is unscored."""
    max_chars: Int = Field(ge=100)
    """Characters of a reference or an answer; a longer one loses its middle."""

    @model_validator(mode="after")
    def _template_of_method(self) -> "JudgeParams":
        templates = TEMPLATES[self.method]
        if self.template not in templates:
            raise ValueError(
                f"template = {self.template!r} must be a template of method = {self.method!r} "
                f"({', '.join(templates)})"
            )
        return self


PairsPolicy = Literal["best_worst", "best_two_sd", "reference"]


class PairsParams(Section):
    """Section `pairs`: which texts become chosen and rejected."""

    policy: PairsPolicy
    """best_worst: the best candidate against the worst. best_two_sd: the best against the one whose score is
    nearest to two standard deviations below the mean (arXiv 2502.16825); up to n = 10 that is the worst.
    reference: the reference, as if scored 1, against the worst candidate (arXiv 2508.18312)."""
    min_margin: Share
    """Score difference below which two candidates make no pair."""
    max_length_ratio: Ratio | None
    """Words of the longer answer per word of the shorter one, at most; null: no limit."""


LossType = Literal[
    "sigmoid",
    "sigmoid_norm",
    "ipo",
    "hinge",
    "robust",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
]  # of TRL; exo_pair needs label smoothing too


class DpoParams(TrainingParams):
    """Section `dpo`: direct preference optimisation."""

    beta: Float = Field(gt=0)
    """KL penalty: higher keeps the policy closer to the SFT model."""
    loss_type: LossType
    """TRL's name of the preference loss."""
    sft_weight: Float = Field(ge=0)
    """Weight of the chosen answer's own loss."""
    ld_alpha: Share | None
    """Weight of tokens past the length of the pair's shorter answer (LD-DPO, arXiv 2409.06411); null: 1."""


class ControlParams(Section):
    """Section `control`: the control arms of DPO. One that is off writes empty outputs."""

    placebo: bool
    """Train on the same pairs as `dpo`, half of them turned round at random."""
    oracle: bool
    """Train on pairs that the token F1 against the reference ranks instead of the judge."""


class EvaluateParams(Section):
    """Section `evaluate`: greedy answers to the held-out questions."""

    judge: str
    """The model of `models` that scores the answers."""
    max_new_tokens: Count
    """Tokens per answer; a longer one is cut off."""
    bootstrap_samples: Int = Field(ge=100)
    """For the confidence intervals."""


class AgreementParams(Section):
    """Section `agreement`: the judge against labelled pairs and attacks."""

    attacked_pairs: Count
    """Labelled pairs on which every attack is tried."""
    bootstrap_samples: Int = Field(ge=100)
    """For the confidence intervals."""


class ReportParams(Section):
    """Section `report`: the page."""

    max_rows: Count
    """Rows to browse, per kind of question."""


class Params(Section):
    """The whole of params.yaml. One section per stage, under the name of the stage."""

    seed: Seed
    """Of every random draw: training order, sampling, splits, bootstrap."""
    dtype: Dtype
    """Of every model."""
    corpus: Corpus
    """Folder that DVC watches: the embedded facts, or the user's own files."""
    models: ModelsParams
    encoder: str
    """The model of `models` that embeds texts, for what similarity measures; any can."""
    data: DataParams
    sft: SftParams
    generate: GenerateParams
    judge: JudgeParams
    pairs: PairsParams
    dpo: DpoParams
    control: ControlParams
    evaluate: EvaluateParams
    agreement: AgreementParams
    compare: CompareParams
    benchmark: BenchmarkParams
    report: ReportParams
    compute: ComputeParams
