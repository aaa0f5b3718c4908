"""A COVAR of Debian packages: 33 kinds of cut-outs of Tux Paint and 20 scenes of wallpapers.

`cutouts.csv` gives each cut-out a class and `scenes.csv` each scene a name, chosen and labelled by
eye. No scene shows anything of the classes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from fieldmark.core.errors import FetchError
from fieldmark.core.fetch import cache_dir, fetch_debian, read_manifest
from fieldmark.data.backgrounds import Backgrounds
from fieldmark.data.columns import encode_names
from fieldmark.data.foregrounds import Foregrounds, Outline

NAME = "stamps"
CUTOUTS = "tuxpaint-stamps-default"
_CUTOUT_FOLDER = "usr/share/tuxpaint/stamps"
_SHARE = "usr/share"
LICENCES: Mapping[str, tuple[str, ...]] = {
    "foregrounds": ("tuxpaint-stamps-default: GPL-2",),
    "backgrounds": (
        "mate-backgrounds: GPL-2 or later, some CC-BY-SA-4.0",
        "lomiri-wallpapers: CC-BY-4.0, CC-BY-SA-3.0, CC-BY-SA-4.0, CC0, file by file",
        "plasma-workspace-wallpapers: LGPL-3 or CC-BY-SA-4.0, file by file",
    ),
}


def open_cutouts() -> Foregrounds:
    """Return the cut-outs, fetched into the cache where they are not there yet.

    Raises:
        FetchError: the package cannot be had, or lacks files.
    """
    rows = read_list("cutouts.csv")
    folder = fetch_debian(CUTOUTS) / _CUTOUT_FOLDER
    paths = tuple(folder / row["file"] for row in rows)
    _check(paths)
    labels = encode_names([row["label"] for row in rows])
    return Foregrounds(
        name=NAME,
        root=folder,
        ids=tuple(row["file"].removesuffix(".png") for row in rows),
        paths=paths,
        outlines=(Outline(),) * len(rows),
        labels=labels.codes,
        classes=labels.names,
    )


def open_scenes() -> Backgrounds:
    """Return the scenes, each a category of its own, fetched where they are not there yet.

    Raises:
        FetchError: a package cannot be had, or lacks files.
    """
    rows = read_list("scenes.csv")
    folders = {package: fetch_debian(package) for package in sorted({r["package"] for r in rows})}
    paths = tuple(folders[row["package"]] / _SHARE / row["file"] for row in rows)
    _check(paths)
    categories = encode_names([row["label"] for row in rows])
    return Backgrounds(
        name=NAME,
        root=cache_dir() / "debian",
        ids=tuple(row["label"] for row in rows),
        paths=paths,
        category_ids=categories.codes,
        categories=categories.names,
    )


def read_list(name: str) -> list[dict[str, str]]:
    """Return the rows of one of the two lists.

    Example:
        >>> len({row["label"] for row in read_list("cutouts.csv")}), len(read_list("scenes.csv"))
        (33, 20)
    """
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text)))


def read_sources(part: str) -> list[dict[str, Any]]:
    """Return the manifests of the packages that the foregrounds or the backgrounds come from."""
    packages = [CUTOUTS]
    if part == "backgrounds":
        packages = sorted({row["package"] for row in read_list("scenes.csv")})
    return [read_manifest(cache_dir() / "debian" / package) for package in packages]


def _check(paths: Sequence[Path]) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FetchError(
            f"{len(missing)} of {len(paths)} files are not in their packages: {missing[0].name}",
            where="covar stamps",
            mend="use Debian 12, whose packages the list was made from, or folders of your own",
        )
