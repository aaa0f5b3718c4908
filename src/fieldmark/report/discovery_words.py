"""What a discovery bears to be said, in sentences: no more than its corrected p-values."""

from __future__ import annotations

import math

from fieldmark.discovery.candidates import Candidate, LabelGap
from fieldmark.metrics.intervals import Interval
from fieldmark.report.discovery_parts import DiscoveryParts
from fieldmark.report.names import write_number

CAVEAT = (
    "A p-value says that accuracy changes with the cluster, not that the cluster is spurious: a "
    "part of the object itself can pass as well. That is for you to see in the pictures."
)


def write_title(parts: DiscoveryParts) -> str:
    """Write the headline: how many clusters are more than chance, at which level."""
    found, level = len(parts.significant), float(parts.values["level"])
    total = int(parts.values["clustering"]["found"])
    clusters = f"{total} cluster{'' if total == 1 else 's'}"
    if not parts.candidates:
        return f"Nothing found in {clusters} of regions"
    if not _has_tests(parts):
        return f"{parts.values['method']} names one group of regions; it has no p-value"
    if not found:
        return f"None of {clusters} is told from chance at level {level:g}"
    return (
        f"With {found} of {clusters} of regions accuracy changes more than chance explains, at "
        f"level {level:g}"
    )


def write_lead(parts: DiscoveryParts) -> str:
    """Write what was asked, in one sentence."""
    values = parts.values
    count, images = int(values["regions"]["count"]), int(values["images"])
    return (
        f"{count:,} regions of {images:,} images were put into clusters by how alike they are to "
        "the model. If a class is named right more often where a cluster is present than where it "
        "is absent, the model may be relying on that cluster."
    )


def write_sentences(parts: DiscoveryParts) -> tuple[str, ...]:
    """Write what was found and what it bears."""
    values = parts.values
    accuracy = write_number(float(values["accuracy"]), digits=3)
    lines = [f"Zero-shot accuracy is {accuracy} over {int(values['images']):,} images."]
    if not parts.candidates:
        lines.append(f"No cluster is a candidate: {values['reason']}.")
        return tuple(lines)
    count, level = len(parts.candidates), float(values["level"])
    kept = "1 cluster is a candidate" if count == 1 else f"{count} clusters are candidates"
    lines.append(f"{kept} ({values['reason']}).")
    if _has_tests(parts):
        total, passed = int(values["clustering"]["found"]), len(parts.significant)
        others = "The other one" if count - passed == 1 else "The others"
        rest = f" {others} may be chance." if 0 < passed < count else ""
        passes = f"{passed or 'None'} of them pass{'es' if passed < 2 else ''}"
        lines.append(
            f"{passes} at level {level:g}, corrected for "
            f"all {total} clusters by {int(values['permutations']):,} permutations.{rest}"
        )
    lines.append(CAVEAT)
    return tuple(lines)


def name_candidate(candidate: Candidate) -> str:
    """Name a candidate by its words and its class.

    Example:
        >>> from fieldmark.metrics.intervals import UNDEFINED
        >>> one = Candidate(
        ...     cluster=3, tied_class="cat", influence=0.5, gap=0.4, interval=UNDEFINED,
        ...     chance=0.1, p_value=0.01, adjusted_p_value=0.02, size=9, images=8, medoid=0,
        ...     nearest=(), words=(), classes=(),
        ... )
        >>> name_candidate(one), write_verdict(one, passed=True)
        ('Cluster 3, tied to cat', 'More than chance: corrected p 0.020')
    """
    words = ", ".join(word.word for word in candidate.words[:3])
    what = words or f"Cluster {candidate.cluster}"
    return what if candidate.tied_class is None else f"{what}, tied to {candidate.tied_class}"


def write_verdict(candidate: Candidate, *, passed: bool) -> str:
    """Write what the corrected p-value of a candidate bears."""
    p_value = candidate.adjusted_p_value
    if math.isnan(p_value):
        return "Not tested: it has no p-value"
    number = write_number(p_value, digits=3)
    word = "More than chance" if passed else "Not told from chance"
    return f"{word}: corrected p {number}"


def tell_classes(candidate: Candidate) -> tuple[str, ...]:
    """Write how accuracy on the tied class, and on the one that loses most, goes with a cluster."""
    found = {one.name: one for one in candidate.classes}
    tied = found.get(candidate.tied_class or "")
    worst = min(candidate.classes, key=lambda one: one.gap, default=None)
    lines = []
    if tied is not None:
        lines.append(_tell_class(tied))
    if candidate.tied_class is not None and (tied is None or not tied.gap > 0):
        lines.append(
            f"No class is named right more often with it; it is tied to {candidate.tied_class} "
            "because the wrong predictions that rest on it name that class."
        )
    if worst is not None and worst is not tied and worst.gap < 0:
        lines.append(_tell_class(worst))
    return tuple(lines)


def write_interval(interval: Interval, *, digits: int = 2) -> str:
    """Write an interval in brackets, nothing where it is undefined.

    Example:
        >>> write_interval(Interval(0.1, 0.25))
        '[0.10, 0.25]'
    """
    if math.isnan(interval.low + interval.high):
        return ""
    return "[" + ", ".join(write_number(end, digits=digits) for end in interval) + "]"


def _tell_class(one: LabelGap) -> str:
    inside, outside, gap = (
        write_number(value, digits=2)
        for value in (one.accuracy_with, one.accuracy_without, one.gap)
    )
    return (
        f"On images of {one.name} accuracy is {inside} with a region of this cluster "
        f"({one.images_with} images) and {outside} without ({one.images_without}): a difference of "
        f"{gap} {write_interval(one.interval)}."
    )


def _has_tests(parts: DiscoveryParts) -> bool:
    return any(not math.isnan(one.adjusted_p_value) for one in parts.candidates)
