"""What a run or an audit says of one encoder, for the encoder's card.

A run that measured another encoder is refused: weights are told apart by their fingerprint, which
`run.json` and `audit.json` keep.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from fieldmark.core.errors import UsageError
from fieldmark.core.records import read_rows, read_run
from fieldmark.report import names
from fieldmark.report.audit_contract import AuditAccuracy, AuditParts, Figure
from fieldmark.report.audit_figures import PARTS, capitalise
from fieldmark.report.audit_parts import RECORD, read_audit
from fieldmark.report.audit_words import tell_finding, write_verdict
from fieldmark.report.formats import flatten
from fieldmark.report.headline import list_untested
from fieldmark.report.tables import Summary, summarise

AVERAGE, WORST = "acc_avg", "acc_wg"


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Accuracy by one head on one split of one data set.

    Attributes:
        dataset: name of the data set.
        split: of the data set, "" where there is one alone.
        method: what was done to the encoder.
        head: what named the classes.
        setting: what else tells it apart (a correlation), in words.
        mine: whether it is of the encoder that the card is for, not of one beside it.
        average: over all images; None where it was not measured.
        worst: of the group that comes off worst, likewise.
        groups: each group in words, with its figure.
    """

    dataset: str
    split: str
    method: str
    head: str
    setting: str = ""
    mine: bool = True
    average: Summary | None = None
    worst: Summary | None = None
    groups: tuple[tuple[str, Summary], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What one run or audit says.

    Attributes:
        source: the verb that measured, and the name of its folder.
        accuracies: by head, split and data set.
        findings: sentences with their numbers; of an audit.
        data: fingerprints, sources and licences of the data.
        card: the card of the data set, where the run kept it.
        not_tested: sentences.
        manifest: the run's `run.json`; empty where there is none.
    """

    source: str
    accuracies: tuple[Accuracy, ...] = ()
    findings: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    not_tested: tuple[str, ...] = ()
    manifest: Mapping[str, Any] = field(default_factory=dict)


def write_code(text: object) -> str:
    """Write a text as a code span that it cannot end.

    Example:
        >>> write_code("a`b")
        "`a'b`"
    """
    return f"`{flatten(str(text)).replace('`', chr(39))}`"


def shorten_path(text: str) -> str:
    """Return the last part of an absolute path, of any system; other texts as they are.

    A card is read elsewhere, and a path would tell of the machine that it was written on.

    Example:
        >>> [shorten_path(text) for text in ("/home/me/a.csv", "local-dir:/home/me/clip", "a/b")]
        ['a.csv', 'local-dir:clip', 'a/b']
    """
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(text).is_absolute():
            return kind(text).name or text
    scheme, colon, rest = text.partition(":")
    return f"{scheme}:{shorten_path(rest)}" if colon and rest.startswith("/") else text


def read_evidence(folder: Path, *, fingerprint: str = "", card: Mapping[str, Any]) -> Evidence:
    """Read what a run or an audit says of an encoder.

    Args:
        folder: a run directory with `results.jsonl`, or an audit's with `audit.json`.
        fingerprint: of the encoder's weights; empty takes all rows of a run, and of an audit the
            encoder that was named last.
        card: the card of the data set, empty where there is none.

    Raises:
        InputError: there is no finished run, or its files are damaged.
        UsageError: it measured other weights.

    Example:
        >>> read_evidence(Path("nowhere"), card={})
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.InputError: nowhere: holds no run (no run.json)
    """
    if (folder / RECORD).is_file():
        return _read_audit(folder, fingerprint=fingerprint)
    manifest = read_run(folder)
    method = _choose_method(manifest, folder=folder, fingerprint=fingerprint)
    summaries = summarise(read_rows(folder))
    model = str(manifest.get("arguments", {}).get("model") or "")
    return Evidence(
        source=write_code(f"fieldmark {manifest.get('verb', '')}"),
        accuracies=tuple(_gather(summaries, method=method)),
        data=manifest.get("data") or {},
        card=card,
        not_tested=list_untested(summaries, manifest={"arguments": {"model": shorten_path(model)}}),
        manifest=manifest,
    )


def _choose_method(manifest: Mapping[str, Any], *, folder: Path, fingerprint: str) -> str | None:
    """Return the method whose rows are the encoder's; None where all rows are."""
    weights = manifest.get("weights") or {}
    found = [str(name) for name, value in weights.items() if value == fingerprint]
    if fingerprint and not found:
        raise UsageError(
            "measured other weights than these",
            where=folder,
            mend=f"evaluate this encoder, whose weights are {fingerprint[:12]}",
        )
    return found[0] if found and found[0] not in ("encoder", "before", "after") else None


def _gather(summaries: Iterable[Summary], *, method: str | None) -> Iterator[Accuracy]:
    keys = ("dataset", "split", "head", "correlation", "method", "setting")
    gathered: dict[tuple[str, ...], list[Summary]] = {}
    for one in summaries:
        if one.key["metric"].startswith("acc_"):
            gathered.setdefault(tuple(str(one.key[key]) for key in keys), []).append(one)
    for ours in gathered.values():
        key = ours[0].key
        by_metric = {one.key["metric"]: one for one in ours}
        correlation = float(key["correlation"])
        known = "" if math.isnan(correlation) else f"correlation {correlation:.2f}"
        yield Accuracy(
            dataset=key["dataset"],
            split=key["split"],
            method=key["method"],
            head=key["head"],
            setting=", ".join(filter(None, (key["setting"], known))),
            mine=method is None or key["method"] == method,
            average=by_metric.get(AVERAGE),
            worst=by_metric.get(WORST),
            groups=tuple(
                (group.text, one)
                for metric, one in by_metric.items()
                if (group := names.parse_group(metric)) is not None
            ),
        )


def _read_audit(folder: Path, *, fingerprint: str) -> Evidence:
    audit = read_audit(folder)
    which = [one.fingerprint for one in audit.encoders]
    if fingerprint and fingerprint not in which:
        raise UsageError(
            "audited other weights than these",
            where=folder,
            mend=f"audit this encoder, whose weights are {fingerprint[:12]}",
        )
    # Of two encoders the second is the one that came of it.
    mine = which.index(fingerprint) if fingerprint else len(which) - 1
    left_out = (
        f"{capitalise(PARTS.get(one.part, one.part))}: {one.reason}."
        for one in {one.part: one for one in audit.left_out}.values()
    )
    return Evidence(
        source="`fieldmark audit`",
        accuracies=tuple(_read_accuracy(one, audit=audit, mine=mine) for one in audit.accuracy),
        findings=tuple(_write_findings(audit, mine=mine)),
        data={"name": audit.dataset, "images": audit.images_all},
        not_tested=(*audit.not_tested, *left_out),
    )


def _read_accuracy(one: AuditAccuracy, *, audit: AuditParts, mine: int) -> Accuracy:
    cells = [
        (f"{group.label} on {group.attribute}" if group.attribute else group.label, group.figure)
        for group in one.groups
    ]
    classes = [(part.name, part.figure) for part in one.classes]
    return Accuracy(
        dataset=audit.dataset,
        split=audit.split,
        method="" if len(audit.encoders) == 1 else audit.encoders[one.encoder].label,
        head=one.head,
        mine=one.encoder == mine,
        average=_summarise(one.average),
        worst=_summarise(one.worst_group),
        groups=tuple((name, _summarise(figure)) for name, figure in cells or classes),
    )


def _summarise(figure: Figure) -> Summary:
    return Summary(
        key={},
        mean=figure.value,
        deviation=math.nan,
        ci_low=figure.low,
        ci_high=figure.high,
        counts=(figure.count, figure.count),
        seeds=int(figure.is_defined),
        asked=1,
    )


def _write_findings(audit: AuditParts, *, mine: int) -> Iterator[str]:
    yield write_verdict(audit, mine)
    for one in audit.findings:
        if one.encoder == mine:
            yield tell_finding(audit, one)
