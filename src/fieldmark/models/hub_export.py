"""Upload a model's folder to the hub, or say in one line why that cannot be done."""

from __future__ import annotations

import contextlib
import importlib
import os
from pathlib import Path

from fieldmark.core.errors import FetchError
from fieldmark.models.hub import first_line, is_offline
from fieldmark.models.hub_layout import check_repository

MESSAGE = "Upload with fieldmark"


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
        FetchError: the hub cannot be reached, there is no token, or the hub refuses.
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
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=MESSAGE)
    except errors as error:
        # Of a large file the library says only that it failed, and why is in the cause.
        reasons = [first_line(one) for one in (error, error.__cause__) if one is not None]
        raise _refused(repo, ", ".join(reasons), folder=folder) from error
    return str(address)


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
