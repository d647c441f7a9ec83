"""medqa.hub against a Hub on loopback: the real client, in one process per call of `run`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import medqa.hub
from bench.local_hub import Repo, running, sha256
from medqa import models
from medqa.data import raw_rows
from medqa.runtime import data_section
from medqa.runtime.errors import UserError

ROOT = Path(__file__).parents[1]
WEIGHTS = bytes(range(256)) * 800
CARD = b"---\nlanguage: [en]\nlicense: apache-2.0\n---\n# Words"
MODEL = {
    "config.json": b'{"model_type": "tiny"}',
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"a pickle",
    "modeling_tiny.py": b"raise SystemExit",
    "original/model.safetensors": b"the same again",
    "README.md": CARD,
}
PINNED = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
COMMIT = "c" * 40
DRIVER = """
import json, sys
from pathlib import Path
from medqa import hub, hub_client
from medqa.runtime.errors import UserError
hub_client.WAITS = (0, 0, 0, 0)
for name, *args in json.load(sys.stdin):
    args = [Path(value) if isinstance(value, str) and value.startswith("/") else value for value in args]
    try:
        function = getattr(hub, name, None) or getattr(hub_client, name)
        print(json.dumps({"result": function(*args)}, default=str))
    except UserError as error:
        print(json.dumps({"error": str(error)}))
"""


def run(hub, home: Path, *calls: list, **settings: str) -> list:
    """The results of calls of medqa.hub in one new process, or {"error": sentence} of those that fail."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    env |= {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "*",
    }
    env |= {"PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_PROGRESS_BARS": "1"} | settings
    pipes = {"input": json.dumps(calls, default=str), "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", DRIVER], **pipes, env=env, cwd=home, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert settings.get("HF_TOKEN", "\0") not in done.stdout + done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for answer in answers:
        assert answer.get("error", "One sentence.").count("\n") == 0
    return [answer.get("result", answer) for answer in answers]


@pytest.fixture
def hub():
    with running({"models/me/good": Repo(dict(MODEL))}) as served:
        yield served


def cached(home: Path, name: str) -> Path:
    return home / "hf/hub/models--me--good/snapshots" / COMMIT / name


def test_pins_a_branch_then_works_without_the_hub(tmp_path):
    out, moved = tmp_path / "out", tmp_path / "moved"
    with running({"models/me/good": Repo(dict(MODEL))}) as hub:
        (pinned,) = run(hub, tmp_path, ["pin", "me/good", "main", out])
        fetched = {
            path.rpartition("/resolve/")[2].split("/", 1)[1] for _, path, _ in hub.log if "/resolve/" in path
        }
    sums = {name: sha256(MODEL[name]) for name in PINNED}
    assert pinned == {"repo": "me/good", "commit": COMMIT, "licence": "apache-2.0", "files": sums}
    assert fetched == {*PINNED, "README.md"}
    text = (out / "pin.json").read_text()
    assert text == json.dumps(pinned, indent=2, sort_keys=True) + "\n"
    assert [path.name for path in out.iterdir()] == ["pin.json"]

    folder, again, gone = run(
        hub,
        tmp_path,
        ["local_path", out],
        ["pin", "me/good", COMMIT, moved],
        ["pin", "me/good", "main", moved],
    )
    assert Path(folder) == cached(tmp_path, "x").parent
    assert (Path(folder) / "model.safetensors").read_bytes() == WEIGHTS
    assert again == pinned
    assert "me/good" in gone["error"] and "network" in gone["error"]


def test_refuses_pickles_and_code(tmp_path, hub):
    hub.repos["models/me/pickle"] = Repo({"config.json": b"{}", "pytorch_model.bin": b"a pickle"})
    code = b'{"auto_map": {"AutoModel": "modeling_tiny.Tiny"}}'
    hub.repos["models/me/code"] = Repo(MODEL | {"config.json": code})
    hub.repos["models/me/tokenizer"] = Repo(MODEL | {"tokenizer_config.json": code})
    hub.repos["models/me/list"] = Repo(MODEL | {"config.json": b"<html>"})
    names = ["me/pickle", "me/code", "me/tokenizer", "me/list"]
    answers = run(hub, tmp_path, *(["pin", name, "main", tmp_path / "out"] for name in names))
    for name, answer, word in zip(names, answers, ["pickles", "auto_map", "auto_map", "JSON"], strict=True):
        assert name in answer["error"] and word in answer["error"]
    assert not any(hub.ranges("GET", suffix) for suffix in (".bin", ".py", ".safetensors"))
    assert not (tmp_path / "out").exists()


def test_names_what_is_wrong_without_a_token(tmp_path, hub):
    hub.repos["models/me/private"] = Repo(dict(MODEL), token="hf_secret")
    hub.repos["models/me/gated"] = Repo(dict(MODEL), gated=True)
    out = tmp_path / "out"
    calls = [("me/private", "main"), ("me/none", "main"), ("me/gated", "main"), ("not a name", "main")]
    answers = run(hub, tmp_path, *(["pin", *call, out] for call in calls))
    words = ["hf auth login", "check the spelling", "accept its terms", "owner/name"]
    for (name, _), answer, word in zip(calls, answers, words, strict=True):
        assert name in answer["error"] and word in answer["error"]
    assert not out.exists()


@pytest.mark.parametrize("revision", ["d" * 40, "typo"])
def test_a_revision_that_the_repo_does_not_have_is_named_with_its_key(tmp_path, hub, revision: str) -> None:
    hub.repos["datasets/me/qa"] = Repo({"train.json": b"[]"})
    out = tmp_path / "models" / "base"
    calls = (
        ["pin", "me/good", revision, out],
        ["fetch_dataset", "me/qa", revision, ["*.json"], "data.sft.revision"],
    )
    answers = run(hub, tmp_path, *calls)
    for answer, repo, key in zip(answers, ("me/good", "me/qa"), ("models.base", "data.sft"), strict=True):
        remedy = f"set {key}.revision in params.yaml to a commit that the repo's page on the Hub lists."
        assert answer["error"] == f"{repo} has no revision {revision}: {remedy}"
    assert len(hub.log) == 2 and not out.exists()


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        (
            b"---\nlicense: other\nlicense_name: qwen-research\nlicense_link: LICENSE\n---\nwords",
            "qwen-research",
        ),
        (b"\xef\xbb\xbf---\r\nlicense: other\r\n---\r\n", "other"),
        (b"---\nlicense: [mit, cc-by-4.0]\n---\n", "mit, cc-by-4.0"),
        (b"---\nlanguage: en\n---\n", "not stated"),
        (b"---\n---\n", "not stated"),
        (b"words\n---\nlicense: mit\n---\n", "not stated"),
        (b"---\nlicense: {mit\n---\n", "not stated"),
        (b"---\n- license\n---\n", "not stated"),
        (b'---\nlicense: "mit\\e[2J"\n---\n', "not stated"),
        (b"\xff\xfe", "not stated"),
    ],
)
def test_the_licence_is_the_one_that_the_card_states(tmp_path, card: bytes, licence: str) -> None:
    path = tmp_path / "README.md"
    path.write_bytes(card)
    assert medqa.hub.card_licence(path) == licence


def test_weights_in_the_cache_are_pinned_without_the_hub_even_if_the_licence_is_not_there(
    tmp_path, hub
) -> None:
    out = tmp_path / "out"
    run(hub, tmp_path, ["pin", "me/good", "main", out])
    call = ["pin", "me/good", COMMIT, out]
    (again,) = run(hub, tmp_path, call, HF_HUB_OFFLINE="1")
    assert again["licence"] == "apache-2.0"
    card = cached(tmp_path, "README.md")
    card.resolve().unlink()
    card.unlink()
    pinned, licence = run(hub, tmp_path, call, ["licence", out], HF_HUB_OFFLINE="1")
    assert pinned == again | {"licence": "not recorded"} and licence == "not recorded"


def test_uses_the_token(tmp_path, hub):
    hub.repos["models/me/private"] = Repo(dict(MODEL), token="hf_secret")
    call = ["pin", "me/private", "main", tmp_path / "out"]
    (pinned,) = run(hub, tmp_path, call, HF_TOKEN="hf_secret")
    assert sorted(pinned["files"]) == PINNED
    (refused,) = run(hub, tmp_path, call, HF_TOKEN="stale")
    assert "me/private" in refused["error"] and "401" in refused["error"] and "HF_TOKEN" in refused["error"]


def test_goes_on_after_a_broken_download(tmp_path, hub):
    # The client writes whole chunks of 10 MiB, so only a file of more than two can go on from where it broke.
    weights = WEIGHTS * 120
    hub.repos["models/me/good"].files["model.safetensors"] = weights
    hub.cut["model.safetensors"] = 2
    hub.fail["api/models/me/good/revision/main"] = 2
    (pinned,) = run(hub, tmp_path, ["pin", "me/good", "main", tmp_path / "out"])
    assert pinned["files"]["model.safetensors"] == sha256(weights)
    first, *later = hub.ranges("GET", "model.safetensors")
    assert first is None
    assert [span.startswith("bytes=1") for span in later] == [True, True]


def test_tries_again_after_a_reset_connection(tmp_path, hub):
    hub.cut["model.safetensors"], hub.reset = 2, True
    del hub.repos["models/me/good"].files["README.md"]
    (pinned,) = run(hub, tmp_path, ["pin", "me/good", "main", tmp_path / "out"])
    assert pinned["files"]["model.safetensors"] == sha256(WEIGHTS) and pinned["licence"] == "not stated"
    assert hub.ranges("GET", "model.safetensors") == [None] * 3


def test_gives_up_when_the_hub_stays_away(tmp_path, hub):
    hub.fail["api/models/me/good/revision/main"] = 99
    (answer,) = run(hub, tmp_path, ["pin", "me/good", "main", tmp_path / "out"])
    assert "503" in answer["error"] and "me/good" in answer["error"]
    assert len(hub.log) == 5
    (answer,) = run(hub, tmp_path, ["pin", "me/good", COMMIT, tmp_path / "out"], HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE" in answer["error"]


def test_a_spoiled_download_is_fetched_again_once(tmp_path, hub):
    hub.spoil["model.safetensors"] = 1
    hub.spoil["tokenizer.json"] = 1
    (pinned,) = run(hub, tmp_path, ["pin", "me/good", "main", tmp_path / "out"])
    assert pinned["files"] == {name: sha256(MODEL[name]) for name in PINNED}
    hub.spoil["tokenizer.json"] = 9
    cached(tmp_path, "tokenizer.json").resolve().unlink()
    (answer,) = run(hub, tmp_path, ["local_path", tmp_path / "out"])
    assert "tokenizer.json of me/good" in answer["error"] and "checksum" in answer["error"]
    assert hub.spoil["tokenizer.json"] == 7


def test_local_path_mends_the_cache(tmp_path, hub):
    out = tmp_path / "out"
    run(hub, tmp_path, ["pin", "me/good", "main", out])
    weights, tokenizer = cached(tmp_path, "model.safetensors"), cached(tmp_path, "tokenizer.json")
    weights.resolve().write_bytes(b"\1" + WEIGHTS[1:])
    tokenizer.unlink()
    hub.log.clear()
    (folder,) = run(hub, tmp_path, ["local_path", out])
    assert (Path(folder) / "model.safetensors").read_bytes() == WEIGHTS
    assert tokenizer.read_bytes() == b"{}"
    assert hub.ranges("GET", "model.safetensors") == [None]
    assert not hub.ranges("HEAD", "config.json")


def test_local_path_of_other_folders(tmp_path, hub):
    weights, empty, torn, outside = (tmp_path / name for name in ("weights", "empty", "torn", "outside"))
    for folder in (weights, empty, torn, outside):
        folder.mkdir()
    (weights / "model.safetensors").write_bytes(WEIGHTS)
    (torn / "pin.json").write_text('{"repo": "me/go')
    pinned = {"repo": "me/good", "commit": COMMIT, "files": {"../../model.safetensors": "0" * 64}}
    (outside / "pin.json").write_text(json.dumps(pinned))
    path, *answers = run(hub, tmp_path, *(["local_path", path] for path in (weights, empty, torn, outside)))
    assert Path(path) == weights
    for folder, answer in zip((empty, torn, outside), answers, strict=True):
        assert str(folder) in answer["error"] and "rerun the stage `models`" in answer["error"]
    assert not hub.log


def test_fetch_dataset(tmp_path, hub):
    files = {
        "data/b-1.parquet": b"PAR1 b",
        "data/a-0.parquet": b"PAR1 a",
        "README.md": b"words",
        "load.py": b"1/0",
    }
    hub.repos["datasets/me/qa"] = Repo(files, commit="e" * 40, branches=("main", "refs/convert/parquet"))
    calls = [("me/qa", "main", ["data/*.parquet"]), ("me/qa", "refs/convert/parquet", ["README.md"])]
    calls += [("me/qa", "main", ["*.csv"]), ("me/good", "main", ["*"])]
    data, readme, none, model = run(
        hub, tmp_path, *(["fetch_dataset", *call, "data.sft.revision"] for call in calls)
    )
    assert data[0] == "e" * 40
    assert [Path(path).read_bytes() for path in data[1]] == [b"PAR1 a", b"PAR1 b"]
    assert [Path(path).name for path in readme[1]] == ["README.md"]
    assert "*.csv" in none["error"] and "me/qa" in none["error"]
    assert "me/good" in model["error"]
    assert not hub.ranges("GET", ".py")


def test_each_data_set_is_fetched_with_the_key_of_its_own_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(repo: str, revision: str, patterns: list[str], key: str) -> tuple[str, list[Path]]:
        keys[repo] = key
        return revision, []

    keys: dict[str, str] = {}
    monkeypatch.setattr(medqa.hub, "fetch_dataset", fetch)
    sft, preference = (
        data_section.HubRows(source="hub", repo=f"me/{name}", revision=COMMIT) for name in ("sft", "pairs")
    )
    raw_rows.raw_rows(ROOT, sft, preference, seed=0)
    assert keys == {"me/sft": "data.sft.revision", "me/pairs": "data.preference.revision"}


def test_a_model_is_identified_by_its_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither"):
        medqa.hub.identity(tmp_path)
    (tmp_path / "model-1.safetensors").write_bytes(b"a")
    alone = medqa.hub.identity(tmp_path)
    (tmp_path / "model-2.safetensors").write_bytes(b"b")
    assert len(alone) == 12 and medqa.hub.identity(tmp_path) != alone
    assert medqa.hub.licence(tmp_path) == "made here"
    pin = {"repo": "a/b", "commit": "0" * 40, "files": {"model.safetensors": "1" * 64}}
    (tmp_path / "pin.json").write_text(json.dumps(pin))
    assert medqa.hub.describe(tmp_path) == f"{tmp_path.name} (a/b@{'0' * 40})"
    assert medqa.hub.licence(tmp_path) == "not recorded"
    (tmp_path / "pin.json").write_text(json.dumps(pin | {"licence": "mit"}))
    assert medqa.hub.licence(tmp_path) == "mit"
    assert models.summary(tmp_path, []) == {"repo": "a/b", "commit": "0" * 40, "licence": "mit", "files": 1}


def test_one_file_is_fetched_by_its_checksum(tmp_path):
    data = b"GGUF" * 1000
    with running({"models/me/good": Repo(dict(MODEL) | {"tiny.gguf": data})}) as hub:
        call = ["fetch", "me/good", COMMIT, "tiny.gguf", "model"]
        wrong, right = run(hub, tmp_path, [*call, "0" * 64], [*call, sha256(data)])
    assert Path(right).read_bytes() == data
    assert "came twice with a wrong checksum" in wrong["error"]


@pytest.mark.parametrize("module", ["stages.pairs", "stages.compare", "stages.data"])
def test_stages_without_models_load_no_client_of_the_hub(module: str) -> None:
    code = f"import sys, {module}; sys.exit('huggingface_hub' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
