"""The report of an audit as GitHub Markdown: `OUT/report.md`, the same content as the page.

Every text of the record is escaped. Pictures are not inside: they are read from below OUT.
"""

from __future__ import annotations

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
from fieldmark.report.audit_figures import capitalise
from fieldmark.report.audit_glances import list_glances
from fieldmark.report.audit_making import PAPERS, describe_audit, list_pages
from fieldmark.report.audit_parts import MEND, RECORD, read_audit
from fieldmark.report.audit_sections import list_sections
from fieldmark.report.audit_texts import escape_paragraph
from fieldmark.report.audit_words import write_advice, write_lead, write_title, write_verdict
from fieldmark.report.facts import Fact, list_facts
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
    chunks += [escape_paragraph(one) for one in (write_advice(parts), write_lead(parts)) if one]
    chunks += [_list_items(_tell_glances(parts))]
    for section in list_sections(parts):
        chunks += _list_section(section)
    chunks += _list_making(parts)
    return "\n\n".join(chunks) + "\n"


def _tell_glances(parts: AuditParts) -> Iterator[str]:
    for glance in list_glances(parts):
        for label, value, interval, count in glance.values:
            name = ", ".join(filter(None, (glance.name, label)))
            yield f"{name}: {' '.join(filter(None, (value, interval)))} ({count})"


def _list_section(section: Section) -> Iterator[str]:
    yield f"## {escape_markdown(section.title)}"
    if section.name == "summary":
        yield _list_items(section.sentences)
    else:
        yield from map(escape_paragraph, section.sentences)
    for block in section.blocks:
        yield from _list_block(block)


def _list_block(block: Block) -> Iterator[str]:
    match block:
        case AuditTable():
            yield from _list_table(block)
        case Gallery():
            if block.title:
                yield f"### {escape_markdown(capitalise(block.title))}"
            for card in block.cards:
                title = capitalise(card.title) if block.kind == "findings" else card.title
                yield from _list_card(card, title=title, level=4 if block.title else 3)
        case Notes():
            yield _list_items(f"{capitalise(term)}: {meaning}." for term, meaning in block.terms)
        case Listing():
            yield _list_items(map(capitalise, block.items))
        case Steps():
            yield from _list_steps(block)


def _list_steps(block: Steps) -> Iterator[str]:
    for number, step in enumerate(block.steps, start=1):
        yield f"### {number}\\. {escape_markdown(capitalise(step.title))}"
        if step.why:
            yield escape_paragraph(capitalise(step.why))
        if step.command:
            yield fence(step.command)


def _list_items(items: Iterable[str]) -> str:
    return "\n".join(f"- {escape_paragraph(item)}" for item in items)


def _list_table(table: AuditTable) -> Iterator[str]:
    yield f"**{escape_markdown(capitalise(table.caption))}**"
    rule = [":--" if place < table.texts else "--:" for place in range(len(table.headings))]
    rows = [[cell.words for cell in line.cells] for line in table.lines]
    yield _write_table([capitalise(one) for one in table.headings], rule=rule, rows=rows)
    if table.note:
        yield escape_paragraph(table.note)


def _write_table(heads: Sequence[str], *, rule: Sequence[str], rows: Sequence[list[str]]) -> str:
    lines = [map(escape_markdown, heads), rule, *(map(escape_markdown, row) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _list_card(card: Card, *, title: str, level: int) -> Iterator[str]:
    remark = f" ({card.remark})" if card.remark else ""
    yield f"{'#' * level} {escape_markdown(title + remark)}"
    yield from map(escape_paragraph, card.sentences)
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
    pages = [f"[{escape_markdown(title)}]({address})" for title, address in list_pages(parts)]
    if pages:
        yield f"Pages of the parts, beside this file: {', '.join(pages)}."
    facts = [one for one in list_facts(describe_audit(parts)) if one.name != "command"]
    yield _list_items(f"{capitalise(one.name)}: {_write_fact(one)}" for one in facts)
    if parts.command:
        yield fence(parts.command)
    yield "### Where the measures come from"
    yield _list_items(PAPERS)


def _write_fact(fact: Fact) -> str:
    return ", ".join(f"{one.name} {one.text}" for one in fact.facts) or fact.text
