"""What an audit found, what it did not find, and what its images are too few to tell.

Each encoder has up to one finding for each measure of reliance on backgrounds: the BG-gap of swaps
and the gap on usual backgrounds, by head, and RaVL's best cluster off the objects. A finding is
`not_found` when its whole interval lies below the margin, however sure it is, `found` when its
effect is else beyond chance after Holm's correction over the findings of its encoder, and
`undecided` otherwise. Of a head that names classes no better than chance nothing is `not_found`: it
has no accuracy to lose.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

FOUND, NOT_FOUND, UNDECIDED = "found", "not_found", "undecided"
RELIES, NO_SIGN = "relies", "no_sign"
Finding = dict[str, Any]

TITLES = {
    "background_gap": "Objects on backgrounds of other classes",
    "group_gap": "Images on unusual backgrounds",
    "region": "Regions off the objects",
}
DETAILS = {
    "background_gap": "your own objects, laid on scenes of their own and of other classes",
    "group_gap": "images as they are, on the usual background of their class and on others",
    "region": "the cluster of image regions off the objects that accuracy goes with most",
}


def correct_holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm 1979), in their own order; NaN stays and counts not.

    Example:
        >>> correct_holm([0.01, 0.04, float("nan"), 0.03])
        [0.03, 0.06, nan, 0.06]
    """
    known = [i for i, p in enumerate(p_values) if not math.isnan(p)]
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(known, key=lambda i: p_values[i])):
        largest = max(largest, (len(known) - rank) * p_values[index])
        adjusted[index] = min(1.0, largest)
    return adjusted


def make_finding(
    kind: str,
    *,
    encoder: int,
    head: str | None,
    figure: Mapping[str, Any],
    p_value: float,
    sees: bool = True,
) -> Finding:
    """Return a finding that is not judged yet.

    Args:
        kind: a key of `TITLES`.
        encoder: its number.
        head: whose predictions it is about, None where it is about one alone.
        figure: the effect with its interval and count.
        p_value: as measured, NaN where undefined.
        sees: whether the head names classes better than chance; one that does not has nothing to
            lose, so that nothing speaks for it.
    """
    return {
        "id": kind if head is None else f"{kind}:{head}",
        "kind": kind,
        "encoder": encoder,
        "head": head,
        "title": TITLES[kind],
        "figure": dict(figure),
        "p_value": p_value,
        "sees": sees,
        "detail": DETAILS[kind],
    }


def judge_findings(findings: Sequence[Finding], *, level: float, margin: float) -> list[Finding]:
    """Judge findings, each among those of its encoder.

    Args:
        findings: from `make_finding`.
        level: share of encoders without any effect for which something is found, at most.
        margin: an effect below it is of no account.
    """
    judged = []
    for encoder in sorted({one["encoder"] for one in findings}):
        own = [one for one in findings if one["encoder"] == encoder]
        adjusted = correct_holm([one["p_value"] for one in own])
        for one, p_value in zip(own, adjusted, strict=True):
            # A cluster speaks for a reliance alone, and its gap, a sum over classes, has no margin.
            least = -math.inf if one["kind"] == "region" else margin
            state = judge(one["figure"], p_value=p_value, level=level, margin=least)
            if state == NOT_FOUND and not one["sees"]:
                state = UNDECIDED
            judged.append({**one, "adjusted_p_value": p_value, "state": state})
    return judged


def judge(figure: Mapping[str, Any], *, p_value: float, level: float, margin: float) -> str:
    """Say whether an effect was found, was not, or cannot be told.

    Example:
        >>> figure = {"value": 0.01, "low": -0.01, "high": 0.03, "count": 500}
        >>> judge(figure, p_value=0.2, level=0.05, margin=0.05)
        'not_found'
        >>> judge({**figure, "high": 0.08}, p_value=0.2, level=0.05, margin=0.05)
        'undecided'
    """
    value, high = figure["value"], figure["high"]
    if value is None or math.isnan(value):
        return UNDECIDED
    if high is not None and high < margin:
        return NOT_FOUND
    return FOUND if p_value <= level and value > 0 else UNDECIDED


def beats_chance(classes: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether the mean accuracy over classes lies above chance, all of its interval.

    Args:
        classes: figures, one for each class, those without images too.

    Example:
        >>> all_right, all_wrong = ({"value": v, "low": 0.9 * v, "count": 40} for v in (1.0, 0.0))
        >>> beats_chance([all_right, all_wrong]), beats_chance([all_right, all_right])
        (False, True)
    """
    known = [one for one in classes if one["count"]]
    if not known:
        return False
    mean = sum(one["value"] for one in known) / len(known)
    reach = math.hypot(*(one["value"] - one["low"] for one in known)) / len(known)
    return bool(mean - reach > 1 / len(classes))


def reach_verdict(findings: Sequence[Finding], *, encoder: int) -> str:
    """Say whether an encoder relies on backgrounds, shows no sign of it, or cannot be judged.

    Regions speak for a reliance alone: that no cluster was found says little against one.

    Example:
        >>> gap = {"kind": "background_gap", "encoder": 0, "state": "not_found"}
        >>> reach_verdict([gap], encoder=0)
        'no_sign'
        >>> reach_verdict([], encoder=0)
        'undecided'
    """
    own = [one for one in findings if one["encoder"] == encoder]
    if any(one["state"] == FOUND for one in own):
        return RELIES
    states = [one["state"] for one in own if one["kind"] != "region"]
    return NO_SIGN if states and set(states) == {NOT_FOUND} else UNDECIDED


def compare_findings(
    findings: Sequence[Finding], *, smaller: Collection[str] = ()
) -> dict[str, list[str]]:
    """Say which findings of the first encoder vanish with the second, stay, or cannot be told.

    Args:
        findings: of both encoders.
        smaller: ids of those whose effect is smaller with the second encoder beyond chance.

    Returns:
        Ids: `vanished` (found, then not), `shrank` (found, then smaller beyond chance, and what is
        left cannot be told), `stayed` (found in both), `new` (found in the second alone),
        `undecided` (found in the first, and the second cannot be told).

    Example:
        >>> before = {"id": "region", "encoder": 0, "state": "found"}
        >>> compare_findings([before, {**before, "encoder": 1, "state": "not_found"}])["vanished"]
        ['region']
    """
    states: list[dict[str, str]] = [
        {one["id"]: one["state"] for one in findings if one["encoder"] == number}
        for number in (0, 1)
    ]
    first, second = states
    found = [name for name, state in first.items() if state == FOUND]
    new = [name for name, state in second.items() if state == FOUND and name not in found]
    unknown = [name for name in found if second.get(name, UNDECIDED) == UNDECIDED]
    return {
        "vanished": [name for name in found if second.get(name) == NOT_FOUND],
        "shrank": [name for name in unknown if name in smaller],
        "stayed": [name for name in found if second.get(name) == FOUND],
        "new": new,
        "undecided": [name for name in unknown if name not in smaller],
    }


def count_needed(figure: Mapping[str, Any], *, margin: float) -> int | None:
    """Return how many times as many images would narrow an interval to the margin, None if unknown.

    The half-width of an interval falls with the root of the count.

    Example:
        >>> count_needed({"value": 0.0, "low": -0.1, "high": 0.1, "count": 50}, margin=0.05)
        4
    """
    low, high = figure["low"], figure["high"]
    if low is None or high is None or math.isnan(low) or math.isnan(high) or high <= low:
        return None
    return max(2, math.ceil(float((high - low) / 2 / margin) ** 2))
