"""Read what a discovery leaves for its page: `OUT/discovery.json` and the pictures beside it.

`OUT/page/pictures.json` holds, by cluster id, three strips of pictures (`nearest`, `misled` and
`missed`), each as `{"count": 37, "pictures": [{"image": "a.jpg", "label": "cat", "predicted":
"dog", "whole": "whole-3.jpg", "crop": "crop-3.jpg"}, ...]}`. `count` is how many there are in all,
`crop` is null where no region is shown, and paths are relative to `OUT/page/`. Without that file
the page has no pictures.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldmark.core.errors import InputError
from fieldmark.discovery.candidates import Candidate, LabelGap, Word
from fieldmark.metrics.intervals import Interval
from fieldmark.report.stored import load_object, load_record

RECORD, PICTURES = "discovery.json", "pictures.json"
SCHEMA = 1
STRIPS = ("nearest", "misled", "missed")
_NUMBERS = ("influence", "gap", "chance", "p_value", "adjusted_p_value")
MEND = "run `fieldmark discover` again"


@dataclass(frozen=True, kw_only=True)
class Sight:
    """One picture: an image, and the region of it that it is shown for.

    Attributes:
        image: its id.
        label: its class.
        predicted: the class that the model names.
        whole: file of the whole image, with the box of the region drawn in.
        crop: file of the region, or None where no region is shown.
    """

    image: str
    label: str
    predicted: str
    whole: Path
    crop: Path | None


@dataclass(frozen=True, kw_only=True)
class Sights:
    """A strip of pictures, and how many there are in all."""

    count: int = 0
    pictures: tuple[Sight, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ClusterFigures:
    """What a cluster came to, a candidate or not.

    Attributes:
        cluster: its id.
        size: regions in it.
        images: images with a region in it.
        gap: G, NaN where no class has images both with and without it.
        influence: H, NaN without an error to look at.
    """

    cluster: int
    size: int
    images: int
    gap: float
    influence: float


@dataclass(frozen=True, eq=False, kw_only=True)
class DiscoveryParts:
    """All that the page of a discovery speaks of.

    Attributes:
        values: `discovery.json` as it is.
        candidates: the clusters that were kept, the largest gap first.
        clusters: the figures of all clusters, by id.
        sights: by cluster id, the strips `nearest`, `misled` and `missed`.
    """

    values: Mapping[str, Any]
    candidates: tuple[Candidate, ...]
    clusters: tuple[ClusterFigures, ...]
    sights: Mapping[int, Mapping[str, Sights]]

    @property
    def significant(self) -> tuple[Candidate, ...]:
        """The candidates whose corrected p-value is at most the level of the run."""
        level = float(self.values["level"])
        return tuple(found for found in self.candidates if found.adjusted_p_value <= level)


def read_record(folder: Path) -> dict[str, Any]:
    """Return `discovery.json` of a run.

    Raises:
        InputError: it is missing, damaged or of another schema.

    Example:
        >>> read_record(Path("nowhere"))
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.InputError: nowhere: holds no discovery.json; run `fieldmark dis...
    """
    return load_record(folder, name=RECORD, schema=SCHEMA, mend=MEND)


def read_candidate(values: Mapping[str, Any]) -> Candidate:
    """Return a candidate out of its JSON values; null is NaN where a number belongs.

    Raises:
        KeyError, TypeError, ValueError: a value is missing or of another kind.
    """
    return Candidate(
        cluster=int(values["cluster"]),
        tied_class=None if values["tied_class"] is None else str(values["tied_class"]),
        interval=_read_interval(values["interval"]),
        size=int(values["size"]),
        images=int(values["images"]),
        medoid=int(values["medoid"]),
        nearest=tuple(int(region["row"]) for region in values["nearest"]),
        words=tuple(
            Word(word=str(w["word"]), similarity=float(w["similarity"])) for w in values["words"]
        ),
        classes=tuple(map(_read_label_gap, values["classes"])),
        **{name: _read_number(values[name]) for name in _NUMBERS},
    )


def read_discovery_parts(folder: Path) -> DiscoveryParts:
    """Read what the page of a run is made of.

    Raises:
        InputError: the record is missing or damaged, or a picture lies outside of the folder.
    """
    values = read_record(folder)
    try:
        return DiscoveryParts(
            values=values,
            candidates=tuple(map(read_candidate, values["candidates"])),
            clusters=tuple(map(_read_cluster, values["all_clusters"])),
            sights=_read_sights(folder / "page"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"is damaged ({type(error).__name__}: {error})", where=folder / RECORD, mend=MEND
        ) from error


def _read_number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _read_interval(value: Any) -> Interval:
    low, high = value
    return Interval(_read_number(low), _read_number(high))


def _read_label_gap(value: Mapping[str, Any]) -> LabelGap:
    given = {field.name: value[field.name] for field in dataclasses.fields(LabelGap)}
    return LabelGap(**{**given, "interval": _read_interval(given["interval"])})


def _read_cluster(value: Mapping[str, Any]) -> ClusterFigures:
    return ClusterFigures(
        cluster=int(value["cluster"]),
        size=int(value["size"]),
        images=int(value["images"]),
        gap=_read_number(value["gap"]),
        influence=_read_number(value["influence"]),
    )


def _read_sights(folder: Path) -> dict[int, dict[str, Sights]]:
    path = folder / PICTURES
    if not path.is_file():
        return {}
    return {
        int(cluster): {
            name: Sights(
                count=int(strip["count"]),
                pictures=tuple(_read_sight(one, folder=folder) for one in strip["pictures"]),
            )
            for name, strip in strips.items()
        }
        for cluster, strips in load_object(path, mend=MEND).items()
    }


def _read_sight(value: Mapping[str, Any], *, folder: Path) -> Sight:
    crop = value["crop"]
    return Sight(
        image=str(value["image"]),
        label=str(value["label"]),
        predicted=str(value["predicted"]),
        whole=_place(str(value["whole"]), folder=folder),
        crop=None if crop is None else _place(str(crop), folder=folder),
    )


def _place(name: str, *, folder: Path) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InputError(
            f"{name} lies outside {folder}", where=folder / PICTURES, mend="copy it into the folder"
        )
    return path
