"""The result in plain words with its numbers, and what the numbers do not cover."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fieldmark.report import names
from fieldmark.report.tables import Summary

ARROW = "\N{RIGHTWARDS ARROW}"


@dataclass(frozen=True, kw_only=True)
class Focus:
    """Where the headline looks: the hardest split, the head and the data that say most."""

    dataset: str
    split: str
    head: str
    correlation: float

    def holds(self, summary: Summary) -> bool:
        """Return whether a figure was measured there."""
        return self.is_beside(summary) and summary.key["split"] == self.split

    def is_beside(self, summary: Summary) -> bool:
        """Return whether a figure was measured there or on another split of the same."""
        key = summary.key
        same = key["dataset"] == self.dataset and key["head"] == self.head
        both = (key["correlation"], self.correlation)
        return same and (both[0] == both[1] or all(map(math.isnan, both)))


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The result in words: a title (empty without a result) and sentences, with their numbers."""

    title: str
    sentences: tuple[str, ...]


def choose_focus(summaries: Sequence[Summary]) -> Focus | None:
    """Choose where the headline looks among the figures of the worst group, or None without any."""
    worst = [s for s in summaries if s.key["metric"] == "acc_wg"]
    if not worst:
        return None
    splits = names.sort_known((s.key["split"] for s in worst), order=names.SPLIT_ORDER)
    there = [s for s in worst if s.key["split"] == splits[0]]
    order = ("linear-probe", "convex-probe", "zero-shot")
    head = names.sort_known((s.key["head"] for s in there), order=order)[0]
    with_head = [s for s in there if s.key["head"] == head]
    known = [s for s in with_head if not math.isnan(s.key["correlation"])]
    chosen = max(known, key=lambda s: float(s.key["correlation"])) if known else with_head[0]
    return Focus(
        dataset=chosen.key["dataset"],
        split=splits[0],
        head=head,
        correlation=chosen.key["correlation"],
    )


def write_headline(summaries: Sequence[Summary]) -> Headline:
    """Say what came out: the worst group before and after, and what stands beside it.

    Args:
        summaries: from `fieldmark.report.tables.summarise`.

    Example:
        >>> from fieldmark.report.tables import summarise
        >>> rows = [{"suite": "s", "dataset": "d", "split": "test_unseen", "method": m,
        ...          "metric": "acc_wg", "value": v} for m, v in [("native", 0.36), ("bap", 0.7)]]
        >>> print(write_headline(summarise(rows)).title)
        Worst-group accuracy on unseen objects: native 0.36 → BAP 0.70
    """
    focus = choose_focus(summaries)
    if focus is None:
        return Headline(title="", sentences=("No worst-group accuracy was recorded.",))
    worst = [s for s in summaries if s.key["metric"] == "acc_wg" and focus.is_beside(s)]
    there = _by_method([s for s in worst if focus.holds(s)])
    before, after = _choose_pair(there)
    title = f"Worst-group accuracy on {_shorten(focus.split)}: {_write_pair(before, after)}"
    splits = names.sort_known((s.key["split"] for s in worst), order=names.SPLIT_ORDER)
    others = [_by_method([s for s in worst if s.key["split"] == split]) for split in splits[1:]]
    sentences = [
        _describe_measure(focus, before, after),
        _describe_rest(there, told=(before, after)),
        *(_describe_split(other) for other in others),
        _describe_sensitivity(summaries),
    ]
    return Headline(title=title, sentences=tuple(filter(None, sentences)))


def _by_method(summaries: Sequence[Summary]) -> dict[str, Summary]:
    methods = names.sort_methods(s.key["method"] for s in summaries)
    first: dict[str, Summary] = {}
    for summary in summaries:
        first.setdefault(summary.key["method"], summary)
    return {_name(method): first[method] for method in methods}


def _choose_pair(figures: Mapping[str, Summary]) -> tuple[Summary, Summary | None]:
    before = figures.get("native") or next(iter(figures.values()))
    rest = [s for method, s in figures.items() if s is not before and method != "oracle"]
    after = figures.get("BAP") or (rest[-1] if rest else None)
    return before, after if after is not before else None


def _name(method: str) -> str:
    return names.name(method, known=names.METHODS) or "the encoder"


def _shorten(split: str) -> str:
    return names.name(split, known=names.SPLITS).split(",")[0] or "the test set"


def _write_pair(before: Summary, after: Summary | None) -> str:
    pair = [before] if after is None else [before, after]
    return f" {ARROW} ".join(_write_short(figure) for figure in pair)


def _write_short(figure: Summary) -> str:
    value = "undefined" if math.isnan(figure.mean) else names.write_number(figure.mean, digits=2)
    return f"{_name(figure.key['method'])} {value}"


def _describe_measure(focus: Focus, before: Summary, after: Summary | None) -> str:
    pair = [before] if after is None else [before, after]
    head = names.name(focus.head, known=names.HEADS) or "no head"
    seeds = max(figure.asked for figure in pair)
    words = [f"{head[:1].upper()}{head[1:]} on {focus.dataset}"]
    if not math.isnan(focus.correlation):
        words.append(f"trained at a spurious correlation of {focus.correlation:.2f}")
    words.append(f"mean of {seeds} seeds" if seeds > 1 else "one seed")
    text = ", ".join(words) + "."
    intervals = [f"{_name(f.key['method'])} {f.interval}" for f in pair if f.interval]
    if intervals:
        text += f" 95 % interval of test sampling: {', '.join(intervals)}."
    if after is not None and before.interval and after.interval and _overlap(before, after):
        text += " The intervals overlap: on this many images the difference may be chance."
    return text


def _overlap(one: Summary, other: Summary) -> bool:
    return one.ci_low <= other.ci_high and other.ci_low <= one.ci_high


def _describe_rest(figures: Mapping[str, Summary], *, told: Sequence[Summary | None]) -> str:
    rest = [_write_short(s) for s in figures.values() if not any(s is t for t in told)]
    return f"Beside them: {', '.join(rest)}." if rest else ""


def _describe_split(figures: Mapping[str, Summary]) -> str:
    before, after = _choose_pair(figures)
    return f"On {_shorten(before.key['split'])}: {_write_pair(before, after)}."


def _describe_sensitivity(summaries: Sequence[Summary]) -> str:
    found = [s for s in summaries if names.name_metric(s.key["metric"]).startswith("BSI")]
    if not found:
        return ""
    metric = found[0].key["metric"]
    split = names.sort_known((s.key["split"] for s in found), order=names.SPLIT_ORDER)[0]
    figures = _by_method([s for s in found if (s.key["metric"], s.key["split"]) == (metric, split)])
    pair = _write_pair(*_choose_pair(figures))
    return f"{names.MEANINGS['BSI'].split(':')[0].capitalize()} (lower is better): {pair}."


def list_untested(summaries: Sequence[Summary], *, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Say what the figures do not cover, as far as the records show it.

    Args:
        summaries: from `fieldmark.report.tables.summarise`.
        manifest: the run's `run.json`.

    Example:
        >>> list_untested((), manifest={})
        ('Everything: this run holds no figures.',)
    """
    if not summaries:
        return ("Everything: this run holds no figures.",)
    found: dict[str, list[Any]] = {
        key: list(dict.fromkeys(s.key[key] for s in summaries if s.key[key] not in ("", None)))
        for key in ("dataset", "head", "split", "correlation")
    }
    correlations = sorted({c for c in found["correlation"] if not math.isnan(c)})
    model = str(manifest.get("arguments", {}).get("model") or "")
    texts = [
        f"Encoders other than {model}." if model else "",
        f"Data other than {_join(found['dataset'])}.",
        f"Spurious correlations other than {correlations[0]:.2f}."
        if len(correlations) == 1
        else "",
        "Natural photographs: every test image is a composite."
        if "test_natural" not in found["split"] and "test_unseen" in found["split"]
        else "",
        "Objects that training did not show." if not _has(found["split"], "unseen") else "",
        "Chance between seeds: every figure is from one seed."
        if max(s.asked for s in summaries) == 1
        else "",
        *_list_undefined(summaries),
    ]
    return tuple(filter(None, texts))


def _has(splits: Sequence[str], word: str) -> bool:
    return any(word in split or "natural" in split for split in splits)


def _join(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def _list_undefined(summaries: Sequence[Summary]) -> list[str]:
    """Name what no method has a value for; one method's gap shows in the tables."""
    defined: dict[tuple[str, str], bool] = {}
    counts: dict[tuple[str, str], str] = {}
    for summary in summaries:
        what = (names.name_metric(summary.key["metric"]), summary.key["split"])
        defined[what] = defined.get(what, False) or not math.isnan(summary.mean)
        counts[what] = summary.count
    return [
        f"Undefined: {metric}{f' on {_shorten(split)}' if split else ''} ({counts[metric, split]})."
        for (metric, split), known in defined.items()
        if not known
    ]
