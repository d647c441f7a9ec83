"""Uploading an exported model to the Hugging Face Hub."""

import re
from pathlib import Path

import huggingface_hub as hf
from huggingface_hub import errors

from medqa import hub, hub_client
from medqa.export.card import NOTICE
from medqa.export.formats import GGUF
from medqa.runtime.errors import UserError

REPO = re.compile(r"[\w.-]+/[\w.-]+")


def upload(repo: str, folder: Path, private: bool) -> str:
    """Create the repo where it is missing, upload the folder as one commit, and return the address.

    The token is that of HF_TOKEN or of `hf auth login`. Raises UserError for a folder that `medqa export` did
    not write, without a token, and where the Hub refuses.
    """
    if not REPO.fullmatch(repo):
        raise UserError(f"{repo!r} is not the name of a repo; write it as owner/name")
    weights = any(folder.glob(hub.WEIGHTS)) or (folder / GGUF).is_file()
    if not weights or not all((folder / name).is_file() for name in (hub.CARD, NOTICE)):
        raise UserError(f"{folder} holds no exported model; make one with medqa export {folder}")
    if not hf.get_token():
        raise UserError(f"the Hub needs a token that may write to {repo}; {hub_client.LOGIN}")
    api = hf.HfApi()
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload a model exported by medqa")
    except (errors.HTTPError, OSError, ValueError) as error:
        raise UserError(_message(error, repo)) from error
    return str(address)


def _message(error: Exception, repo: str) -> str:
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if status in (401, 403):
        refusal = f"the Hub refused your token for {repo} ({status})"
        return f"{refusal}; {hub_client.LOGIN} with one that may write there"
    if status == 400 or isinstance(error, ValueError):
        return f"the Hub refused {repo} ({' '.join(str(error).split())[:200]}); correct the name or the card"
    reason = status or type(error).__name__
    return f"the Hub did not take {repo} ({reason}); check the network and HF_ENDPOINT and run it again"
