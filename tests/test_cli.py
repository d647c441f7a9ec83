"""The command medqa: light to start, and it finds one flipped byte wherever it looks."""

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from medqa.commands import cli, doctor
from medqa.commands import project as project_module
from medqa.runtime import hashing, row_cache
from medqa.runtime.errors import UserError

ROOT = Path(__file__).parent.parent


def flip(path: Path) -> None:
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *words], cwd=folder, check=True)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose one stage wrote a file, a folder and metrics, and a row cache of two models."""
    from dvc.repo import Repo

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDQA_CACHE", str(tmp_path / "kept"))
    git(tmp_path, "init", "-q")
    Repo.init(str(tmp_path)).close()
    (tmp_path / "source.txt").write_text("a source")
    make = "mkdir -p model/part && echo weights > model/part/w && echo rows > rows.txt && echo 1 > m.json"
    stage = {
        "cmd": make,
        "deps": ["source.txt"],
        "outs": ["model", "rows.txt"],
        "metrics": [{"m.json": {"cache": False}}],
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"make": stage}}))
    with Repo(str(tmp_path)) as repo:
        repo.reproduce()
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "start")
    rows = row_cache.RowCache(row_cache.path())
    for model, name in ((hashing.dvc_hash(tmp_path / "model"), "model"), ("0" * 32 + ".dir", "gone")):
        for number in range(20):
            rows.put(model, {f"{name}{number:030}".encode(): [f"answer {number}"]})
        rows.get(model, name, [f"{name}{number:030}".encode() for number in range(3)])
    rows.db.close()
    return tmp_path


def test_help_is_fast_and_names_every_command() -> None:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "medqa", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and all(name in done.stdout for name in cli.COMMANDS)
    code = "import sys; from medqa.commands import cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass\n"
    code += "sys.exit(any(name in sys.modules for name in ('pydantic', 'torch', 'dvc', 'yaml')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0
    assert time.perf_counter() - started < 10


def test_a_folder_has_the_hash_that_dvc_gives_it(project: Path) -> None:
    lock = yaml.safe_load((project / "dvc.lock").read_text())["stages"]["make"]
    for item in lock["deps"] + lock["outs"]:
        assert hashing.dvc_hash(project / item["path"]) == item["md5"]


FILES = ["a.txt", ".DS_Store", "sub/b.tmp", "sub/keep.tmp", "sub/deep/c", "cache/d", "cache/e/f", ".git/x"]
FILES += ["é.log", "x y.txt", "__pycache__/z.pyc", "[a]/w", "build", "sub/build/q"]
PATTERNS = [
    "",
    ".DS_Store",
    "*.tmp\n!keep.tmp",
    "model/sub",
    "sub/",
    "cache/*\n!cache/e",
    "cache\n!cache/e/f",
]
PATTERNS += ["build/", "**/deep/**", "# c\n\n  *.log  ", "\\[a\\]", "[a-c].txt", "/sub", "*.txt\n!x y.txt"]
PATTERNS += ["sub/*.tmp", "__pycache__"]


@pytest.mark.parametrize("nearer", ["", "*.tmp", "!.DS_Store\n/model/a.txt"])
def test_what_dvc_ignores_is_no_part_of_a_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nearer: str
) -> None:
    from dvc.repo import Repo

    monkeypatch.chdir(tmp_path)
    Repo.init(no_scm=True).close()
    folder = tmp_path / "models" / "model"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (tmp_path / "models" / ".dvcignore").write_text(nearer)
    for text in PATTERNS:
        (tmp_path / ".dvcignore").write_text(text.replace("model/", "models/model/"))
        with Repo() as repo:
            expected = {Path(path) for path in repo.dvcignore.find(repo.fs, str(folder))}
        assert set(hashing.files(folder)) == expected, text
        assert {path.absolute() for path in hashing.files(Path("models/model"))} == expected, text


def test_code_in_a_folder_that_a_project_ignores_still_has_a_hash(tmp_path: Path) -> None:
    package = tmp_path / ".venv" / "medqa"
    for name in ("code.py", "__pycache__/code.pyc"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(name)
    outside = hashing.dvc_hash(package)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvcignore").write_text(".venv\n")
    assert list(hashing.files(package)) == [package / "code.py"] and hashing.dvc_hash(package) == outside


def test_verify_finds_nothing_in_a_sound_project(project: Path, capsys: pytest.CaptureFixture) -> None:
    (project / ".dvcignore").write_text(".DS_Store\n*~\n")
    for name in (".DS_Store", "part/w~"):
        (project / "model" / name).touch()
    assert cli.main(["verify"]) == 0
    # Four paths in the workspace; in the cache two files, a folder and its file; the store.
    assert "9 files, folders, pins and row caches checked, 0 problems" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("source.txt", "source.txt is not what dvc.lock names"),
        ("rows.txt", "--single-item make"),
        ("model/part/w", "model is not what stage make wrote"),
        ("m.json", "m.json is not what stage make wrote"),
        ("cache rows.txt", "rows.txt: its copy in the cache is damaged"),
        ("cache model", "model: its copy in the cache is damaged"),
        ("cache model/part/w", "model/part/w: its copy in the cache is damaged"),
        ("row cache", "1 rows are damaged"),
    ],
)
def test_verify_finds_one_flipped_byte(
    project: Path, capsys: pytest.CaptureFixture, name: str, message: str
) -> None:
    if name.startswith("cache "):
        md5 = hashing.dvc_hash(project / name.split()[1])
        name = f".dvc/cache/files/md5/{md5[:2]}/{md5[2:]}"
    if name == "row cache":
        with sqlite3.connect(row_cache.path()) as db:
            db.execute("UPDATE rows SET value = ? WHERE key = ?", (b'["answer 8"]', f"model{7:030}".encode()))
        db.close()
    else:
        flip(project / name)
    assert cli.main(["verify"]) == 1
    shown = capsys.readouterr().out
    assert message in shown and ", 1 problems" in shown


def test_verify_finds_a_flipped_byte_of_a_pinned_model(
    project: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    import huggingface_hub

    weights = project / "weights"
    weights.write_bytes(b"0123456789")
    pin = {"repo": "a/b", "commit": "c" * 40, "files": {"w": hashlib.sha256(b"0123456789").hexdigest()}}
    (project / "models" / "base").mkdir(parents=True)
    (project / "models" / "base" / "pin.json").write_text(json.dumps(pin))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: str(weights))
    assert cli.main(["verify"]) == 0
    flip(weights)
    assert cli.main(["verify"]) == 1
    assert "w of a/b is not as pinned" in capsys.readouterr().out


def test_doctor_names_the_licence_of_each_pin(project: Path) -> None:
    pin = {"repo": "a/b", "commit": "c" * 40, "files": {"w": "0" * 64}}
    for name, licence in (("base", {}), ("judge", {"licence": "mit"})):
        (project / "models" / name).mkdir(parents=True)
        (project / "models" / name / "pin.json").write_text(json.dumps(pin | licence))
    converted = {"file": "own.gguf", "sha256": "d" * 64, "licence": "apache-2.0"}
    for name, provenance in (("second", converted), ("third", {"system_prompt": "Be brief."})):
        (project / "models" / name).mkdir()
        (project / "models" / name / "provenance.json").write_text(json.dumps(provenance))
    assert doctor.pins() == [
        "a/b@cccccccccccc (licence not recorded)",
        "a/b@cccccccccccc (mit)",
        "own.gguf@dddddddddddd (apache-2.0)",
    ]


def test_cache_shows_prunes_verifies_and_empties(project: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["cache"]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[:2] for line in shown.splitlines()[2:]] == [["gone", "20"], ["model", "20"]]
    assert cli.main(["cache", "--verify"]) == 0
    assert cli.main(["cache", "--prune-older", "1"]) == 0 and "dropped" not in capsys.readouterr().out
    assert cli.main(["cache", "--prune-unneeded"]) == 0
    shown = capsys.readouterr().out
    assert "20 of 40 rows dropped" in shown and "gone" not in shown
    # What only an older commit names is still needed.
    (project / "dvc.lock").write_text("stages: {}\n")
    git(project, "commit", "-qam", "other")
    assert cli.main(["cache", "--prune-unneeded"]) == 0 and "dropped" not in capsys.readouterr().out
    assert cli.main(["cache", "--empty"]) == 0 and "20 of 20 rows dropped" in capsys.readouterr().out


def test_what_another_project_needs_is_never_pruned(
    project: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    second = tmp_path_factory.mktemp("it's another")
    git(second, "init", "-q")
    needed, unneeded, unknown = ("1" * 32 + ".dir", "2" * 32 + ".dir", "3" * 32 + ".dir")
    (second / "dvc.lock").write_text(f"stages: {{train: {{outs: [{{path: model, md5: {needed}}}]}}}}")
    rows = row_cache.RowCache(row_cache.path())
    monkeypatch.setenv("DVC_ROOT", str(second))
    for model in (needed, unneeded):
        rows.put(model, {model.encode(): ["answer"]})
        rows.get(model, "second", [model.encode()])
    monkeypatch.delenv("DVC_ROOT")
    rows.put(unknown, {b"3": ["answer"]})  # as an older version did, which noted no project
    rows.db.close()

    def cached_models() -> set[str]:
        with closing(row_cache.connect(row_cache.path())) as db:
            return {model for (model,) in db.execute("SELECT DISTINCT model FROM rows")}

    own = {hashing.dvc_hash(project / "model"), "0" * 32 + ".dir"}
    (second / ".git").rename(second / "away")
    assert cli.main(["cache", "--prune-unneeded"]) == 0
    assert cached_models() == own - {"0" * 32 + ".dir"} | {needed, unneeded, unknown}
    shown = capsys.readouterr().out
    assert f"{second} with git (fatal: not a git repository" in shown
    assert "what it used stays (--prune-older DAYS" in shown
    (second / "away").rename(second / ".git")
    assert cli.main(["cache", "--prune-unneeded"]) == 0
    assert cached_models() == own - {"0" * 32 + ".dir"} | {needed, unknown}
    # From the second one, too.
    monkeypatch.chdir(second)
    assert cli.main(["cache", "--prune-unneeded"]) == 0
    assert cached_models() == own - {"0" * 32 + ".dir"} | {needed, unknown}
    shutil.rmtree(project / ".git")
    assert cli.main(["cache", "--prune-unneeded"]) == 0
    assert own & cached_models() == own - {"0" * 32 + ".dir"}


def test_cache_verify_drops_what_is_damaged(project: Path, capsys: pytest.CaptureFixture) -> None:
    with sqlite3.connect(row_cache.path()) as db:
        db.execute("UPDATE rows SET sum = zeroblob(16) WHERE key IN (SELECT key FROM rows LIMIT 2)")
    db.close()
    assert cli.main(["cache", "--verify"]) == 1 and "2 damaged" in capsys.readouterr().out
    assert cli.main(["cache", "--verify"]) == 0
    row_cache.path().write_bytes(b"not a database " * 400)
    assert cli.main(["cache"]) == 1 and "delete it" in capsys.readouterr().err


def test_doctor_fits_one_screen(project: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("params.yaml", "presets", "medqa/miniature/corpus"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile)(ROOT / name, project / name)
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= 24
    for text in (
        "torch ",
        "dtype float32",
        "GB free",
        "equals base",
        "hardlink,symlink",
        "real preset",
    ):
        assert text in shown
    assert cli.main(["preset", "qwen2.5-1.5b"]) == 0
    cli.main(["doctor"])
    assert "equals qwen2.5-1.5b" in capsys.readouterr().out
    (project / "params.yaml").write_text("seed: none\n")
    assert cli.main(["doctor"]) == 1


WORDS = {  # that a command cannot do without
    "ask": ["Why?"],
    "export": ["out"],
    "import": ["none.csv", "--question", "Q", "--answer", "A"],
    "push": ["me/model"],
}
NEED_A_RUN = ("ask", "chat", "check", "export", "import", "preset", "preview", "push", "sheet")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_no_command_shows_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "accelerator", lambda: ("cpu", 0.0))
    monkeypatch.setenv("MEDQA_CACHE", str(tmp_path / "kept"))
    words = [command, *WORDS.get(command, [])]
    empty = cli.main(words)
    assert empty == (command != "cache")
    (tmp_path / "dvc.lock").write_text("stages: {}\n")  # an archive without git
    (tmp_path / ".dvc").mkdir()
    assert cli.main(words) == (command in ("doctor", "verify", *NEED_A_RUN))
    shown = "".join(capsys.readouterr())
    assert ("dvc config --local core.no_scm true" in shown) == (command in ("doctor", "verify"))
    monkeypatch.setenv("MEDQA_CACHE", str(tmp_path / "dvc.lock"))
    assert cli.main(words) == (command != "recompute")
    assert capsys.readouterr().err.count("\n") == (command != "recompute")


def test_dvc_without_a_user_is_one_sentence(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*_: object) -> None:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr("dvc.repo.Repo.__init__", without)
    with pytest.raises(
        UserError, match=r"^DVC does not start \(.*1234.*\); it needs the variables HOME and USER$"
    ):
        project_module.repository()


def test_a_mistake_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["verify"]) == 1
    assert capsys.readouterr().err.startswith("medqa verify: dvc.lock is not here")
