"""Settings from `--config FILE` and `--set key=value`, over a preset."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from fieldmark.core.errors import InputError, UsageError

Settings = TypeVar("Settings", bound=BaseModel)


def read_settings(base: Settings, *, file: Path | None, given: list[str]) -> Settings:
    """Return `base` with the values of a YAML or JSON file, then those of `key=value` words.

    Raises:
        InputError: the file is not a mapping in YAML.
        UsageError: a key that is not known (the known ones are listed), or an impossible value.

    Example:
        >>> from fieldmark.methods.bap.config import BapConfig
        >>> read_settings(BapConfig(), file=None, given=["contexts=16"]).contexts
        16
    """
    values: dict[str, Any] = base.model_dump()
    for key, value in {**_read_file(file), **dict(map(_split, given))}.items():
        if key not in values:
            known = ", ".join(sorted(values))
            raise UsageError(f"unknown setting {key!r}", mend=f"known: {known}")
        values[key] = value
    try:
        return type(base).model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UsageError(f"{key} = {first['input']!r}: {first['msg'].lower()}") from None


def _read_file(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"cannot be read as YAML ({reason})", where=file) from None
    if not isinstance(values, dict):
        raise InputError(
            "is not a mapping of settings", where=file, mend="write `key: value` lines"
        )
    return {str(key): value for key, value in values.items()}


def _split(word: str) -> tuple[str, Any]:
    key, equals, value = word.partition("=")
    if not equals:
        raise UsageError(f"--set {word!r} is not key=value")
    return key.strip(), yaml.safe_load(value)
