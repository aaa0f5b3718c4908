"""Figures of an audit in words: shares in percent, differences in points, what they rest on."""

from __future__ import annotations

import math

from fieldmark.report import names
from fieldmark.report.audit_contract import AuditParts, Figure, Finding
from fieldmark.report.names import DASH

# Composites of one object are not independent, so what is counted there is objects.
UNITS = {"background_gap": "objects", "group_gap": "images", "region": "images"}

# Half of the last digit that is written.
SMALLEST = 0.0005
PARTS = {
    "groups": "accuracy by group",
    "probe": "probe",
    "some masks": "some masks",
    "training scenes": "scenes of training images",
    "discovery": "regions (RaVL)",
    "sources": "sources of errors",
    "swaps": "background swaps",
    "covar": "controlled changes (COVAR)",
    "additivity": "additivity",
    "images": "most telling images",
}

CHANGES = {
    "original": "as it is",
    "background": "on another background",
    "h_flip": "mirrored",
    "v_flip": "upside down",
    "translate": "moved",
    "crop": "cropped",
    "rotation": "rotated",
    "scale": "shrunk",
}


def negate(figure: Figure) -> Figure:
    """Return a difference the other way round."""
    return Figure(value=-figure.value, low=-figure.high, high=-figure.low, count=figure.count)


def write_percent(value: float) -> str:
    """Write a share in percent.

    Example:
        >>> write_percent(0.8125), write_percent(float("nan")) == DASH
        ('81.2 %', True)
    """
    return DASH if math.isnan(value) else f"{_round(value)} %"


def write_points(value: float) -> str:
    """Write a difference of shares in points of 100, with its sign where it is below 0.

    Example:
        >>> write_points(-0.031), write_points(0.01)
        ('\N{MINUS SIGN}3.1 points', '1.0 points')
    """
    return DASH if math.isnan(value) else f"{_round(value)} points"


def write_range(figure: Figure) -> str:
    """Write the interval of a figure in percent or points; nothing where it is undefined.

    Example:
        >>> write_range(Figure(value=0.5, low=0.4, high=0.625, count=9))
        '[40.0, 62.5]'
    """
    if math.isnan(figure.low) or math.isnan(figure.high):
        return ""
    return f"[{_round(figure.low)}, {_round(figure.high)}]"


def _round(share: float) -> str:
    text = f"{100 * share:.1f}"
    # A rounded -0.0 is no sign of anything.
    return text.lstrip("-") if text == "-0.0" else text.replace("-", "\N{MINUS SIGN}")


def write_share(figure: Figure) -> str:
    """Write a share with its interval.

    Example:
        >>> write_share(Figure(value=0.5, low=0.4, high=0.6, count=9))
        '50.0 % [40.0, 60.0]'
    """
    return f"{write_percent(figure.value)} {write_range(figure)}".strip()


def write_difference(figure: Figure) -> str:
    """Write a difference with its interval.

    Example:
        >>> write_difference(Figure(value=0.05, low=0.0, high=0.1, count=9))
        '5.0 points [0.0, 10.0]'
    """
    return f"{write_points(figure.value)} {write_range(figure)}".strip()


def write_plain_figure(figure: Figure) -> str:
    """Write a figure that is no share, with its interval: a cosine, or RaVL's sum over classes.

    Example:
        >>> write_plain_figure(Figure(value=1.267, low=0.0, high=1.75, count=6))
        '1.27 [0.00, 1.75]'
    """
    value = _write_fixed(figure.value)
    if math.isnan(figure.low + figure.high):
        return value
    return f"{value} [{_write_fixed(figure.low)}, {_write_fixed(figure.high)}]"


def _write_fixed(value: float) -> str:
    text = DASH if math.isnan(value) else f"{value:.2f}"
    return text.lstrip("-") if text == "-0.00" else text.replace("-", "\N{MINUS SIGN}")


def write_count(count: int, unit: str) -> str:
    """Write a count with its unit, one of which loses its s.

    Example:
        >>> write_count(1, "images"), write_count(1200, "objects")
        ('1 image', '1,200 objects')
    """
    return f"{count:,} {unit.removesuffix('s') if count == 1 else unit}"


def write_p_value(value: float) -> str:
    """Write a p-value, never as 0.

    Example:
        >>> write_p_value(0.0301), write_p_value(0.00001), write_p_value(float("nan"))
        ('p = 0.030', 'p < 0.001', '')
    """
    if math.isnan(value):
        return ""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def write_plain(value: float, *, digits: int = 2) -> str:
    """Write a number that is no share: a cosine, an index.

    Example:
        >>> write_plain(0.876), write_plain(float("nan")) == DASH
        ('0.88', True)
    """
    return names.write_number(value, digits=digits).replace("-", "\N{MINUS SIGN}")


def name_head(head: str) -> str:
    """Return a head's name for people.

    Example:
        >>> name_head("linear-probe")
        'linear probe'
    """
    return names.name(head, known=names.HEADS)


def name_change(change: str) -> str:
    """Return a controlled change of COVAR in plain words.

    Example:
        >>> name_change("scale_1.5"), name_change("h_flip")
        ('shrunk to 1/1.5', 'mirrored')
    """
    if change.startswith("scale_"):
        return f"shrunk to 1/{change.removeprefix('scale_')}"
    if change.startswith("viewpoint"):
        return f"seen from elsewhere {change.removeprefix('viewpoint').strip('_')}".strip()
    return CHANGES.get(change, change.replace("_", " "))


def name_group(name: str) -> str:
    """Return a group's name for people.

    Example:
        >>> name_group("y:bird_background:water")
        'bird on water'
    """
    group = names.parse_group(name)
    return group.text if group else name


def name_encoder(parts: AuditParts, encoder: int) -> str:
    """Return the label of an encoder, nothing where there is only one."""
    return parts.encoders[encoder].label if len(parts.encoders) > 1 else ""


def write_prefix(parts: AuditParts, encoder: int, *, head: str = "") -> str:
    """Return what a sentence begins with: which of two encoders and which head, if any."""
    words = ", ".join(filter(None, (name_encoder(parts, encoder), head and name_head(head))))
    return f"{capitalise(words)}: " if words else ""


def name_unit(finding: Finding) -> str:
    """Return what the count of a finding counts: `images` or `objects`."""
    return UNITS.get(finding.kind, "images")


def write_state(finding: Finding, *, margin: float) -> str:
    """Write what a finding's state means, without judging anew.

    Args:
        finding: with its state.
        margin: the effect below which nothing is said to be found; a share.
    """
    unit = name_unit(finding)
    if finding.state == "found":
        p_value = write_p_value(finding.adjusted_p_value)
        tail = f" ({p_value}, corrected for all checks)" if p_value else ""
        return f"more than chance explains{tail}"
    if finding.state == "not_found":
        return f"the whole interval holds no loss of {100 * margin:g} points or more"
    told = f"cannot be told with these {write_count(finding.figure.count, unit)}"
    # The interval of the best of many clusters may lie off 0 by chance.
    p_value = write_p_value(finding.adjusted_p_value) if finding.kind == "region" else ""
    return f"{told} ({p_value}, corrected for all checks)" if p_value else told


def capitalise(text: str) -> str:
    """Return a text with a capital at its start, and nothing else changed.

    Example:
        >>> capitalise("on another background")
        'On another background'
    """
    return text[:1].upper() + text[1:]
