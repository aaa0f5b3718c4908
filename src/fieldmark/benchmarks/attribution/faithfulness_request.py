"""What `fieldmark faithfulness` is asked for, understood before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fieldmark.attribution.config import AttributionConfig
from fieldmark.attribution.methods import METHODS, find_method
from fieldmark.attribution.protocols import Protocol, find_protocol
from fieldmark.benchmarks.arguments import list_arguments
from fieldmark.benchmarks.runs import choose_templates
from fieldmark.core.errors import UsageError

Task = Literal["classification", "retrieval"]
Labels = Literal["ground-truth", "prediction"]
# What every method is held against.
REFERENCE, NULLS = "cci", ("random", "centre")
_KEYS = {
    "protocol": frozenset(Protocol.model_fields),
    "attribution": frozenset(AttributionConfig.model_fields),
}
# These have an option of their own.
_RESERVED = {"preset": "--preset", "seed": "--seed", "batch_size": "--batch-size"}


@dataclass(frozen=True, kw_only=True)
class FaithfulnessRequest:
    """What to measure, and how.

    Attributes:
        model: URI of the encoder.
        data: table, folder or name of a data set.
        out: folder of the run.
        root: folder that a table's paths, or a named data set's files, lie in.
        split: split to look at; by default test, test_unseen or val, or else all images.
        methods: names out of `METHODS`, or `all`; nulls are added.
        protocol: what is taken away, in which steps, and what is watched.
        config: settings of the methods.
        task: `classification` among class names, or `retrieval` of captions and images.
        labels: which class a map explains. In retrieval it is the image's own caption.
        limit: look at this many images, drawn by the seed; all by default.
        class_names: names for the prompts; the table's own by default.
        templates: `default`, `people`, or a file with one template a line.
        sanity: also run the sanity checks of `attribution.sanity`.
        seed: of the draw of images, noise, ties and bootstraps.
        batch_size: forwards in memory at once.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        resume: go on with the unfinished run in `out`.
    """

    model: str
    data: str
    out: Path
    root: Path | None = None
    split: str | None = None
    methods: tuple[str, ...] = ("all",)
    protocol: Protocol = field(default_factory=Protocol)
    config: AttributionConfig = field(default_factory=AttributionConfig)
    task: Task = "classification"
    labels: Labels = "ground-truth"
    limit: int | None = None
    class_names: tuple[str, ...] = ()
    templates: str = "default"
    sanity: bool = False
    seed: int = 0
    batch_size: int = 64
    device: str = "auto"
    resume: bool = False

    def arguments(self) -> dict[str, Any]:
        """Return as JSON values what decides the figures; batches are kept, so their size does."""
        return {
            **list_arguments(self, left_out=("config",)),
            "changed": self.protocol.changed(),
            "attribution": self.config.model_dump(),
        }


class Plan(NamedTuple):
    """A request whose words were all understood.

    Attributes:
        request: the words.
        methods: names of the methods, the nulls last.
        templates: of the prompts.
        protocol: with the seed of the run.
        config: with the seed and the batch size of the run.
    """

    request: FaithfulnessRequest
    methods: tuple[str, ...]
    templates: tuple[str, ...]
    protocol: Protocol
    config: AttributionConfig


def make_plan(request: FaithfulnessRequest) -> Plan:
    """Understand every word before anything is loaded or written.

    Raises:
        UsageError: a method, or an option out of its range.
        InputError: a file of templates cannot be read.
    """
    if request.limit is not None and request.limit < 1:
        raise UsageError(f"limit {request.limit} is below 1", mend="leave it out for all images")
    find_protocol(request.protocol.preset)
    config = request.config.model_copy(
        update={"seed": request.seed, "batch_size": request.batch_size}
    )
    return Plan(
        request=request,
        methods=choose_methods(request.methods),
        templates=tuple(choose_templates(request.templates)),
        protocol=request.protocol.model_copy(update={"seed": request.seed}),
        config=config,
    )


def choose_methods(names: Sequence[str]) -> tuple[str, ...]:
    """Return the methods that names stand for, each once, and the nulls behind them.

    Raises:
        UnknownNameError: there is no such method.

    Example:
        >>> choose_methods(["rise", "random"])
        ('rise', 'random', 'centre')
    """
    wanted = list(METHODS) if "all" in names else [find_method(name).name for name in names]
    real = [name for name in dict.fromkeys(wanted) if name not in NULLS]
    return (*real, *NULLS)


def assign_settings(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tell settings of the protocol from settings of the methods.

    A key that both have is written `protocol.KEY` or `attribution.KEY`.

    Args:
        words: `key=value` each.

    Returns:
        The words of the protocol and those of the methods, without prefixes.

    Raises:
        UsageError: a key that both have, that neither has, or that is an option of its own.

    Example:
        >>> assign_settings(["points=5", "clusters=4", "protocol.score=cosine"])
        (['points=5', 'score=cosine'], ['clusters=4'])
    """
    found: dict[str, list[str]] = {"protocol": [], "attribution": []}
    for word in words:
        name, equals, value = word.partition("=")
        prefix, dot, key = name.strip().partition(".")
        if not dot:
            prefix, key = "", prefix
        owners = [owner for owner, keys in _KEYS.items() if key in keys and prefix in ("", owner)]
        if key in _RESERVED:
            raise UsageError(f"--set {word!r} is an option", mend=f"use {_RESERVED[key]}")
        if not owners:
            known = sorted(frozenset().union(*_KEYS.values()) - {*_RESERVED})
            raise UsageError(f"unknown setting {name!r}", mend=f"known: {', '.join(known)}")
        if len(owners) > 1:
            ways = " or ".join(f"{owner}.{key}" for owner in owners)
            raise UsageError(f"the setting {key!r} is of two things", mend=f"write {ways}")
        found[owners[0]].append(f"{key}{equals}{value}")
    return found["protocol"], found["attribution"]
