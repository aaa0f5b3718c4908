"""Parse JSON that someone else wrote, so that every way to fail is a ValueError."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str) -> Any:
    r"""Return the value of a JSON text.

    Args:
        text: it may come from anywhere.

    Raises:
        ValueError: it is no JSON, is nested more deeply than Python bears, or holds half of a
            surrogate pair, which no file and no terminal takes.

    Example:
        >>> parse_json('{"a": [1, null]}')
        {'a': [1, None]}
        >>> parse_json("[" * 100_000)
        Traceback (most recent call last):
        ...
        ValueError: it is nested too deeply
        >>> parse_json(r'"\ud800"')
        Traceback (most recent call last):
        ...
        ValueError: it holds half of a surrogate pair
    """
    try:
        value = json.loads(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair") from None
    return value
