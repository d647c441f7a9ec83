"""Real servers on loopback that speak OpenAI's protocol: `transformers serve`, and llama.cpp's own."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE

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


@contextmanager
def llama_cpp(file: Path, name: str = "served", parallel: int = 1, **sampling: float) -> Iterator[str]:
    """The address of llama.cpp's own server of a GGUF file, which answers as `name` on one thread.

    `sampling` are settings of the server's own, which apply where a request has none.
    """
    pytest.importorskip("xllamacpp", reason="llama.cpp's server: pip install -e '.[dev]'")
    program = Path(__file__).with_name("llama_cpp_server.py")
    command = [sys.executable, str(program), str(file), name, str(parallel), json.dumps(sampling)]
    log = file.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=output, text=True)
    try:
        address = process.stdout.readline().strip()
        assert address, log.read_text()[-2000:]
        yield f"{address}/v1"
    finally:
        process.stdin.close()
        process.wait(20)
        process.stdout.close()
