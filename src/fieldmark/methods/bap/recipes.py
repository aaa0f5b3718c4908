"""BAP and its two controls as recipes: from an encoder and composites to an encoder."""

from __future__ import annotations

from fieldmark.core.errors import NotApplicableError
from fieldmark.methods.bap.config import BapConfig
from fieldmark.methods.bap.pretrain import Pretraining, pretrain
from fieldmark.methods.bap.training import TrainingProgress, average_epochs
from fieldmark.methods.processes import Processes
from fieldmark.methods.recipe import Adapted, Material, Recipe

_SOURCES = {
    "bap": "bap.txt 3.1, Eq. 2 and 3",
    "data-matched-control": "bap.txt M.3.1",
    "random-orthogonal-anchors": "bap.txt appendix F",
}


def adapt_with(method: str, material: Material) -> Adapted:
    """Pre-train an encoder on composites.

    Args:
        method: a key of `methods.bap.pretrain.METHODS`.
        material: `config` is a BapConfig, and `compositor` makes the composites that it asks for
            (`build_compositor`).

    Raises:
        NotApplicableError: there are no objects and scenes to make composites of.
        UnknownNameError: there is no such method.
    """
    if material.compositor is None:
        raise NotApplicableError(f"{method} needs foregrounds and backgrounds, and there are none")
    config: BapConfig = material.config

    def show(at: TrainingProgress) -> None:
        note = f"loss {at.loss:.4f}, {at.rate:.1f} images/s"
        material.report(method, at.step, at.total, note)

    pretrained = pretrain(
        Pretraining(
            encoder=material.encoder,
            compositor=material.compositor(),
            config=config,
            seed=material.seed,
            folder=material.folder,
            cache=material.cache,
            processes=Processes(),
            on_anchor=lambda done, total: material.report("anchors", done, total, ""),
            on_step=show,
        ),
        method=method,
    )
    trained = pretrained.trained
    notes = {
        "loss_by_epoch": average_epochs(trained.losses),
        "steps": len(trained.losses),
        "stopped_early": trained.stopped_early,
    }
    return Adapted(encoder=pretrained.encoder, notes=notes)


def _make(method: str) -> Recipe:
    return Recipe(
        name=method,
        adapt=lambda material: adapt_with(method, material),
        config=BapConfig,
        uses="composites",
        source=_SOURCES[method],
    )


RECIPES = tuple(_make(method) for method in _SOURCES)
