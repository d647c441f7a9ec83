"""An engine whose rows several processes of this machine compute, each with the model on its own device.

The main process keeps the order, the row cache and the files. A worker gets a piece at a time: neighbouring
rows, so that those with a common prompt or prefix are computed together.
"""

import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from typing import Any

from medqa.engines import worker_process
from medqa.engines.base import Completion, Engine, Failure, Labels, Likelihood, Request, Sampling
from medqa.runtime.errors import UserError

PIECES = 4  # per worker if there are enough rows: then a slow one does not delay the others
LARGEST = 8  # batches per piece: rows are kept when their piece is done
ATTEMPTS = 2  # per piece: it may be what kills the workers


@dataclass(eq=False)
class Piece:
    """Requests that one worker computes in one go, and how many workers died of them."""

    requests: Sequence[Request]
    deaths: int = 0


@dataclass(eq=False)
class Worker:
    """A process, the pipe to it, and the piece that it works on."""

    rank: int
    process: SpawnProcess
    pipe: connection.Connection
    piece: Piece | None = None


class Workers:
    """An engine of `processes` processes, in each of which `start` (it has to pickle) makes an engine.

    Rows are yielded when their piece is done. A piece whose process dies is given to a new process once;
    UserError if that dies too. A UserError of a worker is raised when the pieces in work are done, any other
    error at once.
    """

    def __init__(self, start: Callable[[], Engine], processes: int, batch_size: int):
        self.start, self.processes, self.batch_size = start, processes, batch_size
        self.workers: list[Worker] = []

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[tuple[str, Completion | Failure]]:
        return self._run("generate", requests, sampling)

    def label_probabilities(
        self, requests: Sequence[Request], labels: Sequence[str]
    ) -> Iterator[tuple[str, Labels | Failure]]:
        return self._run("label_probabilities", requests, labels)

    def answer_logprobs(self, requests: Sequence[Request]) -> Iterator[tuple[str, Likelihood | Failure]]:
        return self._run("answer_logprobs", requests)

    def close(self) -> None:
        """End the processes at once; the next call starts new ones."""
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.join()
        self.workers.clear()

    def _run(self, operation: str, requests: Sequence[Request], *settings: Any) -> Iterator[tuple[str, Any]]:
        waiting = deque(Piece(piece) for piece in pieces(requests, self.processes, self.batch_size))
        user_error: UserError | None = None
        try:
            while busy := self._assign(waiting, operation, settings):
                for pipe in connection.wait(list(busy)):
                    try:
                        piece, rows = self._receive(busy[pipe])
                    except UserError as error:
                        user_error = user_error or error
                    else:
                        if rows is None:
                            waiting.appendleft(piece)
                        else:
                            yield from rows
                if user_error:
                    waiting.clear()
        except BaseException:
            # Answers that are still to come belong to no call any more.
            self.close()
            raise
        if user_error:
            raise user_error

    def _assign(self, waiting: deque[Piece], operation: str, settings: tuple[Any, ...]) -> dict[Any, Worker]:
        """Give each idle worker a piece; the workers that have one, by pipe."""
        idle = [worker for worker in self.workers if worker.piece is None]
        ranks = sorted(set(range(self.processes)) - {worker.rank for worker in self.workers})
        # All begin to start before the first of them is waited for.
        idle += [self._start_worker(rank) for rank in ranks[: max(0, len(waiting) - len(idle))]]
        for worker in idle[: len(waiting)]:
            worker.piece = waiting.popleft()
            with suppress(OSError):  # it has died: its pipe ends, which _receive sees
                worker.pipe.send((operation, worker.piece.requests, *settings))
        return {worker.pipe: worker for worker in self.workers if worker.piece is not None}

    def _receive(self, worker: Worker) -> tuple[Piece, list[tuple[str, Any]] | None]:
        """The piece of a worker and its rows, or None if the worker died. Raises what the worker raised."""
        assert worker.piece, "it is busy"
        piece, worker.piece = worker.piece, None
        try:
            answer = worker.pipe.recv()
        except (EOFError, OSError):
            self.workers.remove(worker)
            self._report_death(worker, piece)
            return piece, None
        if isinstance(answer, BaseException):
            raise answer
        return piece, answer

    def _report_death(self, worker: Worker, piece: Piece) -> None:
        worker.process.join()
        piece.deaths += 1
        code, rows = worker.process.exitcode or 0, len(piece.requests)
        cause = f"signal {-code} ended it" if code < 0 else f"it left with code {code}"
        cause += "; 9 is what the system sends when memory runs out" if code == -signal.SIGKILL else ""
        if piece.deaths == ATTEMPTS:
            raise UserError(
                f"a process of compute.processes died {ATTEMPTS} times at the same {rows} rows ({cause}); "
                "rerun with fewer processes or a smaller batch size in `compute`: "
                "with compute.row_cache what was done is kept"
            )
        message = f"process {worker.process.pid} died ({cause}); a new one does its {rows} rows"
        print(f"workers: {message}", file=sys.stderr, flush=True)

    def _start_worker(self, rank: int) -> Worker:
        process, pipe = worker_process.start(rank, self.processes, self.start)
        self.workers.append(Worker(rank, process, pipe))
        return self.workers[-1]


def pieces(requests: Sequence[Request], processes: int, batch_size: int) -> Iterator[Sequence[Request]]:
    """Neighbouring requests, never cut between equal prompts: at least PIECES per process, of whole batches.

    With few rows, each process has its share of them.
    """
    share = -(-len(requests) // processes)
    size = max(1, min(share, LARGEST * batch_size, max(batch_size, -(-share // PIECES))))
    start = 0
    while start < len(requests):
        end = min(start + size, len(requests))
        while end < len(requests) and requests[end].messages == requests[end - 1].messages:
            end += 1
        yield requests[start:end]
        start = end
