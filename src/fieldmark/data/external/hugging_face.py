"""Data sets of Hugging Face's `datasets`: in memory, saved on disk, Parquet, image folders, hub.

Columns are found by name, the first that there is:

    image       image, img, jpg, png, webp          label      label, labels, y, cls
    attribute   attribute, background, place        split      split, else the name of the split
    object      object                              scene      scene, place_filename
    mask        mask                                id         id, img_id, image_id, else the row

Images are taken as the bytes they are stored in, nothing is decoded and encoded again. A row that
names a file instead is read only where the file lies in the data set's own folder.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from fieldmark.core.errors import FetchError, MissingExtraError, TableError
from fieldmark.core.fetch import cache_dir
from fieldmark.data.external.samples import Sample, encode_image, materialise, sniff_suffix
from fieldmark.data.tables import ImageTable

ROLES: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "img", "jpg", "png", "webp"),
    "label": ("label", "labels", "y", "cls"),
    "attribute": ("attribute", "background", "place"),
    "split": ("split",),
    "object": ("object",),
    "scene": ("scene", "place_filename"),
    "mask": ("mask",),
    "id": ("id", "img_id", "image_id"),
}
# The library wants a name for every split; these files have none.
_WHOLE = "whole"
_FILES = "_data_files"
_WORDS = ("attribute", "split", "object", "scene", "id")


def from_hf_dataset(dataset: Any, *, name: str = "", root: Path | None = None) -> ImageTable:
    """Return a data set of `datasets` as a table; its images are kept in the cache.

    Args:
        dataset: a `Dataset`, or a `DatasetDict` whose keys are the splits.
        name: for records; "hf-dataset" by default.
        root: folder that rows which name files may name them in; without it none may.

    Returns:
        The images with the names of the `ClassLabel` as classes, in its order. A label that is a
        plain number or string is its own name.

    Raises:
        TableError: a column is missing, a label is out of range, an image is missing, a file
            outside `root`; the row is named.
        MissingExtraError: `datasets` is not installed.

    Example:
        >>> from_hf_dataset({"train": "no data set"})
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.TableError: hf-dataset: is no data set of the library datasets ...
    """
    _import_datasets()
    name = name or "hf-dataset"
    parts = _name_parts(dataset).items()
    readers = [_Reader(part, split=key, name=name, root=root) for key, part in parts]
    orders = {reader.classes for reader in readers}
    if len(orders) > 1:
        raise TableError("has other classes in each split", where=name, mend="give them the same")
    many = len(readers) > 1

    def draw() -> Iterator[Sample]:
        for reader in readers:
            yield from reader.draw(prefixed=many)

    return materialise(name, draw, classes=orders.pop() if orders else ())


def open_hf_dataset(source: str, *, root: Path | None = None) -> ImageTable:
    """Open what `--data hf-dataset:SOURCE` names.

    Args:
        source: a folder that `save_to_disk` wrote, a Parquet file or a folder of them, a folder of
            images, or a name on the hub; `:SPLIT` after it keeps one split.
        root: folder that a path starts from.

    Raises:
        TableError: the data are off.
        FetchError: the hub does not have it or cannot be reached.
        MissingExtraError: `datasets` is not installed.
    """
    datasets = _import_datasets()
    path, split = _find_path(source, root=root)
    with _quiet(datasets):
        if path is not None:
            found, inside = _open_path(datasets, path), path if path.is_dir() else path.parent
        else:
            source, _, split = source.partition(":")
            found, inside = _open_hub(datasets, source), Path(datasets.config.HF_CACHE_HOME)
    if split:
        parts = _name_parts(found)
        if split not in parts:
            known = f"; its splits are: {', '.join(parts)}" if any(parts) else ""
            raise TableError(
                f"has no split {split!r}{known}",
                where=source,
                mend="choose one of them or leave it out" if known else "leave it out",
            )
        found = {split: parts[split]}
    name = (path or Path(source)).name
    with _quiet(datasets):
        return from_hf_dataset(found, name=name, root=inside)


def _name_parts(dataset: Any) -> dict[str, Any]:
    """Return a data set by split; blank where it names none."""
    held = isinstance(dataset, Mapping)
    return dict(dataset) if held else {str(getattr(dataset, "split", None) or ""): dataset}


class _Reader:
    """One split: which column plays which role, and its rows as samples."""

    def __init__(self, part: Any, *, split: str, name: str, root: Path | None) -> None:
        features = getattr(part, "features", None)
        if not isinstance(features, Mapping):
            raise TableError(
                "is no data set of the library datasets with known columns",
                where=name,
                mend="give a Dataset or a DatasetDict",
            )
        self.where = f"{name}, split {split}" if split else name
        self.split, self.root = split, root
        self.roles = {
            role: next(column for column in names if column in features)
            for role, names in ROLES.items()
            if any(column in features for column in names)
        }
        for role in ("image", "label"):
            if role not in self.roles:
                raise TableError(
                    f"has no column {role!r}; its columns are {', '.join(features)}",
                    where=self.where,
                    mend=f"rename one with rename_column(..., {role!r})",
                )
        self.names = {
            role: tuple(map(str, getattr(features[column], "names", None) or ()))
            for role, column in self.roles.items()
        }
        self.part = self._take_bytes(part, features)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the ClassLabel, or nothing."""
        return self.names["label"]

    def _take_bytes(self, part: Any, features: Mapping[str, Any]) -> Any:
        datasets = _import_datasets()
        # A transform of the user's would change what is read; columns without a role stay shut.
        part = part.with_format(None).select_columns(list(self.roles.values()))
        for role in ("image", "mask"):
            column = self.roles.get(role)
            if column and isinstance(features[column], datasets.Image):
                part = part.cast_column(column, datasets.Image(decode=False))
        return part

    def draw(self, *, prefixed: bool) -> Iterator[Sample]:
        """Yield the rows as samples; ids that are only numbers of rows tell the split too."""
        for number, row in enumerate(self.part):
            where = f"{self.where}, row {number}"
            words = {role: self._read_word(row, role, where=where) for role in _WORDS}
            front = f"{self.split}/" if prefixed else ""
            image, suffix = self._read_file(row, "image", where=where)
            mask, _ = self._read_file(row, "mask", where=where)
            yield Sample(
                id=words["id"] or f"{front}{number:07d}",
                where=where,
                image=image,
                suffix=suffix,
                label=self._read_word(row, "label", where=where),
                attribute=words["attribute"],
                split=words["split"] or self.split,
                object=words["object"],
                scene=words["scene"],
                mask=mask or None,
            )

    def _read_word(self, row: Mapping[str, Any], role: str, *, where: str) -> str:
        """Return a value as a name: a number of a ClassLabel is looked up."""
        value = row[self.roles[role]] if role in self.roles else None
        names = self.names.get(role, ())
        if value is None or (role == "attribute" and names and value == -1):
            return ""
        if not isinstance(value, (int, str)):
            raise TableError(
                f"the {role} is a {type(value).__name__}, no name and no whole number",
                where=where,
                mend="make the column a ClassLabel, a string or an integer",
            )
        if not names or isinstance(value, str):
            return str(value).strip()
        if not 0 <= value < len(names):
            raise TableError(
                f"the {role} {value} is out of the range 0 to {len(names) - 1} of its ClassLabel",
                where=where,
                mend="mend the row",
            )
        return str(names[value]).strip()

    def _read_file(self, row: Mapping[str, Any], role: str, *, where: str) -> tuple[bytes, str]:
        value = row[self.roles[role]] if role in self.roles else None
        if value is None and role == "mask":
            return b"", ""
        if isinstance(value, Image.Image):
            encoded = encode_image(value)
            return encoded.data, encoded.suffix
        if isinstance(value, Mapping):
            name = str(value.get("path") or "")
            value = value.get("bytes")
            value = name if value is None and name else value
        if isinstance(value, str):
            value = _read_inside(value, root=self.root, where=where)
        if not isinstance(value, bytes):
            raise TableError(
                f"the {role} is missing or no image", where=where, mend="leave the row out"
            )
        return value, sniff_suffix(value)


def _read_inside(name: str, *, root: Path | None, where: str) -> bytes:
    """Read a file that a row names: a data set from elsewhere must not name any file it likes."""
    try:
        places = [Path(name)] if root is None else [root / name, Path(name)]
        path = next((one for one in places if one.exists()), places[0]).resolve(strict=True)
        if root is None or not path.is_relative_to(root.resolve()):
            raise TableError(
                f"the image is the file {name!r} outside {root or 'a given root'}",
                where=where,
                mend="give the folder of the files as root, or store the images in the data set",
            )
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise TableError(f"no such file: {name!r}", where=where, mend="mend the row") from error


def _find_path(source: str, *, root: Path | None) -> tuple[Path | None, str]:
    """Return the path that a source names, None where it is none, and the split after it."""
    base = root or Path()
    front, colon, split = source.rpartition(":")
    if (base / source).exists():
        return base / source, ""
    if colon and front and (base / front).exists():
        return base / front, split
    organisation, slash, _ = source.partition("/")
    # A path with a slip in it must not go out to the hub.
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", source) or (base / organisation).exists():
        raise TableError(
            "no such file or folder",
            where=source,
            mend="mend the path" if slash else "mend the path; a name on the hub is ORG/NAME",
        )
    return None, ""


def _open_path(datasets: Any, path: Path) -> Any:
    if any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        _check_names(path)
        return _attempt(lambda: _check_arrow(datasets.load_from_disk(str(path))), path)
    kept = str(cache_dir() / "huggingface")
    if path.is_file():
        if path.suffix.lower() != ".parquet":
            raise TableError(
                "is no Parquet file", where=path, mend="name a Parquet file or a folder"
            )
        files: Any = {_WHOLE: str(path)}
    else:
        files = _sort_parquet(path)
    if files:
        found = _attempt(
            lambda: datasets.load_dataset("parquet", data_files=files, cache_dir=kept), path
        )
        return {"": found[_WHOLE]} if set(found) == {_WHOLE} else found
    return _attempt(
        lambda: datasets.load_dataset("imagefolder", data_dir=str(path), cache_dir=kept), path
    )


def _check_arrow(found: Any) -> Any:
    """Refuse what is no sound Arrow: to read it would end the process."""
    for part in found.values() if isinstance(found, Mapping) else [found]:
        part.data.table.validate(full=True)
    return found


def _check_names(folder: Path) -> None:
    """Refuse a saved folder that names files of other folders as its own."""
    for path in sorted(folder.rglob("state.json")):
        try:
            names = [str(file["filename"]) for file in json.loads(path.read_text("utf-8"))[_FILES]]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise TableError("names no files", where=path, mend="save it again") from error
        for name in names:
            if Path(name).name != name:
                raise TableError(f"the file {name!r} leads outside", where=path, mend="mend it")


def _sort_parquet(folder: Path) -> dict[str, list[str]]:
    """Return a folder's Parquet files by split, which the hub writes first in their names."""
    found: dict[str, list[str]] = {}
    files = sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))
    for file in files:
        stem = file.stem.partition("-")[0]
        known = stem if stem in ("train", "validation", "val", "test") else _WHOLE
        found.setdefault(known, []).append(str(file))
    return found


def _open_hub(datasets: Any, name: str) -> Any:
    import huggingface_hub

    try:
        if not huggingface_hub.constants.HF_HUB_OFFLINE:
            # One short question first: the library itself asks six times before it gives up.
            huggingface_hub.HfApi().dataset_info(name, timeout=10)
        return datasets.load_dataset(name)
    except Exception as error:  # the hub's client raises dozens of kinds; the reason is what counts
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise FetchError(
            f"is no path, and the hub did not give it ({reason.rstrip('.')})",
            where=f"hf-dataset:{name}",
            mend="mend the path, or fetch it where the hub can be reached and use save_to_disk; "
            "HF_HUB_OFFLINE=1 takes what was fetched before",
        ) from error


def _attempt(load: Any, path: Path) -> Any:
    try:
        return load()
    except Exception as error:  # Arrow, Parquet, JSON and the builders each raise their own
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise TableError(
            f"cannot be read as a data set ({reason.rstrip('.')})", where=path, mend="save it again"
        ) from error


@contextlib.contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Keep the library's own progress bars and retries off the terminal."""
    shown = datasets.utils.logging.is_progress_bar_enabled()
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if shown:
            datasets.enable_progress_bars()


def _import_datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets", extra="datasets") from error
    return datasets
