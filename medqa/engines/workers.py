"""Rows shared over processes of this machine, each with the model on a device of its own.

The main process keeps order, store and files. A worker is asked for a piece at a time: rows that stand side
by side, so that those that share a prompt or its beginning are computed together.
"""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from typing import Any

from medqa.engines.base import CHUNK, Completion, Engine, Labels, Likelihood, RowError, Sampling
from medqa.prompts import Messages
from medqa.runtime.environment import set_up
from medqa.runtime.errors import UserError

PIECES = 4  # to each worker where there are rows enough: a slow one then does not hold up the others
TRIES = 2  # of one piece: it may be what kills the workers

Call = tuple[str, tuple[Any, ...]]  # an operation of an engine, and what it is given


@dataclass(eq=False)
class Worker:
    """A process and the pipe to it; `piece` is what it is doing."""

    rank: int
    process: Any
    pipe: connection.Connection
    piece: range | None = None


class Workers:
    """An engine whose rows `processes` engines answer, each loaded by `start` (which has to pickle) in its
    process.

    `finished` is told of each row of a piece as soon as the piece is done, by its place in what was asked. A
    piece whose process dies is given to a new one, once; UserError if that dies too. UserErrors of an engine
    are raised once what is under way is done and told of (a RowError then names the row by its place here),
    any other error at once.
    """

    def __init__(
        self,
        start: Callable[[], Engine],
        processes: int,
        batch_size: int,
        finished: Callable[[int, Any], None] = lambda place, row: None,
        progress: Callable[[int], Any] = lambda _: None,
    ):
        self.start, self.processes, self.batch_size = start, processes, batch_size
        self.finished, self.progress = finished, progress
        self.workers: list[Worker] = []

    def generate(
        self, asked: Sequence[Messages], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        return self._through(
            asked, lambda piece: ("generate", (_cut(asked, piece), sampling, _cut(seeds, piece)))
        )

    def label_probabilities(self, asked: Sequence[Messages], labels: Sequence[str]) -> list[Labels]:
        return self._through(asked, lambda piece: ("label_probabilities", (_cut(asked, piece), labels)))

    def answer_logprobs(self, asked: Sequence[Messages], answers: Sequence[str]) -> list[Likelihood]:
        return self._through(
            asked, lambda piece: ("answer_logprobs", (_cut(asked, piece), _cut(answers, piece)))
        )

    def stop(self) -> None:
        """End the processes at once; the next call starts new ones."""
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.join()
        self.workers.clear()

    def _through(self, asked: Sequence[Messages], call: Callable[[range], Call]) -> list[Any]:
        results: list[Any] = [None] * len(asked)
        waiting, deaths = deque(pieces(asked, self.processes, self.batch_size)), Counter[range]()
        wrong: UserError | None = None
        try:
            while busy := self._busy(waiting, call):
                for pipe in connection.wait(list(busy)):
                    try:
                        piece, rows = self._answer(busy[pipe], deaths)
                    except UserError as error:
                        wrong = wrong or error
                    else:
                        if rows is None:
                            waiting.appendleft(piece)
                        else:
                            self._keep(results, piece, rows)
                if wrong:
                    waiting.clear()
        except BaseException:
            # Answers that are still to come belong to no call any more.
            self.stop()
            raise
        if wrong:
            raise wrong
        return results

    def _keep(self, results: list[Any], piece: range, rows: list[Any]) -> None:
        for place, row in zip(piece, rows, strict=True):
            results[place] = row
            self.finished(place, row)
        self.progress(len(piece))

    def _busy(self, waiting: deque[range], call: Callable[[range], Call]) -> dict[Any, Worker]:
        """The workers that have a piece, by pipe, after the idle ones were given one each."""
        idle = [worker for worker in self.workers if worker.piece is None]
        free = sorted(set(range(self.processes)) - {worker.rank for worker in self.workers})
        some = [waiting.popleft() for _ in range(min(len(waiting), len(idle) + len(free)))]
        # All begin to start before the first of them is waited for.
        idle += [self._started(rank) for rank in free[: max(0, len(some) - len(idle))]]
        for worker, piece in zip(idle, some, strict=False):
            worker.piece = piece
            with suppress(OSError):  # it has died: its pipe ends, and that is seen where its answer is read
                worker.pipe.send(call(piece))
        return {worker.pipe: worker for worker in self.workers if worker.piece is not None}

    def _answer(self, worker: Worker, deaths: Counter[range]) -> tuple[range, list[Any] | None]:
        """The piece that a worker had, and its rows; none of them if it died. Raises what the worker raised."""
        piece, worker.piece = worker.piece, None
        try:
            told = worker.pipe.recv()
        except (EOFError, OSError):
            self.workers.remove(worker)
            self._died(worker, piece, deaths)
            return piece, None
        if isinstance(told, RowError):
            raise RowError(piece[told.row], told.message)
        if isinstance(told, BaseException):
            raise told
        return piece, told

    def _died(self, worker: Worker, piece: range, deaths: Counter[range]) -> None:
        worker.process.join()
        code, deaths[piece] = worker.process.exitcode, deaths[piece] + 1
        how = f"signal {-code} ended it" if code < 0 else f"it left with code {code}"
        how += "; 9 is what the system sends when memory runs out" if code == -signal.SIGKILL else ""
        if deaths[piece] == TRIES:
            raise UserError(
                f"a process of compute.processes died {TRIES} times at the same {len(piece)} rows ({how}); rerun with "
                "fewer processes or a smaller batch size in `compute`: with compute.row_cache what was done is kept"
            )
        print(
            f"workers: process {worker.process.pid} died ({how}); a new one does its {len(piece)} rows",
            file=sys.stderr,
            flush=True,
        )

    def _started(self, rank: int) -> Worker:
        import torch

        context, threads = (
            multiprocessing.get_context("spawn"),
            max(1, torch.get_num_threads() // self.processes),
        )
        ours, theirs = context.Pipe()
        given = (theirs, self.start, _device(rank), threads)
        process = context.Process(target=_serve, args=given, daemon=True, name=f"medqa worker {rank}")
        with _uninterrupted():
            process.start()
        # Only the worker holds its end, so that the pipe ends when the worker does.
        theirs.close()
        self.workers.append(Worker(rank, process, ours))
        return self.workers[-1]


def pieces(asked: Sequence[Messages], processes: int, batch_size: int) -> Iterator[range]:
    """Places side by side, never cut between equal prompts: PIECES to a process, but no less than a batch
    each.

    A piece is at most what one process asks for at once; with few rows, each process has its share of them.
    """
    share = -(-len(asked) // processes)
    size = max(1, min(share, CHUNK * batch_size, max(batch_size, -(-share // PIECES))))
    start = 0
    while start < len(asked):
        end = min(start + size, len(asked))
        while end < len(asked) and asked[end] == asked[end - 1]:
            end += 1
        yield range(start, end)
        start = end


def _cut(rows: Sequence[Any], piece: range) -> Sequence[Any]:
    return rows[piece.start : piece.stop]


def _device(rank: int) -> dict[str, str]:
    """What has to stand in the environment of a worker so that it sees its own GPU alone; nothing without
    one.
    """
    import torch

    count, given = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = given.split(",") if given else [str(number) for number in range(count)]
    return {"CUDA_VISIBLE_DEVICES": seen[rank % count].strip()} if count else {}


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A process that is started within it never sees Ctrl-C, which a terminal sends to all: the main one ends
    it.
    """
    resource_tracker.ensure_running()  # its own start would lift the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(
    pipe: connection.Connection, start: Callable[[], Engine], device: dict[str, str], threads: int
) -> None:
    """What a worker runs: calls come through the pipe, their results or errors go back, until the pipe ends."""
    # The environment has to stand before CUDA is looked for.
    os.environ.update(device)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    set_up()
    import torch

    torch.set_num_threads(threads)
    engine: Engine | None = None
    while True:
        try:
            operation, given = pipe.recv()
        except EOFError:
            return
        try:
            engine = engine or start()
            told = getattr(engine, operation)(*given)
        except UserError as error:
            told = error
        except Exception:
            # Not every error can be pickled; what is needed of it is where it came from.
            told = RuntimeError(f"in a process of compute.processes:\n{traceback.format_exc()}")
        pipe.send(told)


def _end_with_parent() -> None:
    # A main process that was killed cannot end its workers, and one in the midst of a piece reads no pipe.
    multiprocessing.parent_process().join()
    os._exit(1)
