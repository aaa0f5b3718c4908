"""A run folder as the demo verb leaves it, with made-up figures and drawn pictures.

Nothing in it was measured; the page it makes says so in its title.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from fieldmark.core.records import ResultRow, start_run

GROUPS = {
    "acc_y:bird_background:land": 0,
    "acc_y:bird_background:water": 1,
    "acc_y:mammal_background:land": 2,
    "acc_y:mammal_background:water": 3,
}
LEVELS = {
    ("test_unseen", "native"): (0.97, 0.41, 0.36, 0.98),
    ("test_unseen", "data-matched-control"): (0.95, 0.70, 0.62, 0.94),
    ("test_unseen", "bap"): (0.93, 0.78, 0.71, 0.92),
    ("test_unseen", "oracle"): (0.90, 0.80, 0.73, 0.91),
    ("test_seen", "native"): (0.99, 0.44, 0.37, 0.99),
    ("test_seen", "data-matched-control"): (1.0, 0.99, 0.97, 1.0),
    ("test_seen", "bap"): (0.99, 0.97, 0.95, 0.99),
    ("test_seen", "oracle"): (0.98, 0.93, 0.91, 0.98),
    ("test_natural", "native"): (0.88, 0.52, 0.61, math.nan),
    ("test_natural", "data-matched-control"): (0.87, 0.63, 0.66, math.nan),
    ("test_natural", "bap"): (0.90, 0.74, 0.72, math.nan),
    ("test_natural", "oracle"): (0.89, 0.71, 0.70, math.nan),
}
COUNTS = {"test_unseen": 120, "test_seen": 160, "test_natural": 19}


def build_sample(out: Path, *, seeds: int = 3, page: bool = True, figures: bool = True) -> Path:
    """Write a finished run; `page` and `figures` say whether its page parts and rows are there."""
    run = start_run(
        out,
        "demo",
        arguments={"model": "packaged:dinov2-small", "task": "birds-mammals", "correlation": 1.0},
        seeds=range(seeds),
    )
    run.data = {
        "stamps": {
            "fingerprint": "ab" * 32,
            "tuxpaint-stamps-default": {"version": "2022.06.04-1", "licence": "GPL-2"},
            "gcompris-qt-data": {"version": "3.1-2", "licence": "GPL-3+, per file"},
        }
    }
    run.weights = {"packaged:dinov2-small": {"licence": "Apache-2.0", "sha256": "cd" * 32}}
    if figures:
        run.add(row for seed in range(seeds) for row in list_rows(seed))
    if page:
        write_parts(out / "page")
    return run.finish()


def list_rows(seed: int) -> list[ResultRow]:
    """Make rows up for one seed."""
    chance = np.random.default_rng(seed)
    rows = []
    for head, loss in (("linear-probe", 0.0), ("zero-shot", 0.06)):
        for (split, method), levels in LEVELS.items():
            if head == "zero-shot" and method == "oracle":
                continue
            values = [min(v - loss + chance.normal(0, 0.012), 1.0) for v in levels]
            rows += _rows_of(split, method, head=head, seed=seed, values=values)
    for method, value in (("native", 1.86), ("data-matched-control", 0.71), ("bap", 0.34)):
        rows.append(
            ResultRow(
                suite="demo", dataset="sample", split="test_seen", method=method, metric="bsi",
                correlation=1.0, seed=seed, value=value + chance.normal(0, 0.03), count=640,
            )
        )  # fmt: skip
    return rows


def _rows_of(
    split: str, method: str, *, head: str, seed: int, values: list[float]
) -> list[ResultRow]:
    count = COUNTS[split]
    defined = [v for v in values if not math.isnan(v)]
    named = dict(zip(GROUPS, values, strict=True))
    whole = {"acc_wg": min(defined), "acc_avg": sum(defined) / len(defined)}
    rows = []
    for metric, value in {**whole, **named}.items():
        size = 0 if math.isnan(value) else count * (len(defined) if metric == "acc_avg" else 1)
        spread = 1.96 * math.sqrt(max(value * (1 - value), 0.002) / size) if size else math.nan
        rows.append(
            ResultRow(
                suite="demo",
                dataset="sample",
                split=split,
                encoder=f"run/{method}-{seed}",
                method=method,
                head=head,
                correlation=1.0,
                metric=metric,
                group=GROUPS.get(metric),
                seed=seed,
                value=value,
                ci_low=max(value - spread, 0) if size else math.nan,
                ci_high=min(value + spread, 1) if size else math.nan,
                count=size,
            )
        )
    return rows


def write_parts(folder: Path) -> None:
    """Write every file that a page can show."""
    chance = np.random.default_rng(7)
    captions = {}
    for index in range(30):
        label, scene = ("bird", "mammal")[index % 2], ("land", "water")[index // 2 % 2]
        captions[f"{index:02d}.png"] = f"{label} on {scene}"
        draw_scene(folder / "composites" / f"{index:02d}.png", label, scene=scene, chance=chance)
    _write(folder / "composites.json", captions)
    _write_losses(folder / "loss.jsonl", chance=chance)
    _write(
        folder / "map.json", [_make_map("before", chance=chance), _make_map("after", chance=chance)]
    )
    _write(folder / "neighbours.json", [_make_query(folder, i, chance=chance) for i in range(4)])
    _write(
        folder / "summary.json",
        {
            "title": "made-up figures for a test, nothing was measured",
            "rare_groups": ["y:bird_background:water", "y:mammal_background:land"],
            "not_tested": ["Encoders of more than 22 million weights."],
        },
    )
    _write(
        folder / "card.json",
        {
            "name": "sample",
            "task": "birds v mammals",
            "licences": {"cut-outs": "GPL-2", "scenes": ["CC-BY-SA-4.0", "CC0-1.0"]},
            "citation": "Drawn by tests/report/sample.py; see https://example.org/",
        },
    )


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def draw_scene(path: Path, label: str, *, scene: str, chance: np.random.Generator) -> None:
    """Draw a toy animal on a toy landscape."""
    path.parent.mkdir(parents=True, exist_ok=True)
    top, low = {
        "land": ((196, 214, 226), (92, 128, 66)),
        "water": ((214, 226, 236), (46, 106, 148)),
    }[scene]
    image = Image.new("RGB", (224, 224), top)
    draw = ImageDraw.Draw(image)
    horizon = int(chance.integers(90, 140))
    draw.rectangle((0, horizon, 224, 224), fill=low)
    for _ in range(40):
        x, y = int(chance.integers(0, 224)), int(chance.integers(horizon, 224))
        shade = tuple(int(c + chance.integers(-22, 22)) for c in low)
        draw.ellipse((x - 16, y - 3, x + 16, y + 3), fill=shade)
    coat = tuple(int(v) for v in chance.integers(40, 200, 3))
    if label == "bird":
        draw.ellipse((62, 84, 150, 150), fill=coat)
        draw.ellipse((132, 62, 170, 100), fill=coat)
        draw.polygon([(166, 76), (192, 84), (166, 90)], fill=(222, 160, 40))
        draw.line((98, 148, 94, 186), fill=(60, 50, 40), width=4)
        draw.line((116, 148, 120, 186), fill=(60, 50, 40), width=4)
    else:
        draw.rounded_rectangle((46, 92, 156, 150), 24, fill=coat)
        draw.ellipse((136, 66, 186, 114), fill=coat)
        draw.polygon([(144, 74), (150, 52), (160, 70)], fill=coat)
        for leg in (58, 80, 124, 144):
            draw.line((leg, 146, leg, 190), fill=coat, width=10)
    image.save(path)


def _write_losses(path: Path, *, chance: np.random.Generator) -> None:
    lines = []
    for method, start, end in (("bap", 0.42, 0.06), ("data-matched-control", 0.69, 0.02)):
        for step in range(400):
            warm = min(1.0, (step + 1) / 40)
            rate = 5e-6 * (warm if step < 40 else 0.5 * (1 + math.cos(math.pi * (step - 40) / 360)))
            loss = end + (start - end) * math.exp(-step / 70) + abs(chance.normal(0, 0.012))
            row = {"method": method, "step": step, "epoch": step // 50, "loss": loss}
            lines.append(json.dumps({**row, "learning_rate": rate}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _make_map(encoder: str, *, chance: np.random.Generator) -> dict[str, object]:
    points = []
    for label, x in (("bird", -1.0), ("mammal", 1.0)):
        for attribute, y in (("land", -1.0), ("water", 1.0)):
            pull = (0.35, 1.6) if encoder == "before" else (1.7, 0.15)
            centre = (x * pull[0], y * pull[1])
            for dx, dy in chance.normal(0, 0.5, (60, 2)):
                place = {"x": round(centre[0] + dx, 3), "y": round(centre[1] + dy, 3)}
                points.append(
                    {**place, "label": label, "attribute": attribute, "split": "test_unseen"}
                )
    return {"encoder": encoder, "points": points}


def _make_query(folder: Path, number: int, *, chance: np.random.Generator) -> dict[str, object]:
    label, scene = ("bird", "mammal")[number % 2], ("water", "land")[number % 2]

    def make(name: str, what: str, where: str) -> dict[str, object]:
        path = f"thumbs/{number}-{name}.png"
        draw_scene(folder / path, what, scene=where, chance=chance)
        return {"image": path, "label": what, "attribute": where}

    def find(key: str, right: float) -> list[dict[str, object]]:
        found = []
        for rank in range(5):
            same = bool(chance.random() < right)
            what = label if same else ("mammal" if label == "bird" else "bird")
            where = scene if key == "before" else str(chance.choice(["land", "water"]))
            item = make(f"{key}{rank}", what, where)
            found.append({**item, "similarity": round(0.95 - 0.04 * rank, 3)})
        return found

    query = make("query", label, scene)
    return {"query": query, "before": find("before", 0.3), "after": find("after", 0.93)}
