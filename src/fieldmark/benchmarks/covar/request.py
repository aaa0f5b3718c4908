"""What `fieldmark covar evaluate` is asked, and a request whose words were all understood."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fieldmark.attribution.error_nulls import DRAWS
from fieldmark.attribution.error_sources import Rule
from fieldmark.benchmarks.arguments import list_arguments
from fieldmark.benchmarks.attribution.diagnosis_request import parse_rules
from fieldmark.benchmarks.runs import choose_templates
from fieldmark.core.errors import UsageError

NO_RULES = "none"
Head = Literal["zero-shot", "class-means"]


@dataclass(frozen=True, kw_only=True)
class CovarRequest:
    """What to evaluate, and how.

    Attributes:
        models: URIs of the encoders, each once; the first is what the others are compared with.
        data: folder of a built COVAR.
        out: folder of the run.
        candidates: `own` for the classes of the COVAR, `imagenet` for the 1,000 names that the
            paper chooses among, or a file with one name a line.
        templates: `default`, `people`, or a file with one template a line.
        head: `zero-shot`, or `class-means` for an encoder whose texts are of no use.
        fit_objects: objects of each class that class means are made of, and that are not judged.
        rules: names out of `RULES` with commas between them, `all` or `none`.
        limit: images of each subset at most, the same compositions in all; None takes all.
        errors: errors of each subset that are explained at most, drawn by the seed; 0 for all.
        draws: of the null of rules that judge maps, for each image.
        causal_draws: random divisions of each error for the null of the causal rule.
        seed: of all that is drawn.
        batch_size: forwards that are in memory at once.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        resume: go on with the unfinished run in `out`.
    """

    models: tuple[str, ...]
    data: Path
    out: Path
    candidates: str = "own"
    templates: str = "default"
    head: Head = "zero-shot"
    fit_objects: int = 1
    rules: str = "all"
    limit: int | None = None
    errors: int = 200
    draws: int = DRAWS
    causal_draws: int = 2
    seed: int = 0
    batch_size: int = 64
    device: str = "auto"
    resume: bool = False

    def arguments(self) -> dict[str, Any]:
        """Return as JSON values what decides the figures."""
        return list_arguments(self)


class CovarPlan(NamedTuple):
    """A request whose words were all understood.

    Attributes:
        request: the words.
        rules: that errors are judged by; none where nobody asked.
        templates: of the prompts.
    """

    request: CovarRequest
    rules: tuple[Rule, ...]
    templates: tuple[str, ...]


def make_covar_plan(request: CovarRequest) -> CovarPlan:
    """Understand every word before anything is loaded or written.

    Raises:
        UsageError: an option is out of its range or unknown, or an encoder is named twice.
        InputError: a file of templates cannot be read.

    Example:
        >>> asked = CovarRequest(models=("a", "a"), data=Path("c"), out=Path("o"))
        >>> make_covar_plan(asked)
        Traceback (most recent call last):
        fieldmark.core.errors.UsageError: the encoder a is named twice; name each once
    """
    if not request.models:
        raise UsageError("no encoder is named", mend="name one with --model")
    for name in request.models:
        if request.models.count(name) > 1:
            raise UsageError(f"the encoder {name} is named twice", mend="name each once")
    numbers = (request.errors, request.causal_draws, request.draws - 1, (request.limit or 1) - 1)
    if min(numbers) < 0:
        raise UsageError(
            "no number may be below 0, and a limit and draws not below 1",
            mend="leave these options out to get the defaults",
        )
    if request.head == "class-means" and request.candidates != "own":
        raise UsageError(
            "class means know the classes of the COVAR alone", mend="leave --candidates out"
        )
    none = request.rules.strip() == NO_RULES
    return CovarPlan(
        request=request,
        rules=() if none else parse_rules(request.rules),
        templates=tuple(choose_templates(request.templates)),
    )
