"""dvc.yaml tells the truth: every stage depends on the code that it imports and the parameters that it reads."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from medqa.report import contents, figures
from medqa.runtime import model_sections, sections

ROOT = Path(__file__).parent.parent
# Plumbing that no result depends on: it checks parameters, tells errors and keeps work. Everything else
# counts.
PLUMBING = ("medqa/__init__.py", "medqa/runtime/")


def stages() -> dict[str, dict]:
    """The stages of dvc.yaml, those under foreach once for each item, or each key of a section of
    params.yaml.
    """
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
            ".".join(parts[:end])
            for parts in (name.split(".") for name in names)
            for end in range(1, len(parts) + 1)
        ]
        for name in whole:
            found = module_path(name) if name.startswith("medqa") else None
            if found and found not in seen:
                seen.add(found)
                if not found.startswith(PLUMBING):
                    imports(found, seen)
    return {path for path in seen if not path.startswith(PLUMBING)}


@pytest.mark.parametrize("name", stages())
def test_deps_are_the_imports(name: str) -> None:
    script = f"stages/{name.split('@')[0]}.py"
    needed = imports(script) | {script}
    # A stage depends on a package as a whole, with the files that its code reads.
    packages = {"/".join(path.split("/")[:2]) for path in needed if path.count("/") > 1}
    declared = {dep for dep in stages()[name]["deps"] if dep.startswith(("medqa/", "stages/"))}
    assert declared == packages | {path for path in needed if path.count("/") == 1}
    # So that no edit reruns a stage in vain, it needs every module of the package.
    assert {
        str(path.relative_to(ROOT)) for package in packages for path in (ROOT / package).rglob("*.py")
    } <= needed


@pytest.mark.parametrize(
    "left", ["tree.py~", ".tree.py.swp", ".#tree.py", ".DS_Store", "__pycache__/tree.pyc"]
)
def test_what_an_editor_leaves_in_a_package_is_no_dependency(left: str) -> None:
    with Repo(str(ROOT)) as repo:
        assert repo.dvcignore.is_ignored_file(str(ROOT / "medqa" / "engines" / left))
        assert not repo.dvcignore.is_ignored_file(str(ROOT / "medqa" / "engines" / "prefix_tree.py"))


@pytest.mark.parametrize("name", stages())
def test_params_are_those_that_are_read(name: str) -> None:
    tree = ast.parse((ROOT / "stages" / f"{name.split('@')[0]}.py").read_text())
    read = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("params", "read_params()")
    }
    # The report shows all sections.
    read |= set(sections.Params.model_fields) if name == "report" else set()
    declared = {param.split(".")[0] for param in stages()[name]["params"]}
    assert declared == read - {"compute"}


def test_every_path_of_a_command_is_declared() -> None:
    for name, stage in stages().items():
        declared = set(stage["deps"]) | set(stage.get("outs", []))
        declared |= {path for kind in ("metrics", "plots") for entry in stage.get(kind, []) for path in entry}
        paths = {word for word in stage["cmd"].split() if word.startswith(("data/", "models/", "metrics/"))}
        # Of a folder, what is below it.
        assert all(any(f"{one}/".startswith(f"{path}/") for one in declared) for path in paths), name


def test_the_report_declares_what_it_reads_below_its_folders() -> None:
    needed = {f"models/{name}" for name in contents.MODELS} | {f"data/{name}.jsonl" for name in contents.DATA}
    needed |= {f"metrics/{name}.json" for name in contents.METRICS}
    needed |= {f"metrics/curves/{name}.tsv" for name in figures.CURVES}
    declared = {dep for dep in stages()["report"]["deps"] if not dep.startswith(("medqa/", "stages/"))}
    assert declared == needed


def test_no_text_of_params_is_in_a_command() -> None:
    for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items():
        fixed = (
            {"item"} if isinstance(stage.get("foreach"), list) else set()
        )  # names that stand in dvc.yaml itself
        command = (stage["do"] if "foreach" in stage else stage)["cmd"]
        assert set(re.findall(r"\$\{(.*?)\}", command)) <= fixed, name


def test_the_names_that_are_taken_are_those_of_other_stages_files() -> None:
    def written(stage: dict) -> list[str]:
        return [path for kind in ("outs", "metrics", "plots") for path in map(str, stage.get(kind, []))]

    def paths(text: str) -> list[str]:
        return re.findall(r"[\w./${}-]+/[\w./${}-]+", text)

    found = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    patterns = [re.escape(path) for text in written(found.pop("models")["do"]) for path in paths(text)]
    patterns = [pattern.replace(re.escape("${key}"), "([\\w-]+)") for pattern in patterns]
    assert len(patterns) == 3
    others = [
        path for stage in found.values() for text in written(stage.get("do", stage)) for path in paths(text)
    ]
    matches = [re.fullmatch(pattern, path) for pattern in patterns for path in others]
    assert {match[1] for match in matches if match} == set(model_sections.TAKEN)


# Whoever reads this with a shell makes a file called ran.
BAD = "a b'c\"d (1) {}; touch ran; $(touch ran) `touch ran` & touch ran | touch ran # \\ * \n touch ran"
BAD_NAMES = ["x;touch ran", "$(touch ran)`touch ran`", 'it\'s";touch ran;"', "x\ntouch ran\n"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The pipeline in a folder with a name like that, with params.yaml to be written."""
    folder = tmp_path / "my work; touch ran; $(touch ran) it's (1)"
    for name in ("medqa", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "dvc.yaml", folder / "dvc.yaml")
    Repo.init(str(folder), no_scm=True).close()
    return folder


def repro(folder: Path, changes: dict, *words: str) -> subprocess.CompletedProcess:
    """`dvc repro` with params.yaml changed in some sections."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    for key, value in changes.items():
        raw[key] = raw[key] | value if isinstance(value, dict) else value
    (folder / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    env = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MEDQA_"))}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    command = [sys.executable, "-m", "dvc", "repro", *words]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert not list(folder.parent.rglob("ran")), done.stdout + done.stderr
    return done


def test_nothing_in_params_runs_a_command(project: Path) -> None:
    judge = yaml.safe_load((ROOT / "params.yaml").read_text())["models"]["judge"]
    judges = dict.fromkeys(BAD_NAMES, judge)
    changes = {
        "models": judges,
        "evaluate": {"judge": BAD},
        "sft": {"epochs": BAD},
        "seed": BAD,
        "dtype": BAD,
    }
    for folder in ("models", "data"):
        (project / folder).mkdir(exist_ok=True)
    for name in ("models/.checked", "models/base", "models/judge", "data/heldout.jsonl", f"models/{BAD}"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).touch()  # so that nothing is missing for a command to be run
    shutil.copytree(project / "medqa" / "miniature" / "corpus", project / "data" / BAD)
    # Each alone, as if nothing had checked the names before.
    targets = [*(f"models@{name}" for name in BAD_NAMES), "evaluate@base", "data", "check"]
    done = repro(project, changes | {"corpus": f"data/{BAD}"}, "--single-item", "--keep-going", *targets)
    said = done.stdout + done.stderr
    assert said.count("params.yaml: models has a judge named 'x;touch ran': ") == len(targets), said
    assert said.count("params.yaml: seed = ") == len(targets), said


@pytest.mark.parametrize("name", ["qwen2.5-3b", "../precious"])
def test_text_that_dvc_makes_paths_of_is_checked_first(project: Path, name: str) -> None:
    (project / "precious").mkdir()
    done = repro(project, {"models": {name: {}}, "corpus": "x;touch ran"})
    assert done.returncode and (project / "precious").is_dir()
    said = done.stdout + done.stderr
    assert f"params.yaml: models has a judge named {name!r}: a name is text of" in said
    assert "check: params.yaml: corpus = 'x;touch ran': must be a folder that exists" in said


def test_a_corpus_of_any_name_is_read(project: Path) -> None:
    shutil.copytree(project / "medqa" / "miniature" / "corpus", project / "files" / BAD)
    done = repro(project, {"corpus": f"files/{BAD}"}, "--single-item", "data")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (project / "data" / "sft.jsonl").stat().st_size > 10_000
