"""Find published data sets on disk and say what of them is missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from fieldmark.core.errors import TableError

SHOWN = 10


def find_folder(root: Path, names: Sequence[str], *, holds: str) -> Path:
    """Return the first of `root` and `root/name` that holds a file or folder `holds`.

    Args:
        root: where the user says that the data are.
        names: subfolders to try, in order, after `root` itself.
        holds: what the folder must contain.

    Raises:
        TableError: none does; the message lists where it was looked for.

    Example:
        >>> find_folder(Path("nowhere"), ("cub",), holds="images.txt")
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.TableError: nowhere: has no images.txt, nor has cub below it; ...
    """
    for folder in (root, *(root / name for name in names)):
        if (folder / holds).exists():
            return folder
    below = f", nor has {' or '.join(names)} below it" if names else ""
    raise TableError(f"has no {holds}{below}", where=root, mend="check the path of --root")


def read_lines(source: Path, *, mend: str) -> list[str]:
    """Return the lines of a list that belongs to a data set.

    Raises:
        TableError: it is missing, or is no text in UTF-8.

    Example:
        >>> read_lines(Path("nowhere/images.txt"), mend="unpack it again")
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.TableError: nowhere/images.txt: is missing; unpack it again
    """
    try:
        return source.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise TableError("is missing", where=source, mend=mend) from None
    except (OSError, UnicodeDecodeError) as error:
        raise TableError("is no text in UTF-8", where=source, mend=mend) from error


def list_missing(paths: Iterable[Path]) -> list[Path]:
    """Return the files that do not exist, asking each folder once.

    Example:
        >>> list_missing([Path("nowhere/a.jpg")])
        [PosixPath('nowhere/a.jpg')]
    """
    held: dict[Path, frozenset[str]] = {}
    missing = []
    for path in paths:
        folder = path.parent
        if folder not in held:
            held[folder] = _list_names(folder)
        if path.name not in held[folder]:
            missing.append(path)
    return missing


def _list_names(folder: Path) -> frozenset[str]:
    """Return the names in a folder; none where no folder can have such a name."""
    try:
        return frozenset(path.name for path in folder.iterdir())
    except (OSError, ValueError):
        return frozenset()


def describe_missing(missing: Sequence[Path], *, root: Path) -> str:
    """Write in one line how many files are missing and the first ten of them.

    Example:
        >>> describe_missing([Path("r/a.jpg")], root=Path("r"))
        '1 file is missing: a.jpg'
    """
    names = [str(p.relative_to(root) if p.is_relative_to(root) else p) for p in missing[:SHOWN]]
    more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
    count = f"{len(missing)} file is" if len(missing) == 1 else f"{len(missing)} files are"
    return f"{count} missing: {', '.join(names)}{more}"


def require_files(paths: Iterable[Path], *, root: Path) -> None:
    """Check that all files of a data set exist.

    Raises:
        TableError: their count and the first ten.
    """
    missing = list_missing(paths)
    if missing:
        raise TableError(
            describe_missing(missing, root=root), where=root, mend="unpack the data set again"
        )
