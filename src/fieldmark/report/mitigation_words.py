"""What a mitigation bears to be said, in sentences: no more than its intervals."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from fieldmark.metrics.intervals import Interval
from fieldmark.report.discovery_words import write_interval
from fieldmark.report.mitigation_parts import Change, Evaluation, MitigationParts
from fieldmark.report.names import name, write_number

METHODS = {
    "standard": "standard fine-tuning",
    "upsampled": "upsampled fine-tuning",
    "vl-erm": "VL-ERM",
    "vl-gdro": "VL-GDRO",
    "spurious-aware": "spurious-aware fine-tuning",
    "ravl": "RaVL",
    "ravl-balanced": "RaVL with balanced groups",
}
METRICS = {
    "image_avg": "Image overall",
    "image_wg": "Image worst group",
    "acc_wg": "Worst group by attribute",
    "region_avg": "Region overall",
    "region_wg": "Region worst group",
    "gap": "Gap G",
    "influence": "Influence H",
}
CAVEAT = (
    "Intervals are of the sampling of test images. They hold for these weights: another seed of "
    "the training can differ by more."
)
_GROUP = re.compile(r"^(image|acc|region)_y:(.+)_(cluster|background|image):(.+)$")


def write_title(parts: MitigationParts) -> str:
    """Write the headline: worst-group accuracy of images on the first split, before and after."""
    if not parts.evaluations:
        return "Nothing was measured"
    first = parts.evaluations[0]
    found = first.find("image_wg")
    if found is None or math.isnan(found.difference):
        return f"Worst-group accuracy is undefined on split {first.split}"
    before, after = (write_number(one.value, digits=2) for one in (found.before, found.after))
    if found.interval.low > 0:
        return f"Worst-group accuracy rises from {before} to {after}"
    if found.interval.high < 0:
        return f"Worst-group accuracy falls from {before} to {after}"
    return (
        f"Worst-group accuracy is {before} before and {after} after: no difference told from chance"
    )


def write_lead(parts: MitigationParts) -> str:
    """Write what was done, in one sentence."""
    values = parts.values
    clusters = " and ".join(name_cluster(one) for one in values["clusters"])
    method = name(str(values["method"]), known=METHODS)
    if values["method"] == "standard":
        return (
            f"The image tower was fine-tuned by {method}, which looks at no region; what it did to "
            f"reliance on {clusters} is measured here."
        )
    return f"The image tower was fine-tuned by {method} to rely less on {clusters}."


def name_cluster(cluster: Mapping[str, Any]) -> str:
    """Name a cluster by its words and its class.

    Example:
        >>> name_cluster({"cluster": 3, "words": ["bowl", "cup"], "tied_class": "cat"})
        'cluster 3 (bowl, cup), tied to cat'
    """
    words = ", ".join(map(str, cluster["words"][:3]))
    text = f"cluster {cluster['cluster']}" + (f" ({words})" if words else "")
    return text if cluster["tied_class"] is None else f"{text}, tied to {cluster['tied_class']}"


def write_sentences(parts: MitigationParts) -> tuple[str, ...]:
    """Write what changed on each split, and what the training came to."""
    training, lines = parts.values["training"], []
    for one in parts.evaluations:
        lines += _tell_split(one)
    steps, epochs, kept = (int(training[key]) for key in ("steps", "epochs", "kept"))
    ended = ", stopped early" if training["stopped_early"] else ""
    lines.append(
        f"Training took {steps:,} steps in {epochs} {'epoch' if epochs == 1 else 'epochs'}{ended}; "
        f"epoch {kept + 1} was kept."
    )
    return (*lines, CAVEAT)


def _tell_split(one: Evaluation) -> list[str]:
    found = [
        f"{words} {_tell(change)}"
        for metric, words in (("image_avg", "overall accuracy"), ("image_wg", "worst group"))
        if (change := one.find(metric)) is not None
    ]
    if not found:
        return []
    return [
        f"On split {one.split} ({one.images:,} images, {one.with_cluster:,} with the cluster): "
        f"{'; '.join(found)}."
    ]


def _tell(change: Change) -> str:
    before, after, gap = (
        write_number(value, digits=3)
        for value in (change.before.value, change.after.value, change.difference)
    )
    interval = write_ends(change.interval)
    return f"{before} before and {after} after, a difference of {gap} {interval}".rstrip()


def write_ends(interval: Interval) -> str:
    """Write an interval in brackets, nothing where it is undefined.

    Example:
        >>> write_ends(Interval(2e-17, 0.25))
        '[0.000, 0.250]'
    """
    # Wilson's interval of no hit ends some 1e-17 above 0.
    return write_interval(Interval(*(round(end, 9) for end in interval)), digits=3)


def name_change(change: Change) -> str:
    """Return the heading of a figure.

    Example:
        >>> from fieldmark.metrics.intervals import UNDEFINED
        >>> from fieldmark.report.mitigation_parts import Measured
        >>> one = Measured(value=0.5, interval=UNDEFINED, count=3)
        >>> blank = {"before": one, "after": one, "difference": 0, "interval": UNDEFINED,
        ...          "p_value": 1.0}
        >>> name_change(Change(metric="gap", group=3, **blank))
        'Gap G of cluster 3'
        >>> name_change(Change(metric="region_y:dog_image:cat", group=2, **blank))
        'region of dog in an image of cat'
    """
    if change.metric in METRICS:
        heading = METRICS[change.metric]
        return heading if change.group is None else f"{heading} of cluster {change.group}"
    match = _GROUP.match(change.metric)
    if match is None:
        return change.metric
    _, label, kind, other = match.groups()
    return {
        "cluster": f"{label}, {other} the cluster",
        "background": f"{label} on {other}",
        "image": f"region of {label} in an image of {other}",
    }[kind]


def list_counts(values: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return what was counted while the training set was made, as names and numbers."""
    counts = values["counts"]
    names = {
        "images": "Training images",
        "trained_on": "of them trained on",
        "held_out": "held out for early stopping",
        "unlabelled": "images without a label, which are no part of the region terms",
        "unnamed": "captions that name no class",
        "several": "captions that name several classes",
        "differing": "images whose caption names another class than the table",
        "without_region": "images without a region",
        "without_plain_region": "labelled images trained on with no region but of the cluster",
        "regions": "Regions of training images",
        "marked_regions": "of them in the cluster",
        "marked_images": "images with such a region",
    }
    return tuple((words, f"{int(counts[key]):,}") for key, words in names.items())
