"""Read and check a folder that `composites.build_composites` wrote, or one laid out like it."""

from __future__ import annotations

import csv
import itertools
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fieldmark.core.errors import RunExistsError, TableError
from fieldmark.core.json_text import parse_json
from fieldmark.data.backgrounds import read_backgrounds
from fieldmark.data.columns import read_columns
from fieldmark.data.foregrounds import read_foregrounds
from fieldmark.data.layout import describe_missing, list_missing
from fieldmark.data.tables import ImageTable, read_table
from fieldmark.data.tasks import Pairs, Task

POOLS = ("foregrounds", "backgrounds")
# Objects that were never trained on are the stricter test, so they come first.
FIRST_TESTS = ("test", "test_unseen", "test_seen")


def open_built(root: Path) -> Task:
    """Read a built folder as a task.

    Its card.json says what cannot be read off the images. It may name `class_words`, `templates`,
    `reject` and `accept`; without them classes are called as they are and an attribute "water"
    becomes the text "water background".

    Args:
        root: the folder, with metadata.csv and card.json, and foregrounds and backgrounds where
            there is something to pre-train on.

    Raises:
        TableError: a file is missing or off.

    Example:
        >>> import tempfile
        >>> from fieldmark.data.datasets.synthetic import build_synthetic
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     task = open_built(build_synthetic(Path(folder) / "s", size=16, n_objects=3,
        ...                                       n_scenes=2, per_class=4, per_group=1))
        >>> task.name, task.tests, task.reject
        ('synthetic', ('test_unseen', 'test_seen'), (('land background', 'water background'),))
    """
    card = read_card(root)
    try:
        return _open(root, card)
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
        raise TableError(
            f"has a value of another kind than it should be ({error})",
            where=root / "card.json",
            mend="build the data set again",
        ) from error


def _open(root: Path, card: dict[str, Any]) -> Task:
    name = str(card.get("name") or root.resolve().name)
    table = replace(read_table(root), name=name)
    tests = find_tests(table)
    attributes = tuple(map(str, card.get("attributes") or table.attribute_names))
    # A card lists its classes in an order of its own, a table sorts them.
    words = dict(zip(card.get("classes", ()), card.get("class_words", ()), strict=False))
    class_words = tuple(str(words.get(label, label)) for label in table.classes)
    return Task(
        name=name,
        table=table,
        tests=tests,
        foregrounds=read_foregrounds(root / "foregrounds") if _has(root, "foregrounds") else None,
        backgrounds=read_backgrounds(root / "backgrounds") if _has(root, "backgrounds") else None,
        class_words=class_words,
        templates=str(card.get("templates") or "default"),
        reject=_read_pairs(card.get("reject")) or pair_up([f"{a} background" for a in attributes]),
        accept=_read_pairs(card.get("accept")) or pair_up(class_words),
        correlation=float(card.get("correlation") or math.nan),
        card=card,
        notes=(*map(str, card.get("notes", ())), *describe_empty_groups(table, tests)),
    )


def read_card(root: Path) -> dict[str, Any]:
    """Read card.json of a built folder.

    Raises:
        TableError: there is none, or it is no JSON object.
    """
    path = root / "card.json"
    if not path.is_file():
        raise TableError("is missing", where=path, mend="build the data set again")
    try:
        card = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TableError("is not JSON", where=path, mend="build the data set again") from error
    if not isinstance(card, dict):
        raise TableError("is not a JSON object", where=path, mend="build the data set again")
    return card


def is_built(root: Path) -> bool:
    """Return whether a folder is one that was built: it has a table and a card.

    Example:
        >>> is_built(Path("nowhere"))
        False
    """
    return all((root / name).is_file() for name in ("metadata.csv", "card.json"))


def find_name(root: Path) -> str:
    """Return which data set a folder was built as, "" where none of ours was.

    Example:
        >>> find_name(Path("nowhere"))
        ''
    """
    from fieldmark.data.datasets import DATASETS

    try:
        name = str(read_card(root).get("name")) if is_built(root) else ""
    except TableError:
        return ""
    return name if name in DATASETS else ""


def find_tests(table: ImageTable) -> tuple[str, ...]:
    """Return the splits to test on: those whose name starts with "test".

    Raises:
        TableError: there is none.
    """
    names = sorted({name for name in table.splits or () if name.startswith("test")})
    if not names:
        raise TableError("has no test split", where=table.name, mend="name one test in `split`")
    return tuple(sorted(names, key=lambda n: FIRST_TESTS.index(n) if n in FIRST_TESTS else 9))


def pair_up(texts: Sequence[str]) -> Pairs:
    """Return every pair of some texts, in order.

    Example:
        >>> pair_up(["land", "water"])
        (('land', 'water'),)
    """
    return tuple(itertools.combinations(texts, 2))


def describe_empty_groups(table: ImageTable, splits: Sequence[str]) -> tuple[str, ...]:
    """Name the groups that have no image in a split; a split without attributes has no groups.

    Args:
        table: the images.
        splits: those to look at.

    Returns:
        A line for each split that lacks groups.
    """
    groups = table.group_ids()
    names = table.group_names()
    of_row = np.array(table.splits or ())
    lines = []
    for split in splits:
        present = set(groups[of_row == split].tolist())
        lacking = [name for group, name in names.items() if group not in present]
        if lacking and present - {-1}:
            shown = ", ".join(lacking[:10])
            more = f" and {len(lacking) - 10} more" if len(lacking) > 10 else ""
            lines.append(f"split {split} has no image of {shown}{more}")
    return tuple(lines)


def check_built(root: Path, *, name: str = "", pools: Sequence[str] = POOLS) -> list[str]:
    """Return what is missing or off in a built folder, in a line each; nothing if it is whole.

    Args:
        root: the folder.
        name: the data set that it should be; any if empty.
        pools: which of foregrounds and backgrounds it should have.
    """
    files = ("metadata.csv", "card.json", *(f"{pool}/{pool}.csv" for pool in pools))
    found = [f"{root / file} is missing" for file in files if not (root / file).is_file()]
    if found:
        return found
    checks: dict[Path, Callable[[Path], Any]] = {root / "metadata.csv": read_table}
    for pool in pools:
        read_pool = read_foregrounds if pool == "foregrounds" else read_backgrounds
        checks[root / pool / f"{pool}.csv"] = read_pool
    try:
        told = read_card(root).get("name")
        if name and told != name:
            found.append(f"{root / 'card.json'} says that this is {told!r}")
    except TableError as error:
        found.append(str(error))
    for source, read in checks.items():
        try:
            found += _check_table(source, read=read)
        except TableError as error:
            found.append(str(error))
    return found


def _check_table(source: Path, *, read: Callable[[Path], Any]) -> list[str]:
    columns = read_columns(source)
    folder = source.parent
    names = [name for key in ("path", "mask") for name in columns.find(key) or () if name]
    missing = list_missing([folder / name for name in names])
    if missing:
        return [f"{source}: {describe_missing(missing, root=folder)}"]
    content = read(source)
    if isinstance(content, ImageTable):
        return [f"{source}: {line}" for line in describe_empty_groups(content, find_tests(content))]
    return []


def _has(root: Path, pool: str) -> bool:
    return (root / pool / f"{pool}.csv").is_file()


def _read_pairs(pairs: Any) -> Pairs:
    return tuple((str(one), str(other)) for one, other in pairs or ())


@contextmanager
def building(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of `out` when all went well.

    Raises:
        RunExistsError: `out` holds files.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunExistsError("holds other files", where=out, mend="choose an empty --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=out.parent))
    try:
        yield part
        part.chmod(0o755)
        if out.exists():
            out.rmdir()
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV table."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def count_groups(table: ImageTable) -> dict[str, dict[str, int]]:
    """Return how many images each group has in each split, for a card.

    A row whose attribute is not known counts for its class.
    """
    counts: dict[str, dict[str, int]] = {}
    names = table.group_names()
    rows = zip(table.splits or (), table.group_ids().tolist(), table.labels.tolist(), strict=True)
    for split, group, label in rows:
        name = names.get(group, f"y:{table.classes[label]}")
        of_split = counts.setdefault(split, {})
        of_split[name] = of_split.get(name, 0) + 1
    return counts
