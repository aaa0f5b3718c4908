"""Does the causal rule see what an encoder answers by, where that is known?

    python benchmarks/planted_background.py [--model packaged:dinov2-small@98] [--draws 10]

Composites of `stamps`: animals on scenes of land or water. Two sets of class embeddings are fitted
on composites of the training scenes, where animal and scene are independent, and judged on other
composites on other scenes. One answers by the scene: its errors are counted against the animal, and
the causal rule should call at least 95 % of them background-driven. The other answers by the
animal: its errors are counted against the scene, at most 5 % should be called so. `probe` is
logistic regression without an intercept, `mean` the mean embedding of each class. With two classes
whose probe weights are opposite, cosine, margin and log-softmax agree by construction; with class
means the cosine has an offset that both classes share, which the margin leaves out.

On dinov2-small@98 both targets are missed: about 80 % for the scene and 40 % for the animal. On a
grid of 7 x 7 the animal covers 15 % of the patches by the rule of half a patch and touches 35 %, so
that patches of the border carry either cue into the other part: a probe on the animal is right for
65 % of the images from the background's patches alone, and for 50 %, which is chance, once all
patches that the animal touches are removed as well. Confident answers come off better.

`size null` is the share that random sets of patches of the same sizes are called background, and
`swapped` gives each image the mask of another.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple, get_args

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from fieldmark.attribution.error_sources import (
    Score,
    divide_patches,
    encode_parts,
    judge_removals,
    measure_drops,
)
from fieldmark.attribution.foreground import prepare_mask
from fieldmark.benchmarks.jobs import TaskRef
from fieldmark.benchmarks.runner import open_ref
from fieldmark.core.seeds import generator
from fieldmark.data.images import read_grey
from fieldmark.data.tables import ImageTable
from fieldmark.metrics.error_shares import BACKGROUND, summarise_sources
from fieldmark.metrics.overlap import UNRESOLVABLE
from fieldmark.models.encoder import Encoder
from fieldmark.models.load import load_encoder

BATCH = 40
# Share of the patches from which on an object counts as large.
LARGE = 0.2
# As the demo builds it, so that it is found in the cache.
OPTIONS = {
    "task": "birds-mammals",
    "correlation": 1.0,
    "seed": 0,
    "per_class": 100,
    "per_group": 50,
}
FITTED, JUDGED = ("train_balanced",), ("test_seen", "test_unseen")


class Looked(NamedTuple):
    """Composites of some splits: embeddings (n,1+draws,3,D), parts (n,2,N) and the rows."""

    embeddings: np.ndarray
    parts: np.ndarray
    table: ImageTable


def look(
    encoder: Encoder, table: ImageTable, *, splits: tuple[str, ...], draws: int, swapped: bool
) -> Looked:
    rows = [i for i, split in enumerate(table.splits or ()) if split in splits]
    chosen = table.take(rows)
    masks = [mask for mask in chosen.masks or () if mask is not None]
    if swapped:
        order = generator(0, "swapped").permutation(len(masks))
        masks = [masks[i] for i in order]
    embedded, divided = [], []
    for start in range(0, len(chosen), BATCH):
        images, shapes = [], []
        for row in range(start, min(start + BATCH, len(chosen))):
            image = chosen.read(row)
            mask = prepare_mask(read_grey(masks[row]), image=image, encoder=encoder)
            images.append(encoder.preprocess(image))
            shapes.append((mask > 0.5).float())
        parts = divide_patches(torch.stack(shapes), grid=encoder.spec.grid)
        divided.append(parts)
        embedded.append(
            encode_parts(
                encoder, torch.stack(images), parts,
                draws=draws, ids=chosen.ids[start : start + BATCH],
            )
        )  # fmt: skip
    return Looked(np.concatenate(embedded), np.concatenate(divided), chosen)


def fit_classes(whole: np.ndarray, target: np.ndarray, *, kind: str) -> np.ndarray:
    if kind == "mean":
        classes = np.stack([whole[target == c].mean(axis=0) for c in (0, 1)])
    else:
        probe = LogisticRegression(C=100.0, fit_intercept=False, max_iter=2000)
        weights = probe.fit(whole, target).coef_[0]
        classes = np.stack([-weights, weights])
    return np.asarray(classes / np.linalg.norm(classes, axis=1, keepdims=True), np.float32)


def report(fitted: Looked, judged: Looked, *, cue: str, kind: str, score: Score) -> str:
    targets = {
        name: (
            np.asarray(part.table.labels),
            np.asarray(part.table.attributes),
        )
        for name, part in (("fitted", fitted), ("judged", judged))
    }
    mine, other = (1, 0) if cue == "scene" else (0, 1)
    classes = fit_classes(fitted.embeddings[:, 0, 0], targets["fitted"][mine], kind=kind)
    predictions = (judged.embeddings[:, 0, 0] @ classes.T).argmax(axis=1)
    drops = measure_drops(judged.embeddings, classes, predictions=predictions, score=score)
    found = judge_removals(drops, judged.parts)
    errors = predictions != targets["judged"][other]
    share = summarise_sources(
        found.verdicts, errors, parts=2, null=found.null, objects=judged.table.objects
    )
    by = {one.source: one for one in share}[BACKGROUND]
    planted = errors & (targets["judged"][0] != targets["judged"][1])
    inside = found.verdicts[planted]
    right = float((predictions == targets["judged"][mine]).mean())
    low, high = by.interval
    alone = judged.embeddings[:, 0] @ classes.T
    # Kept without the object is the background alone, and the other way round.
    kept = (alone.argmax(axis=-1) == predictions[:, None])[errors].mean(axis=0)
    large = planted & (judged.parts[:, 0].mean(axis=1) >= LARGE)
    return (
        f"{cue:7}{kind:7}{score:12} answers by it {right:6.1%}  errors {by.of:4d}  "
        f"background {by.share:6.1%} [{low:.1%}, {high:.1%}]  size null {by.null:6.1%}  "
        f"corrected {by.corrected:7.1%}  where the cues disagree {(inside == 1).mean():6.1%} "
        f"of {len(inside)}, large objects {(found.verdicts[large] == 1).mean():6.1%} of "
        f"{large.sum()}  "
        f"answer kept by the background alone {kept[1]:.0%}, by the object alone {kept[2]:.0%}  "
        f"unresolvable {(found.verdicts[errors] == UNRESOLVABLE).sum()}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="packaged:dinov2-small@98")
    parser.add_argument("--draws", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = open_ref(TaskRef(dataset="stamps", options=OPTIONS)).table
    encoder = load_encoder(arguments.model, device="cpu")
    fitted = look(encoder, table, splits=FITTED, draws=0, swapped=False)
    for swapped in (False, True):
        draws = 0 if swapped else arguments.draws
        judged = look(encoder, table, splits=JUDGED, draws=draws, swapped=swapped)
        print("masks swapped between images" if swapped else "exact masks")
        for cue in ("scene", "object"):
            for kind in ("probe", "mean"):
                for score in get_args(Score):
                    print(report(fitted, judged, cue=cue, kind=kind, score=score), flush=True)


if __name__ == "__main__":
    main()
