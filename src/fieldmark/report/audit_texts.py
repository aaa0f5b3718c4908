"""Texts from outside, made safe to be shown on one line or to be copied to a terminal."""

from __future__ import annotations

import re

from fieldmark.report.formats import flatten

# Marks, embeddings, overrides and isolates of Unicode's bidirectional algorithm.
_TURNING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def clean(text: str) -> str:
    r"""Put a text on one line, without control characters and without turning marks.

    Example:
        >>> clean("a\nb\u202ec") == "a b\N{REPLACEMENT CHARACTER}c"
        True
    """
    return _TURNING.sub(_REPLACEMENT, flatten(text))


def clean_command(text: str) -> str:
    r"""Replace what cannot be seen in a command; its spaces and line ends count, so they stay.

    Example:
        >>> clean_command("a  b\nc\x1b") == "a  b\nc\N{REPLACEMENT CHARACTER}"
        True
    """
    return "".join(one if one.isprintable() or one in "\n\t" else _REPLACEMENT for one in text)
