"""Plain words for the names that records use; a name that is not listed stands for itself."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

DASH = "\N{EN DASH}"
METHODS = {
    "native": "native",
    "erm-80": "ERM on 80 %",
    "lp-ft": "LP-FT",
    "wise-ft": "WiSE-FT",
    "weight-ensemble": "weight ensemble",
    "bang": "BANG",
    "prusc": "PruSC",
    "data-matched-control": "data-matched control",
    "random-orthogonal-anchors": "random orthogonal anchors",
    "bap": "BAP",
    "oracle": "oracle",
}
HEADS = {
    "zero-shot": "zero-shot",
    "linear-probe": "linear probe",
    "convex-probe": "convex probe",
    "oracle": "oracle probe",
    "roboshot": "RoboShot",
    "dial": "DIAL",
    "trained": "trained with it",
    "afr": "AFR",
    "dfr": "DFR",
    "dfr-rest": "DFR, on the rest",
    "group-dro": "group DRO",
}
SPLITS = {
    "test_unseen": "unseen objects, unseen scenes",
    "test_seen": "seen objects, unseen scenes",
    "test_natural": "natural photographs",
    "test": "test",
    "val": "validation",
    "train": "training",
    "train_balanced": "balanced training",
}
METRICS = {
    "acc_wg": "worst group",
    "acc_avg": "average",
    "adj_acc_avg": "adjusted average",
    "acc_groups_mean": "mean of groups",
    "bsi": "BSI",
    "additivity": "additivity S",
    "text_additivity": "text additivity S",
    "residual_variance": "residual variance",
    "residual_slope": "slope of log variance on log K",
    "word_similarity": "similarity of the words alone",
    "silhouette_class": "silhouette by class",
    "silhouette_scene": "silhouette by scene",
}
MEANINGS = {
    "worst group": "accuracy of the group that comes off worst",
    "average": "accuracy over all test images",
    "adjusted average": "accuracy of the groups, weighted as in training",
    "mean of groups": "unweighted mean of the accuracies of the groups",
    "BSI": "background sensitivity index: how far a change of background moves an embedding, "
    "against the spread within a background; lower is better",
    "text additivity S": "the same for words, by the text tower",
    "additivity S": "share of the embedding that is a sum of an object part and a scene part",
    "slope of log variance on log K": "-1 where the mean of K backgrounds settles as 1/K",
    "similarity of the words alone": "cosine of the texts of an object and of a place",
    "silhouette by class": "how far composites of a class lie together, in [-1, 1]",
    "silhouette by scene": "how far composites on a kind of scene lie together, in [-1, 1]",
    "residual variance": "variance that neither object nor scene accounts for",
}
SPLIT_ORDER = ("test_unseen", "test_seen", "test", "test_natural", "val", "train")
METHOD_ORDER = (
    "native",
    "ERM on 80 %",
    "LP-FT",
    "WiSE-FT",
    "weight ensemble",
    "BANG",
    "PruSC",
    "random orthogonal anchors",
    "data-matched control",
    "BAP",
    "oracle",
)
# Heads that learn from no label, then those that do.
ZERO_SHOT_HEADS = ("zero-shot", "roboshot", "dial")
HEAD_ORDER = (
    *ZERO_SHOT_HEADS,
    "linear-probe",
    "convex-probe",
    "trained",
    "afr",
    "dfr",
    "dfr-rest",
    "group-dro",
    "oracle",
)

_GROUP = re.compile(r"^(?:acc_)?y:(?P<label>.+?)(?:_(?P<field>[a-z]+):(?P<attribute>.+))?$")


class Group(NamedTuple):
    """A group of images: a class, and what it stands on where that is known.

    Attributes:
        label: the class.
        attribute: the background or other spurious attribute; empty for a whole class.
    """

    label: str
    attribute: str

    @property
    def text(self) -> str:
        """The group in words."""
        return f"{self.label} on {self.attribute}" if self.attribute else self.label


def parse_group(metric: str) -> Group | None:
    """Take the name of a group metric after WILDS apart.

    Args:
        metric: a metric, or the name of a group.

    Returns:
        The group, or None where the name is of no group.

    Example:
        >>> parse_group("acc_y:landbird_background:water").text
        'landbird on water'
        >>> parse_group("acc_wg") is None
        True
    """
    match = _GROUP.match(metric)
    if match is None:
        return None
    return Group(match["label"].replace("_", " "), (match["attribute"] or "").replace("_", " "))


def name(value: str, *, known: Mapping[str, str]) -> str:
    """Return the plain words for a name, or the name itself.

    Case and underscores do not matter.

    Example:
        >>> name("BAP", known=METHODS), name("my_method", known=METHODS)
        ('BAP', 'my_method')
    """
    lowered = value.lower()
    return known.get(lowered, known.get(lowered.replace("_", "-"), value))


def name_metric(metric: str) -> str:
    """Return the heading of a metric.

    Example:
        >>> [name_metric(m) for m in ("acc_wg", "acc_y:bird_background:water", "bsi_max")]
        ['worst group', 'bird on water', 'BSI max']
    """
    group = parse_group(metric)
    if group is not None:
        return group.text
    for key in sorted(METRICS, key=len, reverse=True):
        if metric.lower() == key or metric.lower().startswith(f"{key}_"):
            return f"{METRICS[key]} {metric[len(key) + 1 :].replace('_', ' ')}".strip()
    return metric.replace("_", " ")


def explain(heading: str) -> str:
    """Return what a heading of `name_metric` means, or an empty text.

    Example:
        >>> explain("worst group")
        'accuracy of the group that comes off worst'
    """
    for key in sorted(MEANINGS, key=len, reverse=True):
        if heading == key or heading.startswith(f"{key} "):
            return MEANINGS[key]
    return ""


def sort_known(values: Iterable[str], *, order: Iterable[str]) -> list[str]:
    """Return distinct values: those of `order` first in that order, the rest as they came.

    Example:
        >>> sort_known(["b", "x", "a", "b"], order=["a", "b"])
        ['a', 'b', 'x']
    """
    distinct = list(dict.fromkeys(values))
    ranks = {value: rank for rank, value in enumerate(order)}
    return sorted(distinct, key=lambda value: ranks.get(value, len(ranks)))


def sort_methods(values: Iterable[str]) -> list[str]:
    """Return distinct methods, from the native encoder to the oracle.

    Example:
        >>> sort_methods(["oracle", "bap", "mine", "native"])
        ['native', 'bap', 'mine', 'oracle']
    """
    distinct = list(dict.fromkeys(values))
    known = sort_known((name(value, known=METHODS) for value in distinct), order=METHOD_ORDER)
    place = {text: rank for rank, text in enumerate(known)}
    place["oracle"] = len(known)
    return sorted(distinct, key=lambda value: place[name(value, known=METHODS)])


def write_number(value: float, *, digits: int = 3) -> str:
    """Write a number for reading: a dash where it is undefined.

    Args:
        value: any number; NaN is undefined.
        digits: decimals of a number between 0.001 and 100; others get as many significant digits.

    Example:
        >>> write_number(0.7), write_number(0.00002), write_number(1234.0)
        ('0.700', '2e-05', '1,234')
        >>> write_number(float("nan")) == DASH
        True
    """
    if math.isnan(value):
        return DASH
    size = abs(value)
    if math.isinf(value):
        return "\N{INFINITY}" if value > 0 else "\N{MINUS SIGN}\N{INFINITY}"
    if size and size < 10.0**-digits:
        return f"{value:.{digits}g}"
    return f"{value:.{digits}f}" if size < 100 else f"{value:,.0f}"
