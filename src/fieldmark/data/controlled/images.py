"""What a controlled setting is, and the images that it comes to (RaVL section 3.2, appendix B).

Shape letters: n images, R regions, S the side of an image in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fieldmark.core.errors import UsageError
from fieldmark.data.pixels import PixelSource

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A spurious feature that is tied to a class, and how closely.

    Attributes:
        domain: where the objects come from ("digits", "fashion", "stamps", "coco").
        feature: the spurious feature, such as `red-rectangle`.
        place: where on an image it lies: `any`, or a corner such as `top-left`.
        size: its longer side as a share of a quadrant's, in (0, 1].
        classes: the label set, 2 names or more.
        target: the class of it that the feature is tied to.
        correlation: Cramer's V of feature and class in the fine-tuning set, in (0, 1].
        draw: number of the draw of images.

    Raises:
        UsageError: a number out of its range, or a target that is no class.

    Example:
        >>> Setting(domain="digits", feature="red-rectangle", classes=("one", "two"),
        ...         target="two", correlation=0.9).name
        'digits red-rectangle any 0.7 two of 2 V0.9 0'
    """

    domain: str
    feature: str
    place: str = "any"
    size: float = 0.7
    classes: tuple[str, ...]
    target: str
    correlation: float
    draw: int = 0

    def __post_init__(self) -> None:
        if self.target not in self.classes or len(self.classes) < 2:
            raise UsageError(
                f"{self.target!r} is none of the classes {', '.join(self.classes)}",
                mend="give two classes or more, the target among them",
            )
        if not (0 < self.correlation <= 1 and 0 < self.size <= 1):
            raise UsageError(
                f"a correlation of {self.correlation:g} or a size of {self.size:g} is not in (0, 1]"
            )

    @property
    def name(self) -> str:
        """What a table calls it."""
        tie = f"{self.target} of {len(self.classes)} V{self.correlation:g}"
        return f"{self.domain} {self.feature} {self.place} {self.size:g} {tie} {self.draw}"

    @property
    def code(self) -> int:
        """Place of the target among the classes."""
        return self.classes.index(self.target)


@dataclass(frozen=True, eq=False, kw_only=True)
class ControlledImages:
    """Images of which it is known what each region shows.

    Attributes:
        pixels: n images.
        labels: (n,) class, a place in the setting's `classes`.
        captions: n texts.
        feature: (n,) whether the spurious feature is there.
        owners: (R,) image of each region, ascending.
        boxes: (R,4) float32, x0 y0 x1 y1 in pixels.
        shows: (R,) what each region shows, a place in `names`.
        names: the setting's classes in their order, its feature, then whatever else there is
            ("blank", "distractor").
    """

    pixels: PixelSource
    labels: Ints
    captions: tuple[str, ...]
    feature: NDArray[np.bool_]
    owners: Ints
    boxes: NDArray[np.float32]
    shows: Ints
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)
