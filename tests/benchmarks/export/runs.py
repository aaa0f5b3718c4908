"""A finished run, written by hand, with what verbs leave for other tools."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from fieldmark.core.records import ResultRow, start_run

ROWS = {
    "acc_avg": (0.75, 0.6, 0.9, 12),
    "acc_wg": (0.5, 0.2, 0.8, 4),
    "acc_y:bird_background:land": (1.0, 0.6, 1.0, 2),
    "acc_y:bird_background:water": (0.5, 0.2, 0.8, 4),
    "acc_y:cat_background:land": (5 / 6, 0.5, 0.97, 6),
    "acc_y:cat_background:water": (float("nan"), float("nan"), float("nan"), 0),
}


def make_rows(
    *, head: str = "zero-shot", seed: int = 0, split: str = "test", encoder: str = "packaged:x"
) -> list[ResultRow]:
    """Return the rows of one head on one split."""
    return [
        ResultRow(
            suite="evaluate",
            dataset="birds/cats",
            split=split,
            encoder=encoder,
            method="native",
            head=head,
            metric=metric,
            seed=seed,
            value=value,
            ci_low=low,
            ci_high=high,
            count=count,
        )
        for metric, (value, low, high, count) in ROWS.items()
    ]


def write_run(folder: Path, rows: list[ResultRow]) -> Path:
    """Write a finished run with losses and two pictures."""
    run = start_run(
        folder, "evaluate", arguments={"model": "packaged:x", "config": {"epochs": 2}, "root": None}
    )
    run.add(rows)
    page = folder / "page" / "composites"
    page.mkdir(parents=True)
    for index, colour in enumerate(("red", "blue")):
        Image.new("RGB", (5, 4), colour).save(page / f"{index}.png")
    losses = [{"method": "bap", "step": step, "loss": 1 / (step + 1)} for step in range(3)]
    losses.append({"method": "bap", "step": 3, "loss": None})
    lines = "".join(json.dumps({**row, "learning_rate": 1e-3}) + "\n" for row in losses)
    (folder / "page" / "loss.jsonl").write_text(lines)
    return run.finish()
