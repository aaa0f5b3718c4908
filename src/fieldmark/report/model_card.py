"""The card of a model: Markdown under YAML that the hub reads, made from records alone.

It says what the model comes from, how it does on each group with counts and intervals, how it was
trained, on what data under which licences, and what was not tested.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fieldmark.core.atomic import write_text
from fieldmark.report import names
from fieldmark.report.audit_parts import read_audit
from fieldmark.report.audit_texts import escape_paragraph, straighten
from fieldmark.report.card_evidence import (
    Accuracy,
    Evidence,
    read_evidence,
    shorten_path,
    write_code,
)
from fieldmark.report.card_parts import (
    describe_data,
    describe_training,
    list_findings,
    show_accuracies,
    show_use,
)
from fieldmark.report.formats import escape_markdown, flatten

CARD = "model_card.md"
UNKNOWN = "unknown"
LIBRARIES = {"open_clip": "open_clip", "hf": "transformers"}
TAGS = ("fieldmark", "clip", "spurious-correlation", "worst-group-accuracy")
PIPELINE = "zero-shot-image-classification"


@dataclass(frozen=True, kw_only=True)
class CardModel:
    """The model that a card is for.

    Attributes:
        name: for the title: `ORG/NAME`, or what it is called by.
        library: whose layout it is in, `open_clip` or `hf`; "" where it is not written out.
        base: URI of the model that it was made from, "" where it is that model.
        base_repo: hub repository of that model, "" where none is known.
        licence: identifier, or "unknown".
        fingerprint: SHA-256 over its weights.
    """

    name: str
    library: str = ""
    base: str = ""
    base_repo: str = ""
    licence: str = UNKNOWN
    fingerprint: str = ""


def build_model_card(
    model: CardModel, *, evidence: Sequence[Evidence] = (), training: Mapping[str, Any] | None
) -> str:
    """Build the text of a card, without reading or writing.

    Args:
        model: what the card is for.
        evidence: what was measured of it.
        training: the `run.json` of the run that trained it, or None.

    Returns:
        Markdown with YAML front matter.

    Example:
        >>> text = build_model_card(CardModel(name="me/clip", library="open_clip"), training=None)
        >>> print(text.partition("tags:")[0])
        ---
        library_name: open_clip
        pipeline_tag: zero-shot-image-classification
        license: unknown
        <BLANKLINE>
        >>> "Nothing was measured" in text
        True
    """
    front = yaml.safe_dump(
        _list_front(model, evidence=evidence), sort_keys=False, allow_unicode=True, width=1000
    )
    sections = (
        ("", _introduce(model)),
        ("How to use it", show_use(model.library, name=model.name)),
        ("How it does", show_accuracies(evidence)),
        ("What the audit found", list_findings(evidence)),
        ("How it was trained", describe_training(training)),
        ("Data and licences", describe_data(evidence)),
        ("What was not tested", _list_untested(evidence)),
    )
    body = [f"## {title}\n\n{text}" if title else text for title, text in sections if text]
    title = f"# {escape_paragraph(model.name)}"
    return straighten(f"---\n{front}---\n\n" + "\n\n".join([title, *body]) + "\n")


def write_audit_card(out: Path, *, licence: str = UNKNOWN, base_repo: str = "") -> Path:
    """Write the card of the encoder that was audited, of two the second, `OUT/model_card.md`.

    `audit.json` does not know the licence of the encoder; without one the card warns of it.

    Args:
        out: the audit's directory, with `audit.json`.
        licence: identifier, or "unknown".
        base_repo: hub repository that the encoder was made from, "" where none is known.

    Returns:
        The path of the card.

    Raises:
        InputError: the record is missing or damaged.
    """
    audit = read_audit(out)
    last = audit.encoders[-1]
    model = CardModel(
        name=shorten_path(last.uri),
        base_repo=base_repo,
        licence=licence,
        fingerprint=last.fingerprint,
    )
    evidence = read_evidence(out, card={})
    path = out / CARD
    write_text(path, build_model_card(model, evidence=(evidence,), training=None))
    return path


def _list_front(model: CardModel, *, evidence: Sequence[Evidence]) -> dict[str, Any]:
    front: dict[str, Any] = {}
    if model.library:
        front["library_name"] = LIBRARIES[model.library]
    front |= {"pipeline_tag": PIPELINE, "license": flatten(model.licence)}
    if model.base_repo:
        front["base_model"] = model.base_repo
    front["tags"] = list(TAGS)
    mine = [one for part in evidence for one in part.accuracies if one.mine]
    results = [result for one in mine if (result := _to_result(one))]
    if results:
        front["model-index"] = [{"name": flatten(model.name), "results": results}]
    return front


def _to_result(one: Accuracy) -> dict[str, Any] | None:
    """Return one entry of the hub's `model-index`; None where nothing is defined."""
    metrics = []
    for metric, words, summary in (
        ("acc_avg", "average accuracy", one.average),
        ("acc_wg", "accuracy of the worst group", one.worst),
    ):
        # The index has no place for an undefined figure; the table shows it with its count.
        if summary is None or math.isnan(summary.mean):
            continue
        interval = f"95 % CI {summary.interval}, " if summary.interval else ""
        name = f"{words} ({interval}{summary.count})"
        metrics.append({"type": metric, "name": name, "value": round(summary.mean, 6)})
    if not metrics:
        return None
    head = names.name(one.head, known=names.HEADS)
    zero_shot = one.head in names.ZERO_SHOT_HEADS
    task = {"type": PIPELINE if zero_shot else "image-classification", "name": flatten(head)}
    dataset = {"type": flatten(one.dataset), "name": flatten(one.dataset)}
    if one.split:
        dataset["split"] = flatten(one.split)
    return {"task": task, "dataset": dataset, "metrics": metrics}


def _introduce(model: CardModel) -> str:
    lines = ["This card was written by fieldmark from records of what was run.", ""]
    if model.base:
        lines.append(f"- Base model: {escape_markdown(model.base)}")
    if model.fingerprint:
        lines.append(f"- Weights: SHA-256 {write_code(model.fingerprint)} over both towers")
    lines.append(f"- Licence: {escape_markdown(model.licence)}")
    if model.licence == UNKNOWN:
        lines.append(
            "\n> **Warning:** the licence of the base model could not be read. "
            "Find it before you use or pass on these weights."
        )
    return "\n".join(lines)


def _list_untested(evidence: Iterable[Evidence]) -> str:
    told = [text for one in evidence for text in one.not_tested]
    if not told:
        told = ["Everything: no figures of this model were given to this card."]
    return "\n".join(f"- {escape_paragraph(text)}" for text in dict.fromkeys(told))
