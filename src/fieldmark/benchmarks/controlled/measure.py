"""What a job about a controlled setting measures, as rows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from fieldmark.benchmarks.controlled.captioned import (
    COCO,
    PROMPTS,
    draw_photographs,
    open_coco,
)
from fieldmark.benchmarks.controlled.outcomes import (
    STANDARD,
    Bools,
    Learned,
    Looked,
    Prepared,
    cluster_regions,
    find_top,
    fine_tune,
    gather,
    look,
    mark_spurious,
    measure_discoverers,
    measure_mitigated,
    measure_tie,
)
from fieldmark.benchmarks.controlled.plan import (
    DISCOVERY,
    VARIANTS,
    Variant,
    read_setting,
)
from fieldmark.benchmarks.controlled.texts import embed_classes
from fieldmark.benchmarks.jobs import Job
from fieldmark.benchmarks.store import Measured
from fieldmark.core.records import ResultRow
from fieldmark.data.controlled.canvases import draw_images
from fieldmark.data.controlled.images import ControlledImages, Setting
from fieldmark.data.controlled.objects import DOMAINS, open_objects
from fieldmark.methods.mitigation.config import MitigationConfig
from fieldmark.models.encoder import Encoder

FINE_TUNED = "fine-tuned"
# Points by which a model must have learned the tie in every seed (RaVL's lowest tau).
VALID = 10.0
# Objects pasted on photographs have boxes that lie between the cells of a feature map.
_CROPPED = ("stamps",)


def measure(job: Job, encoder: Encoder, *, report: Callable[[str], None]) -> Measured:
    """Do what a job about a setting asks for.

    Args:
        job: measure `controlled discovery` or `controlled mitigation`.
        encoder: to be fine-tuned.
        report: told what is under way.

    Returns:
        Of a discovery, whether each seed learned the tie, up to the first that did not, and where
        all did, Precision@10 of every way of discovering in each seed. Of a mitigation, in the
        first seed, what each way of fine-tuning leaves; nothing where the tie was not learned or
        not discovered.

    Raises:
        NotApplicableError: there are no images enough for the setting.
        UsageError: the setting is none of its domain's.
    """
    prepared = prepare(job, encoder)
    doing = _discover if job.measure == DISCOVERY else _mitigate
    return doing(job, prepared, report=report)


def prepare(job: Job, encoder: Encoder) -> Prepared:
    """Draw the images of a job's setting and embed its classes.

    Args:
        job: what is asked.
        encoder: to be fine-tuned.

    Raises:
        NotApplicableError: the domain has too few images for it.
        UsageError: the setting is none of its domain's.
    """
    setting, amounts = read_setting(job.task), job.arguments
    sets = [_draw(setting, encoder, job=job, tied=tied) for tied in (True, False)]
    prompts = PROMPTS if setting.domain == COCO else DOMAINS[setting.domain].prompts
    config = MitigationConfig(
        epochs=amounts["epochs"],
        batch_size=amounts["batch_size"],
        learning_rate=amounts["learning_rate"],
        precision="bf16",
        validation_share=amounts.get("validation_share", 0),
        patience=amounts.get("patience"),
        freeze_norms=False,
        contrast_temperature=0.07,
        regions="crop" if setting.domain in _CROPPED else "auto",
        checkpoint_seconds=3600,
    )
    return Prepared(
        setting=setting,
        encoder=encoder,
        tuning=sets[0],
        evaluation=sets[1],
        prototypes=embed_classes(encoder, setting.classes, prompts),
        config=config,
    )


def _draw(setting: Setting, encoder: Encoder, *, job: Job, tied: bool) -> ControlledImages:
    count = int(job.arguments["tuning" if tied else "evaluation"])
    root = find_files(job.task.root, setting.domain)
    if setting.domain == COCO:
        assert root is not None
        view = open_coco(root, tied=tied, encoder=encoder)
        each = -(-count // len(setting.classes))
        return draw_photographs(setting, view, tied=tied, per_class=each)
    return draw_images(
        setting,
        open_objects(setting.domain, root=root),
        fold="training" if tied else "evaluation",
        count=count,
        side=encoder.spec.image_size,
        tied=tied,
    )


def find_files(root: Path | None, domain: str) -> Path | None:
    """Return the folder under `root` with a domain's own files, None where the package's serve.

    Args:
        root: folder of the user's files, or None.
        domain: `digits` lies in `mnist`, `fashion` in `fashion-mnist`, and `coco` in `coco` or in
            `root` itself.

    Example:
        >>> find_files(None, "digits") is None
        True
    """
    if root is None:
        return None
    folder = root / {"digits": "mnist", "fashion": "fashion-mnist"}.get(domain, domain)
    return folder if folder.is_dir() else root if domain == COCO else None


def _discover(job: Job, prepared: Prepared, *, report: Callable[[str], None]) -> Measured:
    blank = functools.partial(_row, job, prepared)
    ties: list[Learned] = []
    seen: dict[int, Looked] = {}
    for seed in job.arguments["seeds"]:
        report(f"fine-tune, seed {seed}")
        made = fine_tune(prepared, method=STANDARD, seed=seed)
        seen[seed] = look(made, prepared.evaluation, way=prepared.config.regions)
        predictions = gather(prepared, seen[seed]).predictions
        ties.append(measure_tie(predictions, prepared.evaluation, code=prepared.setting.code))
        if not 100 * ties[-1].strength >= VALID:
            break
    rows = list(_list_ties(blank, ties, seeds=list(seen)))
    # Undefined in one seed is undefined.
    strength = float(np.min([100 * tie.strength for tie in ties]))
    rows.append(blank(FINE_TUNED, "strength", strength, len(prepared.evaluation), 0))
    if strength >= VALID:
        for seed, looked in seen.items():
            report(f"discover, seed {seed}")
            rows += _list_precisions(prepared, looked, blank=blank, seed=seed)
    valid = {"valid": bool(strength >= VALID), "seeds run": len(seen)}
    return Measured(rows=tuple(rows), notes=valid)


def _list_ties(
    blank: Callable[..., ResultRow], ties: list[Learned], *, seeds: list[int]
) -> Iterator[ResultRow]:
    for seed, tie in zip(seeds, ties, strict=True):
        yield blank(FINE_TUNED, "epsilon1", 100 * tie.epsilon_1, tie.count, seed)
        yield blank(FINE_TUNED, "epsilon2", 100 * tie.epsilon_2, tie.count, seed)
        yield blank(FINE_TUNED, "image_avg", tie.accuracy, tie.count, seed)


def _list_precisions(
    prepared: Prepared, looked: Looked, *, blank: Callable[..., ResultRow], seed: int
) -> list[ResultRow]:
    evidence = gather(prepared, looked)
    clusters = cluster_regions(evidence, seed=seed)
    rows = []
    for name, found in measure_discoverers(prepared, evidence, clusters, seed=seed).items():
        rows.append(blank(name, "precision@10", found.value, found.considered, seed))
        rows.append(blank(name, "cluster_size", found.size, found.size, seed))
    return rows


def _mitigate(job: Job, prepared: Prepared, *, report: Callable[[str], None]) -> Measured:
    """Train the tie away in one seed, where it was learned and discovered."""
    seed = int(job.arguments["seeds"][0])
    blank = functools.partial(_row, job, prepared)
    report("fine-tune")
    model = fine_tune(prepared, method=STANDARD, seed=seed)
    looked = look(model, prepared.evaluation, way=prepared.config.regions)
    evidence = gather(prepared, looked)
    tie = measure_tie(evidence.predictions, prepared.evaluation, code=prepared.setting.code)
    clusters = cluster_regions(evidence, seed=seed)
    ranked, precision = find_top(prepared, evidence, clusters)
    about = {"strength": 100 * tie.strength, "precision@10": precision.value}
    least = float(job.arguments["least_precision"])
    if not (100 * tie.strength >= VALID and precision.value > least):
        return Measured(notes={**about, "left out": "not learned, or not discovered"})
    top = int(clusters.labels_[ranked.rows[0]])
    regions = look(model, prepared.tuning, way=prepared.config.regions).regions
    spurious = mark_spurious(regions, evidence.regions, clusters, cluster=top)
    rows = [
        # The model that was discovered on is one that was fine-tuned in the standard way.
        blank(STANDARD, metric, value, count, seed)
        for metric, (value, count) in measure_mitigated(prepared, looked).items()
    ]
    for name in job.arguments["variants"]:
        report(name)
        after = _train_away(prepared, VARIANTS[name], seed=seed, spurious=spurious)
        rows += [
            blank(name, metric, value, count, seed)
            for metric, (value, count) in measure_mitigated(prepared, after).items()
        ]
    planted = prepared.tuning.shows == len(prepared.setting.classes)
    about["marked"] = int(spurious.sum())
    about["marked that show the feature"] = int((spurious & planted).sum())
    about["regions with the feature"] = int(planted.sum())
    return Measured(rows=tuple(rows), notes=about)


def _train_away(prepared: Prepared, variant: Variant, *, seed: int, spurious: Bools) -> Looked:
    changed = prepared.config.model_copy(update={"reduction": variant.reduction})
    mended = fine_tune(
        dataclasses.replace(prepared, config=changed),
        method=variant.method,
        seed=seed,
        spurious=spurious,
    )
    return look(mended, prepared.evaluation, way=prepared.config.regions)


def _row(
    job: Job, prepared: Prepared, method: str, metric: str, value: float, count: int, seed: int
) -> ResultRow:
    return ResultRow(
        suite="",
        dataset=prepared.setting.domain,
        split="evaluation",
        encoder=job.model,
        method=method,
        correlation=prepared.setting.correlation,
        seed=seed,
        metric=metric,
        value=float(value),
        count=count,
    )
