"""Read what a diagnosis leaves for its page: `OUT/diagnosis.json` and the pictures beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldmark.core.errors import InputError
from fieldmark.metrics.error_shares import SourceShare
from fieldmark.metrics.intervals import Interval
from fieldmark.report.stored import load_object, load_record

RECORD, PICTURES = "diagnosis.json", "pictures.json"
SCHEMA = 1
MEND = "run `fieldmark diagnose` again"
_NUMBERS = ("share", "null", "corrected", "of_images", "corrected_of_images")


@dataclass(frozen=True, kw_only=True)
class GroupShares:
    """The sources of some images by one rule.

    Attributes:
        kind: `errors`, `hits`, `class` or `attribute`.
        name: of the class or the attribute.
        images: how many there are.
        shares: by source.
    """

    kind: str
    name: str
    images: int
    shares: Mapping[str, SourceShare]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One picture.

    Attributes:
        image: its id.
        label: its class.
        predicted: the class that the model names.
        file: the picture.
        says: by rule, the source it names.
    """

    image: str
    label: str
    predicted: str
    file: Path
    says: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """A strip of pictures, and how many images it could hold."""

    name: str
    count: int
    pictures: tuple[Example, ...]


@dataclass(frozen=True, kw_only=True)
class RuleMoves:
    """How a rule's verdicts move when masks are eroded (radius below 0) or dilated.

    Attributes:
        rule: its name.
        radii: R radii in pixels.
        rate: the background's share with the masks as they are.
        count: errors that it rests on.
        counts: R, errors with a verdict at the radius as well.
        flipped: R shares of these whose verdict changed.
        moved: R, by how much the background's share moved, signed.
        is_stable: whether it moved by fewer than 2 points throughout.
    """

    rule: str
    radii: tuple[int, ...]
    rate: float
    count: int
    counts: tuple[int, ...]
    flipped: tuple[float, ...]
    moved: tuple[float, ...]
    is_stable: bool


@dataclass(frozen=True, kw_only=True)
class MaskFacts:
    """What is known of the masks.

    Attributes:
        source: `given`, or the name of what drew them.
        automatic: whether no person drew them.
        counts: masks by verdict.
        reasons: masks by what is off with them.
        odd: masks by what their source finds odd.
        overlap: mean intersection over union with given masks, and how many have one.
        side: of the encoder's input in pixels, the unit of the radii.
        moved: errors whose masks were moved.
        moves: by rule.
    """

    source: str
    automatic: bool
    counts: Mapping[str, int]
    reasons: Mapping[str, int]
    odd: Mapping[str, int]
    overlap: tuple[float, int]
    side: int
    moved: int
    moves: tuple[RuleMoves, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class DiagnosisParts:
    """All that the page speaks of.

    Attributes:
        values: `diagnosis.json` as it is.
        groups: by rule, the groups; errors first.
        masks: what is known of them.
        strips: pictures.
    """

    values: Mapping[str, Any]
    groups: Mapping[str, tuple[GroupShares, ...]]
    masks: MaskFacts
    strips: tuple[Examples, ...]

    def find(self, rule: str, kind: str) -> GroupShares:
        """Return the one group of a kind that all images form."""
        return next(group for group in self.groups[rule] if group.kind == kind)


def read_diagnosis_parts(folder: Path) -> DiagnosisParts:
    """Read what the page of a run is made of.

    Raises:
        InputError: the record is missing or damaged, or a picture lies outside of the folder.

    Example:
        >>> read_diagnosis_parts(Path("nowhere"))
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.InputError: nowhere: holds no diagnosis.json; run `fieldmark diag...
    """
    values = load_record(folder, name=RECORD, schema=SCHEMA, mend=MEND)
    try:
        return DiagnosisParts(
            values=values,
            groups={
                str(rule): tuple(map(_read_group, groups))
                for rule, groups in values["summaries"].items()
            },
            masks=_read_masks(values["mask_quality"]),
            strips=_read_strips(folder / "page"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"is damaged ({type(error).__name__}: {error})", where=folder / RECORD, mend=MEND
        ) from error


def _read_group(values: Mapping[str, Any]) -> GroupShares:
    return GroupShares(
        kind=str(values["kind"]),
        name=str(values["name"]),
        images=int(values["images"]),
        shares={str(one["source"]): _read_share(one) for one in values["sources"]},
    )


def _read_share(values: Mapping[str, Any]) -> SourceShare:
    return SourceShare(
        source=str(values["source"]),
        hits=int(values["hits"]),
        of=int(values["of"]),
        interval=_read_interval(values["interval"]),
        corrected_interval=_read_interval(values["corrected_interval"]),
        **{name: _read_number(values[name]) for name in _NUMBERS},
    )


def _read_masks(values: Mapping[str, Any]) -> MaskFacts:
    overlap = values["overlap"]
    return MaskFacts(
        source=str(values["source"]),
        automatic=bool(values["automatic"]),
        counts=_read_counts(values["counts"]),
        reasons=_read_counts(values["reasons"]),
        odd=_read_counts(values["odd"]),
        overlap=(_read_number(overlap["mean"]), int(overlap["count"])),
        side=int(values["input_side"]),
        moved=int(values["moved"]),
        moves=tuple(_read_moves(rule, one) for rule, one in values["stability"].items()),
    )


def _read_moves(rule: str, values: Mapping[str, Any]) -> RuleMoves:
    return RuleMoves(
        rule=rule,
        radii=tuple(map(int, values["radii"])),
        rate=_read_number(values["rate"]),
        count=int(values["count"]),
        counts=tuple(map(int, values["counts"])),
        flipped=tuple(map(_read_number, values["flipped"])),
        moved=tuple(map(_read_number, values["moved"])),
        is_stable=bool(values["is_stable"]),
    )


def _read_counts(values: Mapping[str, Any]) -> dict[str, int]:
    return {str(name): int(count) for name, count in values.items()}


def _read_interval(values: list[Any]) -> Interval:
    low, high = map(_read_number, values)
    return Interval(low, high)


def _read_number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _read_strips(folder: Path) -> tuple[Examples, ...]:
    path = folder / PICTURES
    if not path.is_file():
        return ()
    strips = load_object(path, mend=MEND)["strips"]
    return tuple(
        Examples(
            name=str(strip["name"]),
            count=int(strip["count"]),
            pictures=tuple(_read_example(folder, one) for one in strip["pictures"]),
        )
        for strip in strips
    )


def _read_example(folder: Path, values: Mapping[str, Any]) -> Example:
    file = folder / str(values["file"])
    if not file.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"names a picture outside of it ({file})", where=folder, mend=MEND)
    return Example(
        image=str(values["image"]),
        label=str(values["label"]),
        predicted=str(values["predicted"]),
        file=file,
        says={str(rule): str(source) for rule, source in values["says"].items()},
    )
