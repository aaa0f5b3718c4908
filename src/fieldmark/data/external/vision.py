"""Data sets of torchvision: anything that gives (image, number of a class) and knows its classes.

A folder of classes (`ImageFolder` and its kin) is read where it is. Of the others the pixels are
written as PNG files into the cache, without loss.
"""

from __future__ import annotations

import inspect
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from fieldmark.core.errors import TableError, UsageError
from fieldmark.data.external.samples import Sample, encode_image, materialise
from fieldmark.data.tables import ImageTable

# torchvision reads these with Python's pickle, which can run any code.
PICKLED = frozenset({"CIFAR10", "CIFAR100", "LSUN", "LSUNClass"})
# What torchvision calls a split; of several names a data set knows one.
SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "trainval", "train-standard"),
    "val": ("val",),
    "valid": ("valid",),
    "test": ("test",),
}


class _Part(NamedTuple):
    """One split of a data set, as torchvision opened it."""

    split: str
    dataset: Any


def from_torchvision(dataset: Any, *, name: str = "", split: str = "") -> ImageTable:
    """Return a torchvision data set as a table; its images are kept in the cache.

    Args:
        dataset: gives (image, label) by index, opened without a transform.
        name: for records; the name of its class by default.
        split: name of the split that all rows get.

    Returns:
        The images, with `dataset.classes` as classes where it has them, else its numbers.

    Raises:
        TableError: a row is no pair of an image and a whole number, or the number is out of range.

    Example:
        >>> import os, tempfile
        >>> from unittest.mock import patch
        >>> pairs = [(Image.new("L", (4, 4), 9), 1), (Image.new("L", (4, 4), 7), 0)]
        >>> with tempfile.TemporaryDirectory() as cache, patch.dict(os.environ,
        ...                                                         FIELDMARK_CACHE=cache):
        ...     table = from_torchvision(pairs, name="two")
        ...     table.labels.tolist(), table.classes, table.read(1).getpixel((0, 0))
        ([1, 0], ('0', '1'), (7, 7, 7))
    """
    name = name or type(dataset).__name__
    return _gather(name, [_Part(split, dataset)])


def open_torchvision(source: str, *, root: Path | None = None) -> ImageTable:
    """Open what `--data torchvision:CLASS` names, all its splits, downloading nothing.

    Args:
        source: a class of `torchvision.datasets`, such as "FashionMNIST"; `:SPLIT` after it keeps
            one split.
        root: what the class takes as `root`.

    Raises:
        UsageError: no such class, no root, one that needs more than a root, or one whose files are
            pickles.
        TableError: its files are not in `root`, or a row is off.

    Example:
        >>> open_torchvision("CIFAR10", root=Path("nowhere"))
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.UsageError: torchvision:CIFAR10: its files are pickles, which are ...
    """
    name, _, split = source.partition(":")
    kind = _find_class(name, root=root)
    assert root is not None
    return _gather(name, _open_parts(kind, root, name=name, wanted=split))


def _find_class(name: str, *, root: Path | None) -> Callable[..., Any]:
    from torchvision import datasets

    where = f"torchvision:{name}"
    if name not in datasets.__all__ or not inspect.isclass(getattr(datasets, name)):
        raise UsageError("is no data set of torchvision", where=where, mend="check its name")
    if name in PICKLED:
        raise UsageError(
            "its files are pickles, which are never loaded",
            where=where,
            mend="load it yourself and give it to fieldmark.from_torchvision",
        )
    if root is None:
        raise UsageError("needs --root", where=where, mend="name the folder that has its files")
    kind: Callable[..., Any] = getattr(datasets, name)
    parameters = inspect.signature(kind).parameters
    needed = [
        parameter.name
        for parameter in parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and parameter.name != "root"
    ]
    if needed or "root" not in parameters:
        what = f"needs more than a root ({', '.join(needed)})" if needed else "takes no root"
        raise UsageError(
            what, where=where, mend="open it yourself and give it to fieldmark.from_torchvision"
        )
    return kind


def _open_parts(kind: Callable[..., Any], root: Path, *, name: str, wanted: str) -> list[_Part]:
    """Open every split that is there, or the one that is wanted."""
    choices = _list_choices(kind)
    if wanted and wanted not in choices:
        known = f"choose one of {', '.join(choices)}, or leave it out"
        raise TableError(
            f"has no split {wanted!r}",
            where=f"torchvision:{name}",
            mend="leave it out" if "" in choices else known,
        )
    parts, reasons = [], []
    for split in [wanted] if wanted else choices:
        for words in choices[split]:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    parts.append(_Part(split, kind(root=str(root), **words)))
            except Exception as error:  # each data set has errors of its own for what is not there
                reasons.append(_name_reason(error))
                if isinstance(error, ValueError):  # it does not know the split by this name
                    continue
                if not isinstance(error, FileNotFoundError) and "not found" not in str(error):
                    raise TableError(
                        f"cannot be opened: {split or 'the data set'} is damaged ({reasons[-1]})",
                        where=f"torchvision:{name} in {root}",
                        mend="fetch its files again",
                    ) from error
            break
    if not parts:
        raise TableError(
            f"cannot be opened ({reasons[-1]})",
            where=f"torchvision:{name} in {root}",
            mend="fetch it there yourself; fieldmark downloads no published data",
        )
    return parts


def _list_choices(kind: Callable[..., Any]) -> dict[str, list[dict[str, Any]]]:
    """Return what to open each split with, by its name; blank where there are none."""
    parameters = inspect.signature(kind).parameters
    # By default some of them go out to the network.
    still = {"download": False} if "download" in parameters else {}
    if "train" in parameters:
        return {name: [{**still, "train": name == "train"}] for name in ("train", "test")}
    if "split" in parameters:
        return {
            split: [{**still, "split": name} for name in names] for split, names in SPLITS.items()
        }
    return {"": [still]}


def _name_reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "").rstrip(".") or type(error).__name__


def _gather(name: str, parts: Sequence[_Part]) -> ImageTable:
    orders = {_name_classes(getattr(part.dataset, "classes", None) or ()) for part in parts}
    if len(orders) > 1:
        raise TableError("has other classes in each split", where=name, mend="open one split")

    def draw() -> Iterator[Sample]:
        for part in parts:
            yield from _draw(part, name=name, classes=next(iter(orders)), prefixed=len(parts) > 1)

    return materialise(name, draw, classes=next(iter(orders)))


def _name_classes(given: Sequence[Any]) -> tuple[str, ...]:
    """Return a name for each class: the first of several, as ImageNet has, and each its own.

    Example:
        >>> _name_classes([("crane", "bird"), ("crane",), "gull"])
        ('crane', 'crane (1)', 'gull')
    """
    names: list[str] = []
    for number, one in enumerate(given):
        name = str(one[0] if isinstance(one, (tuple, list)) and one else one).strip()
        names.append(f"{name} ({number})" if name in names else name)
    return tuple(names)


def _draw(part: _Part, *, name: str, classes: tuple[str, ...], prefixed: bool) -> Iterator[Sample]:
    where = f"{name}, {part.split}" if part.split else name
    front = f"{part.split}/" if prefixed else ""
    files = _list_files(part.dataset)
    for index in range(_read_foreign(len, part.dataset, where=where)):
        row = f"{where}, row {index}"
        if files is None:
            given = _read_foreign(operator.getitem, part.dataset, index, where=row)
            image, target = _take_pair(given, where=row)
            encoded = encode_image(_to_image(image, where=row))
            data, suffix = encoded.data, encoded.suffix
        else:
            path, target = files[index]
            data, suffix = _read(path, where=row), path.suffix
        yield Sample(
            id=f"{front}{index:07d}",
            where=row,
            image=data,
            suffix=suffix,
            label=_name_label(target, classes=classes, where=row),
            split=part.split,
        )


def _read_foreign(read: Callable[..., Any], *given: Any, where: str) -> Any:
    try:
        return read(*given)
    except Exception as error:  # another library's code, over files that may be damaged
        raise TableError(
            f"cannot be read ({_name_reason(error)})", where=where, mend="fetch its files again"
        ) from error


def _list_files(dataset: Any) -> list[tuple[Path, Any]] | None:
    """Return the files and labels of a folder of classes; None for what is held in other ways."""
    from torchvision.datasets import ImageFolder

    if not isinstance(dataset, ImageFolder):
        return None
    return [(Path(path), target) for path, target in dataset.samples]


def _read(path: Path, *, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TableError(f"no such file: {str(path)!r}", where=where, mend="mend it") from error


def _take_pair(row: Any, *, where: str) -> tuple[Any, Any]:
    if isinstance(row, (tuple, list)) and len(row) == 2:
        return row[0], row[1]
    if isinstance(row, Mapping) and {"image", "label"} <= row.keys():
        return row["image"], row["label"]
    raise TableError(
        "is no pair of image and label", where=where, mend="open it with one target, the class"
    )


def _to_image(image: Any, *, where: str) -> Image.Image:
    if not isinstance(image, Image.Image):
        raise TableError(
            f"the image is a {type(image).__name__}, not a picture",
            where=where,
            mend="open the data set without a transform",
        )
    return image


def _name_label(target: Any, *, classes: tuple[str, ...], where: str) -> str:
    """Return the name of a class; whole numbers of numpy and torch are taken too."""
    try:
        number = target if isinstance(target, (int, str)) else int(target.__index__())
    except (AttributeError, TypeError, ValueError) as error:
        raise TableError(
            f"the label is a {type(target).__name__}, no whole number",
            where=where,
            mend="open it with one target, the class",
        ) from error
    if isinstance(number, str) or not classes:
        return str(number).strip()
    if not 0 <= number < len(classes):
        raise TableError(
            f"the label {number} is out of the range 0 to {len(classes) - 1}",
            where=where,
            mend="mend the row",
        )
    return classes[number]
