"""Fine-tune on a setting, see whether the tie was learned, discover it, train it away.

Shape letters: n images, R regions, Y classes, D embedding dimensions.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fieldmark.benchmarks.controlled.texts import embed_captions
from fieldmark.data.controlled.images import ControlledImages, Setting
from fieldmark.discovery.clustering import CosineMedoids
from fieldmark.discovery.cosine import find_nearest
from fieldmark.discovery.discoverers import DISCOVERERS
from fieldmark.discovery.distilling_failures import FailureConfig, find_failure_direction
from fieldmark.discovery.domino import DominoConfig, find_worst_slice
from fieldmark.discovery.evidence import Evidence, gather_evidence, predict_zero_shot
from fieldmark.discovery.rankings import Clustered, Discoverer, RankedRegions
from fieldmark.methods.mitigation.captions import assign_labels, parse_captions
from fieldmark.methods.mitigation.config import MitigationConfig
from fieldmark.methods.mitigation.fine_tune import mitigate
from fieldmark.methods.mitigation.material import MitigationData
from fieldmark.metrics.influence import Precision, measure_precision
from fieldmark.metrics.regions import summarise_images, summarise_regions
from fieldmark.models.adapter import DualEncoder
from fieldmark.models.device import pick_dtype, training_autocast
from fieldmark.models.encoder import Encoder, normalise
from fieldmark.models.regions import encode_image_and_boxes

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Way = Literal["auto", "crop"]
STANDARD = "standard"
_BATCH = 128
# RaVL's Precision@K, and how many regions of a cluster it looks at.
FIRST = 10
# Two rivals are stronger where they are told whether the image is named right, not the region.
COMPARED: Mapping[str, Discoverer] = {
    **DISCOVERERS,
    "domino-image": functools.partial(find_worst_slice, config=DominoConfig(outputs="image")),
    "distilling-failures-image": functools.partial(
        find_failure_direction, config=FailureConfig(outputs="image")
    ),
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """A setting with its images, ready for an encoder.

    Attributes:
        setting: what is tied to what.
        encoder: the encoder before fine-tuning.
        tuning: the fine-tuning set.
        evaluation: the evaluation set.
        prototypes: (Y,D) prompt ensemble of each class.
        config: of every fine-tuning.
    """

    setting: Setting
    encoder: Encoder
    tuning: ControlledImages
    evaluation: ControlledImages
    prototypes: Floats
    config: MitigationConfig


@dataclass(frozen=True, eq=False, kw_only=True)
class Looked:
    """What an encoder makes of images and their regions.

    Attributes:
        images: (n,D) of unit norm.
        regions: (R,D) of unit norm.
    """

    images: Floats
    regions: Floats


@dataclass(frozen=True, kw_only=True)
class Learned:
    """Whether a model learned the tie (RaVL section 3.2); accuracies in [0, 1].

    Attributes:
        epsilon_1: accuracy on the target class with the feature less that without it.
        epsilon_2: the largest loss of accuracy with the feature over the other classes.
        accuracy: over all images.
        count: how many images.
    """

    epsilon_1: float
    epsilon_2: float
    accuracy: float
    count: int

    @property
    def strength(self) -> float:
        """The smaller of both; NaN where either is."""
        return float(np.minimum(self.epsilon_1, self.epsilon_2))


def fine_tune(
    prepared: Prepared, *, method: str, seed: int, spurious: Bools | None = None
) -> Encoder:
    """Fine-tune the encoder on the fine-tuning set.

    Args:
        prepared: the setting.
        method: one of `methods.mitigation.objectives.MITIGATIONS`.
        seed: of the fine-tuning.
        spurious: (R,) which regions of the fine-tuning set are taken for spurious.
    """
    tuning = prepared.tuning
    parsed = parse_captions(tuning.captions, prepared.setting.classes)
    none = np.zeros(len(tuning.owners), bool)
    data = MitigationData(
        pixels=tuning.pixels,
        captions=embed_captions(prepared.encoder, tuning.captions),
        labels=assign_labels(parsed, seed=seed),
        prototypes=prepared.prototypes,
        owners=tuning.owners,
        boxes=tuning.boxes,
        spurious=none if spurious is None else spurious,
    )
    with tempfile.TemporaryDirectory() as folder:
        made = mitigate(
            prepared.encoder,
            data,
            method=method,
            config=prepared.config,
            seed=seed,
            folder=Path(folder),
        )
    return made.encoder


def look(encoder: Encoder, images: ControlledImages, *, way: Way) -> Looked:
    """Embed images and their regions.

    Args:
        encoder: in float32.
        images: of its input size.
        way: `auto` aligns boxes where the encoder can, once through the stages that images and
            boxes share; `crop` never does.
    """
    tower = encoder.image_tower.eval()
    pieces = None
    if way == "auto" and isinstance(encoder, DualEncoder):
        pieces = encoder.library.take_apart(encoder.model)
    device = next(tower.parameters()).device
    starts = np.searchsorted(images.owners, np.arange(len(images) + 1))
    whole, parts = [], []
    for start in range(0, len(images), _BATCH):
        rows = np.arange(start, min(start + _BATCH, len(images)))
        boxes = [torch.from_numpy(images.boxes[starts[row] : starts[row + 1]]) for row in rows]
        pixels = images.pixels.read(rows).to(device)
        with torch.no_grad(), training_autocast(device, pick_dtype("auto", device=device)):
            found, regions = encode_image_and_boxes(
                tower,
                pieces,
                normalise(pixels, spec=encoder.spec, dtype=torch.float32),
                [box.to(device) for box in boxes],
            )
        whole.append(torch.nn.functional.normalize(found.float(), dim=-1).cpu())
        parts += [region.float().cpu() for region in regions]
    return Looked(images=torch.cat(whole).numpy(), regions=torch.cat(parts).numpy())


def measure_tie(predictions: NDArray[np.int64], images: ControlledImages, *, code: int) -> Learned:
    """Measure epsilon 1 and 2 (RaVL section 3.2).

    Args:
        predictions: (n,) predicted class of each image.
        images: the evaluation set.
        code: the target class.

    Returns:
        Epsilon 1 is NaN where the target has no image with the feature or none without it, epsilon
        2 where that is so of another class that has images, or where none has.
    """
    right = predictions == images.labels

    def gap(label: int) -> float:
        own = images.labels == label
        parts = [right[own & images.feature], right[own & ~images.feature]]
        return float(parts[0].mean() - parts[1].mean()) if all(map(len, parts)) else float("nan")

    others = [-gap(label) for label in np.unique(images.labels).tolist() if label != code]
    return Learned(
        epsilon_1=gap(code),
        epsilon_2=float(np.max(others)) if others else float("nan"),
        accuracy=float(right.mean()),
        count=len(right),
    )


def gather(prepared: Prepared, looked: Looked) -> Evidence:
    """Return what a discovery is given: the evaluation set and its true boxes.

    Args:
        prepared: the setting.
        looked: from `look` at its evaluation set.
    """
    images = prepared.evaluation
    return gather_evidence(
        regions=looked.regions,
        owners=images.owners,
        labels=images.labels,
        predictions=predict_zero_shot(looked.images, prepared.prototypes),
        prototypes=prepared.prototypes,
        classes=prepared.setting.classes,
    )


def cluster_regions(evidence: Evidence, *, seed: int) -> CosineMedoids:
    """Cluster regions: 2|Y| to 5|Y| clusters, chosen by silhouette (RaVL appendix D.1).

    Args:
        evidence: from `gather`.
        seed: of the clustering.
    """
    width = len(evidence.classes)
    return CosineMedoids((2 * width, 5 * width), random_state=seed).fit(evidence.regions)


def measure_discoverers(
    prepared: Prepared, evidence: Evidence, clusters: CosineMedoids, *, seed: int
) -> dict[str, Precision]:
    """Measure Precision@10 of every way of discovering.

    Args:
        prepared: the setting.
        evidence: from `gather`.
        clusters: from `cluster_regions`.
        seed: of the ways that draw.

    Returns:
        By the keys of `COMPARED`; NaN where a way found nothing.
    """
    planted, clustered = _mark_planted(prepared), _read_clusters(clusters)
    return {
        name: measure_precision(planted[discover(evidence, clustered, seed).rows], k=FIRST)
        for name, discover in COMPARED.items()
    }


def find_top(
    prepared: Prepared, evidence: Evidence, clusters: CosineMedoids
) -> tuple[RankedRegions, Precision]:
    """Return the cluster that RaVL puts first, and its Precision@10.

    Args:
        prepared: the setting.
        evidence: from `gather`.
        clusters: from `cluster_regions`.

    Returns:
        No regions and NaN where RaVL finds nothing.
    """
    ranked = DISCOVERERS["ravl"](evidence, _read_clusters(clusters), 0)
    return ranked, measure_precision(_mark_planted(prepared)[ranked.rows], k=FIRST)


def _mark_planted(prepared: Prepared) -> Bools:
    return np.asarray(prepared.evaluation.shows == len(prepared.setting.classes))


def _read_clusters(clusters: CosineMedoids) -> Clustered:
    return Clustered(
        labels=np.asarray(clusters.labels_, np.int64),
        medoids=np.asarray(clusters.medoid_indices_, np.int64),
    )


def mark_spurious(
    regions: Floats, found: Floats, clusters: CosineMedoids, *, cluster: int
) -> Bools:
    """Assign regions of the fine-tuning set to the nearest medoid (RaVL section 4.1).

    Args:
        regions: (R,D) of the fine-tuning set, of the model that was discovered on.
        found: (m,D) regions that were clustered.
        clusters: their clusters.
        cluster: the one that is taken for spurious.

    Returns:
        (R,) which regions are nearest to its medoid.
    """
    centres = found[np.asarray(clusters.medoid_indices_)]
    return np.asarray(find_nearest(regions, centres, clip=False).labels == cluster)


def measure_mitigated(prepared: Prepared, looked: Looked) -> dict[str, tuple[float, int]]:
    """Measure Table 3's four metrics.

    A group of images is a class with or without the feature; a group of regions is what they show.

    Args:
        prepared: the setting.
        looked: from `look` at its evaluation set.

    Returns:
        `image_avg`, `image_wg`, `region_avg` and `region_wg`: value in [0, 1], and how many images
        or regions it rests on.
    """
    images, width = prepared.evaluation, len(prepared.setting.classes)
    whole = summarise_images(
        predict_zero_shot(looked.images, prepared.prototypes),
        images.labels,
        spurious=images.feature,
        classes=width,
    ).groups
    parts = summarise_regions(
        predict_zero_shot(looked.regions, prepared.prototypes),
        np.where(images.shows < width, images.shows, -1),
        owners=images.owners,
        image_labels=images.labels,
        classes=width,
        by="label",
    ).groups
    return {
        f"{what}_{figure}": (getattr(found, name), sum(found.counts.values()))
        for what, found in (("image", whole), ("region", parts))
        for figure, name in (("avg", "average"), ("wg", "worst"))
    }
