"""dvc.yaml is true: every stage depends on the code that it imports and the parameters that it reads."""

import ast
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import code_deps
import pytest
import yaml
from dvc.repo import Repo
from dvc.stage import PipelineStage

from medqa import compare
from medqa.report import contents, figures
from medqa.runtime import model_sections, sections

ROOT = Path(__file__).parent.parent
CODE = ("medqa/", "stages/")


@cache
def stages() -> dict[str, PipelineStage]:
    """The stages of dvc.yaml by name, as DVC reads them: those under foreach once per item."""
    with Repo(str(ROOT)) as repo:
        return {stage.name: stage for stage in repo.stage.load_all(str(ROOT / "dvc.yaml"))}


def deps(name: str) -> list[str]:
    """The files and folders that a stage depends on."""
    return [dep.def_path for dep in stages()[name].deps if dep.def_path != "params.yaml"]


def outs(name: str) -> list[str]:
    """The files and folders that a stage writes, with its metrics and plots."""
    return [out.def_path for out in stages()[name].outs]


def stages_of(path: str) -> set[str]:
    """The stages that an edit of a file reruns."""
    return {name.split("@")[0] for name in stages() for dep in deps(name) if f"{path}/".startswith(f"{dep}/")}


@pytest.mark.parametrize("name", stages())
def test_deps_are_the_imports(name: str) -> None:
    needed = code_deps.code_deps(f"stages/{name.split('@')[0]}.py")
    # The corpus is a folder that params.yaml names.
    declared = [dep for dep in deps(name) if dep.startswith(CODE) and dep != "medqa/miniature/corpus"]
    listed = "".join(f"\n      - {dep}" for dep in needed)
    assert declared == needed, f"run `python tests/code_deps.py`; the code of {name} is{listed}"


def test_no_stage_depends_on_what_only_runs_it() -> None:
    """medqa/runtime cannot change a result: no stage names it, and it imports nothing that a stage needs."""
    assert not [dep for name in stages() for dep in deps(name) if dep.startswith(code_deps.UNTRACKED)]
    for path in (ROOT / "medqa" / "runtime").glob("*.py"):
        imported = set(re.findall(r"^\s*(?:from|import) (medqa[.\w]*)", path.read_text(), re.MULTILINE))
        assert all(name.startswith("medqa.runtime") for name in imported), path


def test_a_new_field_of_attack_rows_reruns_no_training() -> None:
    attacks = stages_of(code_deps.defining_file("medqa.records", "AttackResult"))
    assert "agreement" in attacks and not attacks & {"models", "data", "sft", "generate", "judge", "dpo"}


@pytest.mark.parametrize("name", ["train_scratch", "training_text", "corrupted_answers"])
def test_an_edit_of_the_curriculum_of_the_judge_does_not_rerun_data(name: str) -> None:
    assert stages_of(f"medqa/miniature/{name}.py") == {"models"}


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
    declared = {key.split(".")[0] for dep in stages()[name].deps for key in getattr(dep, "params", ())}
    assert declared == read - {"compute"}


def test_a_sheet_of_scores_reruns_the_comparison_and_the_folder_is_there_without_any() -> None:
    assert stages_of("data/people") == {"compare"}
    listing = subprocess.run(["git", "ls-files", "data/people"], cwd=ROOT, capture_output=True, text=True)
    assert listing.stdout.split() == ["data/people/README.md"]


def test_a_control_that_is_switched_reruns_itself_and_never_dpo() -> None:
    """What it writes starts the stages behind it; the report shows every parameter."""
    readers = {
        name: key
        for name in stages()
        for dep in stages()[name].deps
        for key in getattr(dep, "params", ())
        if key.split(".")[0] == "control"
    }
    own = {f"control@{name}": f"control.{name}" for name in compare.CONTROLS}
    assert readers == own | {"report": "control"}


def test_every_path_of_a_command_is_declared() -> None:
    for name, stage in stages().items():
        declared = [*deps(name), *outs(name)]
        paths = {word for word in stage.cmd.split() if word.startswith(("data/", "models/", "metrics/"))}
        # Of a folder, what is below it.
        assert all(any(f"{entry}/".startswith(f"{path}/") for entry in declared) for path in paths), name


def test_the_report_declares_what_it_reads_below_its_folders() -> None:
    needed = {f"models/{name}" for name in contents.MODELS} | {f"data/{name}.jsonl" for name in contents.DATA}
    needed |= {f"metrics/{name}.json" for name in contents.METRICS}
    needed |= {f"metrics/curves/{name}.tsv" for name in figures.CURVES}
    assert {dep for dep in deps("report") if not dep.startswith(CODE)} == needed


def test_no_text_of_params_is_in_a_command() -> None:
    for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items():
        fixed = {"item"} if isinstance(stage.get("foreach"), list) else set()  # listed in dvc.yaml itself
        command = (stage["do"] if "foreach" in stage else stage)["cmd"]
        assert set(re.findall(r"\$\{(.*?)\}", command)) <= fixed, name


def test_the_names_that_are_taken_are_those_of_other_stages_files() -> None:
    """A judge must not be named like a file that another stage writes beside those of the models."""
    patterns = [re.escape(path).replace("base", r"([\w-]+)") for path in outs("models@base")]
    others = [path for name in stages() if not name.startswith("models@") for path in outs(name)]
    assert len(patterns) == 3
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
    shown = done.stdout + done.stderr
    assert shown.count("params.yaml: models has a model named 'x;touch ran': ") == len(targets), shown
    assert shown.count("params.yaml: seed = ") == len(targets), shown


@pytest.mark.parametrize("name", ["qwen2.5-3b", "../precious"])
def test_text_that_dvc_makes_paths_of_is_checked_first(project: Path, name: str) -> None:
    (project / "precious").mkdir()
    done = repro(project, {"models": {name: {}}, "corpus": "x;touch ran"})
    assert done.returncode and (project / "precious").is_dir()
    shown = done.stdout + done.stderr
    assert f"params.yaml: models has a model named {name!r}: a name is text of" in shown
    assert "check: params.yaml: corpus = 'x;touch ran': must be a folder that exists" in shown


def test_a_corpus_of_any_name_is_read(project: Path) -> None:
    shutil.copytree(project / "medqa" / "miniature" / "corpus", project / "files" / BAD)
    done = repro(project, {"corpus": f"files/{BAD}"}, "--single-item", "data")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (project / "data" / "sft.jsonl").stat().st_size > 10_000
