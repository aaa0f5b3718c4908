"""The methods that tables compare: what is done to the encoder, and which head reads it.

A new method is one file: a head (`methods.head.HeadKind`) or a recipe (`methods.recipe.Recipe`),
listed in `methods.heads` or `methods.recipes`, and a line here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fieldmark.benchmarks.jobs import NATIVE
from fieldmark.benchmarks.measures import TRAINED
from fieldmark.core.registry import look_up


@dataclass(frozen=True)
class Method:
    """A line of a table.

    Attributes:
        name: in flags.
        recipe: what is done to the encoder.
        head: what turns its embeddings into classes.
    """

    name: str
    recipe: str
    head: str


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method("zero-shot", NATIVE, "zero-shot"),
        Method("roboshot", NATIVE, "roboshot"),
        Method("dial", NATIVE, "dial"),
        Method("bap-zero-shot", "bap", "zero-shot"),
        Method("linear-probe", NATIVE, "linear-probe"),
        Method("group-dro", NATIVE, "group-dro"),
        Method("afr", "erm-80", "afr"),
        Method("dfr", "lp-ft", "dfr"),
        Method("dfr-rest", "lp-ft", "dfr-rest"),
        Method("lp-ft", "lp-ft", TRAINED),
        Method("wise-ft", "wise-ft", TRAINED),
        Method("weight-ensemble", "weight-ensemble", TRAINED),
        Method("bang", "bang", TRAINED),
        Method("prusc", "prusc", TRAINED),
        Method("data-matched-control", "data-matched-control", "linear-probe"),
        Method("random-orthogonal-anchors", "random-orthogonal-anchors", "linear-probe"),
        Method("bap", "bap", "linear-probe"),
    )
}


def choose_methods(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of methods, each once, in the order of the tables; `all` stands for all.

    Raises:
        UnknownNameError: one that is not known.

    Example:
        >>> choose_methods(["bap", "zero-shot"])
        ('zero-shot', 'bap')
    """
    wanted = (
        set(METHODS) if "all" in names else {look_up(METHODS, n, kind="method").name for n in names}
    )
    return tuple(name for name in METHODS if name in wanted)
