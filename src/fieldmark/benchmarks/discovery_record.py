"""What a discovery leaves on disk, and how it is read again.

    OUT/discovery.json        candidates with their words, classes and nearest regions, the figures
                              of all clusters, and every setting
    OUT/regions.safetensors   boxes, the image and the cluster of each region, and the medoids

No pickle is written or read.

Shape letters: n images, R regions, C clusters, D embedding dimensions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fieldmark.benchmarks.store import make_plain
from fieldmark.core.errors import InputError
from fieldmark.core.sealed import SEAL, check, sealing, write_sealed_json
from fieldmark.discovery.candidates import Candidate
from fieldmark.report.discovery_parts import RECORD, SCHEMA, read_candidate, read_record

REGIONS = "regions.safetensors"
_MEND = "run `fieldmark discover` again"
_KINDS = {
    "boxes": (np.float32, 2),
    "images": (np.int64, 1),
    "clusters": (np.int64, 1),
    "medoids": (np.float32, 2),
}


@dataclass(frozen=True, eq=False, kw_only=True)
class StoredRegions:
    """The regions of a discovery.

    Attributes:
        image_ids: n ids, in the order of the images.
        images: (R,) image of each region, 0 to n - 1.
        boxes: (R,4) x0 y0 x1 y1 in pixels of the encoder's input.
        clusters: (R,) cluster of each region, below 0 for none.
        medoids: (C,D) unit embedding of the region in the middle of each cluster, by cluster id.
    """

    image_ids: tuple[str, ...]
    images: NDArray[np.int64]
    boxes: NDArray[np.float32]
    clusters: NDArray[np.int64]
    medoids: NDArray[np.float32]


@dataclass(frozen=True, eq=False, kw_only=True)
class DiscoveryRecord:
    """A finished discovery, all that a mitigation needs of it.

    Attributes:
        folder: of the run.
        model: URI of the encoder.
        fingerprint: of its weights.
        data: what `--data` named.
        root: what `--root` named, or None.
        split: the split that was looked at, empty for all images.
        classes: class names of the table, in the order of the labels.
        class_names: what prompts call them.
        templates: of the prompts.
        source: where regions come from, as `--regions` takes it.
        way: how regions were embedded.
        side: of the encoder's input, in pixels.
        method: that found the candidates.
        level: at which a candidate counts as more than chance.
        seed: of the run.
        candidates: the clusters kept, the largest gap first. A rival's group of regions that is
            no cluster has id -1.
        reason: why the other clusters were not kept.
        notes: what limits the finding.
        regions: all regions with their clusters.
    """

    folder: Path
    model: str
    fingerprint: str
    data: str
    root: str | None
    split: str
    classes: tuple[str, ...]
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    source: str
    way: str
    side: int
    method: str
    level: float
    seed: int
    candidates: tuple[Candidate, ...]
    reason: str
    notes: tuple[str, ...]
    regions: StoredRegions

    @property
    def significant(self) -> tuple[Candidate, ...]:
        """The candidates whose corrected p-value is at most `level`."""
        return tuple(found for found in self.candidates if found.adjusted_p_value <= self.level)

    @property
    def candidate_ids(self) -> tuple[int, ...]:
        """Ids of the candidates that are clusters, in order: rows of `regions.medoids`."""
        return tuple(found.cluster for found in self.candidates if found.cluster >= 0)


def write_record(folder: Path, values: Mapping[str, Any], *, regions: StoredRegions) -> None:
    """Write `discovery.json` and `regions.safetensors`, each whole or not at all.

    Args:
        folder: of the run.
        values: what `discovery.json` shall hold; numbers that are not finite become null.
        regions: all regions.
    """
    tensors = {name: np.ascontiguousarray(getattr(regions, name)) for name in _KINDS}
    names = json.dumps(list(regions.image_ids), ensure_ascii=False)
    with sealing(folder / REGIONS) as part:
        save_file(tensors, part, metadata={**SEAL, "image_ids": names})
    write_sealed_json(folder / RECORD, make_plain({"schema": SCHEMA, **values}))


def read_discovery(folder: Path) -> DiscoveryRecord:
    """Read what `fieldmark discover` wrote.

    Args:
        folder: its `--out`.

    Raises:
        InputError: a file is missing, damaged, of another schema, or does not fit the other.

    Example:
        >>> read_discovery(Path("nowhere"))
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.InputError: nowhere: holds no discovery.json; run `fieldmark dis...
    """
    values = read_record(folder)
    regions = _read_regions(folder / REGIONS)
    try:
        record = _to_record(folder, values, regions=regions)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"is damaged ({type(error).__name__}: {error})", where=folder / RECORD, mend=_MEND
        ) from error
    _check_fit(record)
    return record


def _to_record(
    folder: Path, values: Mapping[str, Any], *, regions: StoredRegions
) -> DiscoveryRecord:
    return DiscoveryRecord(
        folder=folder,
        model=str(values["model"]),
        fingerprint=str(values["fingerprint"]),
        data=str(values["data"]),
        root=None if values["root"] is None else str(values["root"]),
        split=str(values["split"]),
        classes=_read_names(values["classes"]),
        class_names=_read_names(values["class_names"]),
        templates=_read_names(values["templates"]),
        source=str(values["regions"]["source"]),
        way=str(values["regions"]["way"]),
        side=int(values["regions"]["side"]),
        method=str(values["method"]),
        level=float(values["level"]),
        seed=int(values["seed"]),
        candidates=tuple(map(read_candidate, values["candidates"])),
        reason=str(values["reason"]),
        notes=_read_names(values["notes"]),
        regions=regions,
    )


def _read_names(values: Sequence[Any]) -> tuple[str, ...]:
    return tuple(map(str, values))


def _read_regions(path: Path) -> StoredRegions:
    if not path.is_file():
        raise InputError(f"holds no {REGIONS}", where=path.parent, mend=_MEND)
    check(path, mend=_MEND)
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in _KINDS}
            names = json.loads((file.metadata() or {})["image_ids"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(f"is damaged ({error})", where=path, mend=_MEND) from error
    for name, (kind, width) in _KINDS.items():
        if tensors[name].dtype != kind or tensors[name].ndim != width:
            raise InputError(f"its {name} are of another kind or shape", where=path, mend=_MEND)
    found = StoredRegions(image_ids=_read_names(names), **tensors)
    count, clusters = len(found.images), len(found.medoids)
    if found.boxes.shape != (count, 4) or len(found.clusters) != count or not count:
        raise InputError("its columns differ in length, or hold nothing", where=path, mend=_MEND)
    inside = (found.images >= 0) & (found.images < len(found.image_ids))
    if not (inside & (found.clusters >= -1) & (found.clusters < clusters)).all():
        raise InputError("names an image or a cluster that is not there", where=path, mend=_MEND)
    if not np.isfinite(found.medoids).all():
        raise InputError("holds a medoid that is not finite", where=path, mend=_MEND)
    return found


def _check_fit(record: DiscoveryRecord) -> None:
    rows, clusters = len(record.regions.images), len(record.regions.medoids)
    for found in record.candidates:
        if not (-1 <= found.cluster < clusters and 0 <= found.medoid < rows):
            raise InputError(
                f"candidate {found.cluster} does not fit {REGIONS} ({clusters} clusters, {rows} "
                "regions)",
                where=record.folder / RECORD,
                mend=_MEND,
            )
