"""What `fieldmark explain` is asked for, understood before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fieldmark.attribution.config import AttributionConfig
from fieldmark.attribution.methods import METHODS, find_method
from fieldmark.benchmarks.arguments import list_arguments
from fieldmark.benchmarks.runs import choose_templates
from fieldmark.core.errors import UsageError

ALL = "all"
# In place of a mask file, for an image that has none.
NO_MASK = "-"


@dataclass(frozen=True, kw_only=True)
class ExplanationRequest:
    """What to explain, and how.

    Attributes:
        model: URI of the encoder.
        out: folder of the run.
        images: files to explain; or else `data` says where images are drawn from.
        data: table, folder or name of a data set.
        root: folder that a table's paths, or a named data set's files, lie in.
        split: split to draw from; all images by default.
        limit: how many images to draw from `data`, by the seed.
        texts: texts to explain, as they are.
        class_names: names to put into the prompts where there is no text; of `data` its own by
            default.
        templates: `default`, `people`, or a file with one template a line.
        methods: names out of `METHODS`, or `all`.
        masks: a mask for each of `images`, in order, `-` where there is none.
        config: settings of the methods.
        seed: of the draw of images and of the methods' own draws.
        batch_size: forwards in memory at once.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        resume: go on with the unfinished run in `out`.
    """

    model: str
    out: Path
    images: tuple[Path, ...] = ()
    data: str | None = None
    root: Path | None = None
    split: str | None = None
    limit: int = 10
    texts: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    templates: str = "default"
    methods: tuple[str, ...] = ("cci",)
    masks: tuple[str, ...] = ()
    config: AttributionConfig = field(default_factory=AttributionConfig)
    seed: int = 0
    batch_size: int = 64
    device: str = "auto"
    resume: bool = False

    def arguments(self) -> dict[str, Any]:
        """Return what decides the maps, as JSON values."""
        values = list_arguments(self, left_out=("config",))
        return {**values, "attribution": self.config.model_dump()}


class ExplanationPlan(NamedTuple):
    """A request whose words were all understood.

    Attributes:
        request: the words.
        methods: names of the methods.
        by_name: whether the methods were asked for by name, so that none may be left out.
        templates: of the prompts.
        config: with the seed and the batch size of the run.
    """

    request: ExplanationRequest
    methods: tuple[str, ...]
    by_name: bool
    templates: tuple[str, ...]
    config: AttributionConfig


def make_explanation_plan(request: ExplanationRequest) -> ExplanationPlan:
    """Understand every word before anything is loaded or written.

    Raises:
        UsageError: images, texts or masks are lacking or too many, or a method is not known.
        InputError: a file of templates cannot be read.
    """
    _check_images(request)
    if not (request.texts or request.class_names or request.data):
        raise UsageError(
            "there is no text to explain the images by",
            mend="give --text, or --class-name once for each class",
        )
    if request.limit < 1:
        raise UsageError(f"limit {request.limit} is below 1", mend="draw one image at least")
    methods = choose_methods(request.methods)
    update = {"seed": request.seed, "batch_size": request.batch_size}
    return ExplanationPlan(
        request=request,
        methods=methods,
        by_name=ALL not in request.methods,
        templates=tuple(choose_templates(request.templates)),
        config=request.config.model_copy(update=update),
    )


def _check_images(request: ExplanationRequest) -> None:
    if bool(request.images) == bool(request.data):
        problem = "both images and data are given" if request.data else "there is no image"
        raise UsageError(problem, mend="give --image once or more, or --data")
    names = [str(path) for path in request.images]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError("the image is given twice", where=twice, mend="leave one out")
    if request.masks and len(request.masks) != len(request.images):
        raise UsageError(
            f"{len(request.masks)} masks for {len(request.images)} images of --image",
            mend=f"give one for each image, in order, {NO_MASK} for an image without",
        )


def choose_methods(names: Sequence[str]) -> tuple[str, ...]:
    """Return the methods that names stand for, each once; a name may hold several, with commas.

    Raises:
        UnknownNameError: there is no such method.
        UsageError: there is no name.

    Example:
        >>> choose_methods(["rise,cci", "rise"])
        ('rise', 'cci')
    """
    words = [word.strip() for name in names for word in name.split(",") if word.strip()]
    if not words:
        raise UsageError("there is no method", mend="give --method cci, or --method all")
    if ALL in words:
        return tuple(METHODS)
    return tuple(dict.fromkeys(find_method(word).name for word in words))
