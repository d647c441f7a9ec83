"""A server of a model: its section of params.yaml, and asking one of its addresses over HTTP.

Whatever comes back is an answer, a reason to try again, or an error that names the address; it is never
believed.
"""

import json
import os
import threading
import time
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from medqa.runtime.errors import UserError

KEY = "MEDQA_API_KEY"  # the environment variable that holds the servers' key, if they want one
BUSY = (408, 425, 429, 502, 503, 504)  # says something of the server, nothing of the row
LARGEST = 64 << 20  # bytes of an answer
LOOPBACK = ("localhost", "127.0.0.1", "::1")
SENT = (
    "model",
    "messages",
    "prompt",
    "max_tokens",
    "temperature",
    "top_p",
    "seed",
    "logprobs",
    "top_logprobs",
    "echo",
)
OURS = {*SENT, "n", "stream"}  # what the engine sets itself, or relies on


class Unreached(Exception):
    """No answer, but another try may give one. `blamed`: the row was in work; `wait`: seconds the server asks
    for.
    """

    def __init__(self, why: str, blamed: bool = False, wait: float = 0):
        super().__init__(why)
        self.blamed, self.wait = blamed, wait


class Refused(UserError):
    """A server that will not answer this request, however often it is asked: `status` is 4xx."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Unanswered(UserError):
    """A server that answers as it should, but one request not with a text: a filter, a refusal, a call of a
    tool.
    """


class Client:
    """One address, and how it has been doing."""

    def __init__(self, address: str, timeout: float):
        import httpx2

        self.address, self.timeout = address, timeout
        self.failures, self.why = 0, ""  # in a row; the last of them
        self.since, self.last, self.until = 0.0, 0.0, 0.0  # first and last of them; when to ask again
        self.lock, self.probe, self.prepared = threading.Lock(), threading.Lock(), set[str]()
        self.key = os.environ.get(KEY, "").strip()
        self.http = httpx2.Client(
            headers={"Authorization": f"Bearer {self.key}"} if self.key else {},
            timeout=httpx2.Timeout(timeout, connect=min(timeout, 10)),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
            # A proxy of the environment has no business between this machine and itself.
            trust_env=urlsplit(address).hostname not in LOOPBACK,
        )

    def ask(self, path: str, body: Any = None) -> dict[str, Any]:
        """The JSON object that is answered. Raises Unreached, Refused, or UserError for what is no such
        answer.
        """
        status, told, wait = self._sent(path, body)
        if status in BUSY or status >= 500:
            raise Unreached(f"HTTP {status}: {self._told(told)}", status not in BUSY, wait)
        if status >= 400:
            raise Refused(
                status, f"{self.address} refuses with HTTP {status}{self._advice(status)}: {self._told(told)}"
            )
        try:
            data = json.loads(told) if status == 200 else None
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise self.wrong(
                f"answers with no JSON object but HTTP {status}: {self._told(told)}; it has to end in /v1"
            )
        if data.get("error"):
            raise self.wrong(f"answers with an error under HTTP 200: {self._told(told)}")
        return data

    def wrong(self, message: str) -> UserError:
        """What is wrong with this server, as an error."""
        return UserError(f"{self.address} {message}")

    def unanswered(self, message: str) -> Unanswered:
        """What this server did instead of answering one request, as an error."""
        return Unanswered(f"{self.address} {message}")

    def _sent(self, path: str, body: Any) -> tuple[int, bytes, float]:
        import httpx2

        # The client's own time-out begins again with every byte.
        end, told = time.monotonic() + self.timeout, bytearray()
        try:
            with self.http.stream(
                "GET" if body is None else "POST", self.address + path, json=body
            ) as answer:
                for part in answer.iter_bytes():
                    told += part
                    if time.monotonic() > end:
                        raise httpx2.ReadTimeout("")
                    if len(told) > LARGEST:
                        raise self.wrong(f"answers with more than {LARGEST >> 20} MB")
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise Unreached(f"cannot be reached: {str(error) or 'time-out'}") from None
        except httpx2.TimeoutException:
            raise Unreached(f"no answer within {self.timeout:g} s", blamed=True) from None
        except httpx2.DecodingError as error:
            raise self.wrong(f"answers with bytes that cannot be decoded: {error}") from None
        except httpx2.TransportError as error:
            raise Unreached(f"the connection broke: {error}", blamed=True) from None
        return answer.status_code, bytes(told), _seconds(answer.headers.get("retry-after", ""))

    def _told(self, told: bytes) -> str:
        text = " ".join(told.decode("utf-8", "replace").split())[:300] or "(nothing)"
        return text.replace(self.key, "***") if self.key else text

    def _advice(self, status: int) -> str:
        if status in (401, 403):
            return f" ({'another' if self.key else 'a'} key has to be in the environment variable {KEY})"
        return " (a field that it does not know, perhaps of `extra`)" if status == 422 else ""


def _seconds(header: str) -> float:
    """Retry-After in seconds: a number, or a date; 0 for neither."""
    try:
        wait = float(header) if header.strip().replace(".", "").isdigit() else 0
        return wait or max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0
