"""Write what BAP trains on before it is judged on the COVAR of `stamps`: no object or scene of it.

Objects are the photographs of things among Tux Paint's cut-outs that are not in
`data/covar/cutouts.csv`, under the folder that Tux Paint keeps them in; scenes are those of the
data set `stamps` whose file is not in `data/covar/scenes.csv`.

    python benchmarks/covar_material.py --out material
    fieldmark bap --model packaged:dinov2-small@98 --preset quick --out bap \
        --foregrounds material/foregrounds.csv --backgrounds material/backgrounds.csv
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path

from fieldmark.core.fetch import fetch_debian
from fieldmark.data.covar.stamps import CUTOUTS, open_cutouts, read_list
from fieldmark.data.datasets import stamps

# Letters, numbers, drawings and other things that no photograph shows.
DRAWN = ("symbols", "seasonal", "people", "town/flags", "space")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True)
    objects = [_copy(path, kind, out=out) for path, kind in _list_objects()]
    _write(out / "foregrounds.csv", ("path", "label"), objects)
    scenes = [(path.name, kind) for path, kind in _draw_scenes(out)]
    _write(out / "backgrounds.csv", ("path", "category"), scenes)


def _copy(path: Path, kind: str, *, out: Path) -> tuple[str, str]:
    name = f"{kind}/{path.name}".replace("/", "-")
    shutil.copyfile(path, out / name)
    return name, kind.partition("/")[0]


def _list_objects() -> list[tuple[Path, str]]:
    judged = set(open_cutouts().paths)
    folder = fetch_debian(CUTOUTS) / "usr/share/tuxpaint/stamps"
    found = sorted(folder.rglob("*.png"))
    kinds = {path: path.parent.relative_to(folder).as_posix() for path in found}
    return [
        (path, kind)
        for path, kind in kinds.items()
        if path not in judged and not kind.startswith(DRAWN) and "cartoon" not in kind
    ]


def _draw_scenes(out: Path) -> list[tuple[Path, str]]:
    judged = {row["file"] for row in read_list("scenes.csv")}
    files = [file for file in stamps.read_list() if file.role == "scene"]
    files = [file for file in files if file.file.removeprefix("usr/share/") not in judged]
    folders = {package: fetch_debian(package) for package in {file.package for file in files}}
    written = []
    for number, file in enumerate(files):
        scene = stamps._open_scene(file, folders)
        for part, crop in enumerate(scene.crops):
            path = out / f"{number:03}-{part}.jpg"
            crop().convert("RGB").resize((256, 256)).save(path, quality=95)
            written.append((path, scene.kind))
    return written


def _write(path: Path, names: tuple[str, str], rows: list[tuple[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)
    print(f"{path}: {len(rows)} rows")


if __name__ == "__main__":
    main()
