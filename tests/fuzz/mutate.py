"""Damage a valid file in the ways that files are damaged, and in the ways an attacker would."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

NUMBERS = (
    "0", "-1", "1", "2", "255", "65535", "2147483647", "2147483648", "4294967295", "-2147483649",
    "9223372036854775807", "9223372036854775808", "99999999999999999999999", "1e308", "1e999",
    "-1e999", "nan", "inf", "-inf", "NaN", "Infinity", "0.5", "-0.0", "1e-320", "0x10", "1_000",
    "\u0663", "\u00b2", "9" * 5000,
)  # fmt: skip
STRINGS = (
    "", " ", "\0", "../../../etc/passwd", "/etc/passwd", "a.png", "a.png/", ".", "..", "~", "C:\\a",
    "a" * 300, "a" * 5000, "\ud800", "\u202e", "<script>alert(1)</script>", "=1+1", "é", "e\u0301",
    "\ufeff", "null", "true", "0", "-1", "1e999", "[[[[", "%s%n", "{}", "{0.__class__}", "\n", "\r",
)  # fmt: skip
TOKENS = (
    b"\0", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\0", b"\n",
    b"\r\n", b",", b'"', b'""', b"'", b"{", b"}", b"[", b"]", b":", b"null", b"NaN", b"1e999",
    b"-1", b"../", b"/", b"\\", b"\\ud800", b"&a [*a,*a]", b"!!python/object/apply:os.system",
    b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"2001-99-99", b"<<: 1", b"0b", b"\t", b"=",
)  # fmt: skip
DEPTHS = (20, 500, 3000, 100_000)
WIDTHS = (1, 2, 4, 8)
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")

Damage = Callable[[random.Random, bytes, Sequence[bytes]], bytes]


def damage_bytes(rng: random.Random, seed: bytes, others: Sequence[bytes]) -> bytes:
    """Damage a file as bytes: one to four changes, of any kind."""
    content = seed
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
        content = rng.choice(BYTE_CHANGES)(rng, content, others)
    return content


def damage_text(rng: random.Random, seed: bytes, others: Sequence[bytes]) -> bytes:
    """Damage a table: its fields as often as its bytes."""
    if rng.random() < 0.5:
        return damage_bytes(rng, seed, others)
    content = seed
    for _ in range(rng.choice((1, 1, 2, 4))):
        content = rng.choice((_swap_field, _swap_number, _swap_line, _nest))(rng, content, others)
    return content


def damage_json(rng: random.Random, seed: bytes, others: Sequence[bytes]) -> bytes:
    """Damage a JSON file: its values more often than its bytes."""
    if rng.random() < 0.3:
        return damage_bytes(rng, seed, others)
    tree = json.loads(seed)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        tree = _change_node(rng, tree)
    text = json.dumps(tree)
    if rng.random() < 0.05:
        depth = rng.choice(DEPTHS)
        text = text.replace("null", "[" * depth + "]" * depth, 1)
    return text.encode("utf-8", "surrogatepass")


def damage_json_lines(rng: random.Random, seed: bytes, others: Sequence[bytes]) -> bytes:
    """Damage one line of a file of JSON lines as JSON, or the whole as bytes."""
    if rng.random() < 0.3:
        return damage_bytes(rng, seed, others)
    lines = seed.splitlines()
    place = rng.randrange(len(lines))
    lines[place] = damage_json(rng, lines[place], others)
    return b"\n".join(lines) + b"\n"


def _flip_bits(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    damaged = bytearray(content)
    for _count in range(rng.randint(1, 8) if damaged else 0):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _set_number(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    """Overwrite one to eight bytes by a number that overflows something."""
    width = rng.choice(WIDTHS)
    if len(content) < width:
        return content
    most = (1 << 8 * width) - 1
    value = rng.choice((0, 1, 2, most, most >> 1, (most >> 1) + 1, most - 1, rng.randint(0, most)))
    place = rng.randrange(len(content) - width + 1)
    number = value.to_bytes(width, rng.choice(("big", "little")))
    return content[:place] + number + content[place + width :]


def _cut(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    return content[: rng.randint(0, len(content))]


def _span(rng: random.Random, content: bytes) -> tuple[int, int]:
    start = rng.randint(0, len(content))
    return start, min(len(content), start + rng.choice((1, 2, 4, 16, 64, 1024)))


def _drop(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    start, end = _span(rng, content)
    return content[:start] + content[end:]


def _repeat(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    start, end = _span(rng, content)
    return content[:end] + content[start:end] * rng.choice((1, 2, 50)) + content[end:]


def _insert(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    place = rng.randint(0, len(content))
    token = rng.choice(TOKENS) if rng.random() < 0.7 else rng.randbytes(rng.randint(1, 16))
    return content[:place] + token + content[place:]


def _splice(rng: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    return content[: rng.randint(0, len(content))] + other[rng.randint(0, len(other)) :]


def _swap_number(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    found = list(_NUMBER.finditer(content))
    if not found:
        return content
    match = rng.choice(found)
    return content[: match.start()] + rng.choice(NUMBERS).encode() + content[match.end() :]


def _swap_field(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    fields = re.split(rb"([,\n\t =:])", content)
    fields[2 * rng.randrange((len(fields) + 1) // 2)] = rng.choice((*STRINGS, *NUMBERS)).encode(
        "utf-8", "surrogatepass"
    )
    return b"".join(fields)


def _swap_line(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    lines = content.split(b"\n")
    lines[rng.randrange(len(lines))] = rng.choice(lines)
    return b"\n".join(lines)


def _nest(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    place, depth = rng.randint(0, len(content)), rng.choice(DEPTHS)
    opening = rng.choice((b"[", b"{", b"(", b'{"a":', b"- ", b"&a [*a,", b'"'))
    return content[:place] + opening * depth + content[place:]


BYTE_CHANGES: tuple[Damage, ...] = (
    _flip_bits, _flip_bits, _set_number, _set_number, _cut, _drop, _repeat, _insert, _splice,
    _swap_number,
)  # fmt: skip


def _change_node(rng: random.Random, tree: Any) -> Any:
    tree = copy.deepcopy(tree)
    places: list[tuple[Any, Any]] = []
    _list_places(tree, places)
    if not places or rng.random() < 0.03:
        return _odd_value(rng, tree)
    holder, key = rng.choice(places)
    kind = rng.random()
    if kind < 0.2:
        del holder[key]
    elif kind < 0.3 and isinstance(holder, dict):
        holder[rng.choice(STRINGS)] = holder.pop(key)
    elif kind < 0.4:
        other, name = rng.choice(places)
        holder[key] = copy.deepcopy(other[name])
    else:
        holder[key] = _odd_value(rng, holder[key])
    return tree


def _list_places(tree: Any, places: list[tuple[Any, Any]]) -> None:
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        places.append((tree, key))
        _list_places(tree[key], places)


def _odd_value(rng: random.Random, value: Any) -> Any:
    odd: tuple[Any, ...] = (
        None, True, False, 0, -1, 1, 0.5, 2**31, 2**63, 10**25, -(10**25), float("nan"), 10**400,
        float("inf"), float("-inf"), [], {}, [[]], [None], {"a": 1}, [value], {"a": value},
        rng.choice(STRINGS), rng.choice(STRINGS), rng.choice(NUMBERS), [value] * 3,
        str(value), [0] * 1000,
    )  # fmt: skip
    return rng.choice(odd)
