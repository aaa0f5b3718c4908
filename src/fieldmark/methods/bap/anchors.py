"""BAP phase 1: one anchor for each object (BAP 3.1.1, Eq. 2).

The frozen teacher embeds an object on K random backgrounds; the anchor is the mean of the unit
embeddings, made a unit vector again. (The paper's text says normalised embeddings, its formula does
not; facts 3.9.) Anchors are made in parts of `PART` objects, each stored under a key of everything
that it depends on, so a killed run goes on where it was and a second run with the same teacher and
objects embeds nothing. A part is what an engine is given to do; no batch goes over its ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from fieldmark.core.atomic import hash_json
from fieldmark.core.sealed import SEAL, discard, is_whole, sealing
from fieldmark.data.compositing import Compositor
from fieldmark.methods.bap.plan import Plan, draw_anchor_contexts
from fieldmark.methods.prefetch import prefetch
from fieldmark.models.encoder import Encoder
from fieldmark.models.engine import LOCAL, Engine

PART = 256
Progress = Callable[[int, int], None]


def average_embeddings(embedding_BKD: Tensor) -> Tensor:
    """Return anchors: the mean over K unit embeddings, made of unit norm (Eq. 2).

    Args:
        embedding_BKD: (B,K,D), unit vectors.

    Returns:
        (B,D) float32, unit vectors.

    Example:
        >>> average_embeddings(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
        tensor([[0.7071, 0.7071]])
    """
    return functional.normalize(embedding_BKD.float().mean(dim=1), dim=-1)


def make_anchors(
    teacher: Encoder,
    compositor: Compositor,
    *,
    contexts: int,
    seed: int,
    batch_size: int,
    cache: Path,
    engine: Engine = LOCAL,
    progress: Progress | None = None,
) -> Tensor:
    """Make the anchor of every object of a compositor (Eq. 2).

    Args:
        teacher: the frozen encoder.
        compositor: objects and backgrounds.
        contexts: K, backgrounds averaged over.
        seed: seed of the run.
        batch_size: composites in one forward.
        cache: folder that keeps the parts.
        engine: where the parts are made; the compositor's stores must be readable there.
        progress: called with composites done and composites in all.

    Returns:
        (n_objects,D) float32 unit vectors, on the CPU.
    """
    keys = _find_keys(teacher, compositor, contexts=contexts, seed=seed)
    paths = [cache / f"anchors-{key}.safetensors" for key in keys]
    parts = _cut_parts(compositor.n_objects)
    missing = [part for part in parts if not _is_made(paths[part.number])]
    total = compositor.n_objects * contexts
    done = total - contexts * sum(len(part.objects) for part in missing)
    if progress and done:
        progress(done, total)
    work = _Work(teacher, compositor, contexts, seed, batch_size)
    device = next(teacher.image_tower.parameters()).device
    made = engine.map(_make_part, work, missing, device=device)
    with contextlib.closing(made):
        for number, steps in made:
            for step in steps:
                if step.anchor is not None:
                    with sealing(paths[missing[number].number]) as unfinished:
                        save_file({"anchor": step.anchor}, unfinished, metadata=dict(SEAL))
                done += step.composites
                if progress and step.composites:
                    progress(done, total)
    return torch.cat([load_file(path)["anchor"] for path in paths])


class _Work(NamedTuple):
    """What all parts share."""

    teacher: Encoder
    compositor: Compositor
    contexts: int
    seed: int
    batch_size: int


class _Step(NamedTuple):
    """Composites that were embedded, or, at the end of a part, its anchors."""

    composites: int
    anchor: Tensor | None = None


def _is_made(path: Path) -> bool:
    if path.exists() and not is_whole(path):
        discard(path, instead="its anchors are made again")
    return path.exists()


class _Part(NamedTuple):
    number: int
    objects: range


def _cut_parts(n_objects: int) -> list[_Part]:
    starts = range(0, n_objects, PART)
    return [_Part(i, range(n_objects)[start : start + PART]) for i, start in enumerate(starts)]


def _make_part(work: _Work, part: _Part) -> Generator[_Step]:
    plan = draw_anchor_contexts(
        len(part.objects),
        contexts=work.contexts,
        n_backgrounds=work.compositor.n_backgrounds,
        n_scales=work.compositor.n_scales,
        seed=work.seed,
        part=part.number,
    )
    plan = Plan(plan.objects + part.objects.start, plan.backgrounds, plan.scales)
    embeddings = []
    for embedding in _embed(work, plan):
        embeddings.append(embedding)
        yield _Step(len(embedding))
    yield _Step(
        0, average_embeddings(torch.cat(embeddings).view(len(part.objects), work.contexts, -1))
    )


def _embed(work: _Work, plan: Plan) -> Iterator[Tensor]:
    device = next(work.teacher.image_tower.parameters()).device
    starts = range(0, len(plan), work.batch_size)
    batches = (plan.rows(slice(start, start + work.batch_size)) for start in starts)
    images = (
        work.compositor.composite(b.objects, b.backgrounds, b.scales, device=device).image
        for b in batches
    )
    for image in prefetch(images):
        with torch.inference_mode():
            yield work.teacher.encode_image(image).cpu()


def _find_keys(
    teacher: Encoder, compositor: Compositor, *, contexts: int, seed: int
) -> Iterator[str]:
    """Yield a key for each part: everything that its anchors depend on."""
    shared = {
        "teacher": teacher.spec.fingerprint,
        "dtype": str(next(teacher.image_tower.parameters()).dtype),
        "backgrounds": compositor.backgrounds.hashes(),
        "side": compositor.side,
        "scales": [float(value) for value in compositor.scale_values],
        "contexts": contexts,
        "seed": seed,
    }
    hashes = compositor.foregrounds.hashes()
    for part, first in enumerate(range(0, compositor.n_objects, PART)):
        yield hash_json({**shared, "objects": hashes[first : first + PART], "part": part})[:32]
