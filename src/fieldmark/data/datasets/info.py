"""What fieldmark knows of a data set. Each data set is one file with one `INFO` in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fieldmark.data.backgrounds import Backgrounds
from fieldmark.data.foregrounds import Foregrounds
from fieldmark.data.tasks import Task

Kind = Literal["task", "foregrounds", "backgrounds"]


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """One data set.

    Attributes:
        name: what users call it ("waterbirds").
        summary: what it is, in a line.
        kind: what `open` returns.
        licence: of its images.
        citation: what to cite.
        layout: what is expected on disk, a line a file or folder; empty for what is built.
        open: `open(root, **options)` reads it where it is. Raises TableError for what is missing.
        build: `build(out, **options)` writes it into an empty folder, in the layout that
            `data.datasets.composites` describes; None where nothing is derived.
        check: `check(root, **options)` returns what is missing or off, a line each.
        options: what `open`, `build` and `check` can be told, with the defaults.
        choices: the values of an option that has few.
    """

    name: str
    summary: str
    kind: Kind = "task"
    licence: str
    citation: str
    layout: str = ""
    open: Callable[..., Task | Foregrounds | Backgrounds]
    build: Callable[..., Path] | None = None
    check: Callable[..., list[str]]
    options: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
