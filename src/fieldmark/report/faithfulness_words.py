"""What a faithfulness run bears to be said, in sentences: no more than its intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fieldmark.report.faithfulness_parts import FaithfulnessParts, to_figure
from fieldmark.report.names import write_number

CAVEAT = (
    "Deletion and insertion show the model images that it was not trained on. They rank methods "
    "under one protocol; figures of two protocols cannot be compared."
)
FILLS = {
    "noise": "noise",
    "mean": "the checkpoint's mean colour",
    "blur": "the image blurred",
    "black": "black",
}
SCORES = {
    "accuracy@1": "top-1 accuracy",
    "accuracy@5": "top-5 accuracy",
    "probability": "the probability of the text",
    "cosine": "the cosine with the text",
    "text-retrieval@1": "text retrieval at 1",
    "text-retrieval@5": "text retrieval at 5",
    "image-retrieval@1": "image retrieval at 1",
    "image-retrieval@5": "image retrieval at 5",
}


def write_title(parts: FaithfulnessParts) -> str:
    """Write the headline: which method comes first, and whether that is more than chance."""
    methods = [one for one in parts.methods if not one["is_null"]]
    if not methods:
        return "No method was measured"
    beaten = _list_above_null(parts)
    if not beaten:
        return "No method is told from a map that knows nothing"
    first, count = next(one for one in methods), len(methods)
    title = str(first["title"])
    title = title[:1].upper() + title[1:]
    if first["title"] not in beaten:
        return f"{title} comes first of {count} methods, not surely ahead of a null"
    return f"{title} comes first of {count} method{'s' * (count != 1)}"


def _list_above_null(parts: FaithfulnessParts) -> list[str]:
    """Return the titles of the methods that are surely above the better null."""
    null = parts.values["best_null"]["gap"]
    return [
        str(one["title"])
        for one in parts.methods
        if not one["is_null"] and _is_above(parts.contrast(one["name"], against=null))
    ]


def write_lead(parts: FaithfulnessParts) -> str:
    """Write what was done, in two sentences."""
    values, protocol = parts.values, parts.values["protocol"]
    share = f"{100 * protocol['fraction_max']:g} %"
    where = "the model's input" if protocol["space"] == "model_input" else "the native image"
    return (
        f"Pixels of {where} that a map names first are replaced by {FILLS[protocol['delete_fill']]}"
        f" (deletion), or put back onto {FILLS[protocol['insert_start']]} (insertion), up to "
        f"{share} of them in {protocol['points']} steps. A faithful map makes "
        f"{SCORES[values['headline']]} fall fast and rise fast."
    )


def write_sentences(parts: FaithfulnessParts) -> tuple[str, ...]:
    """Write what was found and what it bears."""
    return tuple(_list_sentences(parts))


def _list_sentences(parts: FaithfulnessParts) -> Iterator[str]:
    values = parts.values
    objects = (
        f" of {values['objects']:,} objects, which are drawn together"
        if values["objects"] != values["images"]
        else ""
    )
    yield (
        f"{values['images']:,} images{objects}; intervals hold 95 % of bootstrap means. The gap is "
        "the area under insertion less that under deletion, the higher the better."
    )
    null, beaten = values["best_null"]["gap"], _list_above_null(parts)
    count = sum(not one["is_null"] for one in parts.methods)
    yield (
        f"{len(beaten)} of {count} methods have a larger gap than the better null ({null}), the "
        f"interval of the difference, held for all at once, above 0"
        f"{': ' + ', '.join(beaten) if beaten else ''}."
    )
    yield from _tell_reference(parts)
    if values["changed"]:
        changed = ", ".join(f"{key} = {value}" for key, value in values["changed"].items())
        preset = values["protocol"]["preset"]
        yield f"Of the preset {preset} these settings were changed: {changed}."
    yield CAVEAT


def _is_above(contrast: Mapping[str, Any] | None) -> bool:
    low = None if contrast is None else contrast["simultaneous_low"]
    return low is not None and low > 0


def _tell_reference(parts: FaithfulnessParts) -> Iterator[str]:
    reference = parts.values["reference"]
    if reference is None:
        yield "CCI was not measured."
        return
    ahead = []
    for one in parts.methods:
        contrast = parts.contrast(one["name"], against=reference)
        if _is_above(contrast) and contrast is not None:
            figure = to_figure(contrast)
            by = write_number(float(contrast["value"]), digits=3)
            ahead.append(f"{one['title']} by {by} {figure.interval if figure else ''}".strip())
    rank = [one["name"] for one in parts.methods].index(reference) + 1
    if ahead:
        yield f"CCI is number {rank}; surely ahead of it: {', '.join(ahead)}."
    else:
        yield f"CCI is number {rank}; no method is surely ahead of it."
