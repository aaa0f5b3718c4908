"""What an audit bears to be said: title, verdict and summary, no sentence without its numbers.

Whether something is found is the audit's word (`state`), never judged anew here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

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
    name_change,
    name_group,
    name_head,
    name_unit,
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
LEAD = (
    "A model can be right for the wrong reason: it may know a thing by the place where it usually "
    "stands. This audit asked the model about your images, changed what should not matter, and "
    "says what it found, how sure that is and what to do."
)
HEADS = {
    "zero-shot": "by the names of the classes alone",
    "linear-probe": "by a classifier that learnt from your labels",
    "convex-probe": "by a classifier that learnt from your labels",
}
# Half of the last digit that is written.
SMALLEST = 0.0005
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
        return f"It {_write_doubt(parts)} whether this model leans on what it should not"
    phrases = []
    for encoder in range(len(parts.encoders)):
        said = {
            "relies": _name_reliance(parts, encoder),
            "no_sign": "no sign of it in what was tested",
            "undecided": _write_doubt(parts),
        }
        phrases.append(write_prefix(parts, encoder) + said[find_state(parts, encoder)])
    return ". ".join(phrases)


def find_state(parts: AuditParts, encoder: int) -> str:
    """Return the audit's verdict on one encoder: `relies`, `no_sign` or `undecided`."""
    return next(one.state for one in parts.verdict if one.encoder == encoder)


def _name_reliance(parts: AuditParts, encoder: int) -> str:
    found = {one.kind for one in _list_findings(parts, encoder) if one.state == "found"}
    return next((words for kind, words in KINDS.items() if kind in found), "leans on something")


def _write_doubt(parts: AuditParts) -> str:
    return f"cannot be told with these {write_count(parts.images, 'images')}"


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
    checks = write_count(len(findings), "checks")
    counts = {state: sum(one.state == state for one in findings)
              for state in ("found", "not_found", "undecided")}  # fmt: skip
    start = write_prefix(parts, encoder)
    state = find_state(parts, encoder)
    if state == "relies":
        return (
            f"{start}The model {_name_reliance(parts, encoder)}: {counts['found']} of {checks} "
            f"found an effect beyond chance, at level {parts.level:g} corrected for all of them."
            f"{_tell_largest(findings)}"
        )
    if state == "no_sign":
        return (
            f"{start}No sign of a reliance: {counts['not_found']} of {checks} show that the effect "
            f"lies below {100 * parts.margin:g} points, by the whole interval. What was not tested "
            "may still be there."
        )
    if not findings:
        return (
            f"{start}Whether the model leans on what it should not {_write_doubt(parts)}: none of "
            "the checks could be made, 0 in all."
        )
    return (
        f"{start}Whether the model leans on what it should not {_write_doubt(parts)}: "
        f"{counts['undecided']} of {checks} are undecided and {counts['found']} found an effect. "
        "This is neither a clean bill nor a finding."
    )


def _tell_largest(findings: list[Finding]) -> str:
    found = [one for one in findings if one.state == "found" and one.figure.is_defined]
    for kind in KINDS:
        named = [one for one in found if one.kind == kind]
        if named:
            one = max(named, key=lambda one: one.figure.value)
            count = write_count(one.figure.count, name_unit(one))
            name = name_finding(one)
            return f" The largest: {name[:1].lower()}{name[1:]}, {_tell_effect(one)} ({count})."
    return ""


def write_summary(parts: AuditParts) -> tuple[str, ...]:
    """Write the summary in plain words.

    Args:
        parts: of a finished audit.

    Returns:
        Sentences. Each has its number; figures have their 95 % interval and what they rest on.
    """
    return tuple(_list_sentences(parts))


def _list_sentences(parts: AuditParts) -> Iterator[str]:
    swaps = parts.swaps
    yield from (_tell_accuracy(parts, one) for one in parts.accuracy)
    if swaps is not None:
        yield from (_tell_swaps(parts, one) for one in swaps.results)
        yield from (_tell_flips(parts, one) for one in swaps.results
                    if one.head == swaps.results[0].head and one.flip_rate.is_defined)  # fmt: skip
    for finding in parts.findings:
        if finding.kind != "background_gap" and finding.state == "found":
            yield _start(f"{write_prefix(parts, finding.encoder)}{tell_finding(parts, finding)}")
    for encoder in range(len(parts.encoders)):
        yield from _tell_checks(parts, encoder)
    for sources in parts.sources:
        yield from _tell_sources(parts, sources)
    for drops in swaps.drops if swaps else ():
        yield from _tell_drops(parts, drops)
    if len(parts.encoders) > 1:
        yield from _tell_differences(parts)


def _start(text: str) -> str:
    return text[:1].upper() + text[1:]


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
    way, size = ("fewer", gap) if gap.value >= 0 else ("more", _negate(gap))
    cost = f"{write_points(size.value)} {way} {write_range(size)}"
    if abs(gap.value) < SMALLEST:
        cost = f"no fewer and no more {write_range(size)}"
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


def _negate(figure: Figure) -> Figure:
    return Figure(value=-figure.value, low=-figure.high, high=-figure.low, count=figure.count)


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
    if finding.kind not in ("background_gap", "group_gap"):
        return f"accuracy differs by {write_plain_figure(figure)}, summed over classes"
    way, size = ("lower", figure) if figure.value >= 0 else ("higher", _negate(figure))
    return f"accuracy is {write_points(size.value)} {way} {write_range(size)}".strip()


def _tell_checks(parts: AuditParts, encoder: int) -> Iterator[str]:
    findings = _list_findings(parts, encoder)
    counts = {state: sum(one.state == state for one in findings)
              for state in ("found", "not_found", "undecided")}  # fmt: skip
    if findings:
        yield (
            f"{write_prefix(parts, encoder)}{write_count(len(findings), 'checks')} were made: "
            f"{counts['found']} found an effect, {counts['not_found']} found none as large as "
            f"{100 * parts.margin:g} points, and {counts['undecided']} cannot be told with these "
            f"{write_count(parts.images, 'images')}."
        )


def _tell_sources(parts: AuditParts, sources: AuditSources) -> Iterator[str]:
    share = find_background(sources)
    if share is None or not share.share.is_defined:
        return
    start = write_prefix(parts, sources.encoder)
    text = (
        f"{start}{'of' if start else 'Of'} {write_count(sources.errors, 'errors')} the background "
        f"drove {write_share(share.share)}"
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
        return ": less than by chance"
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


def _tell_differences(parts: AuditParts) -> Iterator[str]:
    first, second = (one.label for one in parts.encoders[:2])
    for one in parts.swaps.differences if parts.swaps else ():
        if one.gap.is_defined:
            fell, size = ("falls", _negate(one.gap)) if one.gap.value <= 0 else ("rises", one.gap)
            yield (
                f"From {first} to {second}, {name_head(one.head)}: the cost of a background of "
                f"another class {fell} by {write_points(size.value)} {write_range(size)} "
                f"({write_count(one.gap.count, 'objects')})."
            )
    if parts.changes is not None:
        counts = {kind: len(ids) for kind, ids in parts.changes}
        yield (
            f"Of the findings {counts['vanished']} vanished, {counts['stayed']} stayed, "
            f"{counts['new']} are new and {counts['undecided']} cannot be told "
            f"({write_count(parts.images, 'images')})."
        )
