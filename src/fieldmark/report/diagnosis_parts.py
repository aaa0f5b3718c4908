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
_MEND = "run `fieldmark diagnose` again"
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


@dataclass(frozen=True, eq=False, kw_only=True)
class DiagnosisParts:
    """All that the page speaks of.

    Attributes:
        values: `diagnosis.json` as it is.
        groups: by rule, the groups; errors first.
        strips: pictures.
    """

    values: Mapping[str, Any]
    groups: Mapping[str, tuple[GroupShares, ...]]
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
    values = load_record(folder, name=RECORD, schema=SCHEMA, mend=_MEND)
    try:
        return DiagnosisParts(
            values=values,
            groups={
                str(rule): tuple(map(_read_group, groups))
                for rule, groups in values["summaries"].items()
            },
            strips=_read_strips(folder / "page"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"is damaged ({type(error).__name__}: {error})", where=folder / RECORD, mend=_MEND
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


def _read_interval(values: list[Any]) -> Interval:
    low, high = map(_read_number, values)
    return Interval(low, high)


def _read_number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _read_strips(folder: Path) -> tuple[Examples, ...]:
    path = folder / PICTURES
    if not path.is_file():
        return ()
    strips = load_object(path, mend=_MEND)["strips"]
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
        raise InputError(f"names a picture outside of it ({file})", where=folder, mend=_MEND)
    return Example(
        image=str(values["image"]),
        label=str(values["label"]),
        predicted=str(values["predicted"]),
        file=file,
        says={str(rule): str(source) for rule, source in values["says"].items()},
    )
