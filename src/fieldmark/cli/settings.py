"""Settings from `--config FILE` and `--set key=value`, over a preset."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from fieldmark.core.errors import InputError, UsageError

Settings = TypeVar("Settings", bound=BaseModel)

# Characters of a value that a message shows.
LONGEST = 200
# Characters of a file of settings; what is longer is something else, and YAML is slow to read.
LARGEST = 1 << 16


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
    for key, value in {**_read_file(file), **dict(map(split_setting, given))}.items():
        if key not in values:
            known = ", ".join(sorted(values))
            raise UsageError(f"unknown setting {key[:LONGEST]!r}", mend=f"known: {known}")
        values[key] = value
    try:
        return type(base).model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key, value = ".".join(map(str, first["loc"])), repr(first["input"])
        shown = value if len(value) <= LONGEST else f"{value[:LONGEST]}..."
        raise UsageError(f"{key} = {shown}: {first['msg'].lower()}") from None


def parse_yaml(text: str) -> Any:
    r"""Return the value of a YAML text that a user wrote; nothing in it is executed.

    Raises:
        ValueError: it is no YAML, too long, nested too deeply, or holds an alias, with which few
            lines would stand for more values than any memory holds.

    Example:
        >>> parse_yaml("contexts: 16")
        {'contexts': 16}
        >>> parse_yaml("a: &one [1]\nb: *one")
        Traceback (most recent call last):
        ...
        ValueError: it holds the alias 'one'; write the value out
    """
    if len(text) > LARGEST:
        raise ValueError(f"it has {len(text)} characters, settings have {LARGEST} at most")
    try:
        # Without a star there is no alias, and most texts are a number.
        for token in yaml.scan(text) if "*" in text else ():
            if isinstance(token, yaml.AliasToken):
                raise ValueError(f"it holds the alias {token.value!r}; write the value out")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (OverflowError, LookupError, TypeError) as error:
        raise ValueError(f"a value cannot be read ({error})") from None


def _read_file(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        values = parse_yaml(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"cannot be read as YAML ({reason})", where=file) from None
    if not isinstance(values, dict):
        raise InputError(
            "is not a mapping of settings", where=file, mend="write `key: value` lines"
        )
    return {str(key): value for key, value in values.items()}


def split_setting(word: str) -> tuple[str, Any]:
    """Split `key=value`, the value in YAML.

    Raises:
        UsageError: there is no "=", or the value is no YAML.

    Example:
        >>> split_setting("contexts=16")
        ('contexts', 16)
    """
    key, equals, value = word.partition("=")
    if not equals:
        raise UsageError(f"--set {word[:LONGEST]!r} is not key=value")
    try:
        return key.strip(), parse_yaml(value)
    except ValueError as error:
        reason = " ".join(str(error).split())[:LONGEST]
        raise UsageError(f"--set {key.strip()[:LONGEST]} has no value in YAML ({reason})") from None
