"""The headline: the hardest split, its numbers, and no more certainty than there is."""

from __future__ import annotations

import math
from typing import Any

from fieldmark.report.headline import choose_focus, list_untested, write_headline
from fieldmark.report.tables import Summary, summarise

BASE: dict[str, Any] = {"suite": "demo", "dataset": "stamps", "count": 50, "correlation": 1.0}


def make(method: str, value: float, **changes: object) -> dict[str, Any]:
    ends = {"ci_low": value - 0.05, "ci_high": value + 0.05}
    row = {**BASE, "metric": "acc_wg", "split": "test_unseen", "head": "linear-probe"}
    return {**row, "method": method, "value": value, **ends, **changes}


def summaries(*rows: dict[str, Any]) -> tuple[Summary, ...]:
    return summarise(rows)


def test_title_and_sentences_hold_the_numbers() -> None:
    headline = write_headline(
        summaries(
            make("native", 0.36),
            make("bap", 0.70),
            make("data-matched-control", 0.62),
            make("oracle", 0.69),
            make("native", 0.37, split="test_seen"),
            make("bap", 0.96, split="test_seen"),
            {**BASE, "metric": "bsi", "method": "native", "value": 1.8},
            {**BASE, "metric": "bsi", "method": "bap", "value": 0.3},
        )
    )
    assert headline.title == "Worst-group accuracy on unseen objects: native 0.36 → BAP 0.70"
    assert headline.sentences == (
        "Linear probe on stamps, trained at a spurious correlation of 1.00, one seed. 95 % "
        "interval of test sampling: native [0.310, 0.410], BAP [0.650, 0.750].",
        "Beside them: data-matched control 0.62, oracle 0.69.",
        "On seen objects: native 0.37 → BAP 0.96.",
        "Background sensitivity index (lower is better): native 1.80 → BAP 0.30.",
    )


def test_overlapping_intervals_are_said() -> None:
    headline = write_headline(summaries(make("native", 0.60), make("bap", 0.65)))
    assert "The intervals overlap" in headline.sentences[0]


def test_undefined_is_said_in_the_title() -> None:
    rows = summaries(make("native", 0.36), make("bap", math.nan))
    assert write_headline(rows).title.endswith("native 0.36 → BAP undefined")


def test_the_focus_is_the_hardest_split_the_probe_and_the_strongest_correlation() -> None:
    rows = [
        make("native", 0.5, split=split, head=head, correlation=correlation)
        for split in ("test_seen", "test_unseen")
        for head in ("zero-shot", "linear-probe")
        for correlation in (0.5, 1.0, 0.95)
    ]
    focus = choose_focus(summaries(*rows))
    assert focus is not None
    assert (focus.split, focus.head, focus.correlation) == ("test_unseen", "linear-probe", 1.0)


def test_one_method_and_no_method() -> None:
    one = write_headline(summaries(make("", 0.5, split="", head="")))
    assert one.title == "Worst-group accuracy on the test set: the encoder 0.50"
    none = write_headline(summaries({**BASE, "metric": "loss", "value": 1.0}))
    assert none.title == ""
    assert none.sentences == ("No worst-group accuracy was recorded.",)


def test_what_was_not_tested_follows_from_the_records() -> None:
    rows = summaries(
        make("native", 0.4),
        make("native", math.nan, metric="acc_y:bird_background:water", count=0),
    )
    manifest = {"arguments": {"model": "packaged:dinov2-small"}}
    assert list_untested(rows, manifest=manifest) == (
        "Encoders other than packaged:dinov2-small.",
        "Data other than stamps.",
        "Spurious correlations other than 1.00.",
        "Natural photographs: every test image is a composite.",
        "Chance between seeds: every figure is from one seed.",
        "Undefined: bird on water on unseen objects (n = 0).",
    )
    seeds = summaries(*(make("native", 0.4, seed=s, split="test_natural") for s in (0, 1)))
    assert list_untested(seeds, manifest={})[-1] == "Spurious correlations other than 1.00."
