"""Read what a mitigation leaves for its page: `OUT/mitigation.json` and the pictures beside it.

`OUT/page/pictures.json` holds, by cluster id, a list of `{"image": "a.jpg", "label": "cat",
"whole": "whole-3.jpg", "crop": "crop-3.jpg"}`; paths are relative to `OUT/page/`. Without that file
the page has no pictures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldmark.core.errors import InputError
from fieldmark.metrics.intervals import Interval
from fieldmark.report.discovery_parts import PICTURES
from fieldmark.report.stored import load_object, load_record

RECORD = "mitigation.json"
SCHEMA = 1
MEND = "run `fieldmark mitigate` again"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A figure with its 95 % interval, NaN where undefined, and what it rests on."""

    value: float
    interval: Interval
    count: int


@dataclass(frozen=True, kw_only=True)
class Change:
    """A figure before and after.

    Attributes:
        metric: as in `benchmarks.mitigation_measure.Figure`.
        group: id of the group or the cluster, None for a figure over groups.
        before: by the model that was discovered on.
        after: by the trained one.
        difference: after minus before.
        interval: of the difference, NaN where it is not tested.
        p_value: of the difference.
    """

    metric: str
    group: int | None
    before: Measured
    after: Measured
    difference: float
    interval: Interval
    p_value: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """The figures of one split.

    Attributes:
        split: its name.
        images: how many there are.
        with_cluster: how many have a chosen cluster.
        regions: how many there are.
        changes: all figures.
    """

    split: str
    images: int
    with_cluster: int
    regions: int
    changes: tuple[Change, ...]

    def find(self, metric: str) -> Change | None:
        """Return a figure over groups, or None where it was not measured."""
        return next((one for one in self.changes if one.metric == metric), None)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A region that was trained away: its image, that image's class, and both files."""

    image: str
    label: str
    whole: Path
    crop: Path


@dataclass(frozen=True, eq=False, kw_only=True)
class MitigationParts:
    """All that the page of a mitigation speaks of.

    Attributes:
        values: `mitigation.json` as it is.
        evaluations: one for each split, in order.
        pictures: by cluster id.
    """

    values: Mapping[str, Any]
    evaluations: tuple[Evaluation, ...]
    pictures: Mapping[int, tuple[Picture, ...]]


def read_mitigation_parts(folder: Path) -> MitigationParts:
    """Read what the page of a run is made of.

    Raises:
        InputError: the record is missing, damaged or of another schema, or a picture lies outside
            of the folder.

    Example:
        >>> read_mitigation_parts(Path("nowhere"))
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.InputError: nowhere: holds no mitigation.json; run `fieldmark mit...
    """
    path = folder / RECORD
    values = load_record(folder, name=RECORD, schema=SCHEMA, mend=MEND)
    try:
        return MitigationParts(
            values=values,
            evaluations=tuple(map(_read_evaluation, values["evaluation"])),
            pictures=_read_pictures(folder / "page"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"is damaged ({type(error).__name__}: {error})", where=path, mend=MEND
        ) from error


def _read_evaluation(value: Mapping[str, Any]) -> Evaluation:
    return Evaluation(
        split=str(value["split"]),
        images=int(value["images"]),
        with_cluster=int(value["with the cluster"]),
        regions=int(value["regions"]),
        changes=tuple(map(_read_change, value["figures"])),
    )


def _read_change(value: Mapping[str, Any]) -> Change:
    difference = value["difference"]
    return Change(
        metric=str(value["metric"]),
        group=None if value["group"] is None else int(value["group"]),
        before=_read_measured(value["before"]),
        after=_read_measured(value["after"]),
        difference=_read_number(difference["value"]),
        interval=_read_interval(difference),
        p_value=_read_number(difference["p_value"]),
    )


def _read_measured(value: Mapping[str, Any]) -> Measured:
    return Measured(
        value=_read_number(value["value"]),
        interval=_read_interval(value),
        count=int(value["count"]),
    )


def _read_interval(value: Mapping[str, Any]) -> Interval:
    return Interval(_read_number(value["low"]), _read_number(value["high"]))


def _read_number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _read_pictures(folder: Path) -> dict[int, tuple[Picture, ...]]:
    path = folder / PICTURES
    if not path.is_file():
        return {}
    return {
        int(cluster): tuple(
            Picture(
                image=str(one["image"]),
                label=str(one["label"]),
                whole=_place(str(one["whole"]), folder=folder),
                crop=_place(str(one["crop"]), folder=folder),
            )
            for one in pictures
        )
        for cluster, pictures in load_object(path, mend=MEND).items()
    }


def _place(name: str, *, folder: Path) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InputError(
            f"{name} lies outside {folder}", where=folder / PICTURES, mend="copy it into the folder"
        )
    return path
