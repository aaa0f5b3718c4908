"""Images a second of `fieldmark covar build`, files written, against the plain way.

Run: `OMP_NUM_THREADS=1 python benchmarks/covar_build.py`

The plain way is Pillow without a line of fieldmark: for each image open the object and the scene,
resize, paste, turn or crop, and save image and mask with Pillow's defaults, in as many threads. It
pastes at the size of the image, without the finer canvas, so it does less work for each image. Both
write an image and a mask of each variant, one after the other, in turns; the plain way makes fewer,
spread evenly over the same objects, scenes and variants.

Objects and scenes are those of the Debian packages that `--foregrounds stamps` takes.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageChops, ImageOps

from fieldmark.data.backgrounds import Backgrounds
from fieldmark.data.covar import CovarSettings, build_covar
from fieldmark.data.covar.pools import choose_scenes
from fieldmark.data.covar.stamps import open_cutouts, open_scenes
from fieldmark.data.covar.variants import draw_variant
from fieldmark.data.foregrounds import Foregrounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--objects", type=int, default=6)
    parser.add_argument("--backgrounds", type=int, default=20)
    parser.add_argument("--plain", type=int, default=40, help="images that the plain way makes")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    settings = CovarSettings(side=options.side, backgrounds_per_object=options.backgrounds)
    pool, scenes = open_cutouts(), open_scenes()
    step = len(pool) // options.objects
    objects = pool.take(range(0, step * options.objects, step))
    rates: dict[str, list[Rate]] = {"fieldmark": [], "plain": []}
    for _ in range(options.rounds):
        rates["fieldmark"].append(
            time_fieldmark(objects, scenes, settings=settings, workers=options.workers)
        )
        rates["plain"].append(
            time_plain(
                objects, scenes, settings=settings, workers=options.workers, count=options.plain
            )
        )
    report = {
        "images_per_second": {n: [round(v.wall, 1) for v in values] for n, values in rates.items()},
        "images_per_cpu_second": {
            n: [round(v.cpu, 1) for v in values] for n, values in rates.items()
        },
        "times_plain_cpu": round(
            max(v.cpu for v in rates["fieldmark"]) / max(v.cpu for v in rates["plain"]), 1
        ),
        "workers": options.workers,
        "side": options.side,
        "cores": os.cpu_count(),
        "load": [round(value, 1) for value in os.getloadavg()],
    }
    print(json.dumps(report, indent=2))


class Rate(NamedTuple):
    """Images a second on the wall clock and a second of processor time.

    The first hangs on what else the machine does; n free cores give up to n times the second.
    """

    wall: float
    cpu: float


def read_clocks() -> Rate:
    """Return the wall clock and the processor time of this process, in seconds."""
    return Rate(time.perf_counter(), time.process_time())


def find_rate(count: int, *, since: Rate) -> Rate:
    """Return images a second since two clocks were read."""
    wall, cpu = (now - then for now, then in zip(read_clocks(), since, strict=True))
    return Rate(count / wall, count / cpu)


def time_fieldmark(
    objects: Foregrounds, scenes: Backgrounds, *, settings: CovarSettings, workers: int
) -> Rate:
    """Return images a second of a whole build, decoding, table and record included."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "covar"
        started = read_clocks()
        build_covar(
            out, foregrounds=objects, backgrounds=scenes, settings=settings, workers=workers
        )
        return find_rate(len(list((out / "images").rglob("*.png"))), since=started)


def time_plain(
    objects: Foregrounds, scenes: Backgrounds, *, settings: CovarSettings, workers: int, count: int
) -> Rate:
    """Return images a second of the plain way, of jobs spread evenly over all."""
    chosen = choose_scenes(scenes, settings=settings)
    jobs = [
        (item, scene, subset)
        for item in range(len(objects))
        for scene in range(len(chosen))
        for subset in settings.find_subsets()
    ]
    # An odd stride meets all variants in turn.
    stride = max(1, len(jobs) // count) | 1
    jobs = jobs[::stride][:count]
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(workers) as pool:
        folder = Path(name)

        def draw(number: int) -> None:
            item, scene, subset = jobs[number]
            drawn = draw_variant(
                subset, settings=settings, item=objects.ids[item], scene=chosen.ids[scene]
            )
            image, mask = draw_plainly(
                objects.paths[item],
                chosen.paths[scene],
                subset,
                dict(drawn.parameters),
                settings.side,
            )
            image.save(folder / f"{number}.png")
            mask.save(folder / f"{number}-mask.png")

        started = read_clocks()
        list(pool.map(draw, range(len(jobs))))
        return find_rate(len(jobs), since=started)


def draw_plainly(
    cutout_path: Path, scene_path: Path, subset: str, drawn: dict[str, Any], side: int
) -> tuple[Image.Image, Image.Image]:
    """Draw one variant as one would by hand."""
    cutout = Image.open(cutout_path).convert("RGBA")
    image = ImageOps.fit(Image.open(scene_path).convert("RGB"), (side, side))
    factor = 0.6 * side / drawn.get("factor", 1.0) / max(cutout.size)
    width, height = (max(1, round(edge * factor)) for edge in cutout.size)
    cutout = cutout.resize((width, height))
    place = ((side - width) // 2, (side - height) // 2)
    mask = Image.new("L", image.size)
    image.paste(cutout, place, cutout)
    mask.paste(cutout.getchannel("A"), place)
    return turn_plainly(image, subset, drawn), turn_plainly(mask, subset, drawn)


def turn_plainly(image: Image.Image, subset: str, drawn: dict[str, Any]) -> Image.Image:
    """Move, turn, crop or mirror an image."""
    if subset == "translate":
        return ImageChops.offset(image, drawn["right"], drawn["down"])
    if subset == "rotation":
        return image.rotate(drawn["angle"])
    if subset == "crop":
        return image.resize(image.size, box=tuple(drawn["box"]))
    if subset == "h_flip":
        return ImageOps.mirror(image)
    return ImageOps.flip(image) if subset == "v_flip" else image


if __name__ == "__main__":
    main()
