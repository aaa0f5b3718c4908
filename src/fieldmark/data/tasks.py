"""A task: labelled images with a spurious attribute, what to pre-train on, and words for it all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fieldmark.data.backgrounds import Backgrounds
from fieldmark.data.foregrounds import Foregrounds
from fieldmark.data.tables import ImageTable

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Task:
    """What a suite runs on.

    Attributes:
        name: of the task, for records ("waterbirds", "nico++/car-truck").
        table: images with splits: `train`, `val` where there is one, and what is tested.
        tests: the splits to test on.
        foregrounds: objects for pre-training, or None.
        backgrounds: scenes for pre-training, or None.
        class_words: for each class the word that a prompt calls it by.
        templates: `default` (40) or `people` (3), see `models.prompts`.
        reject: pairs of texts of the spurious attribute ("land background", "water background").
        accept: pairs of texts of classes.
        correlation: share of training images on the background that goes with their class.
        card: licence, citation, sources, counts, disclaimer.
        notes: what the user should be told, a line each: groups that are empty in a test, say.
    """

    name: str
    table: ImageTable
    tests: tuple[str, ...] = ("test",)
    foregrounds: Foregrounds | None = None
    backgrounds: Backgrounds | None = None
    class_words: tuple[str, ...] = ()
    templates: str = "default"
    reject: Pairs = ()
    accept: Pairs = ()
    correlation: float = math.nan
    card: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
