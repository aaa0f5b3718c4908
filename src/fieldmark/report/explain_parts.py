"""Read what an explanation leaves for its page: `OUT/explanation.json` and `OUT/pictures/`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fieldmark.core.errors import InputError
from fieldmark.report.stored import load_record

RECORD = "explanation.json"
SCHEMA = 1
MEND = "run `fieldmark explain` again"
_WANTED = ("methods", "images", "texts", "skipped", "attribution")


class Case(NamedTuple):
    """An image and a text that it is explained by, as the record has them."""

    image: Mapping[str, Any]
    text: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ExplanationParts:
    """What the page shows.

    Attributes:
        values: the record as it was written, null where a figure is undefined.
        folder: of the run; pictures are named relative to it.
    """

    values: Mapping[str, Any]
    folder: Path

    @property
    def cases(self) -> Iterator[Case]:
        """Each image with each of its texts."""
        for image in self.values["images"]:
            for text in image["texts"]:
                yield Case(image, text)

    @property
    def masks(self) -> tuple[Mapping[str, Any], ...]:
        """What is known of each mask."""
        return tuple(one["mask"] for one in self.values["images"] if one["mask"] is not None)

    def name_text(self, number: int) -> str:
        """Return a text by its number."""
        return str(self.values["texts"][number])

    def list_energies(self, method: str) -> tuple[float, ...]:
        """Return the energy in the mask of each map of a method, where it is defined."""
        found = (case.text["maps"][method]["energy"] for case in self.cases)
        return tuple(float(value) for value in found if value is not None)


def average(values: tuple[float, ...]) -> float:
    """Return the mean, NaN of nothing.

    Example:
        >>> average((1.0, 2.0)), average(())
        (1.5, nan)
    """
    return sum(values) / len(values) if values else math.nan


def read_explanation_parts(run_dir: Path) -> ExplanationParts:
    """Read the record of a run.

    Raises:
        InputError: it is missing, damaged, or of another version.

    Example:
        >>> read_explanation_parts(Path("nowhere"))
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.InputError: nowhere: holds no explanation.json; ...
    """
    values = load_record(run_dir, name=RECORD, schema=SCHEMA, mend=MEND)
    lacking = [name for name in _WANTED if name not in values]
    if lacking:
        raise InputError(f"lacks {', '.join(lacking)}", where=run_dir / RECORD, mend=MEND)
    return ExplanationParts(values=values, folder=run_dir)
