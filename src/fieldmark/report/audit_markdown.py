"""The report of an audit as GitHub Markdown: `OUT/report.md`, the same content as the page.

Every text of the record is escaped. Pictures are not inside: they are read from below OUT.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from fieldmark.core.atomic import write_text
from fieldmark.report.audit_blocks import (
    AuditTable,
    Block,
    Card,
    Gallery,
    Listing,
    Notes,
    Section,
    Shot,
    Steps,
)
from fieldmark.report.audit_contract import AuditParts
from fieldmark.report.audit_figures import write_count
from fieldmark.report.audit_parts import MEND, RECORD, read_audit
from fieldmark.report.audit_sections import list_sections
from fieldmark.report.audit_words import LEAD, write_title, write_verdict
from fieldmark.report.formats import escape_markdown
from fieldmark.report.stored import refusing_damage

MARKDOWN = "report.md"
# Pictures beside each other, as GitHub shows them without a scroll bar.
ROW = 4


def write_audit_markdown(out: Path) -> Path:
    """Write the report of a finished audit as Markdown and return its path.

    Args:
        out: holds `audit.json`.

    Raises:
        InputError: the record is missing or not what it should be.

    Example:
        >>> write_audit_markdown(Path("nowhere"))
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.InputError: nowhere: holds no audit.json; run `fieldmark audit` again
    """
    path = out / MARKDOWN
    parts = read_audit(out)
    with refusing_damage(out / RECORD, mend=MEND):
        text = render_audit_markdown(parts)
    write_text(path, text)
    return path


def render_audit_markdown(parts: AuditParts) -> str:
    """Render the report, without reading or writing."""
    verdicts = [write_verdict(parts, encoder) for encoder in range(len(parts.encoders))]
    chunks = [f"# {escape_markdown(write_title(parts))}"]
    chunks += [f"**{escape_markdown(one)}**" for one in verdicts]
    chunks.append(escape_markdown(LEAD))
    for section in list_sections(parts):
        chunks += _list_section(section)
    chunks += _list_making(parts)
    return "\n\n".join(chunks) + "\n"


def _list_section(section: Section) -> Iterator[str]:
    yield f"## {escape_markdown(section.title)}"
    if section.name == "summary":
        yield _list_items(section.sentences)
    else:
        yield from map(_write, section.sentences)
    for block in section.blocks:
        yield from _list_block(block)


def _list_block(block: Block) -> Iterator[str]:
    match block:
        case AuditTable():
            yield from _list_table(block)
        case Gallery():
            if block.title:
                yield f"### {escape_markdown(_start(block.title))}"
            for card in block.cards:
                yield from _list_card(card, level=4 if block.title else 3)
        case Notes():
            yield _list_items(f"{_start(term)}: {meaning}." for term, meaning in block.terms)
        case Listing():
            yield _list_items(map(_start, block.items))
        case Steps():
            yield from _list_steps(block)


def _list_steps(block: Steps) -> Iterator[str]:
    for number, step in enumerate(block.steps, start=1):
        yield f"### {number}\\. {escape_markdown(_start(step.title))}"
        if step.why:
            yield _write(step.why)
        if step.command:
            yield fence(step.command)


def _write(text: str) -> str:
    """Escape a paragraph, also a start that would make it a list or a rule."""
    return re.sub(r"^(\d*)([-=.])", r"\1\\\2", escape_markdown(text))


def _list_items(items: Iterable[str]) -> str:
    return "\n".join(f"- {_write(item)}" for item in items)


def _start(text: str) -> str:
    return text[:1].upper() + text[1:]


def _list_table(table: AuditTable) -> Iterator[str]:
    yield f"**{escape_markdown(_start(table.caption))}**"
    rule = [":--" if place < table.texts else "--:" for place in range(len(table.headings))]
    rows = [[cell.words for cell in line.cells] for line in table.lines]
    yield _write_table([_start(one) for one in table.headings], rule=rule, rows=rows)
    if table.note:
        yield _write(table.note)


def _write_table(heads: Sequence[str], *, rule: Sequence[str], rows: Sequence[list[str]]) -> str:
    lines = [map(escape_markdown, heads), rule, *(map(escape_markdown, row) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _list_card(card: Card, *, level: int) -> Iterator[str]:
    remark = f" ({card.remark})" if card.remark else ""
    yield f"{'#' * level} {escape_markdown(_start(card.title) + remark)}"
    yield from map(_write, card.sentences)
    for first in range(0, len(card.shots), ROW):
        yield _write_shots(card.shots[first : first + ROW])


def _write_shots(shots: Sequence[Shot]) -> str:
    pictures = [
        f"![{escape_markdown(shot.picture.alt)}]({quote(shot.picture.src)})" for shot in shots
    ]
    below = []
    for shot in shots:
        marks = {True: "right: ", False: "wrong: ", None: ""}
        texts = [f"{marks[one.right]}{one.text}" for one in shot.remarks]
        below.append("<br>".join(map(escape_markdown, filter(None, (shot.title, *texts)))))
    lines = [pictures, [":--"] * len(shots), *([below] if any(below) else [])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def fence(text: str) -> str:
    """Put a text into a fenced block that it cannot close.

    Example:
        >>> fence("echo").splitlines()
        ['```sh', 'echo', '```']
    """
    ticks = "```"
    while ticks in text:
        ticks += "`"
    return f"{ticks}sh\n{text}\n{ticks}"


def _list_making(parts: AuditParts) -> Iterator[str]:
    yield "## How it was made"
    images = write_count(parts.images, "images")
    if parts.images_all > parts.images:
        images += f" of {parts.images_all:,}"
    items = [f"Encoder{f' ({one.label})' if len(parts.encoders) > 1 else ''}: {one.uri}"
             + (f", fingerprint {one.fingerprint[:12]}" if one.fingerprint else "")
             for one in parts.encoders]  # fmt: skip
    where = ", ".join(filter(None, (parts.dataset, parts.split)))
    items += [
        f"Data: {where}; {images}; masks: {parts.mask_source or 'none'}",
        f"Level of the tests {parts.level:g}, effect that matters {100 * parts.margin:g} points",
    ]
    yield _list_items(items)
    if parts.command:
        yield fence(parts.command)
