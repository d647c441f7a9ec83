"""Runs a stage from the command line: its parameters become options, its errors one line and an exit code."""

import argparse
import errno
import hashlib
import inspect
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from medqa.runtime import locks, measurements
from medqa.runtime.environment import out_of_memory, scratch_root, set_up
from medqa.runtime.errors import UserError
from medqa.runtime.params import read_params

OUT_OF_MEMORY = (
    "memory ran out; training takes less with a smaller micro_batch_size or with activation_checkpointing: "
    "true, other stages with a smaller batch size in `compute`"
)
UNTOUCHED = "nothing half-written was left in place"
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def run(main: Callable[..., str]) -> None:
    """Call `main` with its parameters (paths or text) from the command line, and print the line it returns.

    A parameter with a default is an option that may be left out.
    """
    options = _parse_options(main)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    set_up()
    name = Path(sys.argv[0]).stem
    try:
        _run(name, main, options)
    except UserError as error:
        _fail(name, str(error), 1)
    except FileNotFoundError as error:
        _fail(name, f"{error.filename} is not there; rerun the stage that writes it (dvc repro)", 1)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        _fail(name, f"{error.strerror} ({error.filename or Path.cwd()}); {UNTOUCHED}", 1)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        _fail(name, OUT_OF_MEMORY, 1)
    except KeyboardInterrupt as error:
        _fail(name, f"interrupted; {str(error) or UNTOUCHED}", 130)


def _parse_options(main: Callable[..., str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=inspect.getdoc(main))
    for name, parameter in inspect.signature(main).parameters.items():
        kind = next(iter(get_args(parameter.annotation)), parameter.annotation)  # Path, also of Path | None
        required = parameter.default is parameter.empty
        default = None if required else parameter.default
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, required=required, default=default)
    return vars(parser.parse_args())


def _run(name: str, main: Callable[..., str], options: dict[str, Any]) -> None:
    started = time.monotonic()
    # A killed `dvc repro` leaves its stage running: without a lock the next one starts a second writer of the
    # same outputs.
    command = "\n".join([os.getcwd(), name, *sys.argv[1:]])
    lock = scratch_root() / "locks" / f"{hashlib.sha256(command.encode()).hexdigest()[:32]}.lock"
    locks.wait(lock, name)
    params = _params_to_note(name)
    line = main(**options)
    seconds = time.monotonic() - started
    print(f"{name}: {line} ({seconds:.0f} s, peak memory {measurements.peak_gb():.2f} GB)", flush=True)
    if params:
        measurements.append(measurements.measure(_address(name), seconds, options, params))
    locks.release(lock)


def _params_to_note(name: str) -> dict[str, Any]:
    """The parameters to note beside the cost; none unless this is `python -m stages.NAME`."""
    spec = sys.modules["__main__"].__spec__
    if not spec or spec.name != f"stages.{name}":
        return {}
    return read_params().model_dump(mode="json", exclude={"compute": {"servers"}})


def _address(name: str) -> str:
    """The stage as DVC calls it, such as evaluate@sft; its name alone where DVC did not start it."""
    address = os.environ.get("DVC_STAGE", "").rpartition(":")[2]
    return address if address.split("@")[0] == name else name


def _fail(name: str, message: str, code: int) -> None:
    """Print the message, and exit without waiting for other threads."""
    sys.stdout.flush()
    print(f"{name}: {message}", file=sys.stderr, flush=True)
    os._exit(code)
