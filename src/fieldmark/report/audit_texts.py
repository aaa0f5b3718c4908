"""Texts from outside, made safe to be shown on one line or to be copied to a terminal."""

from __future__ import annotations

import re

from fieldmark.report.formats import escape_markdown, flatten

# Marks, embeddings, overrides and isolates of Unicode's bidirectional algorithm.
_TURNING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def clean(text: str) -> str:
    r"""Put a text on one line, without control characters and without turning marks.

    Example:
        >>> clean("a\nb\u202ec") == "a b\N{REPLACEMENT CHARACTER}c"
        True
    """
    return straighten(flatten(text))


def straighten(text: str) -> str:
    r"""Replace the marks that turn the direction of writing, and nothing else.

    Example:
        >>> straighten("a\nb\u202ec") == "a\nb\N{REPLACEMENT CHARACTER}c"
        True
    """
    return _TURNING.sub(_REPLACEMENT, text)


def clean_command(text: str) -> str:
    r"""Replace what cannot be seen in a command; its spaces and line ends count, so they stay.

    Example:
        >>> clean_command("a  b\nc\x1b") == "a  b\nc\N{REPLACEMENT CHARACTER}"
        True
    """
    return "".join(one if one.isprintable() or one in "\n\t" else _REPLACEMENT for one in text)


def escape_paragraph(text: str) -> str:
    r"""Make a text show as itself in Markdown, also one that would start a list or a rule.

    Example:
        >>> print(escape_paragraph("1. a_b"))
        1\. a\_b
    """
    return re.sub(r"^(\d*)([-=.])", r"\1\\\2", escape_markdown(text))
