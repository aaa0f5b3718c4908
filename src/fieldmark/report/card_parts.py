"""The sections of a model card, as Markdown. Names out of records show as text, never as markup."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fieldmark.report import names
from fieldmark.report.audit_texts import escape_paragraph
from fieldmark.report.card_evidence import Accuracy, Evidence, shorten_path, write_code
from fieldmark.report.formats import escape_markdown, render_markdown
from fieldmark.report.tables import Line, Summary, Table

NOTHING = "Nothing was measured with these weights."
USES = {
    "open_clip": """```python
import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("hf-hub:{name}")
tokenizer = open_clip.get_tokenizer("hf-hub:{name}")
```""",
    "hf": """```python
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{name}")
processor = AutoProcessor.from_pretrained("{name}")
```""",
}
# Keys of run.json that say how a model was made.
TOLD = ("method", "masks", "seed", "config", "clusters", "data", "foregrounds", "backgrounds")


def show_use(library: str, *, name: str) -> str:
    """Return the lines that open the model in its own library; "" where it is not written out.

    Example:
        >>> print(show_use("hf", name="me/clip").splitlines()[3])
        model = AutoModel.from_pretrained("me/clip")
    """
    return USES[library].format(name=name) if library else ""


def show_accuracies(evidence: Sequence[Evidence]) -> str:
    """Return the tables of accuracy, average and by group, with intervals and counts."""
    found = [one for part in evidence for one in part.accuracies]
    if not found:
        return NOTHING
    found.sort(key=lambda one: not one.mine)
    beside = not found[-1].mine
    mark = " Other models stand below it for comparison." if beside else ""
    heads = (*_headings(found), "Group", "Accuracy [95 % interval]", "Images")
    lines = [line for one in found for line in _list_lines(one, wide=len(heads) == 7)]
    table = Table(
        caption="Accuracy by group; a dash is undefined.",
        headings=heads,
        measures=(),
        lines=tuple(lines),
    )
    sources = sorted({one.source for one in evidence if one.accuracies})
    text = f"Measured by {' and '.join(sources)}.{mark}\n\n{render_markdown(table).strip()}"
    empty = dict.fromkeys(name for one in found for name, summary in one.groups if _lacks(summary))
    if empty:
        names_of = ", ".join(map(escape_markdown, empty))
        text += f"\n\nGroups without images, here or on some split: {names_of}."
    return text


def _lacks(summary: Summary) -> bool:
    return summary.counts[1] == 0


def _headings(found: Sequence[Accuracy]) -> tuple[str, ...]:
    wide = any(one.method not in ("", "native") or one.setting for one in found)
    return ("Data set", "Split", "Head", "Model") if wide else ("Data set", "Split", "Head")


def _list_lines(one: Accuracy, *, wide: bool) -> Iterator[Line]:
    method = names.name(one.method, known=names.METHODS)
    model = ", ".join(filter(None, (f"this ({method})" if one.mine else method, one.setting)))
    where = (
        one.dataset,
        names.name(one.split, known=names.SPLITS) or names.DASH,
        names.name(one.head, known=names.HEADS),
        *((model,) if wide else ()),
    )
    groups = ((name, summary) for name, summary in one.groups if not _lacks(summary))
    rows = [("all", one.average), ("worst group", one.worst), *groups]
    for name, summary in rows:
        if summary is not None:
            yield Line(names=(*where, name, _write(summary), _count(summary)), figures=())


def _write(summary: Summary) -> str:
    return names.DASH if math.isnan(summary.mean) else f"{summary.text} {summary.interval}".strip()


def _count(summary: Summary) -> str:
    return summary.count.removeprefix("n = ")


def list_findings(evidence: Sequence[Evidence]) -> str:
    """Return what audits found, a line each; "" where there is no audit."""
    found = [text for one in evidence for text in one.findings]
    return "\n".join(f"- {escape_paragraph(text)}" for text in found)


def describe_training(run: Mapping[str, Any] | None) -> str:
    """Say how a model was trained, from the run's record; local paths keep their last part alone.

    Example:
        >>> print(describe_training({"verb": "bap", "arguments": {"seed": 0, "data": "/me/birds"}}))
        By `fieldmark bap`.
        <BLANKLINE>
        - seed: 0
        - data: birds
    """
    if run is None:
        return ""
    arguments = run.get("arguments") or {}
    lines = [f"By {write_code('fieldmark ' + str(run.get('verb', '')))}.", ""]
    for key in TOLD:
        if arguments.get(key) not in (None, "", []):
            lines.append(f"- {key}: {_write_value(arguments[key])}")
    weights = run.get("weights") or {}
    lines += [f"- weights, {escape_markdown(k)}: {write_code(v)}" for k, v in weights.items()]
    versions = run.get("versions") or {}
    told = ", ".join(f"{k} {v}" for k, v in versions.items() if k != "platform")
    lines += [f"- versions: {escape_markdown(told)}"] if told else []
    for key in ("started", "seconds", "commit"):
        if run.get(key) is not None:
            lines.append(f"- {key}: {escape_markdown(str(run[key]))}")
    return "\n".join(lines)


def _write_value(value: Any) -> str:
    if isinstance(value, Mapping | list):
        return write_code(json.dumps(_shorten_all(value)))
    return escape_markdown(shorten_path(str(value)))


def _shorten_all(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _shorten_all(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_shorten_all(part) for part in value]
    return shorten_path(value) if isinstance(value, str) else value


def describe_data(evidence: Sequence[Evidence]) -> str:
    """Say on what data the figures rest: names, counts, sources, licences and what to cite."""
    lines: list[str] = []
    for one in evidence:
        name = one.data.get("name") or one.card.get("name")
        if not name:
            continue
        images = one.data.get("images")
        lines.append(
            f"- {escape_paragraph(str(name))}" + (f", {images:,} images" if images else "")
        )
        lines += [f"  - licence: {escape_markdown(str(text))}" for text in _licences(one)]
        if one.card.get("citation"):
            lines.append(f"  - cite: {escape_markdown(str(one.card['citation']))}")
        if not _licences(one):
            lines.append("  - licence: not recorded; find it before you pass on images")
    return "\n".join(dict.fromkeys(lines)) or "No data set was recorded."


def _licences(one: Evidence) -> list[str]:
    told = [str(text) for text in one.card.get("licences") or ()]
    if one.card.get("licence"):
        told.append(str(one.card["licence"]))
    if told:
        return told
    sources = [part for part in one.data.get("sources") or () if isinstance(part, Mapping)]
    return [
        f"{part.get('package', '')}: {part['licence']}" for part in sources if "licence" in part
    ]
