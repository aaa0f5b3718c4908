"""Backgrounds: pools of scenes by category."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fieldmark.core.errors import InputError
from fieldmark.data.columns import (
    Columns,
    check_unique,
    encode_names,
    read_columns,
    relative_names,
    resolve_paths,
)
from fieldmark.data.images import hash_image, list_images, read_image


@dataclass(frozen=True, eq=False, kw_only=True)
class Backgrounds:
    """Scenes to paste on, by column.

    Attributes:
        name: of the pool, for records.
        root: folder that every path lies in.
        ids: n unique ids; what a table of composites has in its column `scene`.
        paths: n absolute paths.
        category_ids: (n,) index into `categories`.
        categories: names of the kinds of scene.
    """

    name: str
    root: Path
    ids: tuple[str, ...]
    paths: tuple[Path, ...]
    category_ids: NDArray[np.int64]
    categories: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int) -> Image.Image:
        """Read scene `index` as upright RGB, at its own size.

        Raises:
            ImageError: it cannot be read as an image.
        """
        return read_image(self.paths[index])

    def hashes(self) -> tuple[str, ...]:
        """Return the SHA-256 of each image file."""
        return tuple(map(hash_image, self.paths))

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Backgrounds:
        """Return the scenes of `indices`, in that order, with the same categories."""
        rows = np.asarray(indices, np.int64)
        return replace(
            self,
            ids=tuple(self.ids[row] for row in rows),
            paths=tuple(self.paths[row] for row in rows),
            category_ids=self.category_ids[rows],
        )

    def select(self, *categories: str) -> Backgrounds:
        """Return the scenes of some categories.

        Raises:
            InputError: no scene is in them; the message lists the categories there are.
        """
        chosen = [self.categories.index(name) for name in categories if name in self.categories]
        rows = np.flatnonzero(np.isin(self.category_ids, chosen))
        if not rows.size:
            raise InputError(
                f"the background pool {', '.join(categories)} is empty",
                where=self.name,
                mend=f"choose among {', '.join(self.categories)}",
            )
        return self.take(rows)


def read_backgrounds(source: Path, *, root: Path | None = None) -> Backgrounds:
    """Read backgrounds from a table or a folder.

    A table has the column `path` and, if it has them, `category` and `id`. In a folder the
    category is the path of the folder that an image lies in ("forest/broadleaf"), so that Places365
    and a flat folder both work. A folder that holds a `backgrounds.csv` stands for that.

    Args:
        source: the table or the folder.
        root: folder that the paths are relative to; the table's own folder by default.

    Raises:
        InputError: there is no image in it.
        TableError: what is off, with file and row.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / "beach").mkdir()
        ...     Image.new("RGB", (4, 4)).save(Path(folder) / "beach" / "a.png")
        ...     read_backgrounds(Path(folder)).categories
        ('beach',)
    """
    if source.is_dir() and (source / "backgrounds.csv").is_file():
        source = source / "backgrounds.csv"
    if source.is_dir():
        folder = source.resolve()
        names = relative_names(list_images(folder), root=folder)
        if not names:
            raise InputError(
                "the background pool is empty", where=source, mend="put images into it"
            )
        columns = Columns(source, {"path": names}, range(1, len(names) + 1))
        kinds = [name.rpartition("/")[0] or folder.name for name in names]
    else:
        columns, folder = read_columns(source), (root or source.parent).resolve()
        kinds = [*(columns.find("category") or ("",) * len(columns.rows))]
    paths = resolve_paths(columns, columns.require("path", "filepath"), root=folder)
    category = encode_names([kind or "scene" for kind in kinds])
    return Backgrounds(
        name=folder.name if source.is_dir() else source.stem,
        root=folder,
        ids=check_unique(columns, columns.find("id") or relative_names(paths, root=folder)),
        paths=paths,
        category_ids=category.codes,
        categories=category.names,
    )


def fit_background(image: Image.Image, *, side: int) -> Image.Image:
    """Crop the largest square around the middle and resize it to `side` by `side` with Lanczos.

    The paper does not say how scenes become square; a crop keeps their proportions.

    Example:
        >>> fit_background(Image.new("RGB", (40, 30)), side=8).size
        (8, 8)
    """
    return ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)
