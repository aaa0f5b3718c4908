"""Refuse training material that occurs in an evaluation split.

Three traces are compared: the file itself (by its path, links followed), its content (by hash), and
the id of the object or scene where the evaluation table names one. The ids matter most: an
evaluation image is often a composite, whose file is new though the bird in it was trained on (BAP
M.3.3 compares CUB paths with Waterbirds' metadata).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from fieldmark.core.errors import LeakageError
from fieldmark.data.images import hash_image

SHOWN = 3


class Leak(NamedTuple):
    """One training item that occurs in an evaluation split, and how that was found."""

    position: int
    trace: str


class Training(Protocol):
    """What is trained on: Foregrounds and Backgrounds fit."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the objects or scenes."""
        ...

    @property
    def paths(self) -> tuple[Path, ...]:
        """Their files."""
        ...


class Evaluation(Protocol):
    """What is evaluated on: an ImageTable fits."""

    @property
    def name(self) -> str:
        """Name of the data set."""
        ...

    @property
    def paths(self) -> tuple[Path, ...]:
        """Its image files."""
        ...

    @property
    def objects(self) -> tuple[str, ...] | None:
        """Ids of the objects in them."""
        ...

    @property
    def scenes(self) -> tuple[str, ...] | None:
        """Ids of the scenes in them."""
        ...

    def hashes(self) -> tuple[str, ...]:
        """Content hashes of the image files."""
        ...


def check_leakage(
    training: Training, evaluation: Evaluation, *, what: Literal["foreground", "background"]
) -> None:
    """Refuse foregrounds or backgrounds that occur in an evaluation split.

    Args:
        training: Foregrounds or Backgrounds; for composites the ids that the table names must be
            the ids here, which by default are paths relative to the root.
        evaluation: the split to be evaluated on, an ImageTable.
        what: whether the ids of `training` are objects or scenes.

    Raises:
        LeakageError: the first few that occur, by name and by how they were found, and their count.
    """
    found = find_leaks(training, evaluation, what=what)
    if found:
        shown = ", ".join(f"{training.paths[index]} ({trace})" for index, trace in found[:SHOWN])
        rest = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise LeakageError(
            f"{len(found)} of {len(training.paths)} {what}s occur in it: {shown}{rest}",
            where=f"evaluation split of {evaluation.name}",
            mend=f"take these {what}s out of the pool or evaluate on other images",
        )


def find_leaks(
    training: Training, evaluation: Evaluation, *, what: Literal["foreground", "background"]
) -> list[Leak]:
    """Return the training items that occur in an evaluation split, in order, each once.

    Example:
        >>> from types import SimpleNamespace as Fake
        >>> training = Fake(ids=("cub/1.jpg",), paths=(Path("/dev/null"),))
        >>> table = Fake(paths=(), objects=("cub/1.jpg",), scenes=None, hashes=tuple)
        >>> find_leaks(training, table, what="foreground")
        [Leak(position=0, trace='same object')]
    """
    named = evaluation.objects if what == "foreground" else evaluation.scenes
    kind = "object" if what == "foreground" else "scene"
    ids = {name for name in named or () if name}
    paths = set(map(os.path.realpath, evaluation.paths))
    hashes = set(evaluation.hashes())
    found = []
    for position, (name, path) in enumerate(zip(training.ids, training.paths, strict=True)):
        if os.path.realpath(path) in paths:
            found.append(Leak(position, "same file"))
        elif name in ids:
            found.append(Leak(position, f"same {kind}"))
        elif hashes and hash_image(path) in hashes:
            found.append(Leak(position, "same content"))
    return found
