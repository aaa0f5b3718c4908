"""What a mitigation changed: the same images and regions before and after, by group.

Which images have the cluster is what the model that was discovered on said; it is not asked again
after training, so that both columns are of the same groups.

Shape letters: n images, R regions, Y classes, D embedding dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fieldmark.benchmarks.mitigation_material import Part
from fieldmark.core.records import ResultRow
from fieldmark.discovery.evidence import predict_zero_shot
from fieldmark.metrics.cluster_gaps import (
    bound_cluster_gaps,
    cluster_gaps,
    label_gaps,
    tabulate_gaps,
)
from fieldmark.metrics.influence import Selection, find_strongest_regions, measure_influence
from fieldmark.metrics.intervals import (
    UNDEFINED,
    Difference,
    Estimate,
    GroupEstimates,
    compare_worst_groups,
    estimate_groups,
)
from fieldmark.metrics.regions import number_image_groups, summarise_regions

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
BEFORE, HEAD = "native", "zero-shot"
NOT_COMPARED = Difference(value=math.nan, interval=UNDEFINED, p_value=math.nan, count=0)


class Seen(NamedTuple):
    """What an encoder makes of the images of a part.

    Attributes:
        images: (n,D) of unit norm.
        regions: (R,D) of unit norm.
    """

    images: Floats
    regions: Floats


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure before and after.

    Attributes:
        metric: `image_avg`, `image_wg`, `image_y:CLASS_cluster:with`; `acc_wg` and
            `acc_y:CLASS_background:ATTRIBUTE`; `region_avg`, `region_wg`,
            `region_y:LABEL_image:CLASS`; `gap` and `influence` of a cluster.
        group: id of the group or the cluster, None for a figure over groups.
        before: by the model that was discovered on.
        after: by the trained one.
        difference: after minus before on the same images, NaN where it is not tested.
    """

    metric: str
    group: int | None = None
    before: Estimate
    after: Estimate
    difference: Difference = NOT_COMPARED


@dataclass(frozen=True, eq=False, kw_only=True)
class Measuring:
    """What figures need beside embeddings.

    Attributes:
        part: the images.
        prototypes: (Y,D) of the classes.
        names: what boxes and prompts call each class.
        selection: of the discovery.
        seed: of the resampling.
    """

    part: Part
    prototypes: Floats
    names: tuple[tuple[str, ...], ...]
    selection: Selection
    seed: int


def measure_change(measuring: Measuring, before: Seen, after: Seen) -> tuple[Figure, ...]:
    """Measure everything before and after on one part.

    Args:
        measuring: images, regions and prototypes.
        before: by the model that was discovered on.
        after: by the trained one.

    Returns:
        Figures of images by class and cluster, by class and attribute where the table has any, of
        regions where their source names what they show, and G and H of each chosen cluster.
    """
    part = measuring.part
    guesses = [predict_zero_shot(seen.images, measuring.prototypes) for seen in (before, after)]
    correct = (guesses[0] == part.table.labels, guesses[1] == part.table.labels)
    return (
        *_compare_images(measuring, correct),
        *_compare_attributes(measuring, correct),
        *_compare_regions(measuring, before.regions, after.regions),
        *_compare_clusters(measuring, (before, after), guesses),
    )


def _compare_images(measuring: Measuring, correct: tuple[Bools, Bools]) -> Iterator[Figure]:
    table = measuring.part.table
    groups = number_image_groups(table.labels, measuring.part.has_cluster)
    names = {
        2 * code + has: f"y:{name}_cluster:{('without', 'with')[has]}"
        for code, name in enumerate(table.classes)
        for has in (0, 1)
    }
    units = _number_objects(table.objects)
    yield from _compare("image", correct, groups, names=names, units=units, measuring=measuring)


def _compare_attributes(measuring: Measuring, correct: tuple[Bools, Bools]) -> Iterator[Figure]:
    table = measuring.part.table
    if table.attributes is None:
        return
    known = table.group_ids() >= 0
    units = _number_objects(table.objects)
    figures = _compare(
        "acc",
        (correct[0][known], correct[1][known]),
        table.group_ids()[known],
        names=table.group_names(),
        units=None if units is None else units[known],
        measuring=measuring,
    )
    # Its average is that of the images again.
    yield from (one for one in figures if one.metric != "acc_avg")


def _compare_regions(measuring: Measuring, before: Floats, after: Floats) -> Iterator[Figure]:
    part, width = measuring.part, len(measuring.prototypes)
    shows = code_regions(part.regions.names, measuring.names, count=len(part.regions))
    known = shows >= 0
    if not known.any():
        return
    guesses = [predict_zero_shot(seen, measuring.prototypes) for seen in (before, after)]
    owners, labels = part.regions.images, part.table.labels
    meanings = summarise_regions(
        guesses[0], shows, owners=owners, image_labels=labels, classes=width
    ).meanings
    number = {pair: group for group, pair in meanings.items()}
    groups = np.array(
        [number[int(shows[row]), int(labels[owners[row]])] for row in np.flatnonzero(known)],
        np.int64,
    )
    classes = part.table.classes
    names = {
        group: f"y:{classes[label]}_image:{classes[image or 0]}"
        for group, (label, image) in meanings.items()
    }
    correct = ((guesses[0] == shows)[known], (guesses[1] == shows)[known])
    # Regions of one image are drawn together.
    units = owners[known]
    yield from _compare("region", correct, groups, names=names, units=units, measuring=measuring)


def code_regions(
    shown: Sequence[str] | None, names: Sequence[Sequence[str]], *, count: int
) -> Ints:
    """Return the class that each region shows, (R,), -1 where that is none or not known.

    Args:
        shown: R names, in any case.
        names: of each class.
        count: R.

    Example:
        >>> code_regions(["Dog", "bowl"], [["cat"], ["dog", "hound"]], count=2).tolist()
        [1, -1]
    """
    code = {name.casefold(): number for number, own in enumerate(names) for name in own}
    if shown is None:
        return np.full(count, -1, np.int64)
    return np.array([code.get(name.casefold(), -1) for name in shown], np.int64)


def _compare(
    kind: str,
    correct: tuple[Bools, Bools],
    groups: Ints,
    *,
    names: Mapping[int, str],
    units: Ints | None,
    measuring: Measuring,
) -> Iterator[Figure]:
    seed = measuring.seed
    before, after = (
        estimate_groups(right, groups, known=names, clusters=units, seed=seed) for right in correct
    )
    for name, part in (("avg", np.zeros_like(groups)), ("wg", groups)):
        difference = compare_worst_groups(correct[0], correct[1], part, clusters=units, seed=seed)
        yield Figure(
            metric=f"{kind}_{name}",
            before=_pick(before, name),
            after=_pick(after, name),
            difference=difference,
        )
    for group, estimate in before.groups.items():
        yield Figure(
            metric=f"{kind}_{names[group]}",
            group=group,
            before=estimate,
            after=after.groups[group],
        )


def _pick(found: GroupEstimates, name: str) -> Estimate:
    return found.average if name == "avg" else found.worst


def _compare_clusters(
    measuring: Measuring, seen: Sequence[Seen], guesses: Sequence[Ints]
) -> Iterator[Figure]:
    for cluster in measuring.part.chosen:
        pairs = [
            _measure_cluster(measuring, cluster, regions=one.regions, guesses=guess)
            for one, guess in zip(seen, guesses, strict=True)
        ]
        for metric, (before, after) in zip(
            ("gap", "influence"), zip(*pairs, strict=True), strict=True
        ):
            value = after.value - before.value
            yield Figure(
                metric=metric,
                group=cluster,
                before=before,
                after=after,
                difference=replace(NOT_COMPARED, value=value),
            )


def _measure_cluster(
    measuring: Measuring, cluster: int, *, regions: Floats, guesses: Ints
) -> tuple[Estimate, Estimate]:
    """Return G and H of a cluster (RaVL, Definitions 1 and 2)."""
    part, selection = measuring.part, measuring.selection
    labels, owners, inside = part.table.labels, part.regions.images, part.clusters == cluster
    present = (np.bincount(owners[inside], minlength=len(labels)) > 0)[:, None]
    table = tabulate_gaps(
        present, labels, correct=guesses == labels, width=len(measuring.prototypes)
    )
    low, high = (end.item() for end in bound_cluster_gaps(table, weighted=selection.weighted))
    strongest = find_strongest_regions(
        regions @ measuring.prototypes.T, owners, predictions=guesses
    )
    pulled = (strongest >= 0) & inside[strongest]
    single = np.bincount(owners, minlength=len(labels)) == 1
    influence = measure_influence(
        present,
        np.where(pulled, 0, -1),
        labels=labels,
        predictions=guesses,
        gaps=label_gaps(table),
        skip=single if selection.skip_single_regions else None,
    )
    gap = Estimate(
        value=cluster_gaps(table, weighted=selection.weighted).item(),
        interval=UNDEFINED._replace(low=low, high=high),
        bias=math.nan,
        count=int(present.sum()),
    )
    pull = replace(gap, value=influence.scores.item(), interval=UNDEFINED)
    return gap, replace(pull, count=int(influence.errors.sum()))


def _number_objects(objects: Sequence[str] | None) -> Ints | None:
    if objects is None:
        return None
    return np.asarray(np.unique(np.asarray(objects), return_inverse=True)[1], np.int64)


def list_rows(figures: Sequence[Figure], *, blank: ResultRow) -> Iterator[ResultRow]:
    """Yield the rows of figures: before, after, and their difference where it is defined.

    Args:
        figures: of one part.
        blank: a row that says which part, encoder, method and seed.
    """
    for one in figures:
        own = replace(blank, metric=one.metric, group=one.group, head=HEAD)
        for method, found in ((BEFORE, one.before), (blank.method, one.after)):
            low, high = found.interval
            yield replace(
                own, method=method, value=found.value, ci_low=low, ci_high=high, count=found.count
            )
        if not math.isnan(one.difference.value):
            low, high = one.difference.interval
            yield replace(
                own,
                setting="difference",
                value=one.difference.value,
                ci_low=low,
                ci_high=high,
                count=one.difference.count,
            )
