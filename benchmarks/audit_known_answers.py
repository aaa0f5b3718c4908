"""Does an audit find a reliance on backgrounds where it was planted, and nothing where none was?

    python benchmarks/audit_known_answers.py [--runs 40] [--whole] [--train 120]

Data are drawn: pictures of 8 x 8 pixels, a red or blue object in the middle, its colour so noisy
that it alone does not tell the class, on a ground of green or magenta that goes with the class in
90 % of the training pictures and in half of the others. The encoder is `FakeEncoder`, which sees
the ground as strongly as it is told: at 0, 0.25, 0.5, 1 and 2 the gap must rise. Two ways to plant
nothing: the encoder does not see the ground (`blind`), and it sees it, but grounds go with no class
and the names say nothing of them (`untied`). Only the second can fail by chance. In each of the 40
runs of either, data and seed are new; a run finds something if a one-sided p is below 0.05, over
both heads by Holm.

By default only the swaps are measured (`measure_swaps`), with `--whole` all of `fieldmark audit`,
and a run finds something if any of its findings has the state `found`.

Measured on 22 November 2026, swaps alone, 80 objects (gap with its 95 % interval by object):

    strength    zero-shot                linear probe
    0            0.0 % [-4.6, 4.6]        0.0 % [-4.6, 4.6]
    0.25        16.2 % [10.4, 24.4]       7.9 % [3.8, 14.5]
    0.5         37.9 % [29.7, 46.2]      16.2 % [11.1, 23.7]
    1           59.2 % [53.4, 65.8]      32.9 % [25.6, 41.0]
    2           63.8 % [58.1, 70.5]      62.5 % [56.0, 69.1]

`blind` finds something in 0 of 40 runs [0, 8.8 %], `untied` in 0 of 40 [0, 8.8 %]; the probe has a
p below 0.05 in 1 of the 40, and a mean gap of 0.67 %: what 120 pictures tie by chance.

`--whole`, with the audit's own probe: zero-shot 0.0, 16.2, 38.3, 58.8 and 64.2 %, probe 0.0, 6.2,
21.7, 66.2 and 77.1 %, all found but the first, where the group gap of 90 pictures cannot be told;
`untied` finds something in 1 of 40 runs [0.4, 12.9 %]: a gap of the probe of 5.4 % [2.1, 8.6].
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from fieldmark.benchmarks.audit.swaps import Predict, SwapSettings, measure_swaps
from fieldmark.core.seeds import generator
from fieldmark.data.tables import ImageTable, read_table
from fieldmark.methods.linear_probe import ConvexProbe
from fieldmark.metrics.intervals import wilson_interval
from fieldmark.models.embed import embed_images
from fieldmark.testing import FakeEncoder

STRENGTHS = (0.0, 0.25, 0.5, 1.0, 2.0)
CLASSES = ("red", "blue")
# For a reliance of the zero-shot head the names say which ground they expect.
NAMES = {True: ("red on green", "blue on magenta"), False: CLASSES}
TIED, LEVEL = 0.9, 0.05
# Half the distance of the two colours, and the noise of each, in shares of the range.
OBJECT, GROUND, NOISE, GRAIN = 0.1, 0.15, 0.1, 0.03


class Found(NamedTuple):
    """What was found of one head.

    Attributes:
        head: its name.
        gap: the BG-gap, with its interval.
        low: lower end.
        high: upper end.
        p_value: one-sided.
        state: as the audit judges it; empty for the swaps alone.
    """

    head: str
    gap: float
    low: float
    high: float
    p_value: float
    state: str = ""


Audit = Callable[[Path, FakeEncoder, bool, int], list[Found]]


def draw_data(folder: Path, *, seed: int, tied: bool, train: int = 120, test: int = 90) -> Path:
    """Draw pictures, a mask and `metadata.csv`; every object and every ground is there once."""
    rows = ["path,label,attribute,split,mask,object,scene"]
    folder.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 2:6] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    for split, count in (("train", train), ("test", test)):
        for number in range(count):
            chance, label = generator(seed, "picture", split, number), number % 2
            share = TIED if split == "train" and tied else 0.5
            place = label if chance.random() < share else 1 - label
            name = f"{split}-{number}.png"
            Image.fromarray(_draw_picture(chance, label=label, place=place)).save(folder / name)
            ground = ("green", "magenta")[place]
            rows.append(f"{name},{CLASSES[label]},{ground},{split},mask.png,o-{name},s-{name}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


def _draw_picture(chance: np.random.Generator, *, label: int, place: int) -> np.ndarray:
    red, green = np.array([1.0, 0.0, -1.0]), np.array([-1.0, 1.0, -1.0])
    ground = 0.5 + GROUND * (1 - 2 * place) * green + chance.normal(0, NOISE, 3)
    item = 0.5 + OBJECT * (1 - 2 * label) * red + chance.normal(0, NOISE, 3)
    picture = np.tile(ground, (8, 8, 1))
    picture[2:6, 2:6] = item
    picture += chance.normal(0, GRAIN, picture.shape)
    return np.asarray(np.rint(255 * picture.clip(0, 1)), np.uint8)


def audit_swaps(folder: Path, encoder: FakeEncoder, tied: bool, seed: int) -> list[Found]:
    """Measure the swaps of both heads."""
    table = read_table(folder / "metadata.csv")
    train, test = table.select("train"), table.select("test")
    names = [NAMES[tied][CLASSES.index(name)] for name in table.classes]
    part = measure_swaps(
        [encoder],
        [fit_heads(encoder, train, names=names)],
        test,
        masks=test.masks or (),
        names=names,
        scenes_from=train,
        scene_masks=train.masks,
        backgrounds=None,
        settings=SwapSettings(seed=seed, covar_changes=False, pictures=0),
        work=folder / "work",
        out=folder / "out",
        report=lambda phase, done, total: None,
    )
    return [read_found(one["head"], one["gap"], one["gap_p_value"], "") for one in part["results"]]


def read_found(name: str, figure: dict[str, Any], p_value: float | None, state: str) -> Found:
    """Read a figure of the record; null is NaN."""
    value, low, high, chance = (
        math.nan if number is None else float(number)
        for number in (figure["value"], figure["low"], figure["high"], p_value)
    )
    return Found(name, value, low, high, chance, state)


def fit_heads(encoder: FakeEncoder, train: ImageTable, *, names: list[str]) -> dict[str, Predict]:
    """Return the zero-shot head and a probe, fitted on the training pictures."""
    with torch.inference_mode():
        texts = encoder.encode_text([f"a photo of a {name}" for name in names]).numpy()
    probe = ConvexProbe(C=10.0).fit(embed_images(encoder, train).values, train.labels)
    return {
        "zero-shot": lambda values: (values @ texts.T).argmax(axis=1),
        "linear-probe": probe.predict,
    }


def audit_whole(folder: Path, encoder: FakeEncoder, tied: bool, seed: int) -> list[Found]:
    """Run `fieldmark audit` and read what it found."""
    from fieldmark.benchmarks.audit.request import AuditRequest
    from fieldmark.benchmarks.audit.run import run_audit

    table = read_table(folder / "metadata.csv")
    names = tuple(NAMES[tied][CLASSES.index(name)] for name in table.classes)
    out = folder / f"audit-{encoder.spec.fingerprint[:8]}"
    request = AuditRequest(
        model="fake:colours",
        data=str(folder),
        out=out,
        split="test",
        class_names=names,
        seed=seed,
        precision="fp32",
    )
    run_audit(request, encoders=[encoder])
    record = json.loads((out / "audit.json").read_text())
    states = {one["id"]: one["state"] for one in record["findings"]}
    swaps = {f"background_gap:{one['head']}": one for one in record["swaps"]["results"]}
    found = [
        read_found(one["head"], one["gap"], one["gap_p_value"], states.get(name, ""))
        for name, one in swaps.items()
    ]
    return found + [
        read_found(one["id"], one["figure"], one["p_value"], one["state"])
        for one in record["findings"]
        if one["id"] not in swaps
    ]


def has_finding(found: list[Found]) -> bool:
    """Whether a run finds anything: by the audit's own states, or by Holm over its heads."""
    if any(one.state for one in found):
        return any(one.state == "found" for one in found)
    return min(one.p_value for one in found) < LEVEL / len(found)


def run_once(
    audit: Audit, *, strength: float, tied: bool, seed: int, train: int = 120, test: int = 90
) -> list[Found]:
    """Draw data and audit an encoder on them."""
    with tempfile.TemporaryDirectory() as name:
        folder = draw_data(Path(name) / "data", seed=seed, tied=tied, train=train, test=test)
        return audit(folder, FakeEncoder(background=strength), tied, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--train", type=int, default=120, help="training pictures")
    options = parser.parse_args()
    audit = audit_whole if options.whole else audit_swaps
    for strength in STRENGTHS:
        for one in run_once(audit, strength=strength, tied=True, seed=0, train=options.train):
            print(
                f"{strength:4g} {one.head:14} {one.gap:6.1%} [{one.low:.1%}, {one.high:.1%}] "
                f"p {one.p_value:.4f} {one.state}",
                flush=True,
            )
    for title, strength, tied in (("blind", 0.0, True), ("untied", 1.0, False)):
        started = time.monotonic()
        runs = [
            run_once(audit, strength=strength, tied=tied, seed=1000 + seed, train=options.train)
            for seed in range(options.runs)
        ]
        hits = sum(map(has_finding, runs))
        low, high = wilson_interval(hits, len(runs))
        spent = (time.monotonic() - started) / max(1, len(runs))
        print(f"{title}: {hits} of {len(runs)} runs find something [{low:.1%}, {high:.1%}], "
              f"{spent:.1f} s each")  # fmt: skip
        for head in dict.fromkeys(one.head for run in runs for one in run):
            values = [one for run in runs for one in run if one.head == head]
            hit = sum(one.p_value < LEVEL for one in values)
            mean = np.nanmean([one.gap for one in values])
            print(f"  {head}: mean gap {mean:.2%}, p < {LEVEL:g} in {hit} of {len(values)}")


if __name__ == "__main__":
    main()
