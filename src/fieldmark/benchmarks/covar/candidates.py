"""The names that an encoder chooses among, and which of them each class of a COVAR is."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fieldmark.core.errors import InputError, UsageError

OWN, IMAGENET = "own", "imagenet"


@dataclass(frozen=True, eq=False, kw_only=True)
class Candidates:
    """Names to choose among.

    Attributes:
        names: for the prompts, each once.
        truths: (C,) which of them each class of the COVAR is.
    """

    names: tuple[str, ...]
    truths: NDArray[np.int64]


def choose_candidates(source: str, classes: Sequence[str]) -> Candidates:
    """Find the names to choose among, and the classes among them.

    Args:
        source: `own`, `imagenet` (the 1,000 names, as in the paper) or a file with one name a
            line.
        classes: of the COVAR. Case and underscores do not matter; of ImageNet's classes any
            synonym and the id ("n01491361") will do.

    Raises:
        UsageError: a class is none of the names, or may be two of them.
        InputError: the file cannot be read, or names something twice.

    Example:
        >>> choose_candidates("imagenet", ["Tiger shark", "n01440764"]).truths.tolist()
        [3, 0]
        >>> choose_candidates("imagenet", ["tyre fire"])
        Traceback (most recent call last):
        fieldmark.core.errors.UsageError: imagenet: has none of these classes: tyre fire; name ...
    """
    if source == OWN:
        return Candidates(names=tuple(classes), truths=np.arange(len(classes)))
    if source == IMAGENET:
        names, synonyms = read_imagenet_names()
    else:
        names = _read_names(Path(source))
        synonyms = tuple((name,) for name in names)
    owners: dict[str, set[int]] = {}
    for number, words in enumerate(synonyms):
        for word in (*words, names[number]):
            owners.setdefault(_fold(word), set()).add(number)
    found = [owners.get(_fold(name), set()) for name in classes]
    for problem, bad in (
        ("none", [name for name, one in zip(classes, found, strict=True) if not one]),
        ("two", [name for name, one in zip(classes, found, strict=True) if len(one) > 1]),
    ):
        if bad:
            what = "has none of these classes" if problem == "none" else "may mean two things by"
            raise UsageError(
                f"{what}: {', '.join(bad)}",
                where=source,
                mend="name other candidates, or take --candidates own",
            )
    return Candidates(names=names, truths=np.array([min(one) for one in found], np.int64))


@functools.lru_cache(maxsize=1)
def read_imagenet_names() -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Return ImageNet's 1,000 names for prompts, and the synonyms and id of each.

    Two pairs of classes share their first name (crane, maillot); their id or another synonym tells
    the second from the first.

    Example:
        >>> names, synonyms = read_imagenet_names()
        >>> len(set(names)), synonyms[3]
        (1000, ('tiger shark', 'Galeocerdo cuvieri', 'n01491361'))
    """
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    words = [
        tuple(part.strip() for part in info.index_to_description(number).split(","))
        for number in range(1000)
    ]
    ids = [str(info.index_to_label_name(number)) for number in range(1000)]
    names: list[str] = []
    for number, own in enumerate(words):
        fresh = [word for word in own if word not in names]
        names.append(fresh[0] if fresh else f"{own[0]} ({_OTHER_SENSES.get(ids[number], 'other')})")
    synonyms = tuple((*own, one) for own, one in zip(words, ids, strict=True))
    return tuple(names), synonyms


_OTHER_SENSES = {"n03126707": "machine"}


def _read_names(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            "is no readable file of candidates",
            where=path,
            mend="name own, imagenet or a text file with one name a line",
        ) from error
    names = tuple(line.strip() for line in lines if line.strip())
    twice = [name for name, count in Counter(map(_fold, names)).items() if count > 1]
    if twice or not names:
        problem = f"names {twice[0]} twice" if twice else "holds no name"
        raise InputError(problem, where=path, mend="write one name a line, each once")
    return names


def _fold(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())
