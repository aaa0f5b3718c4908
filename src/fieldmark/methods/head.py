"""What a head is: from embeddings to classes. Each head is one file with one `HEAD` in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldmark.core.errors import NotApplicableError
from fieldmark.core.seeds import generator


class Head(Protocol):
    """What is asked of a head once it is made."""

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Return the label of each embedding (n,D): (n,)."""
        ...

    def describe(self) -> dict[str, object]:
        """Return which head this is, how it is set and what was selected, as JSON values."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Features:
    """The embeddings of one split.

    Attributes:
        embeddings: (n,D) of unit norm.
        labels: (n,) classes.
        groups: (n,) ids of groups, -1 where the group is not known.
        names: what each group is called; also of groups that have no image here.
    """

    embeddings: NDArray[np.float32]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    names: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Features:
        """Return some of the rows, in that order."""
        rows = np.asarray(indices, np.int64)
        return Features(
            embeddings=self.embeddings[rows],
            labels=self.labels[rows],
            groups=self.groups[rows],
            names=self.names,
        )

    def absent_groups(self, minimum: int = 1) -> list[str]:
        """Name the groups that have fewer than `minimum` images here.

        Example:
            >>> one = Features(embeddings=np.eye(2, dtype=np.float32), labels=np.zeros(2, int),
            ...                groups=np.zeros(2, int), names={0: "on land", 1: "on water"})
            >>> one.absent_groups()
            ['on water']
        """
        return [name for g, name in self.names.items() if (self.groups == g).sum() < minimum]


@dataclass(frozen=True, eq=False, kw_only=True)
class Concepts:
    """Raw text embeddings of concept pairs, for heads that work in the space of texts.

    Attributes:
        reject: (P,2,D): two values of a spurious attribute ("land background", "water background").
        accept: (Q,2,D): two classes.
    """

    reject: NDArray[np.float32]
    accept: NDArray[np.float32]


@dataclass(frozen=True, eq=False, kw_only=True)
class HeadData:
    """What a head is made from; a head reads what its kind needs.

    Attributes:
        train: the training split.
        val: the validation split, which alone may choose settings.
        holdout: a part of the training data that the encoder was not fine-tuned on (AFR).
        prototypes: (C,D) prompt-ensemble embeddings of the classes.
        concepts: concept pairs.
        trained: the head that the encoder was fine-tuned with.
        seed: 0 or more.
        settings: of the head, where they are not its own defaults (`linear-probe` has some).
    """

    train: Features | None = None
    val: Features | None = None
    holdout: Features | None = None
    prototypes: NDArray[np.float32] | None = None
    concepts: Concepts | None = None
    trained: Head | None = None
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)


Need = Literal["train", "val", "prototypes", "concepts", "trained"]


@dataclass(frozen=True, kw_only=True)
class HeadKind:
    """A way to make a head.

    Attributes:
        name: in flags and records.
        make: from the data to the head. Raises NotApplicableError where the data do not bear it.
        needs: what it reads of `HeadData`.
        seeded: whether another seed gives another head.
        source: paper and equation or section.
        check: raises NotApplicableError where the data do not bear the head. It reads labels and
            groups alone, so that no encoder is trained for a head that is then refused.
    """

    name: str
    make: Callable[[HeadData], Head]
    needs: frozenset[Need]
    seeded: bool
    source: str = ""
    check: Callable[[HeadData], None] = lambda data: None


def hold_out(part: Features, *, share: float, seed: int) -> tuple[Features, Features]:
    """Split training data at random, every group by itself, so that chance loses no rare one.

    Args:
        part: the training data.
        share: of what is returned second, the part to reweight, in (0, 1).
        seed: 0 or more.

    Example:
        >>> rows = np.repeat([0, 1], [10, 5])
        >>> part = Features(embeddings=np.eye(15, dtype=np.float32), labels=rows, groups=rows)
        >>> [len(half) for half in hold_out(part, share=0.2, seed=0)]
        [12, 3]
    """
    random = generator(seed, "holdout")
    held = []
    for group in np.unique(part.groups):
        rows = random.permutation(np.flatnonzero(part.groups == group))
        held.append(rows[: max(1, round(share * len(rows)))])
    second = np.sort(np.concatenate(held))
    return part.take(np.setdiff1d(np.arange(len(part)), second)), part.take(second)


def require_groups(part: Features, *, split: str, minimum: int = 1) -> None:
    """Check that a split has every group.

    Raises:
        NotApplicableError: groups with fewer than `minimum` images, by name.

    Example:
        >>> one = Features(embeddings=np.eye(1, dtype=np.float32), labels=np.zeros(1, int),
        ...                groups=np.zeros(1, int), names={0: "on land", 1: "on water"})
        >>> require_groups(one, split="val")
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.NotApplicableError: split val has no image of: on water
    """
    absent = part.absent_groups(minimum)
    if absent:
        few = "no image" if minimum == 1 else f"fewer than {minimum} images"
        raise NotApplicableError(f"split {split} has {few} of: {', '.join(absent)}")
