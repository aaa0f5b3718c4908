"""Which object goes on which background at which size, one composite a row.

Pure functions of a seed and an epoch: a resumed run computes the same plan and goes on where it
was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fieldmark.core.seeds import generator

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """One composite a row.

    Attributes:
        objects: index of the foreground, (n,).
        backgrounds: index of the background, (n,).
        scales: index of the size, (n,).
    """

    objects: Indices
    backgrounds: Indices
    scales: Indices

    def __len__(self) -> int:
        return len(self.objects)

    def rows(self, chosen: slice) -> Plan:
        """Return some of the rows."""
        return Plan(self.objects[chosen], self.backgrounds[chosen], self.scales[chosen])


def sample_objects(
    labels: NDArray[np.int64], count: int, *, seed: int, balanced: bool = True
) -> Indices:
    """Choose up to `count` distinct objects, as evenly over the classes as there are objects.

    A class with fewer objects than its share gives them all and the other classes fill up
    (BAP M.3.1 asks for 5,000 class-balanced objects where a class has 1,113: facts 3.9);
    `draw_epoch` then shows its objects more often.

    Args:
        labels: class of each object, (n,).
        count: N, 1 or more.
        seed: seed of the run.
        balanced: False draws regardless of class.

    Returns:
        Indices into `labels`, ascending.

    Example:
        >>> sample_objects(np.array([0, 0, 0, 0, 1]), 3, seed=0).size
        3
    """
    rng = generator(seed, "objects")
    order = rng.permutation(len(labels))
    if balanced:
        # The r-th object of its class, whichever class that is, comes before any (r+1)-th.
        rank = np.empty(len(labels), np.int64)
        for label in np.unique(labels):
            members = order[labels[order] == label]
            rank[members] = np.arange(len(members))
        order = order[np.argsort(rank[order], kind="stable")]
    return np.sort(order[:count]).astype(np.int64)


def draw_epoch(
    labels: NDArray[np.int64],
    *,
    contexts: int,
    n_backgrounds: int,
    n_scales: int,
    seed: int,
    epoch: int,
    balanced: bool = True,
    redraw: bool = True,
) -> Plan:
    """Draw the composites of one epoch: objects x contexts rows in random order (BAP 3.1.2).

    Args:
        labels: class of each object, (n,).
        contexts: M, composites of an object.
        n_backgrounds: how many backgrounds there are.
        n_scales: how many sizes there are.
        seed: seed of the run.
        epoch: which epoch, from 0.
        balanced: give every class the same number of rows; the objects of a rare class come back
            more often, each equally often but for one.
        redraw: False keeps the composites of epoch 0 and changes their order alone.

    Example:
        >>> labels = np.array([0, 0, 1])
        >>> plan = draw_epoch(labels, contexts=4, n_backgrounds=9, n_scales=2, seed=0, epoch=0)
        >>> len(plan), np.bincount(plan.objects).tolist()
        (12, [3, 3, 6])
    """
    rng = generator(seed, "composites", epoch if redraw else 0)
    total = len(labels) * contexts
    if balanced:
        classes = np.unique(labels)
        shares = np.array_split(np.arange(total), len(classes))
        parts = [
            _cycle(np.flatnonzero(labels == label), len(share), rng)
            for label, share in zip(classes, shares, strict=True)
        ]
        objects = np.concatenate(parts)
    else:
        objects = np.repeat(np.arange(len(labels)), contexts)
    backgrounds = rng.integers(n_backgrounds, size=total)
    scales = rng.integers(n_scales, size=total)
    order = generator(seed, "order", epoch).permutation(total)
    return Plan(*(column[order].astype(np.int64) for column in (objects, backgrounds, scales)))


def _cycle(members: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    whole, rest = divmod(count, len(members))
    return np.concatenate([np.tile(members, whole), rng.permutation(members)[:rest]])


def draw_anchor_contexts(
    n_objects: int, *, contexts: int, n_backgrounds: int, n_scales: int, seed: int, part: int
) -> Plan:
    """Draw the composites of one part of phase 1: `contexts` rows for each object, in order.

    Backgrounds of one object are distinct as far as there are enough of them.

    Args:
        n_objects: objects in this part.
        contexts: K.
        n_backgrounds: how many backgrounds there are.
        n_scales: how many sizes there are.
        seed: seed of the run.
        part: number of the part; each has a stream of its own, so parts can be made in any order.

    Example:
        >>> plan = draw_anchor_contexts(2, contexts=3, n_backgrounds=5, n_scales=2, seed=0, part=0)
        >>> plan.objects.tolist()
        [0, 0, 0, 1, 1, 1]
    """
    rng = generator(seed, "anchors", part)
    rounds = math.ceil(contexts / n_backgrounds)
    backgrounds = [
        np.concatenate([rng.permutation(n_backgrounds) for _ in range(rounds)])[:contexts]
        if n_backgrounds < 8 * contexts
        else rng.choice(n_backgrounds, contexts, replace=False, shuffle=False)
        for _ in range(n_objects)
    ]
    return Plan(
        np.repeat(np.arange(n_objects, dtype=np.int64), contexts),
        np.concatenate(backgrounds).astype(np.int64),
        rng.integers(n_scales, size=n_objects * contexts).astype(np.int64),
    )
