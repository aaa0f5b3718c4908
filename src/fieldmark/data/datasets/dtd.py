"""DTD as backgrounds: textures of 47 kinds (Cimpoi et al., 2014).

The archive unpacks to `dtd/`, and torchvision unpacks it into a folder of that name, so images are
looked for at `images/`, `dtd/images/` and `dtd/dtd/images/`. The lists of the ten official
partitions in `labels/` are read only where a split is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fieldmark.core.errors import TableError, UsageError
from fieldmark.data.backgrounds import Backgrounds
from fieldmark.data.columns import Columns, check_unique, encode_names, relative_names
from fieldmark.data.datasets.cub import resolve_all
from fieldmark.data.datasets.info import DatasetInfo
from fieldmark.data.images import list_images
from fieldmark.data.layout import find_folder, read_lines

SPLITS = ("all", "train", "val", "test")
N_PARTITIONS, N_CATEGORIES, N_IMAGES = 10, 47, 5640


def open_dtd(root: Path, *, split: str = "all", partition: int = 1) -> Backgrounds:
    """Find the textures; the id of each is its path below `images/`.

    Args:
        root: the folder, or one or two above it.
        split: "all" images that there are, or those that a list of a partition names: "train",
            "val", "test".
        partition: 1 to 10.

    Raises:
        TableError: no image, no such list, or files that the list names are missing: the first ten
            and their count.
        UsageError: another split or partition.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     image = Path(folder) / "dtd" / "dtd" / "images" / "banded" / "banded_0002.jpg"
        ...     image.parent.mkdir(parents=True)
        ...     image.touch()
        ...     open_dtd(Path(folder)).ids
        ('banded/banded_0002.jpg',)
    """
    if split not in SPLITS:
        raise UsageError(f"split {split!r} is none of {', '.join(SPLITS)}")
    if not 1 <= partition <= N_PARTITIONS:
        raise UsageError(f"partition {partition} is not between 1 and {N_PARTITIONS}")
    folder = find_folder(root, ("dtd", "dtd/dtd"), holds="images")
    images = folder / "images"
    if split == "all":
        source, names = images, relative_names(list_images(images.resolve()), root=images)
    else:
        source = folder / "labels" / f"{split}{partition}.txt"
        names = _read_list(source)
    if not names:
        raise TableError("names no image", where=source, mend="unpack DTD again")
    return _gather(images, names, source=source)


def _read_list(source: Path) -> list[str]:
    lines = read_lines(source, mend="unpack DTD again, or use split all")
    return [line.strip() for line in lines if line.strip()]


def _gather(images: Path, names: Sequence[str], *, source: Path) -> Backgrounds:
    columns = Columns(source, {}, range(1, len(names) + 1))
    loose = next((index for index, name in enumerate(names) if "/" not in name), None)
    if loose is not None:
        raise TableError(
            f"{names[loose]!r} is in no category folder",
            where=columns.where(loose),
            mend="unpack DTD again",
        )
    category = encode_names([name.split("/")[0] for name in names])
    return Backgrounds(
        name="dtd",
        root=images.resolve(),
        ids=check_unique(columns, names),
        paths=resolve_all(columns, names, root=images),
        category_ids=category.codes,
        categories=category.names,
    )


def check_dtd(root: Path, *, split: str = "all", partition: int = 1) -> list[str]:
    """Return what is missing or off, a line each; the options are those of `open_dtd`.

    Raises:
        UsageError: another split or partition.
    """
    try:
        textures = open_dtd(root, split=split, partition=partition)
    except TableError as error:
        return [str(error)]
    found = []
    if len(textures.categories) != N_CATEGORIES:
        found.append(f"{textures.root}: has {len(textures.categories)} of {N_CATEGORIES} kinds")
    expected = N_IMAGES if split == "all" else N_IMAGES // 3
    if len(textures) != expected:
        found.append(f"{textures.root}: has {len(textures)} images, not {expected}")
    return found


INFO = DatasetInfo(
    name="dtd",
    summary="5,640 photographs of 47 kinds of texture, as backgrounds",
    kind="backgrounds",
    licence="made available to the computer vision community for research purposes",
    citation=(
        "Cimpoi, Maji, Kokkinos, Mohamed, Vedaldi: Describing Textures in the Wild, CVPR 2014"
    ),
    layout="""images/KIND/*.jpg, here or below dtd/ or dtd/dtd/
labels/train1.txt ... test10.txt beside images/, for a split""",
    open=open_dtd,
    check=check_dtd,
    options={"split": "all", "partition": 1},
    choices={"split": SPLITS},
)
