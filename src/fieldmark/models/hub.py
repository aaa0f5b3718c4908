"""Find a file in the Hugging Face cache or on the hub, or say exactly how to supply it."""

from __future__ import annotations

import os
import socket
import urllib.parse
import urllib.request
from pathlib import Path

from fieldmark.core.errors import FetchError, FieldmarkError, MissingExtraError


def fetch_hub_file(repo: str, names: tuple[str, ...], *, hint: str = "") -> Path:
    """Return the local path of the first of `names` that a hub repository has.

    The local cache is asked first, so nothing is requested for a file that is there.

    Args:
        repo: `org/repo`.
        names: file names, the wanted one first.
        hint: a local name that would do as well, for the message.

    Raises:
        FetchError: none can be had; the message names the file and three ways to supply it.
    """
    import huggingface_hub
    from huggingface_hub import errors

    for name in names:
        try:
            cached = huggingface_hub.try_to_load_from_cache(repo, name)
        except errors.HFValidationError as error:
            raise missing_file(repo[:200], name, reason=first_line(error), hint=hint) from error
        if isinstance(cached, str):
            return Path(cached)
    if is_offline():
        raise missing_file(repo, names[0], reason="the hub cannot be reached", hint=hint)
    reason = "not in the repository"
    for name in names:
        try:
            return Path(huggingface_hub.hf_hub_download(repo, name))
        except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
            reason = first_line(error)
    raise missing_file(repo, names[0], reason=reason, hint=hint)


def is_folder(path: Path) -> bool:
    """Say whether a path is a folder; a name that no file system takes is none.

    Example:
        >>> is_folder(Path("a" * 100_000))
        False
    """
    try:
        return path.is_dir()
    except OSError:
        return False


def is_offline() -> bool:
    """Say whether the hub cannot be reached, or must not be (HF_HUB_OFFLINE)."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return True
    if urllib.request.getproxies():
        return False
    # One look-up here saves the hub client's half a minute of retries.
    host = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return True
    return False


def first_line(error: BaseException) -> str:
    r"""Return what an error of a library says, cut to one line of 160 characters.

    Example:
        >>> first_line(OSError("no such file\nlook elsewhere"))
        'no such file'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:160] if lines else type(error).__name__


def missing_library(error: ImportError) -> FieldmarkError:
    """Return the error for a library that a tokenizer or a model needs.

    Example:
        >>> print(missing_library(ImportError("SiglipTokenizer requires SentencePiece")))
        SiglipTokenizer requires SentencePiece; pip install sentencepiece protobuf
    """
    if error.name == "transformers":
        return MissingExtraError("transformers", extra="hf")
    return FetchError(first_line(error), mend="pip install sentencepiece protobuf")


def fetch_tokenizer(repo: str) -> Path:
    """Return a local folder with the tokenizer files of a hub repository.

    Raises:
        FetchError: they cannot be had.
    """
    import huggingface_hub

    folder = fetch_hub_file(repo, ("tokenizer_config.json",)).parent
    if is_offline():
        return folder
    patterns = ["*.json", "*.model", "*.txt"]
    return Path(huggingface_hub.snapshot_download(repo, allow_patterns=patterns))


def missing_file(repo: str, name: str, *, reason: str, hint: str = "") -> FetchError:
    """Return the error for a hub file that cannot be had.

    Example:
        >>> print(missing_file("org/repo", "model.safetensors", reason="the hub cannot be reached"))
        org/repo/model.safetensors: cannot be fetched (the hub cannot be reached); fill the cache on
        a connected machine with `hf download org/repo` and copy it here (HF_HOME=...), or give a
        folder that holds the model as local-dir:PATH, or use packaged:dinov2-small
    """
    local = hint or "local-dir:PATH"
    return FetchError(
        f"cannot be fetched ({reason})",
        where=f"{repo}/{name}",
        mend=f"fill the cache on a connected machine with `hf download {repo}` and copy it here "
        f"(HF_HOME=...), or give a folder that holds the model as {local}, "
        "or use packaged:dinov2-small",
    )
