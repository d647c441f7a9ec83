"""Work shared over the addresses of a server: bounded requests, back-off, dead ones' rows to the others."""

import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from medqa.engines.base import RowError
from medqa.engines.servers import Client, Unreached
from medqa.runtime.errors import UserError
from medqa.runtime.sections import Server

WAITS = (0.5, 1, 2, 4, 8, 15, 30)  # seconds before an address that failed is asked again
LONGEST = 300  # seconds that a server's own Retry-After is honoured
TRIES = 5  # of one row: it may be what kills the servers

Task = tuple[int, int, Client | None]  # row, failed tries, the address of the last of them
Work = Callable[[Client, int], Any]


class Pool:
    """Workers for every address. They are started anew for each `run`; connections and what is known of them
    stay.
    """

    def __init__(self, name: str, server: Server):
        self.name, self.server = name, server
        self.clients = [Client(address, server.timeout) for address in server.addresses]
        self.change = threading.Condition()

    def run(self, rows: int, work: Work, finished: Callable[[int, Any], None]) -> None:
        """`work(client, row)` for each row; `finished(row, result)` in this thread, in the order of
        finishing.

        The first error that is not Unreached ends it, after what is under way has ended and been told of.
        Raises RowError for a row that fails too often, and UserError if no address answers for too long.
        """
        self.stopped, self.results = False, SimpleQueue()
        self.waiting: deque[Task] = deque((row, 0, None) for row in range(rows))
        for client in self.clients:
            client.failures, client.until = 0, 0.0
        threads = [
            threading.Thread(target=self._worker, args=(client, work), daemon=True)
            for client in self.clients
            for _ in range(min(self.server.requests, rows))
        ]
        try:
            for thread in threads:
                thread.start()
            wrong = self._collect(rows, finished)
            self._stop()
            for thread in threads:
                thread.join()
            while not self.results.empty():
                self._next(finished)
        finally:
            self._stop()
        if wrong:
            raise wrong

    def _collect(self, rows: int, finished: Callable[[int, Any], None]) -> BaseException | None:
        for _ in range(rows):
            if wrong := self._next(finished):
                return wrong
        return None

    def _next(self, finished: Callable[[int, Any], None]) -> BaseException | None:
        while True:
            try:
                row, result = self.results.get(timeout=0.1)
            except Empty:
                if wrong := self._dead():
                    return wrong
                continue
            if isinstance(result, BaseException):
                return result
            return finished(row, result)

    def _dead(self) -> UserError | None:
        """The error to end with if every address has been failing for too long."""
        # Time alone does not count: an address is dead if it was asked again after that long, and failed.
        if not all(
            client.failures and client.last - client.since >= self.server.patience for client in self.clients
        ):
            return None
        told = "; ".join(f"{client.address} ({client.why})" for client in self.clients)
        return UserError(
            f"no server of {self.name} has answered for {self.server.patience:g} s: {told}; start one, or correct "
            f"compute.servers.{self.name}, and rerun: with compute.row_cache what was answered is kept"
        )

    def _stop(self) -> None:
        with self.change:
            self.stopped = True
            self.change.notify_all()

    def _worker(self, client: Client, work: Work) -> None:
        while not self.stopped:
            # Of an address that fails, one worker alone finds out whether it is back.
            probing = client.failures > 0
            if probing and not client.probe.acquire(blocking=False):
                self._wait(0.2)
                continue
            try:
                task = self._taken(client)
                if task:
                    self._one(client, work, task)
            finally:
                if probing:
                    client.probe.release()

    def _wait(self, seconds: float) -> None:
        with self.change:
            if not self.stopped:
                self.change.wait(seconds)

    def _taken(self, client: Client) -> Task | None:
        """A row for this address: preferably none that it has failed at, while others still answer."""
        with self.change:
            pause = client.until - time.monotonic()
            alone = all(other.failures for other in self.clients if other is not client)
            found = next((task for task in self.waiting if alone or task[2] is not client), None)
            if self.stopped or pause > 0 or found is None:
                if not self.stopped:
                    self.change.wait(min(max(pause, 0.001), 0.2) if pause > 0 else 0.2)
                return None
            self.waiting.remove(found)
            return found

    def _one(self, client: Client, work: Work, task: Task) -> None:
        row, tries, _ = task
        try:
            result = work(client, row)
        except Unreached as error:
            self._failed(client, error)
            tries += error.blamed
            if tries < TRIES:
                with self.change:
                    self.waiting.appendleft((row, tries, client))
                    self.change.notify_all()
                return
            result = RowError(row, f"{tries} tries failed, the last at {client.address}: {error}")
        except BaseException as error:
            result = error
        else:
            client.failures = 0
        self.results.put((row, result))

    def _failed(self, client: Client, error: Unreached) -> None:
        with self.change:
            now = time.monotonic()
            client.since, client.last = client.since if client.failures else now, now
            wait = max(WAITS[min(client.failures, len(WAITS) - 1)], min(error.wait, LONGEST))
            # Requests that were under way together fail together: they are one failure.
            if now >= client.until:
                client.until, client.failures = now + wait, client.failures + 1
            client.why = str(error)
