"""WordNet's nouns: senses of a class name, what stands above them, and how close two are.

The database is that of the Debian package `wordnet-base` (WordNet 3.0, Princeton University; its
licence allows any use and redistribution with its notice, which lies in the package as
`usr/share/doc/wordnet-base/copyright`). It is read by a reader of our own; the format is described
in its manual page wndb(5WN). An offset of this release is the number in an ImageNet class id.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fieldmark.core.errors import InputError
from fieldmark.core.fetch import fetch_debian

PACKAGE = "wordnet-base"
_FOLDER = "usr/share/wordnet"
# WordNet 3.0 has 20 levels of nouns.
_TALLEST = 100
# A hypernym, and the class that an instance ("Everest") is one of.
_UP = ("@", "@i")
# Endings of plurals and of their singulars, as WordNet's own morphology has them (morphy(7WN)).
_ENDINGS = (
    ("ses", "s"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
    ("s", ""),
)


@dataclass(frozen=True, eq=False, kw_only=True)
class WordNet:
    """Nouns of WordNet; a synset is known by its offset in `data.noun`.

    Attributes:
        senses: lower-case lemma with underscores -> its synsets, the commonest first.
        parents: synset -> the synsets right above it; empty for a root.
        words: synset -> its lemmas as written.
        irregular: an irregular plural -> its singulars.
    """

    senses: Mapping[str, tuple[int, ...]]
    parents: Mapping[int, tuple[int, ...]]
    words: Mapping[int, tuple[str, ...]]
    irregular: Mapping[str, tuple[str, ...]]

    @functools.cached_property
    def above(self) -> dict[int, dict[int, int]]:
        """Steps up to all that stands above a synset, as far as it has been asked for."""
        return {}

    @functools.cached_property
    def depths(self) -> dict[int, int]:
        """Nodes on the longest path from a root, as far as it has been asked for."""
        return {}


def fetch_wordnet() -> WordNet:
    """Return WordNet out of Debian's package, fetched the first time.

    Raises:
        FetchError: the package cannot be had.
        InputError: a file of it is not what it should be.
    """
    return read_wordnet(fetch_debian(PACKAGE) / _FOLDER)


@functools.lru_cache(maxsize=2)
def read_wordnet(folder: Path) -> WordNet:
    """Read `index.noun`, `data.noun` and, if it is there, `noun.exc`.

    Args:
        folder: where the three lie.

    Raises:
        InputError: a file is missing, or a line of it is not of the format; with file and line.

    Example:
        >>> read_wordnet(Path("/nowhere"))
        Traceback (most recent call last):
        fieldmark.core.errors.InputError: /nowhere/data.noun: cannot be read (No such file...
    """
    parents: dict[int, tuple[int, ...]] = {}
    words: dict[int, tuple[str, ...]] = {}
    for number, line in _read_lines(folder / "data.noun"):
        try:
            offset, words[offset], parents[offset] = _parse_synset(line)
        except (ValueError, IndexError) as error:
            raise _bad_line(folder / "data.noun", number) from error
    _check_tree(parents, folder / "data.noun")
    senses: dict[str, tuple[int, ...]] = {}
    for number, line in _read_lines(folder / "index.noun"):
        try:
            lemma, senses[lemma] = _parse_lemma(line)
        except (ValueError, IndexError) as error:
            raise _bad_line(folder / "index.noun", number) from error
        if not all(synset in words for synset in senses[lemma]):
            raise _bad_line(folder / "index.noun", number)
    exceptions = folder / "noun.exc"
    lines = [line.split() for _, line in _read_lines(exceptions)] if exceptions.is_file() else []
    irregular = {parts[0]: tuple(parts[1:]) for parts in lines if len(parts) > 1}
    return WordNet(senses=senses, parents=parents, words=words, irregular=irregular)


def find_synsets(wordnet: WordNet, name: str) -> tuple[int, ...]:
    """Return the synsets that a class name may mean, the commonest first; () if it is unknown.

    Case, underscores, hyphens and plurals do not matter. Names with commas between them are
    synonyms, as in ImageNet's descriptions: the synsets that most of them share are returned, which
    settles what "crane" is. An ImageNet id ("n01484850") means its one synset.

    Args:
        wordnet: from `read_wordnet`.
        name: of a class, in English.

    Example:
        >>> tiny = WordNet(senses={"wolf": (7, 9)}, parents={}, words={}, irregular={})
        >>> find_synsets(tiny, "Wolves"), find_synsets(tiny, "wolf"), find_synsets(tiny, "elf")
        ((), (7, 9), ())
    """
    if found := re.fullmatch(r"n(\d{8})", name.strip()):
        synset = int(found[1])
        return (synset,) if synset in wordnet.parents else ()
    lists = [_look_up(wordnet, part) for part in name.split(",") if part.strip()]
    counts = Counter(synset for synsets in lists for synset in dict.fromkeys(synsets))
    most = max(counts.values(), default=0)
    return tuple(synset for synset, count in counts.items() if count == most)


def trace_hypernyms(wordnet: WordNet, synset: int) -> list[tuple[int, ...]]:
    """Return every path from a root down to a synset, the synset included.

    Example:
        >>> tiny = WordNet(senses={}, parents={1: (), 2: (1,), 3: (1, 2)}, words={}, irregular={})
        >>> trace_hypernyms(tiny, 3)
        [(1, 3), (1, 2, 3)]
    """
    above = wordnet.parents[synset]
    if not above:
        return [(synset,)]
    return [(*path, synset) for parent in above for path in trace_hypernyms(wordnet, parent)]


def measure_depth(wordnet: WordNet, synset: int) -> int:
    """Return the nodes on the longest path from a root to a synset, 1 for a root."""
    if synset not in wordnet.depths:
        above = [measure_depth(wordnet, parent) for parent in wordnet.parents[synset]]
        wordnet.depths[synset] = 1 + max(above, default=0)
    return wordnet.depths[synset]


def compare_synsets(wordnet: WordNet, first: int, second: int) -> float:
    """Return the Wu-Palmer similarity of two synsets, in (0, 1]; NaN if nothing is above both.

    2 d(c) / (s1 + s2 + 2 d(c)) for the steps s1 and s2 up to a common hypernym c and its depth
    d(c) in nodes from the root, largest over all c (Wu and Palmer 1994; facts section 5).

    Example:
        >>> tiny = WordNet(
        ...     senses={}, parents={1: (), 2: (1,), 3: (2,), 4: (2,)}, words={}, irregular={}
        ... )
        >>> compare_synsets(tiny, 3, 4), compare_synsets(tiny, 3, 3)
        (0.666..., 1.0)
    """
    above, others = climb(wordnet, first), climb(wordnet, second)
    scores = [
        2 * depth / (above[common] + others[common] + 2 * depth)
        for common in above.keys() & others.keys()
        for depth in (measure_depth(wordnet, common),)
    ]
    return max(scores, default=float("nan"))


def count_steps(wordnet: WordNet, first: int, second: int) -> float:
    """Return the steps up to the nearest common hypernym from the farther one of two synsets.

    Siblings are 1 step apart, a synset and itself 0; NaN if nothing is above both.

    Example:
        >>> tiny = WordNet(senses={}, parents={1: (), 2: (1,), 3: (2,)}, words={}, irregular={})
        >>> count_steps(tiny, 3, 1), count_steps(tiny, 3, 3)
        (2.0, 0.0)
    """
    above, others = climb(wordnet, first), climb(wordnet, second)
    steps = [max(above[common], others[common]) for common in above.keys() & others.keys()]
    return float(min(steps)) if steps else float("nan")


def compare_names(
    wordnet: WordNet, names: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compare all class names with each other, by their closest pair of senses.

    Args:
        wordnet: from `read_wordnet`.
        names: C class names.

    Returns:
        Wu-Palmer similarity (C,C) in (0, 1], the largest over pairs of senses, and steps to the
        common hypernym (C,C), the fewest. Rows and columns of a name that is unknown are NaN.

    Example:
        >>> tiny = WordNet(
        ...     senses={"cat": (3,), "dog": (4,)}, words={}, irregular={},
        ...     parents={1: (), 2: (1,), 3: (2,), 4: (2,)},
        ... )
        >>> similarity, steps = compare_names(tiny, ["cats", "dog", "yeti"])
        >>> similarity[0].round(2), steps[0]
        (array([1.  , 0.67,  nan]), array([ 0.,  1., nan]))
    """
    senses = [find_synsets(wordnet, name) for name in names]
    similarity = np.full((len(names), len(names)), np.nan)
    steps = similarity.copy()
    for row, own in enumerate(senses):
        for column, others in enumerate(senses[: row + 1]):
            pairs = [(first, second) for first in own for second in others]
            close = [value for pair in pairs if (value := compare_synsets(wordnet, *pair)) > 0]
            near = [value for pair in pairs if (value := count_steps(wordnet, *pair)) >= 0]
            similarity[row, column] = similarity[column, row] = max(close, default=np.nan)
            steps[row, column] = steps[column, row] = min(near, default=np.nan)
    return similarity, steps


def climb(wordnet: WordNet, synset: int) -> Mapping[int, int]:
    """Return the fewest steps from a synset up to each synset above it, itself included."""
    if synset not in wordnet.above:
        found = {synset: 0}
        for parent in wordnet.parents[synset]:
            for common, steps in climb(wordnet, parent).items():
                found[common] = min(steps + 1, found.get(common, steps + 1))
        wordnet.above[synset] = found
    return wordnet.above[synset]


def _look_up(wordnet: WordNet, name: str) -> tuple[int, ...]:
    for spelling in _spell(wordnet, name):
        if spelling in wordnet.senses:
            return wordnet.senses[spelling]
    return ()


def _spell(wordnet: WordNet, name: str) -> Iterator[str]:
    """Yield what a name may stand as in the index, the likeliest first."""
    lemma = "_".join(name.lower().replace("_", " ").split())
    for plain in dict.fromkeys((lemma, lemma.replace("-", "_"), lemma.replace("_", "-"))):
        yield plain
        first, gap, last = plain.rpartition("_")
        yield from wordnet.irregular.get(plain, ())
        yield from (first + gap + single for single in wordnet.irregular.get(last, ()))
        for plural, single in _ENDINGS:
            if plain.endswith(plural):
                yield plain.removesuffix(plural) + single
    yield lemma.replace("_", "").replace("-", "")


def _read_lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(
            f"cannot be read ({reason})", where=path, mend=f"use the files of {PACKAGE} of Debian"
        ) from error
    for number, line in enumerate(text.splitlines(), start=1):
        # Lines of the licence begin with blanks.
        if line and not line.startswith(" "):
            yield number, line


def _parse_synset(line: str) -> tuple[int, tuple[str, ...], tuple[int, ...]]:
    """Parse `offset file n words (word id)... pointers (symbol offset n source)... | gloss`."""
    parts = line.partition(" | ")[0].split()
    count = int(parts[3], 16)
    words = tuple(parts[4 : 4 + 2 * count : 2])
    start = 4 + 2 * count
    pointers = parts[start + 1 :]
    if len(pointers) != 4 * int(parts[start]) or len(words) != count:
        raise ValueError("the line has another number of words or pointers than it says")
    above = [
        int(pointers[place + 1])
        for place in range(0, len(pointers), 4)
        if pointers[place] in _UP and pointers[place + 2] == "n"
    ]
    return int(parts[0]), words, tuple(above)


def _parse_lemma(line: str) -> tuple[str, tuple[int, ...]]:
    """Parse `lemma n senses pointers symbol... senses tagged offset...`."""
    parts = line.split()
    count = int(parts[2])
    if count < 1 or len(parts) != 6 + int(parts[3]) + count:
        raise ValueError("the line has another number of senses than it says")
    return parts[0], tuple(int(part) for part in parts[-count:])


def _check_tree(parents: Mapping[int, tuple[int, ...]], path: Path) -> None:
    """Refuse a tree with a hypernym that is not there, in a circle, or too tall to climb."""
    depths: dict[int, int] = {}
    try:
        for synset in TopologicalSorter(parents).static_order():
            depths[synset] = 1 + max((depths[parent] for parent in parents[synset]), default=0)
        whole = max(depths.values(), default=0) <= _TALLEST
    except (KeyError, CycleError):
        whole = False
    if not whole:
        raise InputError(
            "its hypernyms are no tree", where=path, mend=f"use the files of {PACKAGE} of Debian"
        )


def _bad_line(path: Path, number: int) -> InputError:
    return InputError(
        "is not a line of WordNet's database",
        where=f"{path}, line {number}",
        mend=f"use the files of {PACKAGE} of Debian",
    )
