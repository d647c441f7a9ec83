"""Benchmark tasks: lm-eval's own definitions as data, with the prompts that decontamination compares."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import BaseLoader, Environment, StrictUndefined, meta

FOLDER = Path(__file__).parent
# lm-eval's settings; text of the rows is never a template.
_TEMPLATES = Environment(loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True)


@dataclass(frozen=True)
class Task:
    """A task of lm-eval: a template for the prompt, the options, and the column with the right one."""

    name: str
    definition: dict[str, Any]  # lm-eval's configuration, without rows
    aliases: dict[str, str]  # where a column is in files that lack it, as a dotted path
    prompts: tuple[str, ...]  # templates of what a training prompt may repeat

    @property
    def options(self) -> tuple[str, ...]:
        return tuple(self.definition["doc_to_choice"])

    @property
    def target(self) -> str:
        """The column with the right option: its number from 0, or its text."""
        return self.definition["doc_to_target"]

    @property
    def columns(self) -> list[str]:
        """The columns that a row must have."""
        parsed = _TEMPLATES.parse(self.definition["doc_to_text"])
        return [*sorted(meta.find_undeclared_variables(parsed)), self.target]

    def render_prompts(self, row: Mapping[str, Any]) -> list[str]:
        """What a training prompt may repeat of a row."""
        return [_TEMPLATES.from_string(prompt).render(**row) for prompt in self.prompts]


def load(name: str) -> Task:
    """The task of a name: a YAML file beside this one, which may serve several subjects (mmlu_anatomy)."""
    family, _, subject = name.partition("_")
    path = next(path for path in (FOLDER / f"{name}.yaml", FOLDER / f"{family}.yaml") if path.is_file())
    text = path.read_text(encoding="utf-8").replace("{subject}", subject.replace("_", " "))
    definition = yaml.safe_load(text)
    aliases, prompts = definition.pop("columns", {}), definition.pop("decontamination")
    return Task(name, {"task": name, **definition}, aliases, tuple(prompts))
