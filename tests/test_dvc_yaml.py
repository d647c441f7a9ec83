"""dvc.yaml tells the truth: every stage depends on the code that it imports and the parameters that it reads."""

import ast
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from medqa import params, report
from medqa.report import figures

ROOT = Path(__file__).parent.parent
# Plumbing that no result depends on: it checks parameters, tells errors and keeps work. Everything else counts.
PLUMBING = {f"medqa/{name}.py" for name in ("__init__", "checkpoints", "hashes", "locks", "params", "stage", "store")}


def stages() -> dict[str, dict]:
    """The stages of dvc.yaml, those under foreach once for each item, or each key of a section of params.yaml."""
    found = {}
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items():
        if "foreach" not in stage:
            found[name] = stage
            continue
        items = stage["foreach"]
        for item in params[items[2:-1]] if isinstance(items, str) else items:
            text = yaml.dump(stage["do"]).replace("${item}", item).replace("${key}", item)
            found[f"{name}@{item}"] = yaml.safe_load(text)
    return found


def module_path(name: str) -> str | None:
    path = name.replace(".", "/")
    return next((p for p in (f"{path}.py", f"{path}/__init__.py") if (ROOT / p).is_file()), None)


def imports(path: str, seen: set[str] | None = None) -> set[str]:
    """The project's files that a file imports, also inside functions and through others."""
    seen = set() if seen is None else seen
    tree = ast.parse((ROOT / path).read_text())
    # What stands under `if TYPE_CHECKING` never runs.
    skipped = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        for child in node.body
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node not in skipped:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        # A module runs its packages first.
        whole = [
            ".".join(parts[:end]) for parts in (name.split(".") for name in names) for end in range(1, len(parts) + 1)
        ]
        for name in whole:
            found = module_path(name) if name.startswith("medqa") else None
            if found and found not in seen:
                seen.add(found)
                if found not in PLUMBING:
                    imports(found, seen)
    return seen - PLUMBING


@pytest.mark.parametrize("name", stages())
def test_deps_are_the_imports(name: str) -> None:
    script = f"stages/{name.split('@')[0]}.py"
    needed = imports(script) | {script}
    # A stage depends on a package as a whole, with the files that its code reads.
    packages = {"/".join(path.split("/")[:2]) for path in needed if path.count("/") > 1}
    declared = {dep for dep in stages()[name]["deps"] if dep.startswith(("medqa/", "stages/"))}
    assert declared == packages | {path for path in needed if path.count("/") == 1}
    # So that no edit reruns a stage in vain, it needs every module of the package.
    assert {str(path.relative_to(ROOT)) for package in packages for path in (ROOT / package).rglob("*.py")} <= needed


@pytest.mark.parametrize("left", ["tree.py~", ".tree.py.swp", ".#tree.py", ".DS_Store", "__pycache__/tree.pyc"])
def test_what_an_editor_leaves_in_a_package_is_no_dependency(left: str) -> None:
    with Repo(str(ROOT)) as repo:
        assert repo.dvcignore.is_ignored_file(str(ROOT / "medqa" / "engines" / left))
        assert not repo.dvcignore.is_ignored_file(str(ROOT / "medqa" / "engines" / "tree.py"))


@pytest.mark.parametrize("name", stages())
def test_params_are_those_that_are_read(name: str) -> None:
    tree = ast.parse((ROOT / "stages" / f"{name.split('@')[0]}.py").read_text())
    read = {
        node.slice.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript)
        and isinstance(node.slice, ast.Constant)
        and ast.unparse(node.value) in ("given", "params.read()")
    }
    read |= {"corpus"} if "${corpus}" in stages()[name]["cmd"] else set()
    # Going over all sections reads all of them.
    read |= set(params.SECTIONS) if "params.read().items()" in ast.unparse(tree) else set()
    declared = {param.split(".")[0] for param in stages()[name]["params"]}
    assert declared == read - {"compute"}


def test_every_path_of_a_command_is_declared() -> None:
    for name, stage in stages().items():
        declared = set(stage["deps"]) | set(stage.get("outs", []))
        declared |= {path for kind in ("metrics", "plots") for entry in stage.get(kind, []) for path in entry}
        paths = {word for word in stage["cmd"].split() if word.startswith(("data/", "models/", "metrics/"))}
        assert paths <= declared, name


def test_the_report_declares_what_it_reads_below_its_folders() -> None:
    needed = {f"models/{name}" for name in report.MODELS} | {f"data/{name}.jsonl" for name in report.DATA}
    needed |= {f"metrics/{name}.json" for name in report.METRICS}
    needed |= {f"metrics/curves/{name}.tsv" for name in figures.CURVES}
    declared = {dep for dep in stages()["report"]["deps"] if not dep.startswith(("medqa/", "stages/"))}
    assert declared == needed
