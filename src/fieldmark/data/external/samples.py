"""Labelled images out of other libraries, written once into the cache and read as a table.

    CACHE/external/NAME-KEY/metadata.csv    a row an image, as `read_table` reads it
    CACHE/external/NAME-KEY/images/         the bytes as they came, a thousand a folder
    CACHE/external/NAME-KEY/manifest.json   classes, count, checksums of the table and the files

KEY is a digest of all images and labels. The folder appears whole or not at all; one that was
damaged since, by a single bit, is found by its checksums and made anew.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from PIL import Image

from fieldmark.core.atomic import hash_file, hash_json
from fieldmark.core.errors import FieldmarkError, ImageError, TableError
from fieldmark.core.fetch import cache_dir
from fieldmark.data.images import IMAGE_SUFFIXES, hash_image, read_image
from fieldmark.data.tables import ImageTable, read_table

SCHEMA = 1
COLUMNS = ("id", "path", "label", "attribute", "split", "mask", "object", "scene")
# What PNG keeps pixel by pixel; other modes go into TIFF.
_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
_A_FOLDER = 1000


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One labelled image as another library gives it.

    Attributes:
        id: unique in its data set.
        where: its place there, for messages ("a.tar, sample b").
        image: an encoded image.
        suffix: what files of its format end in (".jpg").
        label: name of its class.
        attribute: name of its background, or blank.
        split: name of its split, or blank.
        object: id of the foreground object, or blank.
        scene: id of the background photograph, or blank.
        mask: an encoded mask, or None.
    """

    id: str
    where: str
    image: bytes
    suffix: str = ""
    label: str
    attribute: str = ""
    split: str = ""
    object: str = ""
    scene: str = ""
    mask: bytes | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """What the table says of it beside its files."""
        return (self.id, self.label, self.attribute, self.split, self.object, self.scene)


Draw = Callable[[], Iterable[Sample]]


def materialise(name: str, draw: Draw, *, classes: Sequence[str] = ()) -> ImageTable:
    """Write samples into the cache, unless they are there, and return them as a table.

    The samples are drawn once to know their content, and again where the cache lacks them.

    Args:
        name: of the data set, for records.
        draw: returns the samples afresh, in a fixed order.
        classes: the class names in order; without them those that occur, sorted.

    Raises:
        TableError: no sample, an id twice, a blank label or one that is none of `classes`.
        FieldmarkError: the cache cannot be written.

    Example:
        >>> import os, tempfile
        >>> from unittest.mock import patch
        >>> red = encode_image(Image.new("RGB", (2, 2), "red"))
        >>> sample = Sample(id="a/1", where="row 1", image=red.data, suffix=red.suffix, label="x")
        >>> with tempfile.TemporaryDirectory() as cache, patch.dict(os.environ,
        ...                                                         FIELDMARK_CACHE=cache):
        ...     table = materialise("mine", lambda: [sample])
        ...     table.ids, table.classes, table.paths[0].name, table.read(0).getpixel((0, 0))
        (('a/1',), ('x',), '0000000-a_1.png', (255, 0, 0))
    """
    names = tuple(map(str.strip, classes))
    if "" in names or len(set(names)) < len(names):
        raise TableError(
            "has a class without a name, or two of one name", where=name, mend="rename one"
        )
    digest = _Digest(names)
    for sample in draw():
        digest.add(sample)
    key = digest.finish(name)
    shelf = cache_dir() / "external"
    folder = shelf / f"{_make_safe(name)}-{key[:24]}"
    if not _is_whole(folder):
        with _taking_turns(shelf, folder.name):
            if not _is_whole(folder):
                _write(folder, draw, key=key, name=name, classes=names)
    table = read_table(folder, classes=names or None)
    return replace(
        table,
        name=name,
        splits=_none_if_blank(table.splits and tuple(map(name_split, table.splits))),
        objects=_none_if_blank(table.objects),
        scenes=_none_if_blank(table.scenes),
    )


def _none_if_blank(column: tuple[str, ...] | None) -> tuple[str, ...] | None:
    return column if column and any(column) else None


def name_split(name: str) -> str:
    """Return fieldmark's name of a split, by which heads find what to select on.

    Example:
        >>> name_split("validation"), name_split("test_unseen")
        ('val', 'test_unseen')
    """
    return "val" if name in ("valid", "validation", "dev") else name


class _Digest:
    """What is read of a data set so far: its content in one number, and its faults at once."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = frozenset(classes)
        self.seen: set[str] = set()
        self.sha = hashlib.sha256(json.dumps([SCHEMA, classes]).encode())

    def add(self, sample: Sample) -> None:
        """Take one sample into account.

        Raises:
            TableError: it cannot be in a table.
        """
        if problem := self._find_fault(sample):
            raise TableError(problem, where=sample.where, mend="mend the sample or leave it out")
        self.seen.add(sample.id)
        files = [hashlib.sha256(data or b"").hexdigest() for data in (sample.image, sample.mask)]
        self.sha.update(json.dumps([*sample.words, sample.suffix, *files]).encode())

    def _find_fault(self, sample: Sample) -> str:
        if any(word != word.strip() or "\0" in word for word in sample.words):
            return f"a name in {sample.words!r} has a blank at its end or a zero byte in it"
        try:
            "".join(sample.words).encode()
        except UnicodeEncodeError:
            return "a name is not UTF-8"
        if not sample.id or not sample.label:
            return f"the {'id' if not sample.id else 'label'} is blank"
        if sample.id in self.seen:
            return f"the id {sample.id!r} occurs twice"
        if self.classes and sample.label not in self.classes:
            return f"the label {sample.label!r} is none of the classes"
        return ""

    def finish(self, name: str) -> str:
        """Return 64 hexadecimal digits.

        Raises:
            TableError: there was no sample.
        """
        if not self.seen:
            raise TableError("has no image", where=name, mend="give it at least one")
        return self.sha.hexdigest()


def _make_safe(name: str) -> str:
    """Return a name that is a file name everywhere and leads nowhere.

    Example:
        >>> _make_safe("../birds: ünder {a}.tar")
        'birds_nder_a_.tar'
    """
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("._-")[-60:] or "images"


def _write(folder: Path, draw: Draw, *, key: str, name: str, classes: tuple[str, ...]) -> None:
    """Write all samples into a folder beside, then give it its name."""
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
    try:
        digest, hashes = _Digest(classes), dict[str, str]()
        with (part / "metadata.csv").open("w", encoding="utf-8", newline="") as stream:
            # A lone carriage return in a name would end its row.
            writer = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL)
            writer.writerow(COLUMNS)
            for index, sample in enumerate(draw()):
                digest.add(sample)
                writer.writerow(_write_files(part, sample, index=index, hashes=hashes))
        if digest.finish(name) != key:
            raise TableError("changed while it was read", where=name, mend="run it again")
        manifest = {"schema": SCHEMA, "name": name, "images": len(digest.seen)}
        manifest |= {"classes": list(classes), "table": hash_file(part / "metadata.csv")}
        manifest |= {"files": hash_json(hashes)}
        (part / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        part.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_files(part: Path, sample: Sample, *, index: int, hashes: dict[str, str]) -> list[str]:
    """Write the files of one sample, add their hashes, and return its row of the table."""
    suffix = sample.suffix.lower() if sample.suffix.lower() in IMAGE_SUFFIXES else ".img"
    stem = f"{index // _A_FOLDER:05d}/{index:07d}-{_make_safe(sample.id)}"
    files = {f"images/{stem}{suffix}": sample.image}
    if sample.mask is not None:
        files[f"masks/{stem}.png"] = sample.mask
    for name, data in files.items():
        (part / name).parent.mkdir(parents=True, exist_ok=True)
        (part / name).write_bytes(data)
        hashes[name] = hashlib.sha256(data).hexdigest()
    path, mask = [*files, ""][:2]
    return [sample.id, path, *sample.words[1:4], mask, *sample.words[4:]]


def _is_whole(folder: Path) -> bool:
    """Return whether a folder is what its manifest says: the table and every file.

    A file is hashed once a process, and what follows asks for the hashes of images too.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if manifest["schema"] != SCHEMA or manifest["table"] != hash_file(folder / "metadata.csv"):
            return False
        hashes = {
            str(file.relative_to(folder)): hash_image(file)
            for kind in ("images", "masks")
            for file in (folder / kind).glob("*/*")
        }
        return bool(manifest["files"] == hash_json(hashes))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ImageError):
        return False


@contextmanager
def _taking_turns(shelf: Path, name: str) -> Iterator[None]:
    """Let one process at a time make a folder; the others find it made."""
    try:
        shelf.mkdir(parents=True, exist_ok=True)
        with (shelf / f".{name}.lock").open("a") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise _unwritable(shelf, error) from error


def _unwritable(path: Path, error: OSError) -> FieldmarkError:
    return FieldmarkError(
        f"the cache cannot be written ({error.strerror or error})",
        where=path,
        mend="free some space or set FIELDMARK_CACHE to another folder",
    )


@dataclass(frozen=True)
class EncodedImage:
    """An image as the bytes of a file, without loss, and what such files end in."""

    data: bytes
    suffix: str


def encode_image(image: Image.Image) -> EncodedImage:
    """Write an image as a PNG file, or as TIFF where PNG cannot hold its pixels.

    Example:
        >>> encode_image(Image.new("L", (2, 2))).suffix, encode_image(Image.new("F", (2, 2))).suffix
        ('.png', '.tiff')
    """
    kind = "PNG" if image.mode in _PNG_MODES else "TIFF"
    stream = io.BytesIO()
    # Level 1 takes a fifth of the time of the default and a tenth more room.
    image.save(stream, kind, **({"compress_level": 1} if kind == "PNG" else {}))
    return EncodedImage(stream.getvalue(), f".{kind.lower()}")


def decode_image(data: bytes, *, where: object) -> Image.Image:
    """Read the bytes of an image file as an upright RGB image.

    Args:
        data: what a file of any format that `read_image` knows holds.
        where: where it is from, for messages.

    Raises:
        ImageError: as in `read_image`.

    Example:
        >>> decode_image(b"words", where="a.tar, sample b")
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.ImageError: a.tar, sample b: is not an image; ...
    """
    try:
        # Pillow takes an open file wherever it takes a path.
        return read_image(cast("Path", io.BytesIO(data)))
    except ImageError as error:
        raise ImageError(error.problem, where=where, mend=error.mend) from error


def sniff_suffix(data: bytes) -> str:
    """Return what files of an image's format end in, by its first bytes; "" where it has none.

    Example:
        >>> sniff_suffix(encode_image(Image.new("L", (2, 2))).data), sniff_suffix(b"words")
        ('.png', '')
    """
    heads = {
        b"\xff\xd8\xff": ".jpg",
        b"\x89PNG": ".png",
        b"GIF8": ".gif",
        b"BM": ".bmp",
        b"II*\0": ".tiff",
        b"MM\0*": ".tiff",
    }
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    return next((suffix for head, suffix in heads.items() if data.startswith(head)), "")
