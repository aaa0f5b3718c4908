"""What an audit bears to be said: title, verdict and summary, no sentence without its numbers.

Whether something is found is the audit's word (`state`), never judged anew here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from fieldmark.report.audit_changes import tell_changes, warn_of_losses
from fieldmark.report.audit_contract import (
    AuditAccuracy,
    AuditParts,
    AuditSources,
    AuditSourceShare,
    Drops,
    Figure,
    Finding,
    SwapResult,
)
from fieldmark.report.audit_figures import (
    PARTS,
    SMALLEST,
    capitalise,
    name_change,
    name_group,
    name_head,
    name_unit,
    negate,
    write_count,
    write_difference,
    write_percent,
    write_plain_figure,
    write_points,
    write_prefix,
    write_range,
    write_share,
    write_state,
)

# What a reliance of each kind is called; the first kind that is found names the report.
KINDS = {
    "background_gap": "leans on the background",
    "group_gap": "does worse on unusual backgrounds",
    "region": "goes wrong with certain regions",
}
HEADS = {
    "zero-shot": "by the names of the classes alone",
    "linear-probe": "by a classifier that learnt from your labels",
    "convex-probe": "by a classifier that learnt from your labels",
}
# What was lost is in points for these kinds, so that their sizes can be compared.
LOSSES = ("background_gap", "group_gap")
BACKGROUND_SOURCES = ("background", "BG-Er")


def write_title(parts: AuditParts) -> str:
    """Write the headline: what was found, or that it cannot be told.

    Args:
        parts: of a finished audit.

    Returns:
        One line; with two encoders what holds of each.
    """
    if len(parts.encoders) == 1:
        state = find_state(parts, 0)
        if state == "relies":
            return f"This model {_name_reliance(parts, 0)}"
        if state == "no_sign":
            return "No sign that this model leans on what it should not, in what was tested"
        return f"It {_write_doubt(parts, 0)} whether this model leans on what it should not"
    phrases = []
    for encoder in range(len(parts.encoders)):
        said = {
            "relies": _name_reliance(parts, encoder),
            "no_sign": "no sign of it in what was tested",
            "undecided": _write_doubt(parts, encoder),
        }
        phrases.append(write_prefix(parts, encoder) + said[find_state(parts, encoder)])
    worse = ", and names fewer images right" if warn_of_losses(parts) else ""
    return ". ".join(phrases) + worse


def write_lead(parts: AuditParts) -> str:
    """Write what an audit is, and how its numbers are to be read."""
    changed = ", changed what should not matter," if parts.swaps else ""
    return (
        "A model can be right for the wrong reason: it may know a thing by the place where it "
        f"usually stands. This audit asked the model about your images{changed} and says what it "
        "found, how sure that is and what to do. Numbers in brackets are an interval that is right "
        "95 times in 100; points are a difference of two percentages."
    )


def find_state(parts: AuditParts, encoder: int) -> str:
    """Return the audit's verdict on one encoder: `relies`, `no_sign` or `undecided`."""
    return next(one.state for one in parts.verdict if one.encoder == encoder)


def _name_reliance(parts: AuditParts, encoder: int) -> str:
    found = {one.kind for one in _list_findings(parts, encoder) if one.state == "found"}
    return next((words for kind, words in KINDS.items() if kind in found), "leans on something")


def _write_doubt(parts: AuditParts, encoder: int) -> str:
    told = f"cannot be told with these {write_count(parts.images, 'images')}"
    if any(one.kind in LOSSES for one in _list_findings(parts, encoder)):
        return told
    return f"{told} (no background could be checked)"


def _list_findings(parts: AuditParts, encoder: int) -> list[Finding]:
    return [one for one in parts.findings if one.encoder == encoder]


def write_verdict(parts: AuditParts, encoder: int) -> str:
    """Write what the findings of one encoder bear together.

    Args:
        parts: of a finished audit.
        encoder: its place in `parts.encoders`.

    Returns:
        One sentence with its numbers. Effects that nobody measured are not spoken of.
    """
    findings = _list_findings(parts, encoder)
    start = write_prefix(parts, encoder)
    state = find_state(parts, encoder)
    counts = _write_counts(parts, findings)
    worse = warn_of_losses(parts) if encoder == 1 else ""
    if state == "relies":
        return (
            f"{start}The model {_name_reliance(parts, encoder)}: {counts}."
            f"{_tell_largest(findings)}{_tell_clean_heads(findings)}{worse}"
        )
    if state == "no_sign":
        told = f"{start}No sign of a reliance: {counts}. What was not tested may still be there."
        return f"{told}{worse}"
    return (
        f"{start}Whether the model leans on what it should not {_write_doubt(parts, encoder)}: "
        f"{counts}. This is neither a clean bill nor a finding.{worse}"
    )


def _write_counts(parts: AuditParts, findings: Sequence[Finding]) -> str:
    if not findings:
        return "0 checks could be made"
    found, none, unknown = (
        sum(one.state == state for one in findings) for state in ("found", "not_found", "undecided")
    )
    # Said once, of the first encoder that shows one.
    told = min((one.encoder for one in parts.verdict if one.state == "relies"), default=None)
    chance = ""
    if findings[0].encoder == told:
        chance = f" (at most {100 * parts.level:g} in 100 models that lean on nothing show one)"
    return (
        f"of {write_count(len(findings), 'checks')} {found} found an effect beyond chance"
        f"{chance}, {none} found that less than {100 * parts.margin:g} points are lost and "
        f"{unknown} cannot tell"
    )


def _tell_largest(findings: Sequence[Finding]) -> str:
    found = [one for one in findings if one.state == "found" and one.figure.is_defined]
    if not found:
        return ""
    losses = [one for one in found if one.kind in LOSSES]
    one = max(losses or found, key=lambda one: one.figure.value)
    name = _lower(name_finding(one))
    meaning = f" ({HEADS[one.head]})" if one.head in HEADS else ""
    count = write_count(one.figure.count, name_unit(one))
    return f" The largest: {name}{meaning}, {_tell_effect(one)} ({count})."


def _tell_clean_heads(findings: Sequence[Finding]) -> str:
    told = ""
    for head in dict.fromkeys(one.head for one in findings if one.head):
        states = [one.state for one in findings if one.head == head]
        if "found" not in states:
            meaning = f" ({HEADS[head]})" if head in HEADS else ""
            told += (
                f" {capitalise(name_head(head))}{meaning}: {write_count(len(states), 'checks')}, "
                "0 found one."
            )
    return told


def choose_head(parts: AuditParts) -> str:
    """Return the head to tell of first: that of the largest background gap found, or the first.

    Args:
        parts: of a finished audit.
    """
    found = [
        one
        for one in parts.findings
        if one.kind == "background_gap" and one.state == "found" and one.figure.is_defined
    ]
    if found:
        return max(found, key=lambda one: one.figure.value).head
    return parts.accuracy[0].head if parts.accuracy else ""


def write_summary(parts: AuditParts) -> tuple[str, ...]:
    """Write the summary in plain words.

    Args:
        parts: of a finished audit.

    Returns:
        Sentences. Each has its number; figures have their 95 % interval and what they rest on.
    """
    return tuple(_list_sentences(parts))


def _list_sentences(parts: AuditParts) -> Iterator[str]:
    swaps, head = parts.swaps, choose_head(parts)
    yield from (_tell_accuracy(parts, one) for one in parts.accuracy)
    if swaps is not None:
        yield from (_tell_swaps(parts, one) for one in swaps.results)
        yield from (_tell_flips(parts, one) for one in swaps.results
                    if one.head == head and one.flip_rate.is_defined)  # fmt: skip
    for finding in parts.findings:
        if finding.kind != "background_gap" and finding.state == "found":
            yield capitalise(
                f"{write_prefix(parts, finding.encoder)}{tell_finding(parts, finding)}"
            )
    for sources in parts.sources:
        yield from _tell_sources(parts, sources)
    for drops in swaps.drops if swaps else ():
        if drops.head == head:
            yield from _tell_drops(parts, drops)
    if len(parts.encoders) > 1:
        yield from tell_changes(parts)
    yield from _tell_left_out(parts)


def _tell_accuracy(parts: AuditParts, accuracy: AuditAccuracy) -> str:
    average, worst = accuracy.average, accuracy.worst_group
    meaning = HEADS.get(accuracy.head, "")
    start = write_prefix(parts, accuracy.encoder, head=accuracy.head).removesuffix(": ")
    text = (
        f"{start}{f' ({meaning})' if meaning else ''}: {write_share(average)} of "
        f"{write_count(average.count, 'images')} are named right"
    )
    if worst.is_defined:
        group = name_group(accuracy.worst_group_name)
        text += (
            f"; the worst group{f', {group},' if group else ''} comes to {write_share(worst)} of "
            f"{write_count(worst.count, 'images')}"
        )
    return f"{text}."


def _tell_swaps(parts: AuditParts, result: SwapResult) -> str:
    start = write_prefix(parts, result.encoder, head=result.head)
    gap = result.gap
    objects = write_count(gap.count, "objects")
    if not gap.is_defined:
        return f"{start}what a background of another class costs is undefined ({objects})."
    cost = _tell_loss(gap, ways=("fewer", "more"))
    state = next((f"; {write_state(one, margin=parts.margin)}" for one in parts.findings
                  if (one.kind, one.head, one.encoder)
                  == ("background_gap", result.head, result.encoder)), "")  # fmt: skip
    return (
        f"{start}the same {objects} are named right in {write_share(result.same)} of cases on a "
        f"background of their own class and in {write_share(result.other)} on one of another "
        f"class, {cost}{state}."
    )


def _tell_flips(parts: AuditParts, result: SwapResult) -> str:
    return (
        f"{write_prefix(parts, result.encoder, head=result.head)}a change of background alone "
        f"changes the answer in {write_share(result.flip_rate)} of cases "
        f"({write_count(result.flip_rate.count, 'objects')})."
    )


def _tell_loss(figure: Figure, *, ways: tuple[str, str]) -> str:
    # What rounds to 0 keeps its sign, or its interval would be turned against the table's.
    way, size = (ways[0], figure) if figure.value > -SMALLEST else (ways[1], negate(figure))
    return f"{write_points(size.value)} {way} {write_range(size)}".strip()


def tell_finding(parts: AuditParts, finding: Finding) -> str:
    """Write one finding: what was asked, how large it is, what that rests on, and its state."""
    return f"{name_finding(finding)}: {tell_figure(parts, finding)}"


def name_finding(finding: Finding) -> str:
    """Return the title of a finding, with its head where it has one."""
    return ", ".join(filter(None, (finding.title, finding.head and name_head(finding.head))))


def tell_figure(parts: AuditParts, finding: Finding) -> str:
    """Write how large a finding is, what that rests on, and its state."""
    state = write_state(finding, margin=parts.margin)
    if not finding.figure.is_defined:
        return f"undefined, so {state}."
    count = write_count(finding.figure.count, name_unit(finding))
    tail = "" if finding.state == "undecided" else f" ({count})"
    return f"{_tell_effect(finding)}{tail}; {state}."


def _tell_effect(finding: Finding) -> str:
    figure = finding.figure
    if finding.kind not in LOSSES:
        return f"accuracy differs by {write_plain_figure(figure)}, summed over classes"
    return f"accuracy is {_tell_loss(figure, ways=('lower', 'higher'))}"


def _tell_sources(parts: AuditParts, sources: AuditSources) -> Iterator[str]:
    share = find_background(sources)
    if share is None or not share.share.is_defined:
        return
    start = write_prefix(parts, sources.encoder)
    text = (
        f"{start}{'of' if start else 'Of'} {write_count(sources.errors, 'errors')} (zero-shot) the "
        f"background drove {write_share(share.share)}"
    )
    if not share.null.is_defined:
        yield f"{text}; what chance alone would say was not measured."
        return
    text += f", where chance alone would say {write_percent(share.null.value)}"
    yield f"{text}{_tell_beyond(share.corrected)}."


def _tell_beyond(corrected: Figure) -> str:
    if math.isnan(corrected.low + corrected.high):
        return ""
    if corrected.low > 0:
        return f": more than chance, by {write_share(corrected)} of what chance leaves"
    if corrected.high < 0:
        return ": less than chance"
    return ": not told from chance"


def find_background(sources: AuditSources) -> AuditSourceShare | None:
    """Return the background's share among the sources of errors, None where it has none."""
    return next((one for one in sources.shares if one.source in BACKGROUND_SOURCES), None)


def _tell_drops(parts: AuditParts, drops: Drops) -> Iterator[str]:
    known = [one for one in drops.changes if one.drop.is_defined]
    if not known:
        return
    worst = max(known, key=lambda one: one.drop.value)
    fall = "falls most" if worst.drop.value > 0 else "never falls; it moves least"
    changes = write_count(len(known), "controlled changes")
    yield (
        f"{write_prefix(parts, drops.encoder, head=drops.head)}under {changes} accuracy {fall} "
        f"with objects {name_change(worst.change)}, by {write_difference(worst.drop)} below the "
        f"originals to {write_share(worst.accuracy)} "
        f"({write_count(worst.drop.count, 'composites')})."
    )


def _tell_left_out(parts: AuditParts) -> Iterator[str]:
    names = list(dict.fromkeys(PARTS.get(one.part, one.part) for one in parts.left_out))
    if names:
        yield f"Left out, {write_count(len(names), 'parts')} of the audit: {', '.join(names)}."


def write_advice(parts: AuditParts) -> str:
    """Write what to do next on one line, nothing where nothing is to be done."""
    steps = "; then ".join(_lower(one.title) for one in parts.next)
    return f"What to do: {steps}." if steps else ""


def _lower(text: str) -> str:
    # A name in capitals stays one.
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]
