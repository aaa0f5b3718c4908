"""The sections of an audit's report, in order, for the page and for Markdown alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from fieldmark.report.audit_blocks import (
    AuditTable,
    Axis,
    Card,
    Cell,
    Gallery,
    Line,
    Listing,
    Notes,
    Section,
    Step,
    Steps,
    cell_share,
)
from fieldmark.report.audit_cases import list_case_sections
from fieldmark.report.audit_changes import tabulate_changes
from fieldmark.report.audit_contract import (
    AuditAccuracy,
    AuditParts,
    Figure,
    Finding,
    GroupFigure,
    State,
)
from fieldmark.report.audit_figures import PARTS, capitalise, name_encoder, name_head, write_count
from fieldmark.report.audit_swaps import list_swap_sections
from fieldmark.report.audit_words import HEADS, name_finding, tell_figure, write_summary
from fieldmark.report.names import DASH, parse_group

STATES: dict[State, str] = {
    "found": "Found",
    "not_found": "Not found",
    "undecided": "Cannot be told",
}
_ORDER = tuple(STATES)
MEANINGS = {
    "background_gap": "what is lost when an object stands before a background that goes with "
    "another class; a model that looks at the object alone loses nothing",
    "group_gap": "accuracy on the usual background of a class, less that on others; these are "
    "images as they are, so what else differs between them plays its part",
    "region": "how far accuracy changes with regions of the image that look alike",
}
TERMS = (
    ("p-value (p)", "how often chance alone would give an effect as large as the one seen"),
    ("composite", "a picture of one of your objects, cut out and laid on another scene"),
    ("interval", "the numbers in brackets: repeated on as many other images like these, 95 of 100 "
     "such intervals hold the true figure"),
    ("points", "a difference of two percentages"),
    ("found", "an effect that chance alone would not give, with all the checks of this audit taken "
     "into account"),
    ("not found", "the whole interval holds no loss as large as would matter"),
    ("cannot be told", "neither: there are too few images to say; more would decide it"),
)  # fmt: skip


def list_sections(parts: AuditParts) -> tuple[Section, ...]:
    """Return the sections that the audit bears; what it lacks stands in `left out`."""
    sections = [
        Section(name="summary", title="In plain words", brief="In plain words",
                sentences=write_summary(parts)),
        _show_findings(parts),
        *_show_accuracy(parts),
        *list_swap_sections(parts),
        *list_case_sections(parts),
        *_show_next(parts),
        *_show_left_out(parts),
        *_show_untested(parts),
    ]  # fmt: skip
    return tuple(sections)


def _show_findings(parts: AuditParts) -> Section:
    galleries = tuple(
        Gallery(
            kind="findings",
            title=name_encoder(parts, encoder),
            cards=tuple(
                _make_card(parts, one)
                for one in sorted(parts.findings, key=lambda one: _ORDER.index(one.state))
                if one.encoder == encoder
            ),
        )
        for encoder in range(len(parts.encoders))
    )
    kinds = {one.kind: one.title for one in parts.findings}
    terms = tuple((kinds[kind], text) for kind, text in MEANINGS.items() if kind in kinds)
    heads = tuple((name_head(one), HEADS[one]) for one in parts.heads if one in HEADS)
    return Section(
        name="findings",
        title="What was checked",
        brief="What was checked",
        sentences=() if parts.findings else ("No check could be made with what was given.",),
        blocks=(
            *galleries,
            Notes(terms=(*terms, *heads, *TERMS)),
        ),
    )


def _make_card(parts: AuditParts, finding: Finding) -> Card:
    told = tell_figure(parts, finding)
    detail = f"What was compared: {finding.detail.rstrip('.')}." if finding.detail else ""
    return Card(
        title=name_finding(finding),
        remark=STATES[finding.state],
        state=finding.state,
        sentences=tuple(filter(None, (capitalise(told), detail))),
    )


def _show_accuracy(parts: AuditParts) -> Iterator[Section]:
    heads = tuple(dict.fromkeys(one.head for one in parts.accuracy))
    tables = tuple(
        _tabulate_accuracy(
            [one for one in parts.accuracy if one.head == head], parts=parts, number=number
        )
        for number, head in enumerate(heads)
    )
    if tables:
        first = name_encoder(parts, parts.accuracy[0].encoder)
        yield Section(
            name="accuracy",
            title="Accuracy by class and group",
            brief="Accuracy",
            sentences=(
                "The share of images that are named right. A bar through a dot is its interval; "
                f"the stronger upright line is the average{f' of {first}' if first else ''}. The "
                "interval of the worst group, above, is of whichever group is the worst when "
                "images are drawn anew, so it is not that of one line here.",
            ),
            blocks=(*tables, *tabulate_changes(parts)),
        )


def _tabulate_accuracy(
    results: Sequence[AuditAccuracy], *, parts: AuditParts, number: int
) -> AuditTable:
    legend = tuple(filter(None, (name_encoder(parts, one.encoder) for one in results)))
    first = results[0]
    groups = [one for one in first.groups if any(_count(r, one.name) for r in results)]
    by_group = any(one.attribute for one in first.groups)
    lines = list(_list_lines(results, groups if by_group or not first.classes else ()))
    if not by_group:
        lines = [replace(one, cells=(one.cells[0], *one.cells[2:])) for one in lines]
    empty = len(first.groups) - len(groups)
    order = {name: place for place, name in enumerate(dict.fromkeys(one.label for one in lines))}
    return AuditTable(
        name=f"accuracy-{number}",
        caption=f"Named right, {name_head(first.head)}",
        headings=("Class", *(("Stands on",) if by_group else ()), *(legend or ("Right",))),
        lines=tuple(sorted(lines, key=lambda one: order[one.label])),
        axis=Axis(low=0, high=1, reference=first.average.value, legend=legend),
        texts=2 if by_group else 1,
        note=f"{write_count(empty, 'groups')} without any image left out." if empty else "",
    )


def _list_lines(results: Sequence[AuditAccuracy], groups: Sequence[GroupFigure]) -> Iterator[Line]:
    yield _make_line(("All images", "everything"), [one.average for one in results], label="")
    for one in results[0].classes:
        figures = [_find_class(result, one.name) for result in results]
        yield _make_line((one.name, "everything"), figures, label=one.name)
    for group in groups:
        figures = [_find_group(result, group.name) for result in results]
        ground = _name_ground(group.attribute, group.name)
        yield _make_line((group.label, ground), figures, label=group.label)


def _name_ground(attribute: str, name: str) -> str:
    group = parse_group(name)
    return attribute or (group.attribute if group else "") or DASH


def _make_line(texts: Sequence[str], figures: Sequence[Figure | None], *, label: str) -> Line:
    known = [one for one in figures if one is not None]
    return Line(
        cells=(*(Cell(text=text) for text in texts),
               *(Cell(text="") if one is None else cell_share(one) for one in figures)),
        label=label,
        dots=tuple(known) if len(known) == len(figures) else (),
    )  # fmt: skip


def _find_group(accuracy: AuditAccuracy, name: str) -> Figure | None:
    return next((one.figure for one in accuracy.groups if one.name == name), None)


def _count(accuracy: AuditAccuracy, name: str) -> int:
    figure = _find_group(accuracy, name)
    return figure.count if figure else 0


def _find_class(accuracy: AuditAccuracy, name: str) -> Figure | None:
    return next((one.figure for one in accuracy.classes if one.name == name), None)


def _show_next(parts: AuditParts) -> Iterator[Section]:
    if parts.next:
        steps = tuple(Step(title=one.title, why=one.why, command=one.command) for one in parts.next)
        yield Section(
            name="next", title="What to do next", brief="What to do", blocks=(Steps(steps=steps),)
        )


def _show_left_out(parts: AuditParts) -> Iterator[Section]:
    if parts.left_out:
        lines = tuple(
            Line(cells=(Cell(text=capitalise(PARTS.get(one.part, one.part))), Cell(text=one.reason),
                        Cell(text=one.mend or DASH)))
            for one in parts.left_out
        )  # fmt: skip
        table = AuditTable(
            name="left-out-table",
            caption="Parts that the input did not allow",
            headings=("Part", "Why", "What would allow it"),
            lines=lines,
            texts=3,
        )
        yield Section(name="left-out", title="What was left out", brief="Left out", blocks=(table,))


def _show_untested(parts: AuditParts) -> Iterator[Section]:
    if parts.not_tested:
        yield Section(
            name="untested",
            title="What was not tested",
            brief="Not tested",
            blocks=(Listing(items=parts.not_tested),),
        )
