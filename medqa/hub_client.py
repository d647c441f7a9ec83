"""The Hub's client with retries, checksums, and errors of one sentence that name the remedy."""

import hashlib
import re
import time
from collections.abc import Callable
from fnmatch import fnmatch
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import huggingface_hub as hf
from huggingface_hub import errors

from medqa.runtime.errors import UserError
from medqa.runtime.hashing import sha256_of

COMMIT = re.compile(r"[0-9a-f]{40}")
WAITS = (0.5, 1, 2, 4)  # seconds before each further try
FAILURES = (errors.HTTPError, OSError, ValueError, RuntimeError, errors.CachedRepoTreeNotFoundError)
LOGIN = "set HF_TOKEN or run `hf auth login`"

RepoType = Literal["model", "dataset"]
T = TypeVar("T")


def resolve(repo: str, revision: str, repo_type: RepoType, key: str) -> str:
    """The commit that a revision names; `key` is where params.yaml states it. Raises UserError."""

    def call() -> str:
        info = hf.HfApi().model_info if repo_type == "model" else hf.HfApi().dataset_info
        try:
            return str(info(repo, revision=revision, timeout=30).sha)
        except errors.RevisionNotFoundError as error:
            message = f"{repo} has no revision {revision}: set {key} in params.yaml to a commit that"
            raise UserError(f"{message} the repo's page on the Hub lists.") from error
        except (errors.HTTPError, errors.OfflineModeIsEnabled) as error:
            # A commit is known without the Hub. If the Hub is out of reach, every file may be in the cache.
            offline = isinstance(error, errors.OfflineModeIsEnabled) or _is_transient(error)
            if COMMIT.fullmatch(revision) and offline:
                return revision
            raise

    return _with_retries(call, repo, revision)


def download(repo: str, commit: str, repo_type: RepoType, patterns: list[str]) -> list[str]:
    """Download the files that match (of a model, at the top level); returns the names of all files."""

    def call() -> list[str]:
        nested = ["*/*"] if repo_type == "model" else None
        hf.snapshot_download(
            repo, repo_type=repo_type, revision=commit, allow_patterns=patterns, ignore_patterns=nested
        )
        return [file.path for file in hf.get_cached_repo_tree(repo, repo_type=repo_type, revision=commit)]

    return _with_retries(call, repo, commit)


def fetch(repo: str, commit: str, name: str, repo_type: RepoType, sha256: str = "") -> Path:
    """The cached file, downloaded if it is missing, and a second time if its checksum is wrong.

    The checksum is `sha256`, or the Hub's own where that is empty. Raises UserError.
    """
    file: dict[str, Any] = {"repo_id": repo, "filename": name, "revision": commit, "repo_type": repo_type}
    for force in (False, True):
        cached = None if force else hf.try_to_load_from_cache(**file)
        if not isinstance(cached, str):
            download = partial(hf.hf_hub_download, **file, force_download=force)
            cached = _with_retries(download, repo, commit)
        path = Path(cached)
        # The Hub names a blob by its checksum: sha256 for a big file, git's own sha1 for a small one.
        expected = sha256 or (path.readlink().name if path.is_symlink() else "")
        if len(expected) not in (40, 64) or digest(path, as_git=len(expected) == 40) == expected:
            return path
        _drop(path)
    raise UserError(
        f"{name} of {repo} at {commit} came twice with a wrong checksum: check the disk and the network."
    )


def matches(name: str, patterns: list[str]) -> bool:
    """Whether a file's name matches one of the patterns."""
    return any(fnmatch(name, pattern) for pattern in patterns)


def digest(path: Path, as_git: bool = False) -> str:
    """The sha256 of a cached file, or the sha1 that git names it by; computed once per process."""
    return _digest(path.resolve(), path.stat().st_mtime_ns, as_git)


@cache
def _digest(path: Path, modified: int, as_git: bool) -> str:
    if not as_git:
        return sha256_of(path)
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _drop(path: Path) -> None:
    # The blob has to go too, or the Hub's client would link the broken bytes again.
    if path.is_symlink():
        (path.parent / path.readlink()).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _with_retries(call: Callable[[], T], repo: str, revision: str) -> T:
    """The result of `call`; a transient failure is tried again, the last one becomes a UserError."""
    for wait in (*WAITS, None):
        try:
            return call()
        except FAILURES as error:
            if wait is None or not _is_transient(error):
                raise UserError(_message(_root_cause(error), repo, revision)) from error
            time.sleep(wait)
    raise AssertionError("the last wait is None")


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ and not isinstance(error, (errors.HTTPError, errors.OfflineModeIsEnabled)):
        error = error.__cause__
    return error


def _is_transient(error: BaseException) -> bool:
    # The client has tried again by itself before it raises LocalEntryNotFoundError.
    if isinstance(error, errors.LocalEntryNotFoundError):
        return False
    root = _root_cause(error)
    if isinstance(root, errors.HfHubHTTPError) and (status := root.response.status_code):
        return status in (408, 429) or status >= 500
    # A short read and hf_xet's failures come as bare errors without a number.
    bare = type(root) in (OSError, ConnectionError, TimeoutError, RuntimeError)
    return isinstance(root, errors.HTTPError) or (bare and not getattr(root, "errno", None))


def _message(error: BaseException, repo: str, revision: str) -> str:
    # The errors' own texts are left out: they run over many lines and may show a signed address.
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else type(error).__name__
    match error:
        case errors.GatedRepoError():
            return f"{repo} is gated: accept its terms on its page of the Hub, then {LOGIN}."
        case errors.RepositoryNotFoundError():
            return f"The Hub shows no {repo}: check the spelling and, if it is private, {LOGIN}."
        case errors.HFValidationError():
            return f"{repo!r} is not the name of a repo: write it as owner/name."
        case errors.OfflineModeIsEnabled():
            return f"HF_HUB_OFFLINE is set but {repo} at {revision} is not in the cache: unset it."
        case _ if status in (401, 403):
            return f"The Hub refused your token for {repo} ({status}): {LOGIN} with one that may read it."
        case OSError(errno=number) if number:
            cause = f"The cache cannot take {repo} ({error.strerror})"
            return f"{cause}: check the disk's room and rights, or set HF_HOME."
    cause = f"The Hub did not give {repo} at {revision} ({status})"
    return f"{cause}: check the network and HF_ENDPOINT and run again."
