"""Section `benchmark` of params.yaml: the tasks, and where the rows of each come from."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from medqa.runtime.fields import Count, Int, Section

TaskName = Literal[
    "medqa_4options",
    "medmcqa",
    "pubmedqa",
    "mmlu_anatomy",
    "mmlu_clinical_knowledge",
    "mmlu_college_biology",
    "mmlu_college_medicine",
    "mmlu_medical_genetics",
    "mmlu_professional_medicine",
]  # of lm-eval


class HubFile(Section):
    """A file of a data set of the Hugging Face Hub, pinned to a commit."""

    source: Literal["hub"]
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """Owner and name."""
    revision: str = Field(min_length=1)
    """The commit, so that the rows never change."""
    file: str = Field(min_length=1)
    """Its path in the data set: parquet, JSON or JSON lines."""


class RowFile(Section):
    """A file of the user's with the same columns: parquet, JSON or JSON lines."""

    source: Literal["files"]
    path: str
    """Relative to `corpus`, or absolute."""


class BenchmarkParams(Section):
    """Section `benchmark`: multiple-choice tasks of lm-eval on base, SFT and DPO."""

    tasks: tuple[TaskName, ...]
    """Tasks by lm-eval's names; none: the stage is off."""
    limit: Count | None
    """Rows per task, drawn by the seed; null: all."""
    chat_template: bool
    """Ask in the model's chat format; the numbers that people publish are mostly without."""
    bootstrap_samples: Int = Field(ge=100)
    """For the confidence intervals."""
    sources: dict[TaskName, Annotated[HubFile | RowFile, Field(discriminator="source")]]
    """Where the rows of each task come from."""

    @model_validator(mode="after")
    def _sources_of_tasks(self) -> "BenchmarkParams":
        for name in self.tasks:
            if name not in self.sources:
                raise ValueError(f"tasks names {name}, and sources has no {name}: add it there")
            if self.tasks.count(name) > 1:
                raise ValueError(f"tasks names {name} twice")
        return self

    def files(self) -> dict[str, str]:
        """The files that the tasks read, by key, relative to `corpus`."""
        sources = {name: self.sources[name] for name in self.tasks}
        return {
            f"sources.{name}.path": source.path
            for name, source in sources.items()
            if isinstance(source, RowFile)
        }
