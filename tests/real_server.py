"""`transformers serve` on loopback: a real server that speaks OpenAI's protocol."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from transformers.utils.import_utils import is_serve_available


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a server of the model in a folder, in float32."""
    if not is_serve_available():
        pytest.skip("transformers serve needs fastapi, openai and uvicorn: pip install -e '.[dev]'")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), "--device", "cpu"]
    log = folder.with_name("log")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(folder.parent)}
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        end = time.monotonic() + 90
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None and time.monotonic() < end, log.read_text()[-2000:]
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(20)


def answers(url: str) -> bool:
    """Whether a server answers under this address."""
    try:
        return httpx2.get(url, trust_env=False).status_code == 200
    except httpx2.TransportError:
        return False
