"""BAP phase 1: one anchor for each object (BAP 3.1.1, Eq. 2).

The frozen teacher embeds an object on K random backgrounds; the anchor is the mean of the unit
embeddings, made a unit vector again. (The paper's text says normalised embeddings, its formula does
not; facts 3.9.) Anchors are made in parts of `PART` objects, each stored under a key of everything
that it depends on, so a killed run goes on where it was and a second run with the same teacher and
objects embeds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from fieldmark.core.atomic import hash_json, replacing
from fieldmark.data.compositing import Compositor
from fieldmark.methods.bap.plan import Plan, draw_anchor_contexts
from fieldmark.methods.prefetch import prefetch
from fieldmark.models.encoder import Encoder

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
        progress: called with composites done and composites in all.

    Returns:
        (n_objects,D) float32 unit vectors, on the CPU.
    """
    total = compositor.n_objects * contexts
    keys = _find_keys(teacher, compositor, contexts=contexts, seed=seed)
    parts = []
    for part, key in enumerate(keys):
        first = part * PART
        count = min(PART, compositor.n_objects - first)
        path = cache / f"anchors-{key}.safetensors"
        if not path.exists():
            plan = draw_anchor_contexts(
                count,
                contexts=contexts,
                n_backgrounds=compositor.n_backgrounds,
                n_scales=compositor.n_scales,
                seed=seed,
                part=part,
            )
            plan = Plan(plan.objects + first, plan.backgrounds, plan.scales)
            report = _shift(progress, done=first * contexts, total=total)
            embedding = _embed(teacher, compositor, plan=plan, batch_size=batch_size, report=report)
            anchor = average_embeddings(embedding.view(count, contexts, -1))
            with replacing(path) as unfinished:
                save_file({"anchor": anchor}, unfinished)
        parts.append(load_file(path)["anchor"])
        if progress:
            progress((first + count) * contexts, total)
    return torch.cat(parts)


def _shift(progress: Progress | None, *, done: int, total: int) -> Callable[[int], None]:
    return lambda count: progress(done + count, total) if progress else None


def _embed(
    teacher: Encoder,
    compositor: Compositor,
    *,
    plan: Plan,
    batch_size: int,
    report: Callable[[int], None],
) -> Tensor:
    device = next(teacher.image_tower.parameters()).device
    starts = range(0, len(plan), batch_size)
    batches = (plan.rows(slice(start, start + batch_size)) for start in starts)
    images = (
        compositor.composite(b.objects, b.backgrounds, b.scales, device=device).image
        for b in batches
    )
    embeddings, done = [], 0
    with torch.inference_mode():
        for image in prefetch(images):
            embeddings.append(teacher.encode_image(image).cpu())
            done += len(image)
            report(done)
    return torch.cat(embeddings)


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
