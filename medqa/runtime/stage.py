"""Runs a stage from the command line: its parameters become options, its errors one line and a non-zero exit."""

import argparse
import errno
import hashlib
import inspect
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from medqa.runtime import distributed, locks
from medqa.runtime.environment import out_of_memory, scratch_root, set_up
from medqa.runtime.errors import UserError
from medqa.runtime.params import read_params

NO_MEMORY = (
    "memory ran out; training takes less with a smaller micro_batch_size or with activation_checkpointing: true, other "
    "stages with a smaller batch size in `compute`"
)


def run(main: Callable[..., str], launched: bool = False) -> None:
    """Call `main` with its keyword parameters (paths or text) taken from options, and print the line it
    returns.

    A parameter with a default is an option that may be left out. If `launched`, it runs in
    `compute.processes` processes at once, of which the main one returns.
    """
    parser = argparse.ArgumentParser(description=inspect.getdoc(main))
    for name, parameter in inspect.signature(main).parameters.items():
        kind = next(iter(get_args(parameter.annotation)), parameter.annotation)  # Path, also of Path | None
        required = parameter.default is parameter.empty
        default = None if required else parameter.default
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, required=required, default=default)
    options = vars(parser.parse_args())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    set_up()
    started = time.monotonic()
    stage = Path(sys.argv[0]).stem
    # A killed `dvc repro` leaves its stage running, and the next would start a second writer of the same
    # outputs.
    same = hashlib.sha256("\n".join([os.getcwd(), stage, *sys.argv[1:]]).encode()).hexdigest()[:32]
    try:
        lock = scratch_root() / "locks" / f"{same}.lock"
        if launched and distributed.relaunch(read_params().compute.processes):
            return
        if distributed.rank() == 0:
            locks.wait(lock, stage)
        with distributed.report_peer_failure():
            told = main(**options)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # of kilobytes
        print(f"{stage}: {told} ({time.monotonic() - started:.0f} s, peak memory {peak:.1f} GB)", flush=True)
        locks.release(lock)
    except UserError as error:
        fail(stage, str(error), 1)
    except FileNotFoundError as error:
        fail(stage, f"{error.filename} is not there; rerun the stage that writes it (dvc repro)", 1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        fail(
            stage,
            f"{error.strerror} ({error.filename or Path.cwd()}); nothing half-written was left in place",
            1,
        )
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        fail(stage, NO_MEMORY, 1)
    except KeyboardInterrupt as error:
        fail(stage, f"interrupted; {str(error) or 'nothing half-written was left in place'}", 130)


def fail(stage: str, message: str, code: int) -> None:
    """Print the message and leave without waiting for what other threads still do."""
    sys.stdout.flush()
    if distributed.rank():
        time.sleep(distributed.PATIENCE)  # what is wrong in all processes the main one says
    print(f"{stage}: {message}", file=sys.stderr, flush=True)
    os._exit(code)
