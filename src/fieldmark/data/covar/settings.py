"""What a COVAR is built with: sizes, subsets, how far each variant goes, and what moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from fieldmark.core.errors import UnknownNameError, UsageError

Moves: TypeAlias = Literal["scene", "foreground"]
Edge: TypeAlias = Literal["natural", "hard", "feathered"]
Placement: TypeAlias = Literal["keep", "centre"]

ORIGINAL = "original"
BACKGROUND = "background"
SCALES = (1.5, 2.0, 4.0, 8.0)
SINGLE = ("translate", "rotation", "h_flip", "v_flip", "crop")
VIEWPOINTS = ("viewpoint_1", "viewpoint_2")
# Sides of the patches whose phase a shift in pixels is recorded for.
PATCHES = (14, 16, 32)


@dataclass(frozen=True, kw_only=True)
class CovarSettings:
    """How a COVAR is built (CCI and COVAR, section 4 and appendix A.6).

    The paper shifts and turns the whole image, so by default the scene moves with its object.

    Attributes:
        side: of the images in pixels.
        subsets: which variants to write; empty means all ten, and the two viewpoints where there
            is a function for them. Originals are always written.
        backgrounds_per_object: how many scenes each object is laid on, the same for all.
        objects_per_class: how many objects of a class at most; None takes all.
        scales: linear factors that the object shrinks by; above 1.
        shift: largest translation as a share of the side, in (0, 0.2].
        patch: translations are whole multiples of it, in pixels; None takes whole pixels.
        angle: largest rotation in degrees, in (0, 180].
        crop: least and largest share of the area that a crop keeps.
        translates: what a translation moves, the whole scene or the foreground on it.
        rotates: what a rotation turns.
        object_side: longer side of a centred object as a share of the side.
        placement: whether an object of a photograph keeps its place and size or is centred.
        edge: of the mask: as it is, hard, or worn away by 1 pixel and feathered by 1.5.
        supersample: how many times finer the canvas is than the images, 1 to 4.
        seed: of all that is drawn.

    Raises:
        UsageError: a value that cannot be.
        UnknownNameError: a subset that there is none of.

    Example:
        >>> CovarSettings(scales=(2.0,)).find_subsets()
        ('background', 'scale_2', 'translate', 'rotation', 'h_flip', 'v_flip', 'crop')
    """

    side: int = 224
    subsets: tuple[str, ...] = ()
    backgrounds_per_object: int = 20
    objects_per_class: int | None = None
    scales: tuple[float, ...] = SCALES
    shift: float = 0.2
    patch: int | None = None
    angle: float = 45.0
    crop: tuple[float, float] = (0.6, 0.9)
    translates: Moves = "scene"
    rotates: Moves = "scene"
    object_side: float = 0.6
    placement: Placement = "keep"
    edge: Edge = "natural"
    supersample: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for held, problem in _list_problems(self):
            if not held:
                raise UsageError(problem)
        known = (*name_scales(self.scales), BACKGROUND, *SINGLE, *VIEWPOINTS)
        for name in self.subsets:
            if name not in known:
                raise UnknownNameError("subset", name, known)
        if len(set(self.subsets)) < len(self.subsets):
            raise UsageError("a subset is named twice", mend="name each once")

    def find_subsets(self, *, viewpoints: bool = False) -> tuple[str, ...]:
        """Return the subsets to write, without the originals, in their usual order.

        Args:
            viewpoints: whether there is a function that makes other views.

        Raises:
            UsageError: a viewpoint is asked for, and there is none.
        """
        known = (BACKGROUND, *name_scales(self.scales), *SINGLE, *(VIEWPOINTS * viewpoints))
        for name in self.subsets:
            if name not in known:
                raise UsageError(
                    f"{name} needs a function that makes other views of an object",
                    mend="give --viewpoint function:FILE.py:NAME",
                )
        return tuple(name for name in known if not self.subsets or name in self.subsets)

    @property
    def canvas_side(self) -> int:
        """Q, the side of the canvas that an image is a reduction of."""
        return self.side * self.supersample

    @property
    def scene_side(self) -> int:
        """Side of a scene in pixels of the canvas: sqrt(2) Q, so that it can turn and move.

        Example:
            >>> CovarSettings().scene_side  # 448 * sqrt(2), and whole pixels on either side
            636
        """
        margin = math.ceil(self.side * (math.sqrt(2) - 1) / 2)
        return self.canvas_side + 2 * margin * self.supersample


def name_scales(scales: Sequence[float]) -> tuple[str, ...]:
    """Return the names of the scale subsets.

    Example:
        >>> name_scales((1.5, 8.0))
        ('scale_1.5', 'scale_8')
    """
    return tuple(f"scale_{factor:g}" for factor in scales)


def read_scale(subset: str) -> float:
    """Return the factor of a scale subset.

    Example:
        >>> read_scale("scale_1.5")
        1.5
    """
    return float(subset.removeprefix("scale_"))


def _list_problems(settings: CovarSettings) -> list[tuple[bool, str]]:
    low, high = settings.crop
    step = 1 if settings.patch is None else settings.patch
    per_class = settings.objects_per_class
    return [
        (8 <= settings.side <= 4096, f"a side of {settings.side} is not in 8 to 4096 pixels"),
        (1 <= settings.supersample <= 4, f"a canvas {settings.supersample} times finer; 1 to 4"),
        (settings.backgrounds_per_object >= 1, "an object needs at least 1 background"),
        (per_class is None or per_class >= 1, "a class needs at least 1 object"),
        (all(1 < f <= 64 for f in settings.scales), "a scale is a factor above 1, at most 64"),
        (len(set(settings.scales)) == len(settings.scales), "a scale is named twice"),
        (0 < settings.shift <= 0.2, f"a shift of {settings.shift} is not in (0, 0.2]"),
        (
            1 <= step <= settings.shift * settings.side,
            f"no shift of whole {step} pixels fits {settings.shift:g} of {settings.side} pixels",
        ),
        (0 < settings.angle <= 180, f"an angle of {settings.angle} is not in (0, 180]"),
        (0 < low <= high < 1, f"a crop of {low} to {high} is not within (0, 1)"),
        (0 < settings.object_side <= 1, f"an object of {settings.object_side} is not in (0, 1]"),
    ]
