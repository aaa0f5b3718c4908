"""What `OUT/mitigation.json` holds: what was trained away, what was counted, every figure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fieldmark.benchmarks.mitigation_material import Captions, Part
from fieldmark.benchmarks.mitigation_measure import Figure
from fieldmark.benchmarks.mitigation_request import MitigationPlan
from fieldmark.methods.mitigation.fine_tune import Mitigated
from fieldmark.methods.training import average_epochs
from fieldmark.metrics.intervals import Estimate
from fieldmark.report.mitigation_parts import SCHEMA


def describe_run(
    plan: MitigationPlan,
    train: Part,
    *,
    captions: Captions,
    trained: Mitigated,
    parts: Mapping[str, Part],
    changes: Mapping[str, Sequence[Figure]],
) -> dict[str, Any]:
    """Return what `mitigation.json` holds; numbers may be NaN.

    Args:
        plan: what was asked for.
        train: the training images.
        captions: of these.
        trained: what the training came to.
        parts: the images that were measured on, by split.
        changes: the figures, by split.
    """
    request, record = plan.request, plan.record
    return {
        "schema": SCHEMA,
        **request.arguments(),
        "config": plan.config.model_dump(mode="json"),
        "dataset": plan.table.name,
        "classes": list(record.classes),
        "class_names": list(record.class_names),
        "regions": {"source": record.source, "way": record.way, "in training": plan.config.regions},
        "clusters": [_describe_cluster(plan, train, cluster) for cluster in plan.clusters],
        "counts": _count(train, captions=captions, trained=trained),
        "captions": captions.source,
        "training": _describe_training(trained),
        "evaluation": [
            {
                "split": name,
                "images": len(part.table),
                "with the cluster": int(part.has_cluster.sum()),
                "regions": len(part.regions),
                "figures": [_describe_figure(one) for one in changes[name]],
            }
            for name, part in parts.items()
        ],
    }


def list_notes(plan: MitigationPlan, parts: Mapping[str, Part], *, fingerprint: str) -> list[str]:
    """Return what limits a run, a line each.

    Args:
        plan: what was asked for.
        parts: the images that were measured on, by split.
        fingerprint: of the model that was trained.
    """
    return list(_list_notes(plan, parts, fingerprint=fingerprint))


def _list_notes(
    plan: MitigationPlan, parts: Mapping[str, Part], *, fingerprint: str
) -> Iterator[str]:
    record = plan.record
    found = {one.cluster: one for one in record.candidates}
    for cluster in plan.clusters:
        if cluster not in found:
            yield f"cluster {cluster} is no candidate of the discovery"
        elif not found[cluster].adjusted_p_value <= record.level:
            p_value = found[cluster].adjusted_p_value
            tested = "it was not tested" if math.isnan(p_value) else f"corrected p {p_value:.3f}"
            yield f"cluster {cluster} is not told from chance by the discovery ({tested})"
    if fingerprint != record.fingerprint:
        yield (
            f"the clusters were found on another model ({record.model}), whose embeddings may mean "
            "something else"
        )
    if record.split in parts:
        yield (
            f"the clusters were chosen on split {record.split} too, which flatters gap and "
            "accuracies there"
        )
    if record.way not in ("align", "crop"):
        yield (
            f"the discovery embedded regions by way {record.way}, which cannot be trained; "
            "training embeds them by the encoder's own way"
        )
    if all(part.regions.names is None for part in parts.values()):
        yield f"there is no region accuracy, since {record.source} does not say what regions show"
    for name, part in parts.items():
        without = len(part.table) - len(np.unique(part.regions.images))
        if without:
            yield f"{without} of {len(part.table)} images of split {name} have no region"


def _describe_cluster(plan: MitigationPlan, train: Part, cluster: int) -> dict[str, Any]:
    one = next((found for found in plan.record.candidates if found.cluster == cluster), None)
    inside = train.clusters == cluster
    return {
        "cluster": cluster,
        "tied_class": one and one.tied_class,
        "words": [word.word for word in one.words] if one else [],
        "gap": one and one.gap,
        "influence": one and one.influence,
        "adjusted_p_value": one and one.adjusted_p_value,
        "regions": int(inside.sum()),
        "images": len(np.unique(train.regions.images[inside])),
    }


def _count(train: Part, *, captions: Captions, trained: Mitigated) -> dict[str, int]:
    counts = trained.counts
    regions = np.bincount(train.regions.images, minlength=len(train.table))
    return {
        "images": len(train.table),
        "trained_on": counts["images"],
        "held_out": counts["held_out"],
        "unnamed": captions.unnamed,
        "several": captions.several,
        "unlabelled": int((~captions.labels.any(axis=1)).sum()),
        "differing": captions.differing,
        "without_plain_region": counts["without_plain_region"],
        "without_region": int((regions == 0).sum()),
        "regions": len(train.regions),
        "marked_regions": int(train.marked.sum()),
        "marked_images": int(train.has_cluster.sum()),
        "groups": counts["groups"],
    }


def _describe_training(trained: Mitigated) -> dict[str, Any]:
    epochs = average_epochs(trained.losses)
    return {
        "steps": len(trained.losses),
        "epochs": len(epochs),
        "kept": trained.epoch,
        "stopped_early": trained.stopped_early,
        "losses": epochs,
        "held_out_losses": trained.validation,
    }


def _describe_figure(figure: Figure) -> dict[str, Any]:
    low, high = figure.difference.interval
    return {
        "metric": figure.metric,
        "group": figure.group,
        "before": _describe_estimate(figure.before),
        "after": _describe_estimate(figure.after),
        "difference": {
            "value": figure.difference.value,
            "low": low,
            "high": high,
            "p_value": figure.difference.p_value,
        },
    }


def _describe_estimate(found: Estimate) -> dict[str, Any]:
    low, high = found.interval
    return {"value": found.value, "low": low, "high": high, "count": found.count}
