"""What the page of an explanation says in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fieldmark.report.explain_parts import Case, ExplanationParts, average
from fieldmark.report.names import write_number

LEAD = (
    "Each picture is the encoder's own input with a map laid over it: the lighter a place, the "
    "more it speaks for the text above it, by the method at the head of the column."
)
UNRESOLVABLE = "the object is smaller than a patch: no map can be held against its mask"


def quote(text: str) -> str:
    """Return a text in quotation marks."""
    return f"\N{LEFT DOUBLE QUOTATION MARK}{text}\N{RIGHT DOUBLE QUOTATION MARK}"


def count(number: int, noun: str) -> str:
    """Write a number of things.

    Example:
        >>> count(1, "image"), count(2, "image")
        ('1 image', '2 images')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def write_title(parts: ExplanationParts) -> str:
    """Return the headline."""
    texts, images = parts.values["texts"], parts.values["images"]
    if len(texts) == 1:
        return f"What speaks for {quote(texts[0])} in {count(len(images), 'image')}"
    methods = count(len(parts.values["methods"]), "method")
    return f"What {count(len(images), 'image')} owe their scores to, by {methods}"


def write_sentences(parts: ExplanationParts) -> tuple[str, ...]:
    """Return what is worth saying first."""
    found = (_tell_hits(parts), _tell_support(parts), _tell_masks(parts), _tell_energy(parts))
    return tuple(filter(None, found))


def _tell_hits(parts: ExplanationParts) -> str:
    known = [one for one in parts.values["images"] if one["truth"] is not None]
    if not known:
        return ""
    right = sum(one["truth"] == one["predicted"] for one in known)
    return (
        f"{right} of {count(len(known), 'image')} are named right. Each is explained by the class "
        "that it is taken for, and a wrong one by its own class, too."
    )


def _tell_support(parts: ExplanationParts) -> str:
    if not any(one["name"] == "cci" for one in parts.values["methods"]):
        return ""
    flags = [case.text["maps"]["cci"]["no_support"] for case in parts.cases]
    if not any(flags):
        return ""
    return (
        f"In {sum(flags)} of {count(len(flags), 'case')} nothing in the image speaks for the text "
        "by CCI: whichever cluster is removed, the score does not drop."
    )


def _tell_masks(parts: ExplanationParts) -> str:
    if not parts.masks:
        return ""
    area = average(tuple(one["area"] for one in parts.masks))
    told = (
        f"There is a mask for {len(parts.masks)} of {count(len(parts.values['images']), 'image')}; "
        f"masks cover {100 * area:.0f} % of the input on average."
    )
    small = sum(not one["resolvable"] for one in parts.masks)
    return told if not small else f"{told} Of {small} {UNRESOLVABLE}."


def _tell_energy(parts: ExplanationParts) -> str:
    """Name the maps that lie in the masks the most; few images bear no more than that."""
    means = {
        one["title"]: average(parts.list_energies(one["name"]))
        for one in parts.values["methods"]
        if parts.list_energies(one["name"])
    }
    if len(means) < 2:
        return ""
    best = sorted(means, key=lambda title: -means[title])[:3]
    shown = ", ".join(f"{title} {write_number(means[title], digits=2)}" for title in best)
    return (
        f"The share of the map inside the mask is largest by {shown}. A model that looks at the "
        "background gives a faithful map a small share, so this ranks no method; "
        "fieldmark faithfulness does."
    )


def describe_case(parts: ExplanationParts, case: Case) -> tuple[str, str, str]:
    """Return the text of a case, its score, and whether it is what the image is or is taken for."""
    number, image = case.text["text"], case.image
    score = write_number(float(case.text["similarity"]), digits=3)
    if image["truth"] is None:
        is_nearest = len(image["texts"]) > 1 and number == image["predicted"]
        return quote(parts.name_text(number)), score, "the nearest text" if is_nearest else ""
    if number == image["truth"]:
        role = "its class" + (", named right" if number == image["predicted"] else "")
        return quote(parts.name_text(number)), score, role
    return quote(parts.name_text(number)), score, "what it is taken for, wrongly"


def list_flags(
    one: Mapping[str, Any], method: Mapping[str, Any], mask: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """Return what has to be said of a map, in words."""
    flags = []
    if one["no_support"] and method["uses_text"]:
        flags.append("nothing speaks for the text")
    if one["energy"] is not None:
        flags.append(f"{100 * float(one['energy']):.0f} % in the mask")
    elif mask is not None and not mask["resolvable"]:
        flags.append("mask not resolvable")
    return tuple(flags)
