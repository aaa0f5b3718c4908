"""COCO 2017 instances as foregrounds (Lin et al., 2014); for BAP's vehicles see its appendix M.6.1.

Annotation files and images come in separate archives, so each is looked for by itself: the JSON in
`annotations/`, the images beside it, in `images/`, or below `coco/`. Crowds are always left out: a
crowd is no object.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from fieldmark.core.errors import TableError
from fieldmark.core.json_text import parse_json
from fieldmark.data.coco import UNFIT, Instances, read_instances
from fieldmark.data.columns import Columns, resolve_paths
from fieldmark.data.datasets.info import DatasetInfo
from fieldmark.data.foregrounds import Foregrounds, Outline
from fieldmark.data.layout import describe_missing, find_folder, list_missing, require_files
from fieldmark.data.masks import Degradation

# BAP M.6.1: six classes, without truck and motorcycle, which are left for the test.
VEHICLES = ("car", "bus", "airplane", "boat", "train", "bicycle")
PRESETS: dict[str, tuple[str, ...] | None] = {"vehicles": VEHICLES, "all": None}
# Least sides of a box: M.6.1 for vehicles, L.1 for people.
VEHICLE_BOX, PERSON_BOX = 28, 112
FOLDERS = ("coco", "COCO", "coco2017", "COCO2017", "mscoco", "MSCOCO")
LICENCE = (
    "annotations CC-BY-4.0; images under the terms of Flickr, each under the licence that the "
    "annotation file gives it"
)
CITATION = "Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014"
LAYOUT = """annotations/instances_train2017.json
annotations/instances_val2017.json
train2017/*.jpg (or images/train2017/*.jpg)
val2017/*.jpg (or images/val2017/*.jpg)"""


def open_coco(
    root: Path,
    *,
    split: str = "train2017",
    classes: str | Sequence[str] = "vehicles",
    min_box: float = VEHICLE_BOX,
    degrade: Degradation = "none",
) -> Foregrounds:
    """Read the objects of some categories.

    Args:
        root: folder that holds `annotations/`, itself or in a folder `coco`.
        split: `train2017` or `val2017`.
        classes: category names, several divided by commas, or a preset: `vehicles` (BAP M.6.1) or
            `all`.
        min_box: least width and height of an object's box in pixels: 28 for vehicles (M.6.1), 112
            for people (L.1).
        degrade: how masks are spoilt (BAP I.2).

    Raises:
        TableError: the annotations or images are not there (the first ten and their count), an
            unknown category, or no object left.

    Example:
        >>> open_coco(Path("nowhere"))
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.TableError: nowhere: has no annotations/instances_train2017.json, ...
    """
    source = find_annotations(root, split=split)
    instances = read_instances(source, classes=choose_classes(classes), min_box=min_box)
    folder = find_images(source, split=split)
    require_files((folder / name for name in dict.fromkeys(instances.files)), root=folder)
    columns = Columns(source, {}, [f"of object {name}" for name in instances.ids])
    return Foregrounds(
        name=f"coco-{split}",
        root=folder.resolve(),
        ids=instances.ids,
        paths=resolve_paths(columns, instances.files, root=folder),
        outlines=tuple(Outline(segmentation=s) for s in instances.segmentations),
        labels=instances.labels,
        classes=instances.classes,
        degrade=degrade,
    )


def choose_classes(classes: str | Sequence[str]) -> tuple[str, ...] | None:
    """Return category names of a preset, of a list with commas, or of a sequence; None means all.

    Example:
        >>> choose_classes("vehicles")[:2], choose_classes("dog, cat"), choose_classes("all")
        (('car', 'bus'), ('dog', 'cat'), None)
    """
    if not isinstance(classes, str):
        return tuple(classes)
    if classes in PRESETS:
        return PRESETS[classes]
    return tuple(name.strip() for name in classes.split(",") if name.strip())


def find_annotations(root: Path, *, split: str = "train2017") -> Path:
    """Return the file of instances of a split, under `root` or a folder `coco` in it.

    Raises:
        TableError: there is none.
    """
    name = f"annotations/instances_{split}.json"
    return find_folder(root, FOLDERS, holds=name) / name


def find_images(annotations: Path, *, split: str = "train2017") -> Path:
    """Return the folder of the images that an annotation file speaks of.

    Raises:
        TableError: there is none.
    """
    root = annotations.parent.parent
    return find_folder(root, ("images",), holds=split) / split


def read_licences(annotations: Path, *, files: Collection[str]) -> dict[str, str]:
    """Return the licence that COCO gives each image.

    Args:
        annotations: an `instances_*.json`.
        files: names of image files.

    Returns:
        File name to the licence's name and address; `unknown` where the file says nothing.

    Raises:
        TableError: not such a file.
    """
    try:
        content = parse_json(annotations.read_text(encoding="utf-8"))
        names = {
            row["id"]: " ".join(filter(None, (row.get("name"), row.get("url"))))
            for row in content.get("licenses", [])
        }
        given = {row["file_name"]: row.get("license") for row in content["images"]}
        return {name: names.get(given.get(name), "unknown") for name in files}
    except (OSError, *UNFIT) as error:
        raise TableError(
            "is not a COCO instances file", where=annotations, mend="unpack the annotations again"
        ) from error


def check_coco(
    root: Path,
    *,
    split: str = "train2017",
    classes: str | Sequence[str] = "vehicles",
    min_box: float = VEHICLE_BOX,
    degrade: Degradation = "none",
) -> list[str]:
    """Return what is missing of a split, a line each; the options are those of `open_coco`.

    Only the images that hold an object of these classes are asked for.
    """
    try:
        source = find_annotations(root, split=split)
        instances = read_instances(source, classes=choose_classes(classes), min_box=min_box)
        folder = find_images(source, split=split)
    except TableError as error:
        return [str(error)]
    missing = list_missing(folder / name for name in dict.fromkeys(instances.files))
    found = [describe_missing(missing, root=folder.parent)] if missing else []
    return found + _list_absent(instances)


def _list_absent(instances: Instances) -> list[str]:
    held = set(instances.labels.tolist())
    return [
        f"no object of category {name!r} fits"
        for number, name in enumerate(instances.classes)
        if number not in held
    ]


INFO = DatasetInfo(
    name="coco",
    summary="objects of COCO 2017 by category; by default the six vehicles that BAP trains on",
    kind="foregrounds",
    licence=LICENCE,
    citation=CITATION,
    layout=LAYOUT,
    open=open_coco,
    check=check_coco,
    options={
        "split": "train2017",
        "classes": "vehicles",
        "min_box": VEHICLE_BOX,
        "degrade": "none",
    },
    choices={
        "split": ("train2017", "val2017"),
        "degrade": ("none", "dilated", "eroded", "box"),
    },
)
