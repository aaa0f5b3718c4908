"""Places365 as backgrounds (Zhou et al., 2018), in each of the three layouts it is found in.

The same category is called `/f/forest/broadleaf` in the list of categories, lies in
`f/forest/broadleaf` in the tar files, and in a folder of one level (`forest-broadleaf` or
`forest_broadleaf`) in the easy format. Names are compared with `/`, `-` and `_` taken for equal,
and an image has one id in all layouts: `f/forest/broadleaf/00000001.jpg`, which is what the
metadata of Waterbirds calls it, or `val/Places365_val_00000001.jpg`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from fieldmark.core.errors import TableError, UsageError
from fieldmark.core.seeds import generator
from fieldmark.data.backgrounds import Backgrounds
from fieldmark.data.columns import Columns, check_unique, encode_names, resolve_paths
from fieldmark.data.datasets.info import DatasetInfo
from fieldmark.data.images import IMAGE_SUFFIXES
from fieldmark.data.layout import SHOWN, read_lines, require_files

WATERBIRDS_LAND = ("bamboo_forest", "forest/broadleaf")
WATERBIRDS_WATER = ("ocean", "lake/natural")
# BAP L.5.1. Places365 has no "kitchenette"; Places205 had.
GENDER_MAN = ("excavation", "construction_site")
GENDER_WOMAN = ("kitchen", "kitchenette")
# BAP M.3.3 pre-trains on 50 categories and names 25: 24 in Table 16, and "coast" in L.5.1. "Abbey"
# is of Places205, and "ocean" is a background of Waterbirds. The other 23 come first here; the rest
# was chosen by fieldmark, a third each of nature, towns and rooms, and none that a test is made of.
PRETRAINING = (
    *("alley", "attic", "auditorium", "bar", "bridge", "canyon", "castle", "cemetery", "chalet"),
    *("classroom", "closet", "crevasse", "driveway", "engine_room", "iceberg", "igloo"),
    *("martial_arts_gym", "pond", "rainforest", "shopfront", "sky", "windmill", "coast"),
    *("badlands", "cliff", "creek", "desert/sand", "field/wild", "glacier", "mountain", "tundra"),
    *("valley", "volcano", "waterfall", "wheat_field"),
    *("airfield", "downtown", "highway", "plaza", "railroad_track", "skyscraper", "street"),
    *("church/indoor", "corridor", "gymnasium/indoor", "library/indoor", "living_room", "lobby"),
    *("server_room", "supermarket"),
)
# With "ocean" as in Table 16, in the place of a category that the paper does not name.
PRETRAINING_PAPER = tuple("ocean" if name == "creek" else name for name in PRETRAINING)
PRESETS: Mapping[str, tuple[str, ...]] = {
    "pretraining": PRETRAINING,
    "pretraining-paper": PRETRAINING_PAPER,
    "waterbirds-land": WATERBIRDS_LAND,
    "waterbirds-water": WATERBIRDS_WATER,
    "gender-man": GENDER_MAN,
    "gender-woman": GENDER_WOMAN,
}
# Named by the paper, known to Places205 alone: passed over where a folder lacks them.
PLACES205_ONLY = frozenset({"abbey", "kitchenette"})
N_CATEGORIES = 365
LIST, VAL_LIST = "categories_places365.txt", "places365_val.txt"
_STANDARD = "places365_standard"
FOLDERS = (_STANDARD, "places365", f"places365/{_STANDARD}", "Places365", "places")
TRAIN = ("data_large_standard", "data_large", "data_256_standard", "data_256", "train")
VAL = ("val_large", "val_256", "val")
# Categories of two levels: what a flattened folder name stands for.
_NESTED = """
apartment_building/outdoor arena/hockey arena/performance arena/rodeo athletic_field/outdoor
atrium/public bakery/shop balcony/exterior balcony/interior basketball_court/indoor bazaar/indoor
bazaar/outdoor booth/indoor bow_window/indoor bus_station/indoor cabin/outdoor canal/natural
canal/urban church/indoor church/outdoor desert/sand desert/vegetation diner/outdoor doorway/outdoor
elevator/door escalator/indoor field/cultivated field/wild flea_market/indoor florist_shop/indoor
forest/broadleaf garage/indoor garage/outdoor gazebo/exterior general_store/indoor
general_store/outdoor greenhouse/indoor greenhouse/outdoor gymnasium/indoor hangar/indoor
hangar/outdoor hotel/outdoor hunting_lodge/outdoor ice_skating_rink/indoor ice_skating_rink/outdoor
inn/outdoor jacuzzi/indoor kennel/outdoor lake/natural library/indoor library/outdoor market/indoor
market/outdoor moat/water mosque/outdoor movie_theater/indoor museum/indoor museum/outdoor
parking_garage/indoor parking_garage/outdoor pub/indoor shopping_mall/indoor stadium/baseball
stadium/football stadium/soccer stage/indoor stage/outdoor subway_station/platform
swimming_pool/indoor swimming_pool/outdoor synagogue/outdoor temple/asia train_station/platform
underwater/ocean_deep volleyball_court/outdoor
"""


def flatten_category(name: str) -> str:
    """Return a category's name as all layouts agree on it, to compare by.

    Example:
        >>> {flatten_category(n) for n in ("/f/forest/broadleaf", "forest-broadleaf")}
        {'forest_broadleaf'}
    """
    parts = [part for part in name.lower().split("/") if part]
    if len(parts) > 1 and len(parts[0]) == 1:
        parts = parts[1:]
    return "_".join(parts).replace("-", "_")


_BY_FLAT = {flatten_category(name): name for name in _NESTED.split()}
_PARENTS = frozenset(name.partition("/")[0] for name in _NESTED.split())


def name_category(name: str) -> str:
    """Return a category's name without its letter and with its second level after a slash.

    Example:
        >>> name_category("forest-broadleaf"), name_category("/b/bamboo_forest")
        ('forest/broadleaf', 'bamboo_forest')
    """
    flat = flatten_category(name)
    return _BY_FLAT.get(flat, flat)


def choose_categories(categories: str | Sequence[str]) -> tuple[str, ...] | None:
    """Return the names of some categories, each once.

    Args:
        categories: a key of `PRESETS`, names (with commas between them in a string), or "all".

    Returns:
        Names as `name_category` writes them; None for all.

    Raises:
        UsageError: there is no name.

    Example:
        >>> choose_categories("ocean,/l/lake/natural"), choose_categories("all")
        (('ocean', 'lake/natural'), None)
    """
    if categories == "all":
        return None
    if isinstance(categories, str):
        categories = PRESETS.get(categories) or categories.split(",")
    names = tuple(dict.fromkeys(name_category(c.strip()) for c in categories if c.strip()))
    if not names:
        raise UsageError("no category is named", mend=f"name some, or one of {', '.join(PRESETS)}")
    return names


def open_places365(
    root: Path,
    *,
    split: str = "train",
    categories: str | Sequence[str] = "all",
    per_category: int = 0,
    seed: int = 0,
) -> Backgrounds:
    """Find the scenes of some categories in any of the layouts.

    Args:
        root: the folder, or one above it; the larger images are taken where there are two sizes.
        split: "train" or "val".
        categories: as in `choose_categories`.
        per_category: most images of a category, drawn by the seed; 0 for all.
        seed: of the draw.

    Raises:
        TableError: no such layout, or a category without an image; the first ten and their count.
        UsageError: another split, no category, a count below 0.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     image = Path(folder) / "places365_standard" / "train" / "forest-broadleaf" / "1.jpg"
        ...     image.parent.mkdir(parents=True)
        ...     image.touch()
        ...     open_places365(Path(folder), categories="forest/broadleaf").ids
        ('f/forest/broadleaf/1.jpg',)
    """
    if per_category < 0:
        raise UsageError(f"per_category {per_category} is below 0", mend="give 0 for all")
    names = choose_categories(categories)
    folder = find_split(root, split=split)
    files = list_files(folder, names)
    lacking = [name for name in names or () if name not in files and name not in PLACES205_ONLY]
    if lacking or not files:
        raise _lack(folder, lacking)
    drawn = {
        name: _draw(files[name], count=per_category, seed=seed, category=name)
        for name in names or sorted(files)
        if name in files
    }
    return _gather(folder, drawn, split=split)


def find_split(root: Path, *, split: str = "train") -> Path:
    """Return the folder of a split.

    Raises:
        TableError: there is none; the names it may have are listed.
        UsageError: the split is neither "train" nor "val".
    """
    if split not in ("train", "val"):
        raise UsageError(f"split {split!r} is neither train nor val")
    names = TRAIN if split == "train" else VAL
    for base in (root, *(root / name for name in FOLDERS)):
        for name in names:
            if (base / name).is_dir():
                return base / name
    raise TableError(
        f"has none of the folders {', '.join(names)}, nor has one of {', '.join(FOLDERS)} below it",
        where=root,
        mend="unpack Places365 there or name its folder",
    )


def list_files(folder: Path, names: Sequence[str] | None = None) -> dict[str, list[str]]:
    """Return the images of each category, sorted, as paths below the folder of a split.

    Args:
        folder: of a split, see `find_split`.
        names: categories to list; all by default. Folders of others are not read.

    Raises:
        TableError: images without category folders, whose lists are missing or off.
    """
    folders = _find_categories(folder)
    if not folders:
        return _list_flat(folder, names)
    wanted = folders if names is None else {n: folders[n] for n in names if n in folders}
    listed = {name: _list_images(folder, below) for name, below in wanted.items()}
    return {name: files for name, files in listed.items() if files}


def _find_categories(folder: Path) -> dict[str, str]:
    """Find category folders beneath letters or not, without reading those that hold images."""
    first = _list_folders(folder)
    if first and all(len(name) == 1 for name in first):
        first = [f"{letter}/{name}" for letter in first for name in _list_folders(folder / letter)]
    found = {}
    for below in first:
        name = below.rpartition("/")[2]
        inner = _list_folders(folder / below) if name in _PARENTS else []
        for path in [f"{below}/{child}" for child in inner] or [below]:
            found[name_category(path)] = path
    return found


def _list_folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _list_images(folder: Path, below: str) -> list[str]:
    with os.scandir(folder / below) as entries:
        return sorted(
            f"{below}/{e.name}"
            for e in entries
            if os.path.splitext(e.name)[1].lower() in IMAGE_SUFFIXES and e.name[0] != "."  # noqa: PTH122
        )


def _list_flat(folder: Path, names: Sequence[str] | None) -> dict[str, list[str]]:
    """Sort images that lie in one folder, as those of the validation part do, by its list."""
    lists = {name: _find_list(folder, name) for name in (LIST, VAL_LIST)}
    category = {number: name_category(name) for _, name, number in _read_pairs(lists[LIST])}
    files: dict[str, list[str]] = {}
    for row, file, number in _read_pairs(lists[VAL_LIST]):
        if number not in category:
            raise TableError(
                f"category {number} is not in {LIST}",
                where=f"{lists[VAL_LIST]}, row {row}",
                mend="use the lists of one release",
            )
        if names is None or category[number] in names:
            files.setdefault(category[number], []).append(file)
    require_files((folder / file for group in files.values() for file in group), root=folder)
    return {name: sorted(group) for name, group in files.items()}


def _find_list(folder: Path, name: str) -> Path:
    found = next((f / name for f in (folder.parent, folder) if (f / name).is_file()), None)
    if found is None:
        raise TableError(
            f"its images are in no category folders, and there is no {name} beside it",
            where=folder,
            mend="put the lists of Places365 (filelist_places365-standard.tar) there",
        )
    return found


def _read_pairs(source: Path) -> Iterable[tuple[int, str, int]]:
    for row, line in enumerate(read_lines(source, mend="fetch the list again"), 1):
        name, _, number = line.rpartition(" ")
        if name and re.fullmatch("[0-9]{1,9}", number):
            yield row, name, int(number)
        elif line.strip():
            raise TableError(
                f"{line[:40]!r} is not a name and a number",
                where=f"{source}, row {row}",
                mend="fetch the list again",
            )


def _draw(files: Sequence[str], *, count: int, seed: int, category: str) -> list[str]:
    if not 0 < count < len(files):
        return list(files)
    chosen = generator(seed, "places365", category).permutation(len(files))[:count]
    return [files[i] for i in sorted(chosen.tolist())]


def _gather(folder: Path, files: Mapping[str, Sequence[str]], *, split: str) -> Backgrounds:
    names = [file for group in files.values() for file in group]
    kinds = [category for category, group in files.items() for _ in group]
    columns = Columns(folder, {}, names)
    prefixes = {c: "val" if split == "val" else f"{c[0]}/{c}" for c in files}
    ids = [
        f"{prefixes[kind]}/{name.rpartition('/')[2]}"
        for kind, name in zip(kinds, names, strict=True)
    ]
    encoded = encode_names(kinds, names=tuple(files))
    return Backgrounds(
        name="places365",
        root=folder.resolve(),
        ids=check_unique(columns, ids),
        paths=resolve_paths(columns, names, root=folder),
        category_ids=encoded.codes,
        categories=encoded.names,
    )


def _lack(folder: Path, lacking: Sequence[str]) -> TableError:
    if not lacking:
        return TableError("has no image", where=folder, mend="unpack Places365 again")
    more = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
    count = "1 category has" if len(lacking) == 1 else f"{len(lacking)} categories have"
    return TableError(
        f"{count} no image: {', '.join(lacking[:SHOWN])}{more}",
        where=folder,
        mend="unpack Places365 again, or name others",
    )


def check_places365(
    root: Path, *, split: str = "train", categories: str | Sequence[str] = "all"
) -> list[str]:
    """Return what is missing or off, a line each.

    Args:
        root: the folder.
        split: "train" or "val".
        categories: as in `choose_categories`.

    Raises:
        UsageError: as in `open_places365`.
    """
    try:
        found = open_places365(root, split=split, categories=categories, per_category=1)
        if categories != "all":
            return []
        folder = find_split(root, split=split)
        known = folder.parent / LIST
        names = [name_category(n) for _, n, _ in _read_pairs(known)] if known.is_file() else []
    except TableError as error:
        return [str(error)]
    lacking = [name for name in names if name not in found.categories]
    if lacking:
        return [str(_lack(folder, lacking))]
    count = len(np.unique(found.category_ids))
    few = not names and count < N_CATEGORIES
    return [f"{folder}: has {count} of {N_CATEGORIES} categories"] if few else []


INFO = DatasetInfo(
    name="places365",
    summary="photographs of 365 kinds of scene, as backgrounds",
    kind="backgrounds",
    licence=(
        "non-commercial research and education only, images not to be passed on, as its site says "
        "(places2.csail.mit.edu); their owners keep the copyright"
    ),
    citation=(
        "Zhou, Lapedriza, Khosla, Oliva, Torralba: Places: A 10 Million Image Database for Scene "
        "Recognition, IEEE TPAMI 40(6), 1452-1464, 2018"
    ),
    layout="""one of
data_large_standard/ or data_256_standard/ LETTER/CATEGORY[/SUB]/*.jpg   (torchvision)
data_large/ or data_256/ LETTER/CATEGORY[/SUB]/*.jpg                     (tar)
places365_standard/train/CATEGORY/*.jpg, .../val/CATEGORY/*.jpg          (easy format)
validation images of the first two: val_large/ or val_256/*.jpg with
categories_places365.txt and places365_val.txt beside the folder""",
    open=open_places365,
    check=check_places365,
    options={"split": "train", "categories": "all", "per_category": 0, "seed": 0},
    choices={"split": ("train", "val")},
)
