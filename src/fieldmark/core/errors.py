"""The error tree. Every message is one line: where, what is wrong, how to mend it.

FieldmarkError                 exit code 1
├── UsageError                 exit code 2: the words of the command are off
│   ├── UnknownNameError       a name that is in no list; the message lists the known ones
│   └── RunExistsError         the output folder holds another run
├── InputError                 a file or a row that cannot be used
│   ├── ImageError             an image that cannot be read as one
│   ├── MaskError              an empty, missing or wrong-sized mask
│   ├── TableError             a table with a missing column, a bad row, a path out of its root
│   └── LeakageError           training material that occurs in an evaluation split
├── FetchError                 a weight or a data file that cannot be had
│   └── ChecksumError          a file that is not the one it should be
├── NotApplicableError         a method that these data or this encoder do not bear
│   └── UnsupportedEncoderError an encoder that lacks what a method needs
└── MissingExtraError          an optional library is not installed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Characters of an unknown name that a message shows; to compare a longer one takes seconds.
_LONGEST = 200


class FieldmarkError(Exception):
    """Root of every error that fieldmark raises on purpose.

    Args:
        problem: what is wrong, without a final full stop.
        where: the file, row or option that it concerns.
        mend: what to do about it.

    Example:
        >>> print(FieldmarkError("the mask is all zero", where="a.png", mend="draw it again"))
        a.png: the mask is all zero; draw it again
    """

    exit_code = 1

    def __init__(self, problem: str, *, where: object = None, mend: str = "") -> None:
        self.problem, self.where, self.mend = problem, where, mend
        prefix = f"{where}: " if where is not None else ""
        suffix = f"; {mend}" if mend else ""
        super().__init__(_make_printable(f"{prefix}{problem}{suffix}"))


def _make_printable(text: str) -> str:
    r"""Return one line that every terminal takes: of a hostile name no control gets through.

    Example:
        >>> print(_make_printable("a\x1b[2Jb\n c\ud800"))
        a\x1b[2Jb c\ud800
    """
    line = " ".join(text.split())
    if line.isprintable():
        return line
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return "".join(shown)


class UsageError(FieldmarkError):
    """The words of a command or the arguments of a call are off."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that is in no list."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names, name = sorted(known), name[:_LONGEST]
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        super().__init__(f"unknown {kind} {name!r}", mend=f"{hint}known: {', '.join(names)}")


class RunExistsError(UsageError):
    """The output folder holds another run."""


class InputError(FieldmarkError):
    """A file or a row that cannot be used."""


class ImageError(InputError):
    """An image that cannot be read as one."""


class MaskError(InputError):
    """An empty, missing or wrong-sized mask."""


class TableError(InputError):
    """A table with a missing column, a bad row, or a path out of its root."""


class LeakageError(InputError):
    """Training material that occurs in an evaluation split."""


class FetchError(FieldmarkError):
    """A weight or a data file that cannot be had."""


class ChecksumError(FetchError):
    """A file that is not the one it should be."""


class NotApplicableError(FieldmarkError):
    """A method cannot run on these data or this encoder; a sweep writes why and goes on."""


class UnsupportedEncoderError(NotApplicableError):
    """An encoder that lacks what a method needs."""


class MissingExtraError(FieldmarkError):
    """An optional library is not installed.

    Example:
        >>> print(MissingExtraError("pycocotools", extra="coco"))
        this needs pycocotools; pip install 'fieldmark[coco]'
    """

    def __init__(self, library: str, *, extra: str) -> None:
        super().__init__(f"this needs {library}", mend=f"pip install 'fieldmark[{extra}]'")
