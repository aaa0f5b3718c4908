"""Webdataset shards: tar files in which the members of one name up to the first stop are a sample.

    image       KEY.jpg, .jpeg, .png or .webp
    label       KEY.cls (a number or a name), else KEY.json's `label`, `cls` or `y`, else KEY.txt
    mask        KEY.mask.png
    the rest    KEY.json's `attribute` (`background`, `place`), `split`, `object`, `scene`,
                and `class_name` (`label_name`) for the name of the class

Numbers are named by `classes`, else by a file `classnames.txt` (`classes.txt`) with a name a line
beside the shards or a folder above, as CLIP_benchmark's shards have, else they stay numbers. The
split is the folder `train`, `val` or `test` that a shard lies in, where the samples name none. An
id is SHARD/KEY, since each shard counts its samples anew. Members of other kinds are passed over
unread, pickles among them.
"""

from __future__ import annotations

import glob
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fieldmark.core.errors import TableError, UsageError
from fieldmark.data.external.samples import Sample, materialise, name_split
from fieldmark.data.external.tar_members import read_members, split_key
from fieldmark.data.tables import SPLIT_FOLDERS, ImageTable

IMAGES = ("jpg", "jpeg", "png", "webp")
LABELS = ("cls", "json", "txt")
MASK = "mask.png"
NAME_FILES = ("classnames.txt", "classes.txt")


class Packed(NamedTuple):
    """One sample of a shard.

    Attributes:
        id: SHARD/KEY.
        where: file and key, for messages.
        shard: the tar file.
        members: extension to bytes of those that are read, in the order of the file.
        others: extensions of those that are not.
    """

    id: str
    where: str
    shard: Path
    members: Mapping[str, bytes]
    others: tuple[str, ...]


class StreamedImage(NamedTuple):
    """An encoded image of a stream.

    Attributes:
        id: SHARD/KEY, unique in the stream.
        where: file and key, for messages.
        data: its bytes.
        label: name of its class, or blank.
        split: name of its split, or blank.
        shard: the tar file that it is from.
    """

    id: str
    where: str
    data: bytes
    label: str
    split: str
    shard: Path


def from_webdataset(
    pattern: str | Sequence[Path], *, classes: Sequence[str] = (), name: str = ""
) -> ImageTable:
    """Return webdataset shards as a table; their images are kept in the cache.

    Args:
        pattern: as `find_shards` takes it, or the shards themselves.
        classes: the class names in order, where labels are numbers.
        name: for records; the name of the shards' folder by default.

    Raises:
        TableError: a shard is damaged or cut off, a sample lacks its image or its label, a key
            occurs twice, a label is out of range, a member's name leads out of the folder.
    """
    shards = find_shards(pattern) if isinstance(pattern, str) else list(pattern)
    names = tuple(classes) or read_class_names(shards)

    def draw() -> Iterator[Sample]:
        for packed in read_packed(shards):
            yield _to_sample(packed, names=names)

    return materialise(name or shards[0].absolute().parent.name, draw, classes=names)


def open_webdataset(source: str, *, root: Path | None = None) -> ImageTable:
    """Open what `--data wds:SOURCE` names; `root` is the folder that the pattern starts from."""
    return from_webdataset(find_shards(source, root=root))


def stream_webdataset(
    shards: Sequence[Path], *, classes: Sequence[str] = ()
) -> Iterator[StreamedImage]:
    """Yield the images of shards in order, one at a time, nothing kept.

    Args:
        shards: the tar files, in order.
        classes: the class names in order, where labels are numbers.

    Raises:
        TableError: as in `from_webdataset`; labels may be missing here.
    """
    names = tuple(classes) or read_class_names(shards)
    for packed in read_packed(shards):
        _, data = _take_image(packed)
        facts = _read_json(packed)
        label = _find_label(packed, facts, names=names)
        split = name_split(_read_fact(packed, facts, "split") or _split_of(packed.shard))
        yield StreamedImage(packed.id, packed.where, data, label, split, packed.shard)


def find_shards(pattern: str, *, root: Path | None = None) -> list[Path]:
    """Return the tar files of a pattern, in order.

    Args:
        pattern: a path with `{000..003}`, `{train,test}`, `*`, `?` or `[0-9]`, or a folder of tar
            files.
        root: folder that it starts from.

    Raises:
        TableError: a file is not there, or none is found.
        UsageError: braces that are no range and no list.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for number in range(3):
        ...         (Path(folder) / f"a-{number:02d}.tar").touch()
        ...     [path.name for path in find_shards("a-{01..02}.tar", root=Path(folder))]
        ['a-01.tar', 'a-02.tar']
    """
    found: list[Path] = []
    for name in _expand(pattern):
        path = (root or Path()) / name
        if path.is_dir():
            found += sorted(p for p in path.rglob("*.tar*") if p.is_file())
        elif glob.has_magic(name):
            found += sorted(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207
        elif path.is_file():
            found.append(path)
        else:
            raise TableError("no such file", where=path, mend="mend the pattern or --root")
    if not found:
        raise TableError(
            "no tar file fits", where=f"wds:{pattern}", mend="mend the pattern or --root"
        )
    return found


def _expand(pattern: str) -> Iterator[str]:
    """Expand braces as a shell does.

    Example:
        >>> list(_expand("{a,b}/{08..10}.tar"))[:4]
        ['a/08.tar', 'a/09.tar', 'a/10.tar', 'b/08.tar']
    """
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        yield pattern
        return
    front, inner, back = pattern[: match.start()], match[1], pattern[match.end() :]
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", inner)
    if ends is None and "," not in inner:
        raise UsageError(
            f"{{{inner}}} is no range and no list", where=pattern, mend="write {000..003} or {a,b}"
        )
    values: Iterator[str] = iter(inner.split(","))
    if ends is not None:
        width = len(ends[1]) if ends[1].startswith("0") else 0
        values = (f"{n:0{width}d}" for n in range(int(ends[1]), int(ends[2]) + 1))
    for value in values:
        yield from _expand(f"{front}{value}{back}")


def read_packed(shards: Sequence[Path]) -> Iterator[Packed]:
    """Yield the samples of shards: members of one key, which stand beside each other.

    Raises:
        TableError: a key or a member occurs twice in a shard, or two shards have one name.
    """
    names = _name_shards(shards)
    wanted = frozenset({*IMAGES, *LABELS, MASK})
    for shard, name in zip(shards, names, strict=True):
        # Strings of a hundred bytes would be most of what a large shard costs.
        seen: set[int] = set()
        members = (m for m in read_members(shard, wanted=wanted) if split_key(m.name)[0])
        for key, group in itertools.groupby(members, key=lambda m: split_key(m.name)[0]):
            where = f"{shard}, sample {key!r}"
            if key.rpartition("/")[2].startswith("__"):
                continue
            found: dict[str, bytes | None] = {}
            for member in group:
                extension = split_key(member.name)[1]
                if extension in found:
                    raise TableError(f"has two members .{extension}", where=where, mend="write one")
                found[extension] = member.data
            if hash(key) in seen:
                raise TableError(
                    "its key occurs twice in the shard", where=where, mend="write the shard again"
                )
            seen.add(hash(key))
            read = {extension: data for extension, data in found.items() if data is not None}
            others = tuple(extension for extension in found if extension not in read)
            yield Packed(f"{name}/{key}", where, shard, read, others)


def _name_shards(shards: Sequence[Path]) -> list[str]:
    """Return a name of each shard that no other has: its stem, with its folder where need be."""
    stems = [shard.name.partition(".")[0] for shard in shards]
    if len(set(stems)) < len(stems):
        stems = [f"{s.absolute().parent.name}/{n}" for s, n in zip(shards, stems, strict=True)]
    if len(set(stems)) < len(stems):
        twice = next(name for name in stems if stems.count(name) > 1)
        raise TableError("two shards have this name", where=twice, mend="rename one of them")
    return stems


def read_class_names(shards: Sequence[Path]) -> tuple[str, ...]:
    """Return the names of classes in a file beside the shards or a folder above, if there is one.

    Raises:
        TableError: it is not UTF-8.
    """
    folder = shards[0].absolute().parent
    for path in (place / name for place in (folder, folder.parent) for name in NAME_FILES):
        if path.is_file():
            try:
                return tuple(filter(None, map(str.strip, path.read_text("utf-8").splitlines())))
            except (OSError, UnicodeDecodeError) as error:
                raise TableError("is no UTF-8 text", where=path, mend="write it anew") from error
    return ()


def _to_sample(packed: Packed, *, names: tuple[str, ...]) -> Sample:
    extension, image = _take_image(packed)
    facts = _read_json(packed)
    label = _find_label(packed, facts, names=names)
    if not label:
        kinds = ", ".join((*packed.members, *packed.others))
        raise TableError(
            f"has no label (cls, json or txt); its members are {kinds}",
            where=packed.where,
            mend="write one; pickled members are never read",
        )
    return Sample(
        id=packed.id,
        where=packed.where,
        image=image,
        suffix=f".{extension}",
        label=label,
        attribute=_read_fact(packed, facts, "attribute", "background", "place"),
        split=_read_fact(packed, facts, "split") or _split_of(packed.shard),
        object=_read_fact(packed, facts, "object"),
        scene=_read_fact(packed, facts, "scene"),
        mask=packed.members.get(MASK),
    )


def _take_image(packed: Packed) -> tuple[str, bytes]:
    found = [(name, data) for name, data in packed.members.items() if name in IMAGES]
    if len(found) != 1:
        what = "has no image" if not found else f"has {len(found)} images"
        raise TableError(
            f"{what} (jpg, jpeg, png, webp)", where=packed.where, mend="give each sample one"
        )
    return found[0]


def _read_json(packed: Packed) -> dict[str, Any]:
    if "json" not in packed.members:
        return {}
    try:
        facts = json.loads(packed.members["json"])
    except (ValueError, RecursionError) as error:
        raise TableError("its .json is not JSON", where=packed.where, mend="mend it") from error
    if not isinstance(facts, dict):
        raise TableError("its .json is no JSON object", where=packed.where, mend="mend it")
    return facts


def _read_fact(packed: Packed, facts: Mapping[str, Any], *names: str) -> str:
    value = next((facts[name] for name in names if facts.get(name) is not None), "")
    if not isinstance(value, (str, int)):
        raise TableError(
            f"{names[0]!r} in its .json is no string and no whole number", where=packed.where
        )
    return str(value).strip()


def _find_label(packed: Packed, facts: Mapping[str, Any], *, names: tuple[str, ...]) -> str:
    """Return the name of a sample's class, "" where nothing says it."""
    label = _read_fact(packed, facts, "class_name", "label_name")
    if "cls" in packed.members:
        label = label or _read_text(packed, "cls")
    label = label or _read_fact(packed, facts, "label", "cls", "y")
    if not label and "txt" in packed.members:
        label = _read_text(packed, "txt")
    if not names or not re.fullmatch(r"-?[0-9]{1,18}", label) or label in names:
        return label
    if not 0 <= int(label) < len(names):
        raise TableError(
            f"the label {label} is out of the range 0 to {len(names) - 1} of the classes",
            where=packed.where,
            mend="mend the sample or the list of classes",
        )
    return names[int(label)]


def _read_text(packed: Packed, extension: str) -> str:
    try:
        return packed.members[extension].decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise TableError(
            f"its .{extension} is not UTF-8", where=packed.where, mend="write it anew"
        ) from error


def _split_of(shard: Path) -> str:
    name = shard.absolute().parent.name
    return name if name in SPLIT_FOLDERS else ""
