"""What the studies of the BAP paper measure on an encoder of a bench, by name.

Amounts are arguments of the job; each has the paper's value as its default.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fieldmark.benchmarks.embedding_maps import measure_map
from fieldmark.benchmarks.fine_tuning_curves import measure_fine_tuning_curve
from fieldmark.benchmarks.jobs import Job
from fieldmark.benchmarks.store import Measured
from fieldmark.benchmarks.structure import (
    BATCH,
    SIZES,
    embed_scenes,
    report_score,
    score_images,
    score_texts,
)
from fieldmark.benchmarks.study_material import (
    embed_names,
    list_named,
    name_category,
    name_objects,
    open_compositor,
    require_backgrounds,
    sample_backgrounds,
)
from fieldmark.benchmarks.subject import Bench, choose_foregrounds
from fieldmark.benchmarks.word_pairs import draw_word_pairs
from fieldmark.core.errors import NotApplicableError
from fieldmark.core.records import ResultRow
from fieldmark.core.seeds import generator
from fieldmark.data.compositing import Compositor
from fieldmark.methods.zero_shot import ZeroShotClassifier
from fieldmark.metrics.averaging import average_first, fit_decay, measure_residuals
from fieldmark.metrics.intervals import mean_and_deviation, wilson_interval
from fieldmark.models.embed import embed_batches, embed_images

# Longer side of an object as a share of the image (BAP G.3).
ANCHOR_SCALE = 0.8
# Objects whose composites are embedded at once.
OBJECTS_AT_ONCE = 32


def measure_additivity(bench: Bench, job: Job) -> Measured:
    """Measure additivity S of an image tower over composites of a task (BAP Table 1, Eq. 1).

    Args:
        bench: task and encoder.
        job: its argument `composites` is how many (300,000).

    Returns:
        Rows `additivity`, the mean, with the interval of that mean, and `additivity_deviation`, the
        standard deviation over composites, which is what the paper prints behind its ±.
    """
    encoder = bench.adapt(job).encoder
    count = int(job.arguments.get("composites", 300_000))
    score = score_images(encoder, open_compositor(bench, job), count=count, seed=job.seed)
    blank = bench.blank(job)
    deviation = dataclasses.replace(
        blank, metric="additivity_deviation", value=score.deviation, count=score.count
    )
    return Measured(rows=(report_score(blank, "additivity", score), deviation))


def measure_text_additivity(bench: Bench, job: Job) -> Measured:
    """Measure additivity S of a text tower over word pairs (BAP appendix A, Table 7).

    Args:
        bench: task and encoder; the task plays no part.
        job: its argument `pairs` is how many (5,000).

    Returns:
        Rows `text_additivity` and `word_similarity` (of the two words alone), each followed by its
        standard deviation over pairs, `..._deviation`.
    """
    pairs = draw_word_pairs(int(job.arguments.get("pairs", 5_000)), seed=job.seed)
    score = score_texts(bench.encoder, pairs)
    between = dataclasses.replace(score, mean=score.parts, deviation=score.parts_deviation)
    blank = bench.blank(job)
    rows = []
    for metric, found in (("text_additivity", score), ("word_similarity", between)):
        rows.append(report_score(blank, metric, found))
        rows.append(
            dataclasses.replace(
                blank, metric=f"{metric}_deviation", value=found.deviation, count=found.count
            )
        )
    return Measured(rows=tuple(rows))


def measure_anchors(bench: Bench, job: Job) -> Measured:
    """Measure what an anchor over K scenes keeps and loses (BAP Figure 1, appendix G).

    Scenes are drawn with replacement from the pool whose mean is the population mean, so that the
    expected residual variance is Var/K exactly, for a pool of a hundred as for the paper's 100,000
    (`metrics.averaging.measure_residuals`). The objects of the first sequences stand on them.

    Args:
        bench: task and encoder.
        job: arguments `objects` (how many are pasted), `backgrounds` (size of the pool, 100,000)
            and `sequences` (draws of 40 scenes, 2,000).

    Returns:
        For each K of G.3 rows `residual_variance:K`, `anchor_class_similarity:K` and
        `anchor_scene_similarity:K` (the highest over categories); and `residual_slope`, log
        variance on log K with its interval, counted in sequences.

    Raises:
        NotApplicableError: there are no objects, or not two different scenes.
    """
    amounts = {"objects": 7_500, "backgrounds": 100_000, "sequences": 2_000, **job.arguments}
    encoder = bench.adapt(job).encoder
    pool = sample_backgrounds(
        require_backgrounds(bench), int(amounts["backgrounds"]), seed=job.seed
    )
    if len(set(pool.hashes())) < 2:
        raise NotApplicableError(f"{bench.task.name} has one scene, whose mean has no variance")
    compositor = open_compositor(
        bench, job, backgrounds=pool, scales=(ANCHOR_SCALE, ANCHOR_SCALE), scale_steps=1
    )
    bench.report("scenes", 0, len(pool), "")
    population = embed_scenes(encoder, compositor, np.arange(len(pool)))
    rng = generator(job.seed, "anchors of a study")
    objects = rng.permutation(compositor.n_objects)[: int(amounts["objects"])]
    shape = (max(int(amounts["sequences"]), len(objects)), max(SIZES))
    draws = rng.integers(len(pool), size=shape)
    residuals = measure_residuals(population, draws, sizes=SIZES)
    decay = fit_decay(residuals, SIZES, seed=job.seed)
    own, other = _compare_anchors(bench, job, compositor, objects=objects, draws=draws)
    blank = bench.blank(job)
    slope = dataclasses.replace(
        blank,
        metric="residual_slope",
        value=decay.slope,
        ci_low=decay.low,
        ci_high=decay.high,
        count=decay.count,
    )
    rows = [
        *_report_sizes(residuals, blank=blank, metric="residual_variance"),
        slope,
        *_report_sizes(own, blank=blank, metric="anchor_class_similarity"),
        *_report_sizes(other, blank=blank, metric="anchor_scene_similarity"),
    ]
    return Measured(rows=tuple(rows), notes={"scenes": len(pool), "objects": len(objects)})


def _compare_anchors(
    bench: Bench,
    job: Job,
    compositor: Compositor,
    *,
    objects: NDArray[np.int64],
    draws: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return cosines (n,len(SIZES)) of purified vectors with their class and the nearest scene."""
    encoder, pool = bench.adapt(job).encoder, compositor.backgrounds
    classes = embed_names(bench, name_objects(bench, choose_foregrounds(bench.task, job.source)))
    named = [name_category(pool.categories[i]) for i in list_named(pool)]
    nothing = np.full((1, bench.encoder.spec.dim), np.nan)
    scenes = embed_names(bench, named) if named else nothing
    own, other = [], []
    for start in range(0, len(objects), OBJECTS_AT_ONCE):
        chosen = objects[start : start + OBJECTS_AT_ONCE]
        vectors = embed_batches(
            encoder, _composite(compositor, chosen, draws[start : start + len(chosen)])
        )
        anchors = average_first(vectors.reshape(len(chosen), max(SIZES), -1), sizes=SIZES)
        texts = classes[compositor.labels[chosen]]
        own.append(np.einsum("rkd,rd->rk", anchors, texts))
        other.append((anchors @ scenes.T).max(axis=-1))
        bench.report("anchors", start + len(chosen), len(objects), "")
    return np.concatenate(own), np.concatenate(other)


def _composite(
    compositor: Compositor, objects: NDArray[np.int64], draws: NDArray[np.int64]
) -> Iterator[Tensor]:
    every, scenes = np.repeat(objects, draws.shape[1]), draws.ravel()
    for start in range(0, len(every), BATCH):
        part = slice(start, start + BATCH)
        yield compositor.composite(every[part], scenes[part], np.zeros_like(every[part])).image


def _report_sizes(
    values: NDArray[np.float64], *, blank: ResultRow, metric: str
) -> Iterator[ResultRow]:
    """Yield the mean over sequences or objects at each K, with its normal interval."""
    for size, column in zip(SIZES, values.T, strict=True):
        found = mean_and_deviation(column)
        error = 1.96 * found.deviation / math.sqrt(max(found.count, 1))
        yield dataclasses.replace(
            blank,
            metric=f"{metric}:{size}",
            value=found.mean,
            ci_low=found.mean - error,
            ci_high=found.mean + error,
            count=found.count,
        )


def measure_scene_recognition(bench: Bench, job: Job) -> Measured:
    """Measure zero-shot accuracy on a task's classes and on its scenes (BAP Table 16, appendix J).

    Scenes are named among all categories of the pool that pre-training pastes objects on, with the
    same 40 templates.

    Args:
        bench: task and encoder.
        job: its argument `backgrounds` is the most scenes that are named (100,000).

    Returns:
        Rows `acc_y:CLASS` and `acc_avg` on each test split; on the split `scenes` a row
        `acc_scene:CATEGORY` each and `acc_scenes`, the mean over categories.

    Raises:
        NotApplicableError: there are no scenes of two categories that have a name.
    """
    every = require_backgrounds(bench)
    present = list_named(every)
    if len(present) < 2:
        raise NotApplicableError(f"the scenes of {bench.task.name} have no two named categories")
    pool = sample_backgrounds(
        every.take(np.flatnonzero(np.isin(every.category_ids, present))),
        int(job.arguments.get("backgrounds", 100_000)),
        seed=job.seed,
    )
    adapted = bench.adapt(job)
    blank = dataclasses.replace(bench.blank(job), head="zero-shot")
    rows: list[ResultRow] = []
    objects = ZeroShotClassifier(bench.prototypes)
    for split in bench.embed(adapted.encoder, bench.task.tests).values():
        right = objects.predict(split.embeddings) == split.table.labels
        here = dataclasses.replace(blank, split=split.name)
        rows.append(_report_accuracy(right, blank=here, metric="acc_avg"))
        for label, name in enumerate(split.table.classes):
            mine = right[split.table.labels == label]
            rows.append(_report_accuracy(mine, blank=here, metric=f"acc_y:{name}"))
    names = [name_category(pool.categories[i]) for i in present]
    found = embed_images(
        adapted.encoder, pool, cache=bench.store.embeddings, batch_size=bench.batch_size
    )
    said = present[ZeroShotClassifier(embed_names(bench, names)).predict(found.values)]
    right = said == pool.category_ids
    here = dataclasses.replace(blank, split="scenes")
    scenes = {
        pool.categories[i]: _report_accuracy(
            right[pool.category_ids == i], blank=here, metric=f"acc_scene:{pool.categories[i]}"
        )
        for i in present
    }
    mean = mean_and_deviation([row.value for row in scenes.values()]).mean
    overall = dataclasses.replace(here, metric="acc_scenes", value=mean, count=len(pool))
    return Measured(rows=(*rows, overall, *scenes.values()))


def _report_accuracy(right: NDArray[np.bool_], *, blank: ResultRow, metric: str) -> ResultRow:
    count = len(right)
    low, high = wilson_interval(float(right.sum()), count)
    return dataclasses.replace(
        blank,
        metric=metric,
        value=float(right.mean()) if count else math.nan,
        ci_low=low,
        ci_high=high,
        count=count,
    )


STUDY_MEASURES: Mapping[str, Callable[[Bench, Job], Measured]] = {
    "additivity": measure_additivity,
    "text-additivity": measure_text_additivity,
    "anchor-study": measure_anchors,
    "scene-recognition": measure_scene_recognition,
    "fine-tuning-curve": measure_fine_tuning_curve,
    "map": measure_map,
}
