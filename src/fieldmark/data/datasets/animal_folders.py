"""Folders of CounterAnimal: a class each, named by its ImageNet index, photographs by context."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fieldmark.core.errors import TableError
from fieldmark.data.images import list_images
from fieldmark.data.layout import read_lines

CONTEXTS = ("common", "counter")
FOLDERS = ("LAION-final", "CounterAnimal/LAION-final", "counteranimal/LAION-final")
NAMES = "imagenet_names.txt"


@dataclass(frozen=True, kw_only=True)
class AnimalFolder:
    """Photographs of a class in one context.

    Attributes:
        index: of the class in ImageNet.
        name: of the class, as the folder has it.
        context: 0 common, 1 counter.
        background: what follows the prefix ("snow"), empty where nothing does.
        paths: the photographs, sorted.
    """

    index: int
    name: str
    context: int
    background: str
    paths: tuple[Path, ...]


def find_base(root: Path) -> Path:
    """Return the folder that holds the class folders.

    Raises:
        TableError: neither `root` has any nor `LAION-final` below it.
    """
    for folder in (root, *(root / name for name in FOLDERS)):
        if folder.is_dir() and any(parse_class(path) for path in folder.iterdir()):
            return folder.resolve()
    raise TableError(
        "has no class folders such as '81 ptarmigan', nor has LAION-final below it",
        where=root,
        mend="check the path of --root",
    )


def parse_class(path: Path) -> tuple[int, str] | None:
    """Return the index and the name of a class folder; None for anything else.

    Example:
        >>> parse_class(Path("imagenet_names.txt")) is None
        True
    """
    match = re.fullmatch(r"(\d+)[ _](.+)", path.name)
    return (int(match[1]), match[2].strip()) if match and path.is_dir() else None


def scan_folders(base: Path, indices: Sequence[int] | None) -> list[AnimalFolder]:
    """List the photographs of some classes, in an order that is the same on every machine.

    Args:
        base: the folder that holds the class folders.
        indices: ImageNet indices of the classes; all that there are if None.
    """
    found = []
    for path in sorted(base.iterdir()):
        parsed = parse_class(path)
        if parsed is None or (indices is not None and parsed[0] not in indices):
            continue
        for inside in sorted(path.iterdir()):
            word = re.match(r"(common|counter)(?:[-_ ]+|$)", inside.name, re.IGNORECASE)
            if word and inside.is_dir():
                found.append(
                    AnimalFolder(
                        index=parsed[0],
                        name=parsed[1],
                        context=CONTEXTS.index(word[1].lower()),
                        background=inside.name[word.end() :],
                        paths=tuple(list_images(inside)),
                    )
                )
    return sorted(found, key=lambda folder: (folder.index, folder.context, folder.background))


def read_names(base: Path) -> dict[int, str]:
    """Read the first name of each ImageNet index from imagenet_names.txt, in `base` or beside it.

    Raises:
        TableError: there is no such file, or a line is not an index, a tab and names.
    """
    for path in (base / NAMES, base.parent / NAMES):
        if not path.is_file():
            continue
        names = {}
        for number, line in enumerate(read_lines(path, mend="write it again"), start=1):
            index, tab, words = line.partition("\t")
            if not line.strip():
                continue
            if not tab or not re.fullmatch("[0-9]{1,9}", index.strip()) or not words.strip():
                raise TableError(
                    f"{line!r} is not an index, a tab and names", where=f"{path}, row {number}"
                )
            names[int(index)] = words.split(",")[0].strip()
        return names
    raise TableError("is missing", where=base / NAMES, mend="take candidates=present")
