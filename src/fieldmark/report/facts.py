"""What a record says, as facts to be listed: long digests and long lists are cut short."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fieldmark.report.names import DASH

MOST_FACTS = 24
_DIGEST = re.compile(r"^[0-9a-f]{40,}$")


@dataclass(frozen=True, kw_only=True)
class Fact:
    """Something that a record says.

    Attributes:
        name: of what.
        text: the value in words.
        whole: the value that a shortened text stands for.
        facts: further facts in place of a text.
    """

    name: str
    text: str = ""
    whole: str = ""
    facts: tuple[Fact, ...] = ()


def list_facts(value: Mapping[str, Any]) -> tuple[Fact, ...]:
    """Turn a record into facts to be listed; long digests and long lists are cut short.

    Example:
        >>> list_facts({"seeds": [0, 1], "data": {"dirty": None}})[0].text
        '0, 1'
    """
    items = list(value.items())
    facts = [_to_fact(str(key).replace("_", " "), item) for key, item in items[:MOST_FACTS]]
    if len(items) > MOST_FACTS:
        facts.append(Fact(name=f"and {len(items) - MOST_FACTS} more", text="in run.json"))
    return tuple(facts)


def _to_fact(name: str, value: Any) -> Fact:
    if isinstance(value, Mapping):
        facts = list_facts(value)
        return Fact(name=name, facts=facts) if facts else Fact(name=name, text=DASH)
    if isinstance(value, list | tuple):
        if any(isinstance(item, Mapping | list) for item in value):
            return _to_fact(name, {str(index): item for index, item in enumerate(value, start=1)})
        texts = [_write_value(item) for item in value[:MOST_FACTS]]
        more = len(value) - MOST_FACTS
        tail = f" and {more} more, in run.json" if more > 0 else ""
        return Fact(name=name, text=(", ".join(texts) or DASH) + tail)
    text = _write_value(value)
    if _DIGEST.match(text):
        return Fact(name=name, text=f"{text[:12]}\N{HORIZONTAL ELLIPSIS}", whole=text)
    return Fact(name=name, text=text)


def _write_value(value: Any) -> str:
    if value is None or value == "":
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
