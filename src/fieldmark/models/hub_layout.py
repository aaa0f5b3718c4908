"""Write an encoder as a hub repository: nothing in it points at the machine that wrote it.

A folder that `Encoder.save` writes is for the same machine: a text tower of transformers and a
tokenizer that is not CLIP's are named by a path there. On the hub both are looked for by the name
of a repository, and this one holds their files, so it names itself.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from fieldmark.core.atomic import write_json, write_text
from fieldmark.core.errors import UsageError
from fieldmark.models.checkpoint import replacing_folder
from fieldmark.models.encoder import Encoder
from fieldmark.models.open_clip import CONFIG

CARD = "README.md"
# Keys under which transformers keeps where a file was read from, and how it was read.
SOURCES = ("_name_or_path", "name_or_path")
READING = ("is_local", "local_files_only")
CONFIGS = (
    "config.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "processor_config.json",
)


def check_repository(repo: str) -> str:
    """Return the name of a hub repository if it is one.

    Args:
        repo: `ORG/NAME`.

    Raises:
        UsageError: it is none.

    Example:
        >>> check_repository("my-lab/mended-clip")
        'my-lab/mended-clip'
        >>> check_repository("mended-clip")
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.UsageError: --repo 'mended-clip': is no ORG/NAME; ...
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    problem = "" if repo.count("/") == 1 else "is no ORG/NAME"
    try:
        validate_repo_id(repo)
    except HFValidationError:
        problem = "is no name of a repository"
    if problem:
        raise UsageError(
            problem,
            where=f"--repo {repo!r}",
            mend="give letters, digits, '-', '_' and '.', as in my-lab/mended-clip",
        )
    return repo


def write_hub_folder(encoder: Encoder, folder: Path, *, repo: str, card: str) -> Path:
    """Write weights, configuration, tokenizer and card, whole or not at all.

    Args:
        encoder: of open_clip or of transformers.
        folder: the new folder; an earlier model in it is replaced.
        repo: `ORG/NAME` that the folder is for.
        card: text of README.md.

    Returns:
        The folder.

    Raises:
        UsageError: `repo` is no name of a repository.
        RunExistsError: `folder` holds something that is no model.
        FieldmarkError: the folder cannot be written.
    """
    check_repository(repo)
    with replacing_folder(folder) as part:
        encoder.save(part)
        if (part / CONFIG).is_file():
            _name_repository(part / CONFIG, repo=repo)
        for name in CONFIGS:
            if (part / name).is_file():
                _forget_paths(part / name)
        write_text(part / CARD, card)
    return folder


def _name_repository(path: Path, *, repo: str) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    text_cfg = config["model_cfg"]["text_cfg"]
    for key in ("hf_tokenizer_name", "hf_model_name"):
        if text_cfg.get(key):
            text_cfg[key] = repo
    note = config.get("fieldmark", {})
    # A URI may be a path, and the card names the base model.
    config["fieldmark"] = {key: note[key] for key in ("fingerprint",) if key in note}
    write_json(path, config)


def _forget_paths(path: Path) -> None:
    """Take out of a configuration, at any depth, what is true on this machine alone."""
    values = json.loads(path.read_text(encoding="utf-8"))
    if _forget(values):
        write_json(path, values)


def _forget(values: Any) -> bool:
    parts = values.values() if isinstance(values, dict) else values
    changed = sum(_forget(part) for part in parts if isinstance(part, dict | list))
    if isinstance(values, dict):
        paths = [key for key in SOURCES if is_local_path(str(values.get(key) or ""))]
        for key in (*paths, *READING):
            changed += values.pop(key, None) is not None
    return changed > 0


def is_local_path(text: str) -> bool:
    r"""Say whether a text is an absolute or home path, of any system.

    Example:
        >>> [is_local_path(text) for text in ("/home/me/run", "~/run", "C:\\run", "org/repo")]
        [True, True, True, False]
    """
    windows = PureWindowsPath(text)
    return text.startswith("~") or PurePosixPath(text).is_absolute() or windows.is_absolute()
