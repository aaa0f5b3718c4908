"""RaVL's part of an audit: region clusters that accuracy goes with, and where they lie.

A cluster is found because accuracy goes with it. Whether that is the background's doing, the masks
tell: what of its regions lies off the objects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldmark.benchmarks.attribution.diagnosis_masks import load_batch
from fieldmark.benchmarks.audit.material import FOLDER, SAMPLE, Material, Report
from fieldmark.benchmarks.audit.request import AuditRequest
from fieldmark.benchmarks.discovery import run_discovery
from fieldmark.benchmarks.discovery_record import StoredRegions, read_discovery
from fieldmark.benchmarks.discovery_request import DiscoveryRequest
from fieldmark.core.records import PARTIAL, RUN
from fieldmark.discovery.candidates import Candidate
from fieldmark.models.encoder import Encoder
from fieldmark.report.discovery_parts import read_discovery_parts

# From these shares of the regions' area off the objects on, a cluster is called one or the other.
BACKGROUND_SHARE, OBJECT_SHARE = 0.8, 0.4
_BATCH = 64
_PICTURES = 6


@dataclass(frozen=True, eq=False, kw_only=True)
class RegionSearch:
    """What a discovery gave to an audit.

    Attributes:
        part: for the record.
        lead: the cluster that says most of the background: its gap and corrected p-value; None
            where none lies there by the masks, nor in part.
    """

    part: dict[str, Any]
    lead: Mapping[str, Any] | None


def search_regions(
    request: AuditRequest,
    encoder: Encoder,
    material: Material,
    *,
    number: int,
    report: Report,
) -> RegionSearch:
    """Discover region clusters, or read those that an earlier run found.

    Args:
        request: the words.
        encoder: what is audited.
        material: its sample is looked at.
        number: of the encoder.
        report: called with the phase, what is done and how much there is.
    """
    folder = request.out / "parts" / f"discover-{number}"
    if not (folder / RUN).is_file():
        asked = DiscoveryRequest(
            model=request.models[number],
            data=str(request.out / FOLDER / SAMPLE),
            out=folder,
            root=material.root,
            # In a transformer a region's own tokens alone cost least.
            way="tokens" if encoder.spec.pooling != "conv" else None,
            class_names=request.class_names,
            templates=request.templates,
            level=request.level,
            seed=request.seed,
            gallery=_PICTURES,
            batch_size=request.batch_size,
            precision=request.precision,
            device=request.device,
            resume=(folder / PARTIAL).exists(),
        )
        run_discovery(asked, encoder=encoder, table=material.sample, report=report)
    record = read_discovery(folder)
    shares = measure_background(record.regions, encoder, material)
    findings = [
        _describe(one, record.regions, shares, folder=folder, level=request.level)
        for one in record.candidates
    ]
    _add_pictures(findings, folder, out=request.out)
    return RegionSearch(
        part={
            "encoder": number,
            "images": len(material.sample),
            "clusters": len(record.regions.medoids),
            "reason": record.reason,
            "page": f"parts/{folder.name}/report.html",
            "findings": findings,
        },
        lead=choose_lead(findings),
    )


def measure_background(
    regions: StoredRegions, encoder: Encoder, material: Material
) -> NDArray[np.float64]:
    """Return the share of each region's area that lies off the object: (R,), NaN without masks."""
    shares = np.full(len(regions.images), math.nan)
    if material.masks is None:
        return shares
    place = {identity: row for row, identity in enumerate(material.sample.ids)}
    rows = [place[name] for name in regions.image_ids]
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        masks = load_batch(encoder, material.sample, rows=part, masks=material.masks).masks
        inside = (regions.images >= start) & (regions.images < start + len(part))
        for region in np.flatnonzero(inside).tolist():
            x0, y0, x1, y1 = np.round(regions.boxes[region]).astype(int).tolist()
            cut = masks[int(regions.images[region]) - start, y0:y1, x0:x1]
            shares[region] = 1 - float(cut.mean()) if cut.numel() else math.nan
    return shares


def choose_lead(findings: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the cluster off the objects, or partly, of the smallest p-value; None without any.

    Where nothing tells the place, as without masks, a cluster may as well be the object itself.

    Example:
        >>> found = [{"place": "unknown", "adjusted_p_value": 0.01},
        ...     {"place": "mixed", "adjusted_p_value": 0.04}]
        >>> choose_lead(found)["place"], choose_lead(found[:1])
        ('mixed', None)
    """
    suspects = [one for one in findings if one["place"] in ("background", "mixed")]
    return min(suspects, key=lambda one: float(one["adjusted_p_value"]), default=None)


def name_place(share: float) -> str:
    """Say where regions lie, by the share of their area off the objects.

    Example:
        >>> [name_place(share) for share in (0.9, 0.6, 0.1, math.nan)]
        ['background', 'mixed', 'object', 'unknown']
    """
    if math.isnan(share):
        return "unknown"
    if share >= BACKGROUND_SHARE:
        return "background"
    return "object" if share <= OBJECT_SHARE else "mixed"


def _describe(
    found: Candidate,
    regions: StoredRegions,
    shares: NDArray[np.float64],
    *,
    folder: Path,
    level: float,
) -> dict[str, Any]:
    own = shares[regions.clusters == found.cluster]
    share = float(np.nanmean(own)) if len(own) and not np.isnan(own).all() else math.nan
    return {
        "cluster": found.cluster,
        "tied_class": found.tied_class or "",
        "gap": {
            "value": found.gap,
            "low": found.interval.low,
            "high": found.interval.high,
            "count": found.images,
        },
        "adjusted_p_value": found.adjusted_p_value,
        "significant": found.adjusted_p_value <= level,
        "place": name_place(share),
        "background_share": share,
        "words": [word.word for word in found.words[:5]],
        "pictures": [],
    }


def _add_pictures(findings: Sequence[dict[str, Any]], folder: Path, *, out: Path) -> None:
    sights = read_discovery_parts(folder).sights
    for one in findings:
        strip = sights.get(one["cluster"], {}).get("nearest")
        for sight in strip.pictures if strip else ():
            file = sight.crop or sight.whole
            alt = f"a region of an image of {sight.label}, named {sight.predicted}"
            one["pictures"].append({"src": file.relative_to(out.resolve()).as_posix(), "alt": alt})
