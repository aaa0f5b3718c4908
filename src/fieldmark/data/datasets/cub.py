"""CUB-200-2011: photographs of 200 species of bird with their masks (Wah et al., 2011).

The masks come in an archive of their own (segmentations.tgz), so `segmentations/` is looked for
inside the folder and beside it. They are soft: each pixel is how many of five people marked it, in
steps of 51, and above 100 (`data.masks.THRESHOLD`) means at least two of them.

Waterbirds calls a species a waterbird if one of 17 words is part of its name. "Tern" is also part
of "eastern" and "western", so three landbirds are waterbirds there (group DRO's README says so):
labels can be the `official` ones or `fixed`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fieldmark.core.errors import InputError, TableError, UsageError
from fieldmark.data.columns import Columns, check_unique, encode_names, resolve_paths
from fieldmark.data.datasets.info import DatasetInfo
from fieldmark.data.foregrounds import Foregrounds, Outline
from fieldmark.data.layout import (
    describe_missing,
    find_folder,
    list_missing,
    read_lines,
    require_files,
)
from fieldmark.data.masks import Degradation
from fieldmark.data.tables import ImageTable

CLASSES = ("landbird", "waterbird")
LABELS = ("species", "official", "fixed")
FOLDERS = ("CUB_200_2011", "cub/CUB_200_2011", "CUB/CUB_200_2011", "cub", "CUB")
MASKS = "segmentations"
# The words that make a species a waterbird (Sagawa et al., 2020): seabirds, then waterfowl.
WATERBIRD_WORDS = (
    *("albatross", "auklet", "cormorant", "frigatebird", "fulmar", "gull", "jaeger", "kittiwake"),
    *("pelican", "puffin", "tern", "gadwall", "grebe", "mallard", "merganser", "guillemot"),
    "pacific_loon",
)
MISLABELLED = ("eastern_towhee", "western_meadowlark", "western_wood_pewee")


class Birds(NamedTuple):
    """The lists of CUB, by row.

    Attributes:
        source: images.txt.
        numbers: n ids as CUB numbers its images, from "1".
        names: n paths below `images/`, which are the ids everywhere else here.
        is_train: (n,) of CUB's own split.
    """

    source: Path
    numbers: tuple[str, ...]
    names: tuple[str, ...]
    is_train: NDArray[np.bool_]


def name_species(image: str) -> str:
    """Return the species of an image in lower case, out of the folder that it lies in.

    Example:
        >>> name_species("001.Black_footed_Albatross/a.jpg")
        'black_footed_albatross'
    """
    return image.split("/")[0].partition(".")[2].lower()


def is_waterbird(image: str, *, labels: str = "official") -> bool:
    """Return whether Waterbirds calls a bird a waterbird.

    Args:
        image: path of its image below CUB's `images/`.
        labels: "official" matches parts of words as the published data do, "fixed" leaves out the
            three landbirds that this makes waterbirds.

    Example:
        >>> towhee = "021.Eastern_Towhee/a.jpg"
        >>> is_waterbird(towhee), is_waterbird(towhee, labels="fixed")
        (True, False)
        >>> is_waterbird("053.Western_Grebe/a.jpg", labels="fixed")
        True
    """
    species = name_species(image)
    if labels == "fixed" and species in MISLABELLED:
        return False
    return any(word in species for word in WATERBIRD_WORDS)


def open_cub(
    root: Path,
    *,
    labels: str = "species",
    split: str = "all",
    degrade: Degradation = "none",
    exclude: ImageTable | None = None,
) -> Foregrounds:
    """Read the birds with their masks; the id of each is its path below `images/`.

    Args:
        root: CUB_200_2011 or the folder above it.
        labels: "species" for 200 classes; "official" or "fixed" for landbird and waterbird.
        split: "all", or CUB's own "train" or "test".
        degrade: how masks are spoilt (BAP appendix I.2).
        exclude: images that no bird may be in, by its column `objects` (BAP M.3.3).

    Raises:
        TableError: a list, a mask or an image is missing (the first ten and their count) or off.
        InputError: no bird is left.
        UsageError: labels or a split that there is not.
    """
    _check_choice("labels", labels, LABELS)
    _check_choice("split", split, ("all", "train", "test"))
    folder = find_folder(root, FOLDERS, holds="images.txt")
    birds = read_birds(folder)
    held_out = frozenset((exclude.objects or ()) if exclude is not None else ())
    wanted = birds.is_train if split == "train" else ~birds.is_train | (split == "all")
    chosen = [i for i, name in enumerate(birds.names) if wanted[i] and name not in held_out]
    if not chosen:
        raise InputError("no bird is left", where=folder, mend="exclude fewer or use another split")
    return _gather(folder, birds, chosen, labels=labels, degrade=degrade)


def find_cub(roots: Iterable[Path]) -> Path | None:
    """Return the first CUB_200_2011 at or below some folders, or None."""
    folders = (root / name for root in roots for name in ("", *FOLDERS))
    return next((folder for folder in folders if (folder / "images.txt").is_file()), None)


def _check_choice(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UsageError(f"{what} {value!r} is none of {', '.join(known)}")


def _gather(
    folder: Path, birds: Birds, chosen: Sequence[int], *, labels: str, degrade: Degradation
) -> Foregrounds:
    names = [birds.names[i] for i in chosen]
    masks = find_masks(folder)
    columns = Columns(birds.source, {}, [i + 1 for i in chosen])
    mask_names = [name_mask(name) for name in names]
    require_files((masks / name for name in mask_names), root=masks.parent)
    outlines = resolve_all(columns, mask_names, root=masks)
    if labels == "species":
        # In the order of CUB's numbers, which begin the names of its folders.
        kinds = [name.split("/")[0] for name in names]
        species = encode_names(kinds, names=sorted({name.split("/")[0] for name in birds.names}))
        codes = species.codes
        classes = tuple(name.partition(".")[2].replace("_", " ") for name in species.names)
    else:
        codes = np.array([is_waterbird(name, labels=labels) for name in names], np.int64)
        classes = CLASSES
    return Foregrounds(
        name="cub",
        root=(folder if masks.parent == folder else folder.parent).resolve(),
        ids=tuple(names),
        paths=resolve_all(columns, names, root=folder / "images"),
        outlines=tuple(Outline(mask=mask) for mask in outlines),
        labels=codes,
        classes=classes,
        degrade=degrade,
    )


def read_birds(folder: Path) -> Birds:
    """Read images.txt and train_test_split.txt.

    Args:
        folder: CUB_200_2011.

    Raises:
        TableError: a line that is off, an image twice, or one without a split.
    """
    source = folder / "images.txt"
    rows = list(_read_pairs(source))
    columns = Columns(source, {}, [row for row, _, _ in rows])
    numbers = check_unique(columns, [number for _, number, _ in rows])
    names = check_unique(columns, [name for _, _, name in rows])
    part = folder / "train_test_split.txt"
    codes = {number: (row, code) for row, number, code in _read_pairs(part)}
    wrong = next(((row, code) for row, code in codes.values() if code not in ("0", "1")), None)
    if wrong:
        raise TableError(
            f"the split code {wrong[1]!r} is neither 1 (train) nor 0 (test)",
            where=f"{part}, row {wrong[0]}",
            mend="fetch CUB-200-2011 again",
        )
    absent = [number for number in numbers if number not in codes]
    if absent:
        raise TableError(
            f"{len(absent)} images are in no split, the first is {absent[0]}",
            where=part,
            mend="fetch CUB-200-2011 again",
        )
    return Birds(source, numbers, names, np.array([codes[n][1] == "1" for n in numbers], np.bool_))


def read_is_train(root: Path) -> NDArray[np.bool_]:
    """Return (n,) which images CUB trains on, in the order of `open_cub` with split "all".

    Raises:
        TableError: as `read_birds`.
    """
    return read_birds(find_folder(root, FOLDERS, holds="images.txt")).is_train


def _read_pairs(source: Path) -> Iterator[tuple[int, str, str]]:
    for row, line in enumerate(read_lines(source, mend="unpack CUB_200_2011.tgz again"), 1):
        key, _, value = line.strip().partition(" ")
        if value:
            yield row, key, value
        elif key:
            raise TableError(
                f"{line!r} is not a number and a value",
                where=f"{source}, row {row}",
                mend="fetch CUB-200-2011 again",
            )


def name_mask(image: str) -> str:
    """Return the path of a mask below `segmentations/`.

    Example:
        >>> name_mask("001.Black_footed_Albatross/a.jpg")
        '001.Black_footed_Albatross/a.png'
    """
    return f"{image.rpartition('.')[0]}.png"


def find_masks(folder: Path) -> Path:
    """Return the folder of masks inside CUB_200_2011 or beside it.

    Raises:
        TableError: there is none.
    """
    for parent in (folder, folder.parent):
        if (parent / MASKS).is_dir():
            return parent / MASKS
    raise TableError(
        f"has no {MASKS}/ inside or beside it",
        where=folder,
        mend=f"masks have an archive of their own: unpack {MASKS}.tgz there",
    )


def resolve_all(columns: Columns, names: Sequence[str], *, root: Path) -> tuple[Path, ...]:
    """Resolve paths as `resolve_paths` does, but name the first ten files that are missing.

    Raises:
        TableError: files are missing, or a path is blank or leads outside `root`.
    """
    try:
        return resolve_paths(columns, names, root=root)
    except TableError:
        require_files((root / name for name in names), root=root)
        raise


def check_cub(root: Path, *, split: str = "all") -> list[str]:
    """Return what is missing or off, a line each: lists, images, masks.

    Args:
        root: CUB_200_2011 or the folder above it.
        split: "all", "train" or "test".

    Raises:
        UsageError: another split.
    """
    _check_choice("split", split, ("all", "train", "test"))
    try:
        folder = find_folder(root, FOLDERS, holds="images.txt")
        birds = read_birds(folder)
    except TableError as error:
        return [str(error)]
    wanted = birds.is_train if split == "train" else ~birds.is_train | (split == "all")
    names = [name for name, is_wanted in zip(birds.names, wanted, strict=True) if is_wanted]
    found = _list_absent(lambda: folder / "images", names)
    found += _list_absent(lambda: find_masks(folder), [name_mask(name) for name in names])
    try:
        return found or _check_paths(root, split=split)
    except InputError as error:
        return [str(error)]


def _list_absent(find: Callable[[], Path], names: Collection[str]) -> list[str]:
    try:
        place = find()
    except TableError as error:
        return [str(error)]
    missing = list_missing(place / name for name in names)
    return [f"{place}: {describe_missing(missing, root=place)}"] if missing else []


def _check_paths(root: Path, *, split: str) -> list[str]:
    open_cub(root, split=split)
    return []


INFO = DatasetInfo(
    name="cub",
    summary="photographs of 200 species of bird with soft masks, as foregrounds",
    kind="foregrounds",
    licence="images: non-commercial research and education only; their owners keep the copyright",
    citation=(
        "Wah, Branson, Welinder, Perona, Belongie: The Caltech-UCSD Birds-200-2011 Dataset, "
        "California Institute of Technology, CNS-TR-2011-001, 2011"
    ),
    layout="""CUB_200_2011/images/NNN.Species/*.jpg
CUB_200_2011/images.txt, train_test_split.txt
segmentations/NNN.Species/*.png, inside CUB_200_2011 or beside it""",
    open=open_cub,
    check=check_cub,
    options={"labels": "species", "split": "all", "degrade": "none"},
    choices={
        "labels": LABELS,
        "split": ("all", "train", "test"),
        "degrade": ("none", "dilated", "eroded", "box"),
    },
)
