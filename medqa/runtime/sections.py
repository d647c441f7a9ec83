"""Every section of params.yaml, in the order of the file. Section `models` is in `model_sections`."""

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from medqa.runtime.fields import Corpus, Dtype, Float, Int, JudgeTemplate, Section, Seed
from medqa.runtime.model_sections import ModelsParams

KEY = "MEDQA_API_KEY"  # the environment variable of the servers' key, if they need one
# Fields of a request that the engine http sets, or relies on being absent.
REQUEST_FIELDS = ("model", "messages", "prompt", "max_tokens", "temperature", "top_p", "seed", "logprobs")
REQUEST_FIELDS += ("top_logprobs", "echo", "n", "stream")

SPLITS = ("train", "dev", "test")


class EmbeddedRows(Section):
    """The corpus that comes with the project."""

    source: Literal["embedded"]


class HubRows(Section):
    """A data set of the Hub. Its files, or their folders, name their split: train, dev (or validation) and
    test.

    Of an SFT set the training files are read, or all where none names a split.
    """

    source: Literal["hub"]
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = Field(min_length=1)


class SftFile(Section):
    """A file of the user's, relative to `corpus` or absolute."""

    source: Literal["files"]
    path: str


class PreferenceFiles(Section):
    """Three files of the user's, relative to `corpus` or absolute."""

    source: Literal["files"]
    train: str
    dev: str
    test: str


Kinds = Annotated[tuple[Literal["open", "exam", "literature"], ...], Field(min_length=1)]


Limit = Annotated[Int, Field(ge=1)] | None


class DataParams(Section):
    """Section `data` of params.yaml. A limit of null keeps all."""

    sft: Annotated[EmbeddedRows | HubRows | SftFile, Field(discriminator="source")]
    preference: Annotated[EmbeddedRows | HubRows | PreferenceFiles, Field(discriminator="source")]
    sft_kinds: Kinds
    question_kinds: Kinds
    held_out_kinds: Kinds
    max_sft: Limit
    max_questions: Limit
    max_held_out: Limit
    max_labelled: Limit
    max_bad_share: Float = Field(ge=0, le=1)
    near_duplicate: Annotated[Float, Field(gt=0, le=1)] | None

    def files(self) -> dict[str, str]:
        """The files that it names, by key, relative to `corpus`."""
        files = {"sft.path": self.sft.path} if isinstance(self.sft, SftFile) else {}
        if isinstance(self.preference, PreferenceFiles):
            files |= {f"preference.{split}": getattr(self.preference, split) for split in SPLITS}
        return files


class TrainingParams(Section):
    """What any training section holds."""

    epochs: Float = Field(gt=0)
    learning_rate: Float = Field(gt=0, lt=1)
    batch_size: Int = Field(ge=1)
    micro_batch_size: Int = Field(ge=1)
    max_length: Int = Field(ge=16)
    warmup_share: Float = Field(ge=0, lt=1)
    activation_checkpointing: bool
    dequantised: bool

    @model_validator(mode="after")
    def _whole_steps(self) -> "TrainingParams":
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size = {self.batch_size} must be a multiple of micro_batch_size = {self.micro_batch_size}"
            )
        return self


class Lora(Section):
    """The shape of the adapter; its targets are the attention and MLP projections."""

    r: Int = Field(ge=1)
    alpha: Int = Field(ge=1)
    dropout: Float = Field(ge=0, lt=1)


class SftParams(TrainingParams):
    """Section `sft` of params.yaml."""

    lora: Lora


class GenerateParams(Section):
    """Section `generate` of params.yaml."""

    n: Int = Field(ge=2, le=64)
    temperature: Float = Field(ge=0, le=5)
    top_p: Float = Field(gt=0, le=1)
    max_new_tokens: Int = Field(ge=1)


class Criteria(Section):
    """The weight of each criterion in the score."""

    accuracy: Float = Field(ge=0)
    completeness: Float = Field(ge=0)
    key_points: Float = Field(ge=0)

    @model_validator(mode="after")
    def _some_weight(self) -> "Criteria":
        if self.accuracy + self.completeness + self.key_points <= 0:
            raise ValueError("at least one criterion needs a weight above 0")
        return self


class JudgeParams(Section):
    """Section `judge` of params.yaml."""

    template: JudgeTemplate
    criteria: Criteria
    min_mass: Float = Field(ge=0, le=1)
    max_chars: Int = Field(ge=100)


class PairsParams(Section):
    """Section `pairs` of params.yaml."""

    min_margin: Float = Field(ge=0, le=1)
    max_length_ratio: Float | None = Field(ge=1)


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
]  # of TRL; exo_pair wants label smoothing besides


class DpoParams(TrainingParams):
    """Section `dpo` of params.yaml."""

    beta: Float = Field(gt=0)
    loss_type: LossType
    sft_weight: Float = Field(ge=0)


class EvaluateParams(Section):
    """Section `evaluate` of params.yaml. Answers are greedy; `judge` names one of `models`."""

    judge: str
    max_new_tokens: Int = Field(ge=1)
    bootstrap_samples: Int = Field(ge=100)


class AgreementParams(Section):
    """Section `agreement` of params.yaml."""

    attacked_pairs: Int = Field(ge=1)
    bootstrap_samples: Int = Field(ge=100)


class Guards(Section):
    """What the final model may at most lose against the SFT model before the verdict is *worse*, whatever it
    gains.
    """

    max_repetition_rise: Float = Field(ge=0, le=1)
    max_length_ratio: Float = Field(ge=1)
    max_cut_off_rise: Float = Field(ge=0, le=1)
    max_chosen_logprob_drop: Float = Field(ge=0)
    max_exam_unreadable_rise: Float = Field(ge=0, le=1)
    max_exam_accuracy_drop: Float = Field(ge=0, le=1)


class CompareParams(Section):
    """Section `compare` of params.yaml."""

    bootstrap_samples: Int = Field(ge=100)
    tie: Float = Field(ge=0, le=1)
    guards: Guards


class ReportParams(Section):
    """Section `report` of params.yaml."""

    max_rows: Int = Field(ge=1)


def _address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("must be like http://127.0.0.1:8000/v1")
    if parts.username or parts.password:
        raise ValueError(f"must hold no name and no password; a key goes into the environment variable {KEY}")
    return value.rstrip("/")


def _extra(value: dict[str, Any]) -> dict[str, Any]:
    if taken := sorted(set(REQUEST_FIELDS).intersection(value)):
        raise ValueError(f"must not set {taken[0]}: the engine does")
    return value


class Server(Section):
    """Section `compute.servers.NAME`: the server of the model NAME of `models`, and how to ask it."""

    address: Annotated[str, AfterValidator(_address)]  # a base URL; several servers need a router before them
    model: str = Field(min_length=1)  # the name that it is served under
    requests: Int = Field(ge=1, le=1024)  # in flight at once
    timeout: Float = Field(gt=0)  # seconds per answer; a row that takes longer has failed
    patience: Float = Field(ge=0)  # seconds of tries while the server is away, busy or broken
    extra: Annotated[dict[str, Any], AfterValidator(_extra)]  # fields of every request


class ComputeParams(Section):
    """Section `compute` of params.yaml: what cannot change a result. No stage tracks it."""

    generate_batch_size: Int = Field(ge=1)
    judge_batch_size: Int = Field(ge=1)
    engine: Literal["transformers", "http"]
    servers: dict[str, Server]  # for the engine http: who serves which of `models`
    max_failed_rows: Int = Field(ge=0)  # that one model may leave undone before a stage ends
    row_cache: bool  # keep every answer and score, and never ask a model for one twice
    processes: Int = Field(ge=1)  # that share the rows of a model, and train together
    checkpoint_minutes: Float = Field(ge=0)  # of training; 0 is after every step


class Params(Section):
    """The whole of params.yaml."""

    seed: Seed
    dtype: Dtype
    corpus: Corpus
    models: ModelsParams
    data: DataParams
    sft: SftParams
    generate: GenerateParams
    judge: JudgeParams
    pairs: PairsParams
    dpo: DpoParams
    evaluate: EvaluateParams
    agreement: AgreementParams
    compare: CompareParams
    report: ReportParams
    compute: ComputeParams
