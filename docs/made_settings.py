"""Tables of settings, read from the code: name, default and what the docstring says of it."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any


def tabulate_settings(words: str) -> str:
    """Return the settings of a class, or of several, as a table.

    Args:
        words: `module:Class`, spaces between; after the last one `only=a,b` keeps some.

    Example:
        >>> print(tabulate_settings("fieldmark.methods.wise_ft:WiseFtConfig only=alpha"))
        | setting | default | what |
        |---|---|---|
        | `alpha` | 0.5 | share of the fine-tuned weights. |
    """
    places = [word for word in words.split() if ":" in word]
    only = [word.removeprefix("only=").split(",") for word in words.split() if "only=" in word]
    lines = ["| setting | default | what |", "|---|---|---|"]
    for place in places:
        module, _, name = place.partition(":")
        made = getattr(importlib.import_module(module), name)
        told = read_arguments(made)
        for setting, default in list_defaults(made).items():
            if only and setting not in only[0]:
                continue
            lines.append(f"| `{setting}` | {_show(default)} | {_escape(told.get(setting, ''))} |")
    return "\n".join(lines)


def list_defaults(made: Any) -> dict[str, Any]:
    """Return the settings of a class with their defaults; what has none is left out.

    Example:
        >>> from fieldmark.methods.wise_ft import WiseFtConfig
        >>> list_defaults(WiseFtConfig)["alpha"]
        0.5
    """
    fields = getattr(made, "model_fields", None)
    if fields is not None:
        return {name: field.default for name, field in fields.items()}
    parameters = inspect.signature(made).parameters
    return {name: one.default for name, one in parameters.items() if one.default is not one.empty}


def read_arguments(made: Any) -> dict[str, str]:
    """Return what the docstrings of a class and of its bases say of each argument or attribute."""
    told: dict[str, str] = {}
    for one in reversed(inspect.getmro(made)[:-1] if inspect.isclass(made) else (made,)):
        text = inspect.cleandoc(one.__doc__ or "")
        for block in re.findall(r"^(?:Args|Attributes):\n((?:    .*\n?|\n)+)", text, re.MULTILINE):
            found = re.findall(r"^    (\w+): ((?:.*\n?)(?:        .*\n?)*)", block, re.MULTILINE)
            told |= {name: " ".join(words.split()) for name, words in found}
    return told


def _show(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return _escape(str(value))


def _escape(text: str) -> str:
    return text.replace("|", r"\|")
