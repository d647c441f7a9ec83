"""The licences of what a model was made of: base, judge and data, with what each allows."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from medqa import hub
from medqa.runtime.data_section import EmbeddedRows, HubRows
from medqa.runtime.sections import Params

PROJECT = "apache-2.0"  # also of the embedded corpus
UNSTATED = ("not stated", "not recorded")


@dataclass(frozen=True)
class Licensed:
    """One part of what a model was made of."""

    part: str
    name: str
    licence: str

    @property
    def allows(self) -> str:
        """What the licence allows."""
        raw = _licences()
        return (raw["standard"] | raw["named"]).get(self.licence.lower(), raw["unknown"])

    def metadata(self) -> dict[str, str]:
        """The licence as the head of a model card has it; empty where none is known."""
        if self.licence in (*UNSTATED, "made here"):
            return {}
        if self.licence.lower() in _licences()["standard"]:
            return {"license": self.licence.lower()}
        return {"license": "other", "license_name": self.licence}


def parts(params: Params, models: Mapping[str, Path]) -> list[Licensed]:
    """The models of a run by their part in it, then its data."""
    licensed = [Licensed(part, describe(path), hub.licence(path)) for part, path in models.items()]
    data = params.data
    return [*licensed, _data("SFT data", data.sft), _data("preference data", data.preference)]


def describe(model_dir: Path) -> str:
    """A model as people know it: repo and commit, or the file that it was converted from."""
    if pinned := hub.read_pin(model_dir):
        return f"{pinned['repo']} at {pinned['commit']}"
    return hub.provenance(model_dir).get("file") or f"medqa's own {hub.describe(model_dir)}"


def _data(part: str, source: Any) -> Licensed:
    match source:
        case EmbeddedRows():
            return Licensed(part, "the embedded corpus of medqa", PROJECT)
        case HubRows():
            stated = _licences()["data"].get(source.repo, "not recorded")
            return Licensed(part, f"{source.repo} at {source.revision}", stated)
        case _:
            return Licensed(part, "files of the person who exported the model", "not stated")


@cache
def _licences() -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_name("licences.yaml").read_text(encoding="utf-8"))
