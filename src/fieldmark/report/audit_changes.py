"""What changes from a first encoder to a second, in words and as a table."""

from __future__ import annotations

from collections.abc import Iterator

from fieldmark.report.audit_blocks import AuditTable, Cell, Line, cell_points
from fieldmark.report.audit_contract import AccuracyChange, AuditParts, Figure
from fieldmark.report.audit_figures import (
    SMALLEST,
    name_head,
    negate,
    write_count,
    write_p_value,
    write_points,
    write_range,
)
from fieldmark.report.names import DASH


def tell_changes(parts: AuditParts) -> Iterator[str]:
    """Yield a sentence on each thing that moved; nothing where there is one encoder."""
    start = "From {} to {}".format(*(one.label for one in (*parts.encoders, *parts.encoders)[:2]))
    for one in parts.accuracy_changes:
        if one.average.is_defined:
            yield (
                f"{start}, {name_head(one.head)}: accuracy {_tell_move(one.average)} "
                f"({write_count(one.average.count, 'images')}){_tell_class(parts, one)}."
            )
    for two in parts.swaps.differences if parts.swaps else ():
        if two.gap.is_defined:
            yield (
                f"{start}, {name_head(two.head)}: the cost of a background of another class "
                f"{_tell_move(two.gap)} ({write_count(two.gap.count, 'objects')})."
            )
    if parts.changes is not None:
        counts = {kind: len(ids) for kind, ids in parts.changes}
        yield (
            f"Findings {start[0].lower()}{start[1:]}: {counts['vanished']} vanished, "
            f"{counts['shrank']} shrank (what is left cannot be told), {counts['stayed']} stayed, "
            f"{counts['new']} new, {counts['undecided']} cannot be told "
            f"({write_count(parts.images, 'images')})."
        )


def warn_of_losses(parts: AuditParts) -> str:
    """Say where the second encoder names fewer images right beyond chance; else nothing."""
    told = []
    for one in parts.accuracy_changes:
        if one.p_value <= parts.level and one.average.high < 0:
            lost = negate(one.average)
            told.append(f"{name_head(one.head)} {write_points(lost.value)} {write_range(lost)}")
        elif fall := _find_fall(parts, one):
            name, lost = fall
            told.append(
                f"{name_head(one.head)} on {name} {write_points(lost.value)} {write_range(lost)}"
            )
    return f" It names fewer images right than before: {'; '.join(told)}." if told else ""


def tabulate_changes(parts: AuditParts) -> Iterator[AuditTable]:
    """Yield a table of accuracy by head and class where there are two encoders."""
    for number, one in enumerate(parts.accuracy_changes):
        lines = [_make_line("All images", one.average, one.p_value, label="")]
        lines += [
            _make_line(kind.name, kind.figure, kind.adjusted_p_value, label=kind.name)
            for kind in one.classes
        ]
        yield AuditTable(
            name=f"accuracy-changes-{number}",
            caption=f"How accuracy changes, {name_head(one.head)}, on the same images",
            headings=("Class", "Accuracy moves by, points", "By chance"),
            lines=tuple(lines),
        )


def _make_line(name: str, figure: Figure, p_value: float, *, label: str) -> Line:
    return Line(
        cells=(
            Cell(text=name),
            cell_points(figure),
            Cell(text=write_p_value(p_value) or DASH, order=p_value),
        ),
        label=label,
    )


def _tell_move(figure: Figure) -> str:
    if abs(figure.value) < SMALLEST:
        return f"moves by {write_points(0.0)} {write_range(figure)}"
    moves, size = ("falls", negate(figure)) if figure.value < 0 else ("rises", figure)
    return f"{moves} by {write_points(size.value)} {write_range(size)}"


def _tell_class(parts: AuditParts, change: AccuracyChange) -> str:
    fall = _find_fall(parts, change)
    if fall is None or len(change.classes) < 2:
        return ""
    name, lost = fall
    images = write_count(lost.count, "images")
    return f", that of {name} by {write_points(lost.value)} {write_range(lost)} ({images})"


def _find_fall(parts: AuditParts, change: AccuracyChange) -> tuple[str, Figure] | None:
    """Return the class that loses most of those that lose beyond chance, and what it loses."""
    fell = [
        (one.name, negate(one.figure))
        for one in change.classes
        if one.adjusted_p_value <= parts.level and one.figure.value < 0
    ]
    return max(fell, key=lambda one: one[1].value, default=None)
