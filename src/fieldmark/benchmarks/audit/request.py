"""What `fieldmark audit` is asked, and a request whose words were all understood."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from fieldmark.benchmarks.arguments import list_arguments
from fieldmark.benchmarks.runs import choose_templates
from fieldmark.core.errors import UnknownNameError, UsageError
from fieldmark.models.embed import Precision

MaskChoice = Literal["auto", "given", "img-focus", "grabcut", "none"]


@dataclass(frozen=True, kw_only=True)
class AuditRequest:
    """What to audit, and how.

    Attributes:
        model: URI of the encoder.
        data: the images, as `open_table` reads them.
        out: folder of the run.
        root: folder that a table's paths lie in.
        compare: URI of a second encoder, such as the mended one.
        split: what to judge; by default the first of `test`, another whose name starts with test,
            and `val` that there is, and all images of a table without splits.
        masks: folder of masks named as the images; the table's own by default.
        mask_source: `auto` takes the given masks, else img-focus where it was fetched before;
            `img-focus` may fetch it; `none` does without.
        backgrounds: scenes of COVAR's changes, a folder or a table; by default, as always for the
            swaps, those of the images themselves, their objects painted over.
        limit: images that the slow parts (regions, error sources) look at, drawn evenly by group.
        objects: of the background swaps, at most.
        class_names: names for the prompts; the table's own by default.
        templates: `default`, `people`, or a file with one template a line.
        level: share of audits that may find something where there is nothing, in (0, 1).
        margin: an effect below this share is of no account, in (0, 1).
        seed: of all that is drawn.
        pictures: telling images on the page at most.
        batch_size: images in one forward.
        precision: of the weights.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        skip_unreadable: leave out images that cannot be read instead of stopping.
        resume: go on with the unfinished run in `out`.
    """

    model: str
    data: str
    out: Path
    root: Path | None = None
    compare: str | None = None
    split: str | None = None
    masks: Path | None = None
    mask_source: MaskChoice = "auto"
    backgrounds: Path | None = None
    limit: int = 300
    objects: int = 80
    class_names: tuple[str, ...] = ()
    templates: str = "default"
    level: float = 0.05
    margin: float = 0.05
    seed: int = 0
    pictures: int = 12
    batch_size: int = 64
    precision: Precision = "auto"
    device: str = "auto"
    skip_unreadable: bool = False
    resume: bool = False

    def arguments(self) -> dict[str, Any]:
        """Return as JSON values what decides the figures."""
        return list_arguments(self)

    @property
    def models(self) -> tuple[str, ...]:
        """URIs of the one or two encoders."""
        return (self.model,) if self.compare is None else (self.model, self.compare)


class AuditPlan(NamedTuple):
    """A request whose words were all understood.

    Attributes:
        request: the words.
        templates: of the prompts.
    """

    request: AuditRequest
    templates: tuple[str, ...]


def make_audit_plan(request: AuditRequest) -> AuditPlan:
    """Understand every word before anything is loaded or written.

    Raises:
        UsageError: an option is out of its range or unknown.
        InputError: a file of templates cannot be read.

    Example:
        >>> make_audit_plan(AuditRequest(model="a", data="d", out=Path("o"), compare="a"))
        Traceback (most recent call last):
        fieldmark.core.errors.UsageError: a is compared with itself; name another encoder ...
    """
    if request.mask_source not in get_args(MaskChoice):
        raise UnknownNameError("source of masks", request.mask_source, get_args(MaskChoice))
    if request.compare == request.model:
        raise UsageError(
            f"{request.model} is compared with itself",
            mend="name another encoder with --compare, or leave it out",
        )
    for name in ("level", "margin"):
        if not 0 < getattr(request, name) < 1:
            raise UsageError(f"a {name} of {getattr(request, name):g} is not between 0 and 1")
    if min(request.limit, request.objects) < 1 or request.pictures < 0:
        raise UsageError(
            "an audit needs at least one image and one object, and no number below 0",
            mend="leave these options out to get the defaults",
        )
    if request.masks is not None and not request.masks.is_dir():
        raise UsageError("is no folder of masks", where=request.masks, mend="name a folder")
    if request.masks is not None and request.mask_source not in ("auto", "given"):
        raise UsageError(
            f"masks are either given in {request.masks} or made by {request.mask_source}",
            mend="leave out --masks or --mask-source",
        )
    return AuditPlan(request=request, templates=tuple(choose_templates(request.templates)))
