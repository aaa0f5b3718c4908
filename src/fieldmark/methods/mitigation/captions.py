"""Class labels out of captions: which of the classes does a text name?

RaVL parses "the paired text to identify samples that reference the class labels" (ravl.txt 4.1) and
says no more. Here a name is matched as whole words, in any case, singular or regular plural, its
words apart by spaces, hyphens or underscores. Where names overlap the longest wins, so that a "hot
dog" is no dog. Irregular plurals (people, mice) are given as further names of a class.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldmark.core.errors import InputError
from fieldmark.core.registry import look_up
from fieldmark.core.seeds import generator

_APART = r"[\s_-]+"
_NO_CLASS = -1
Several = Literal["skip", "first", "random", "all"]


@dataclass(frozen=True, kw_only=True)
class ParsedCaptions:
    """The classes that captions name.

    Attributes:
        mentions: for each of n captions its classes, 0 to `classes` - 1, each once, in the order of
            their first mention.
        classes: Y.
    """

    mentions: tuple[tuple[int, ...], ...]
    classes: int

    @property
    def unnamed(self) -> int:
        """How many captions name no class."""
        return sum(not found for found in self.mentions)

    @property
    def several(self) -> int:
        """How many captions name more than one class."""
        return sum(len(found) > 1 for found in self.mentions)


def parse_captions(
    captions: Sequence[str],
    names: Sequence[str | Sequence[str]],
    *,
    excluded: Sequence[str] = (),
) -> ParsedCaptions:
    """Find the classes that captions name.

    Args:
        captions: n texts.
        names: for each of Y classes its name, or several names of the same thing, in the singular.
        excluded: phrases that hold a name and mean no class ("hot dog" where "dog" is one).

    Raises:
        InputError: a class without a name, an empty name, or one name of two classes.

    Example:
        >>> parsed = parse_captions(
        ...     ["Two dogs and a CAT", "a hot-dog stand", "a kitten"],
        ...     ["dog", ("cat", "kitten")], excluded=["hot dog"])
        >>> parsed.mentions, parsed.unnamed, parsed.several
        (((0, 1), (), (1,)), 1, 1)
    """
    forms = _list_forms(names, excluded)
    if not forms:
        raise InputError("there are no classes to look for in captions")
    longest_first = sorted(forms, key=len, reverse=True)
    either = "|".join(_APART.join(map(re.escape, form.split())) for form in longest_first)
    # Looking ahead finds names that start inside another, so that the longest of them can win.
    pattern = re.compile(rf"(?<!\w)(?=({either})(?!\w))")
    mentions = tuple(_find_classes(caption, pattern, forms) for caption in captions)
    return ParsedCaptions(mentions=mentions, classes=len(names))


def _list_forms(names: Sequence[str | Sequence[str]], excluded: Sequence[str]) -> dict[str, int]:
    given: dict[str, int] = {}
    groups = [[name] if isinstance(name, str) else list(name) for name in names]
    for code, own in [*enumerate(groups), (_NO_CLASS, list(excluded))]:
        if not own and code != _NO_CLASS:
            raise InputError(f"class {code} has no name to look for in captions")
        for name in own:
            key = _fold(name)
            if not key:
                raise InputError(f"class {code} has an empty name", mend="give a word to look for")
            if given.setdefault(key, code) != code:
                raise InputError(f"{name!r} is a name of class {given[key]} and of another")
    # A plural that is given as the name of something else is that.
    return {pluralise(key): code for key, code in given.items()} | given


def _fold(text: str) -> str:
    return " ".join(re.split(_APART, text.casefold().strip())).strip()


def pluralise(name: str) -> str:
    """Return the regular plural of a name's last word.

    Example:
        >>> [pluralise(name) for name in ("dog", "school bus", "berry", "toy", "knife", "potato")]
        ['dogs', 'school buses', 'berries', 'toys', 'knives', 'potatoes']
    """
    if re.search(r"(s|x|z|ch|sh|[^aeiou]o)$", name):
        return name + "es"
    if re.search(r"[^aeiou]y$", name):
        return name[:-1] + "ies"
    if re.search(r"(?:[^f]fe|[aeo]lf|eaf)$", name):
        return re.sub(r"fe?$", "ves", name)
    return name + "s"


def _find_classes(
    caption: str, pattern: re.Pattern[str], forms: Mapping[str, int]
) -> tuple[int, ...]:
    text = caption.casefold()
    spans = [match.span(1) for match in pattern.finditer(text)]
    kept: list[tuple[int, int]] = []
    for start, end in sorted(spans, key=lambda span: span[0] - span[1]):
        if all(end <= first or last <= start for first, last in kept):
            kept.append((start, end))
    codes = [forms[_fold(text[start:end])] for start, end in sorted(kept)]
    return tuple(dict.fromkeys(code for code in codes if code != _NO_CLASS))


def assign_labels(
    parsed: ParsedCaptions,
    *,
    several: Several = "skip",
    unnamed: ArrayLike | None = None,
    seed: int = 0,
) -> NDArray[np.bool_]:
    """Turn what captions name into labels of their images.

    Args:
        parsed: from `parse_captions`.
        several: what a caption of several classes gives: no label (`skip`), the one that it names
            `first`, one at `random`, or `all` of them.
        unnamed: (n,) class that an image gets whose caption names none, -1 for none; None gives
            such images no label, as the paper does.
        seed: seed of the run, for `random`.

    Returns:
        (n,Y) the labels of each image.

    Raises:
        UnknownNameError: no such option.

    Example:
        >>> parsed = ParsedCaptions(mentions=((1, 0), (0,), ()), classes=2)
        >>> assign_labels(parsed, several="first").astype(int).tolist()
        [[0, 1], [1, 0], [0, 0]]
        >>> assign_labels(parsed).any(axis=1).tolist()
        [False, True, False]
        >>> assign_labels(parsed, unnamed=[0, 0, 1])[2].tolist()
        [False, True]
    """
    random = generator(seed, "captions")
    choose: dict[str, Callable[[tuple[int, ...]], tuple[int, ...]]] = {
        "skip": lambda found: (),
        "first": lambda found: found[:1],
        "random": lambda found: (found[random.integers(len(found))],),
        "all": lambda found: found,
    }
    pick = look_up(choose, several, kind="option for several labels")
    labels = np.zeros((len(parsed.mentions), parsed.classes), bool)
    for row, found in zip(labels, parsed.mentions, strict=True):
        chosen = pick(found) if len(found) > 1 else found
        row[list(chosen)] = True
    if unnamed is not None:
        codes = np.asarray(unnamed, np.int64)
        rows = np.flatnonzero([not found for found in parsed.mentions] & (codes >= 0))
        labels[rows, codes[rows]] = True
    return labels
