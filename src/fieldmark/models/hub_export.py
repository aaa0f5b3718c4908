"""Upload a model's folder to the hub, or say in one line why that cannot be done."""

from __future__ import annotations

import contextlib
import importlib
import os
from pathlib import Path

from fieldmark.core.errors import FetchError
from fieldmark.models.hub import is_offline
from fieldmark.models.hub_layout import check_repository

MESSAGE = "Upload with fieldmark"
# Of what the library says of an error: the most that is told, and what is told of no use.
LONGEST = 400
_ADVICE = "For more information check"


def push_folder(folder: Path, *, repo: str, private: bool = False) -> str:
    """Create a hub repository if need be and upload a folder to it as one commit.

    `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` are honoured. An existing repository gets one
    more commit, and its visibility stays.

    Args:
        folder: what `write_hub_folder` wrote.
        repo: `ORG/NAME`.
        private: whether a new repository is private.

    Returns:
        The address of the repository.

    Raises:
        UsageError: `repo` is no name of a repository.
        FetchError: the hub cannot be reached, there is no token, the hub refuses, or a repository
            that is to be private is there and public.
    """
    from huggingface_hub import HfApi, get_token

    check_repository(repo)
    if is_offline():
        raise _refused(repo, "the hub cannot be reached, or HF_HUB_OFFLINE is set", folder=folder)
    if get_token() is None:
        raise _refused(repo, "there is no token: set HF_TOKEN", folder=folder)
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    errors = _list_client_errors()
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise FetchError(
                "is there and public, and --private makes only a new one private",
                where=repo,
                mend="make it private on the hub, or leave --private out; nothing was sent",
            )
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=MESSAGE)
    except errors as error:
        raise _refused(repo, _write_reason(error), folder=folder) from error
    return str(address)


def _write_reason(error: Exception) -> str:
    """Return what the library and the hub say in one line, each sentence once.

    Of a large file the library says only that it failed, and why is in the cause.
    """
    told = f"{error}\n{error.__cause__ or ''}".splitlines()
    lines = [line.strip().rstrip(".:") for line in told if not line.startswith(_ADVICE)]
    return ", ".join(dict.fromkeys(filter(None, lines)))[:LONGEST] or type(error).__name__


def _list_client_errors() -> tuple[type[Exception], ...]:
    """Return the errors of an upload; it goes by httpx2 from huggingface_hub 2.0 on, else httpx."""
    found: list[type[Exception]] = [OSError, ValueError, RuntimeError]
    for name in ("httpx2", "httpx"):
        with contextlib.suppress(ImportError):
            found.append(importlib.import_module(name).HTTPError)
    return tuple(found)


def _refused(repo: str, reason: str, *, folder: Path) -> FetchError:
    return FetchError(
        f"cannot be uploaded to ({reason})",
        where=repo,
        mend=f"{folder} is whole: `hf upload {repo} {folder}` sends it from any machine",
    )
