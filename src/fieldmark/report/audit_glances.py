"""The figures of an audit at a glance, for the page and for Markdown alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fieldmark.report.audit_contract import AuditParts, Figure
from fieldmark.report.audit_figures import (
    name_encoder,
    name_group,
    name_head,
    write_count,
    write_percent,
    write_points,
    write_range,
)
from fieldmark.report.audit_words import choose_head, find_background


@dataclass(frozen=True, kw_only=True)
class Glance:
    """One figure at a glance.

    Attributes:
        name: what it is.
        values: one an encoder: its label, the value, its interval and what it rests on.
    """

    name: str
    values: tuple[tuple[str, str, str, str], ...]


def list_glances(parts: AuditParts) -> Iterator[Glance]:
    """Yield what is to be seen first: accuracy, what other backgrounds cost, what drove errors.

    Args:
        parts: of a finished audit.
    """
    head = choose_head(parts)
    chosen = [one for one in parts.accuracy if one.head == head]
    if chosen:
        averages = [(one.encoder, one.average) for one in chosen]
        yield _make_glance(parts, f"Named right, {name_head(head)}", averages, unit="images")
        worst = [(one.encoder, one.worst_group) for one in chosen if one.worst_group.is_defined]
        if worst:
            group = name_group(chosen[0].worst_group_name)
            name = f"Worst group: {group}" if len(worst) == 1 and group else "Worst group"
            yield _make_glance(parts, name, worst, unit="images")
    swaps = parts.swaps.results if parts.swaps else ()
    gaps = [(one.encoder, one.gap) for one in swaps if one.head == head]
    if gaps:
        name = f"Lost on other backgrounds, {name_head(head)}"
        yield _make_glance(parts, name, gaps, unit="objects", is_difference=True)
    shares = [(one.encoder, found) for one in parts.sources if (found := find_background(one))]
    if shares:
        values = tuple(
            (
                name_encoder(parts, encoder),
                write_percent(share.share.value),
                write_range(share.share),
                f"{write_count(share.share.count, 'errors')}, by chance "
                f"{write_percent(share.null.value)}",
            )
            for encoder, share in shares
        )
        yield Glance(name="Errors that the background drove, zero-shot", values=values)


def _make_glance(
    parts: AuditParts,
    name: str,
    figures: Sequence[tuple[int, Figure]],
    *,
    unit: str,
    is_difference: bool = False,
) -> Glance:
    write = write_points if is_difference else write_percent
    return Glance(
        name=name,
        values=tuple(
            (
                name_encoder(parts, encoder),
                write(figure.value),
                write_range(figure),
                write_count(figure.count, unit),
            )
            for encoder, figure in figures
        ),
    )
