"""The model card and the licence notice of an exported model, made from the files of the run."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from medqa import hub, jsonl
from medqa.export.licences import Licensed
from medqa.export.scoring import Scores
from medqa.records import Example, HeldOut, Pair
from medqa.runtime.errors import UserError
from medqa.runtime.sections import Params

CARD, NOTICE = hub.CARD, "NOTICE"
FOLDER = Path(__file__).parent
POLICIES = {"base": "base", "sft": "SFT", "dpo": "DPO"}
TRAININGS: dict[str, tuple[str, ...]] = {"base": (), "sft": ("sft",), "dpo": ("sft", "dpo")}  # of each policy
TINY = 10_000_000  # parameters, below which a model shows the pipeline and nothing else
MEASURES = {
    "score": "judge's score, 0 to 1",
    "key_point_recall": "key-point recall, 0 to 1",
    "token_f1": "token F1, 0 to 1",
    "rouge_l": "ROUGE-L, 0 to 1",
    "exam_accuracy": "multiple choice right, share",
}
TAGS = ["medical", "question-answering", "medqa", "not-for-clinical-use"]
ROWS = {"SFT rows": ("sft", Example), "held-out questions": ("heldout", HeldOut), "pairs": ("pairs", Pair)}


@dataclass(frozen=True)
class Card:
    """What a model card is made of."""

    params: Params
    policy: str
    format: str
    metrics: dict[str, Any]  # of `read_metrics`
    data: Path
    parts: list[Licensed]  # the base is the first
    base_repo: str  # on the Hub; empty for a model made here
    parameters: int
    scores: Scores

    def write(self, out: Path) -> None:
        """Write card and notice to the folder `out`."""
        context = self._context()
        environment = Environment(
            loader=FileSystemLoader(FOLDER),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        for name, template in ((CARD, "card.md.j2"), (NOTICE, "notice.txt.j2")):
            text = environment.get_template(template).render(context)
            (out / name).write_text(text, encoding="utf-8")

    def _context(self) -> dict[str, Any]:
        evaluations = {name: self.metrics[f"evaluate/{name}"] for name in POLICIES}
        section = self.params.model_dump(mode="json")
        return {
            "metadata": self._metadata(),
            "card": self,
            "policy": POLICIES[self.policy],
            "policies": POLICIES.values(),
            "results": _results(evaluations),
            "questions": evaluations[self.policy]["questions"],
            "compared": self.metrics["compare"],
            "agreement": self.metrics["agreement"]["by"]["all"],
            "labelled_by": self.metrics["agreement"]["labelled_by"],
            "rows": {label: self._count(name, record) for label, (name, record) in ROWS.items()},
            "trainings": {name: section[name] for name in TRAININGS[self.policy]},
            "tiny": self.parameters < TINY,
            "commit": commit(),
        }

    def _metadata(self) -> str:
        from huggingface_hub import ModelCardData

        fields: dict[str, Any] = {
            "pipeline_tag": "text-generation",
            "library_name": "gguf" if self.format == "gguf" else "transformers",
            "tags": [*TAGS, *TRAININGS[self.policy], *(["lora"] if TRAININGS[self.policy] else [])],
            **self.parts[0].metadata(),
        }
        if self.base_repo:
            fields["base_model"] = self.base_repo
        return ModelCardData(**fields).to_yaml()

    def _count(self, name: str, record: Any) -> int:
        path = self.data / f"{name}.jsonl"
        return sum(1 for _ in jsonl.read(path, record)) if path.is_file() else 0


def read_metrics(folder: Path) -> dict[str, Any]:
    """The metrics of a run that a card needs, by name. Raises UserError where one is missing."""
    result = {}
    for name in (*(f"evaluate/{policy}" for policy in POLICIES), "compare", "agreement"):
        path = folder / f"{name}.json"
        try:
            result[name] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise UserError(f"{path} cannot be read; make it with dvc repro") from None
    return result


def _results(evaluations: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """A row per measure: the mean of each model with its 95% interval."""
    return {
        label: [_interval(metrics, name) for metrics in evaluations.values()]
        for name, label in MEASURES.items()
        if any(name in metrics for metrics in evaluations.values())
    }


def _interval(metrics: dict[str, Any], name: str) -> str:
    if name not in metrics:
        return "none"
    return f"{metrics[name]:.3f} ({metrics[f'{name}_low']:.3f} to {metrics[f'{name}_high']:.3f})"


def commit() -> str:
    """The commit of the project's code, and whether files were changed after it."""
    revision, changed = (
        subprocess.run(["git", *words], capture_output=True, text=True, check=False).stdout.strip()
        for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
    )
    return (f"{revision}, with changed files" if changed else revision) or "not recorded"
