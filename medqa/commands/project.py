"""The project that a command runs in: DVC's repository, and the stages of its dvc.lock."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from medqa.runtime.errors import UserError

if TYPE_CHECKING:
    from dvc.repo import Repo

LOCK = Path("dvc.lock")
CONSTANT = "check"  # the stage whose output is always the same: nothing reruns for it


@dataclass(frozen=True)
class Plan:
    """What `dvc repro` would do: the stages that it would run, with their outputs, and the rest."""

    outputs: dict[str, list[Path]]
    unchanged: list[str]


def plan() -> Plan:
    """The stages that have changed, and all that follow from them.

    A dry run of DVC names only the former, and fails in a fresh clone, where the input of a stage is not
    there yet. Raises UserError as `repository`, and if DVC cannot read its files, or writes them in another
    process.
    """
    repo = repository()
    try:
        from dvc.exceptions import DvcException
        from networkx import ancestors

        graph, pending = repo.index.graph, set()  # edges lead from a stage to those that it needs
        with repo.lock:
            for stage in repo.index.stages:
                if stage not in pending and stage.changed():
                    pending |= {stage} if stage.addressing == CONSTANT else {stage, *ancestors(graph, stage)}
    except DvcException as error:
        raise UserError(f"DVC cannot say what would run ({error})") from None
    stages = repo.index.stages
    outputs = {
        stage.addressing: [Path(out.fs_path) for out in stage.outs] for stage in stages if stage in pending
    }
    return Plan(outputs, [stage.addressing for stage in stages if stage not in pending])


def repository() -> "Repo":
    """DVC's repository. Raises UserError where there is none, or DVC does not start."""
    try:
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        return Repo(".")
    except DvcException as error:
        raise UserError(
            f"DVC finds no repository ({error}); run it in the project, and where that is without git after "
            "dvc config --local core.no_scm true"
        ) from None
    except (KeyError, OSError, RuntimeError) as error:
        raise UserError(f"DVC does not start ({error}); it needs the variables HOME and USER") from None


def locked_stages() -> dict[str, Any]:
    """The stages of dvc.lock by name. Raises UserError where there is none, or none that can be read."""
    if not LOCK.is_file():
        raise UserError(f"{LOCK} is not here; run it in the project, after dvc repro")
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return dict(yaml.load(LOCK.read_text(encoding="utf-8"), Loader=loader)["stages"])
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, ValueError):
        raise UserError(
            f"{LOCK} is no lock file of DVC; git checkout {LOCK} brings the committed one back"
        ) from None
