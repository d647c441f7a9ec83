"""medqa push: an exported folder on a Hub on loopback, through the real client in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.local_hub import Repo, running

ROOT = Path(__file__).parent.parent
FILES = {"README.md": b"---\nlicense: mit\n---\n# Words", "NOTICE": b"not for", "config.json": b"{}"}
FILES |= {"model.safetensors": bytes(range(256)) * 100, "model.gguf": b"GGUF" * 99}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    out = tmp_path / "export"
    out.mkdir()
    for name, data in FILES.items():
        (out / name).write_bytes(data)
    return out


def push(hub, home: Path, *words: str, **settings: str) -> subprocess.CompletedProcess:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf"), "NO_PROXY": "*", "PYTHONPATH": str(ROOT)}
    env |= {"HF_HUB_DISABLE_XET": "1"} | settings  # the Hub on loopback speaks LFS
    command = [sys.executable, "-m", "medqa", "push", *words]
    done = subprocess.run(command, env=env, cwd=home, capture_output=True, text=True, timeout=120)
    assert settings.get("HF_TOKEN", "\0") not in done.stdout + done.stderr
    return done


def test_it_makes_a_private_repo_and_uploads_every_file(folder: Path, tmp_path: Path) -> None:
    with running({}) as hub:
        hub.writer = "secret-writer"
        done = push(hub, tmp_path, "me/answers", "export", HF_TOKEN="secret-writer")
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{hub.url}/me/answers has the model.\n"
        repo = hub.repos["models/me/answers"]
        assert repo.files == FILES and repo.private
        # Again, to the same repo; and publicly, to another one, from the folder that is the default.
        assert push(hub, tmp_path, "me/answers", HF_TOKEN="secret-writer").returncode == 0
        assert push(hub, tmp_path, "me/open", "--public", HF_TOKEN="secret-writer").returncode == 0
        assert not hub.repos["models/me/open"].private


@pytest.mark.parametrize(
    ("words", "token", "message"),
    [
        (
            ["me/answers"],
            "",
            "the Hub needs a token that may write to me/answers; set HF_TOKEN or run `hf auth",
        ),
        (["me/answers"], "reader", "the Hub refused your token for me/answers (403); set HF_TOKEN"),
        (["answers"], "secret-writer", "'answers' is not the name of a repo; write it as owner/name"),
        (["me/answers", "hf"], "secret-writer", "hf holds no exported model; make one with medqa export hf"),
    ],
)
def test_refusals_are_one_sentence(
    folder: Path, tmp_path: Path, words: list[str], token: str, message: str
) -> None:
    with running({"models/you/other": Repo({})}) as hub:
        hub.writer = "secret-writer"
        done = push(hub, tmp_path, *words, **({"HF_TOKEN": token} if token else {}))
        assert done.returncode == 1 and done.stdout == ""
        assert done.stderr.startswith(f"medqa push: {message}") and done.stderr.count("\n") == 1
        assert list(hub.repos) == ["models/you/other"]


def test_a_hub_out_of_reach_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    with running({}) as hub:
        address = hub.url
    hub.url = address
    done = push(hub, tmp_path, "me/answers", HF_TOKEN="secret-writer")
    assert done.returncode == 1 and "check the network and HF_ENDPOINT" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
