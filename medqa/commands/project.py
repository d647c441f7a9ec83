"""The project that a command runs in: DVC's repository, and the stages of its dvc.lock."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from medqa.runtime.errors import UserError

if TYPE_CHECKING:
    from dvc.repo import Repo

LOCK = Path("dvc.lock")


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
        return dict(yaml.safe_load(LOCK.read_text(encoding="utf-8"))["stages"])
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, ValueError):
        raise UserError(
            f"{LOCK} is no lock file of DVC; git checkout {LOCK} brings the committed one back"
        ) from None
