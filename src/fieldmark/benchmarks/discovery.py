"""Recorded runs of `fieldmark discover`: what a model spuriously ties to a class, with pictures.

    OUT/discovery.json, OUT/regions.safetensors    see `benchmarks.discovery_record`
    OUT/results.jsonl                              accuracy, and the figures of each candidate
    OUT/report.html                                the page

Images and regions are embedded once and kept in the cache, so a run that was stopped goes on where
it was. Shape letters: n images, R regions, C clusters, Y labels, D embedding dimensions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fieldmark.benchmarks.discovery_pictures import Scene, draw_pictures, locate_box
from fieldmark.benchmarks.discovery_record import StoredRegions, write_record
from fieldmark.benchmarks.discovery_request import DiscoveryRequest, Plan, make_plan, write_clusters
from fieldmark.benchmarks.discovery_search import MOST_SWEPT, Search, choose_clusters, search
from fieldmark.benchmarks.sources import open_table
from fieldmark.core.atomic import hash_json
from fieldmark.core.errors import TableError
from fieldmark.core.fetch import cache_dir
from fieldmark.core.records import ResultRow, Run, start_run
from fieldmark.data.tables import ImageTable
from fieldmark.discovery.candidates import Candidate
from fieldmark.discovery.evidence import (
    Evidence,
    gather_evidence,
    predict_zero_shot,
)
from fieldmark.discovery.region_embeddings import RegionEmbeddings, embed_regions
from fieldmark.discovery.region_sources import make_regions
from fieldmark.discovery.regions import Regions
from fieldmark.discovery.vocabulary import embed_vocabulary
from fieldmark.metrics.intervals import wilson_interval
from fieldmark.models.device import pick_device
from fieldmark.models.embed import embed_images
from fieldmark.models.encoder import Encoder
from fieldmark.models.engine import LOCAL, Engine
from fieldmark.models.load import load_encoder
from fieldmark.models.prompts import ensemble_prompts
from fieldmark.report.discovery_page import write_discovery_page

SUITE, HEAD = "discover", "zero-shot"
DEFAULT_SPLIT = "val"
_INDEPENDENT = "they are taken for independent"
# Called with a phase, what is done and how much there is.
Report = Callable[[str, int, int], None]


def run_discovery(
    request: DiscoveryRequest,
    *,
    encoder: Encoder | None = None,
    table: ImageTable | None = None,
    engine: Engine = LOCAL,
    report: Report | None = None,
) -> Path:
    """Find what a model spuriously ties to a class, and write records and page.

    Args:
        request: what to look at, and how.
        encoder: the one that the request names, where it is loaded already.
        table: the images that the request names, where they are open already.
        engine: where images and regions are embedded.
        report: called with the phase, what is done and how much there is.

    Returns:
        The folder of the run.

    Raises:
        UsageError: an option is out of its range or unknown, or the folder holds another run.
        InputError: the images, the boxes or the words cannot be used.
        NotApplicableError: the encoder does not bear regions.
    """
    plan = make_plan(request)
    table = table or select_split(open_table(request.data, root=request.root), request.split)
    encoder = encoder or load_encoder(request.model, device=pick_device(request.device))
    return _run(plan, encoder, table, engine=engine, report=report or _say_nothing)


def _say_nothing(phase: str, done: int, total: int) -> None:
    pass


def select_split(table: ImageTable, split: str | None) -> ImageTable:
    """Return the images of a split: of `val` by default, all of a table without splits.

    Raises:
        TableError: there is no such split.
    """
    if split is None and table.splits is None:
        return table
    return table.select(split or DEFAULT_SPLIT)


def _run(
    plan: Plan, encoder: Encoder, table: ImageTable, *, engine: Engine, report: Report
) -> Path:
    request = plan.request
    names = table.name_classes(request.class_names)
    run = start_run(
        request.out,
        "discover",
        arguments={**request.arguments(), "templates": list(plan.templates)},
        seeds=[request.seed],
        resume=request.resume,
    )
    scene, embedded, unreadable = _look(plan, encoder, table, engine=engine, report=report)
    write_record(
        request.out,
        describe(plan, scene, embedded=embedded, names=names),
        regions=StoredRegions(
            image_ids=scene.table.ids,
            images=scene.regions.images,
            boxes=scene.regions.boxes,
            clusters=scene.search.discovery.clusters,
            medoids=scene.evidence.regions[scene.search.medoids],
        ),
    )
    draw_pictures(scene, request.out / "page", gallery=request.gallery)
    run.add(_list_rows(plan, scene))
    run.notes = {"unreadable": unreadable}
    return _finish(run, scene.table, encoder)


def _look(
    plan: Plan, encoder: Encoder, table: ImageTable, *, engine: Engine, report: Report
) -> tuple[Scene, RegionEmbeddings, dict[str, str]]:
    """Embed images, regions and words, and search them."""
    request = plan.request
    cache = cache_dir() / "embeddings"
    part, images, unreadable = _read_images(plan, encoder, table, engine=engine, report=report)
    regions = make_regions(plan.source, part, spec=encoder.spec, table=part)
    embedded = embed_regions(
        encoder,
        part,
        regions=regions,
        way=request.way,
        cache=cache,
        batch_size=request.batch_size,
        precision=request.precision,
        engine=engine,
        progress=lambda done, total: report("regions", done, total),
    )
    evidence = _gather(plan, encoder, part, images=images, regions=(regions, embedded))
    vocabulary = embed_vocabulary(encoder, plan.words, cache=cache)
    report("clusters", 0, 1)
    result = search(
        evidence,
        method=request.method,
        clusters=choose_clusters(request.clusters, regions=len(regions), classes=len(part.classes)),
        config=plan.config,
        vocabulary=vocabulary,
    )
    report("clusters", 1, 1)
    scene = Scene(table=part, regions=regions, spec=encoder.spec, evidence=evidence, search=result)
    return scene, embedded, unreadable


def _read_images(
    plan: Plan, encoder: Encoder, table: ImageTable, *, engine: Engine, report: Report
) -> tuple[ImageTable, NDArray[np.float32], dict[str, str]]:
    """Return the images that can be read, their embeddings, and why the others cannot."""
    found = embed_images(
        encoder,
        table,
        cache=cache_dir() / "embeddings",
        batch_size=plan.request.batch_size,
        precision=plan.request.precision,
        skip_unreadable=plan.request.skip_unreadable,
        engine=engine,
        progress=lambda done, total: report("images", done, total),
    )
    unreadable = {table.ids[image.index]: image.reason for image in found.unreadable}
    kept = np.flatnonzero([identity not in unreadable for identity in table.ids])
    if not len(kept):
        raise TableError("has no image that can be read", where=table.name, mend="mend its paths")
    return table.take(kept), found.values[kept], unreadable


def _gather(
    plan: Plan,
    encoder: Encoder,
    table: ImageTable,
    *,
    images: NDArray[np.float32],
    regions: tuple[Regions, RegionEmbeddings],
) -> Evidence:
    names = table.name_classes(plan.request.class_names)
    with torch.inference_mode():
        made = ensemble_prompts(encoder, names, plan.templates)
    prototypes = np.asarray(made.float().cpu().numpy())
    cut, embedded = regions
    return gather_evidence(
        regions=embedded.values,
        owners=cut.images,
        labels=table.labels,
        predictions=predict_zero_shot(images, prototypes),
        prototypes=prototypes,
        classes=table.classes,
        shared=list(find_shared(table).values()),
    )


def describe(
    plan: Plan, scene: Scene, *, embedded: RegionEmbeddings, names: tuple[str, ...]
) -> dict[str, Any]:
    """Return what `discovery.json` holds."""
    request, found = plan.request, scene.search.discovery
    return {
        **request.arguments(),
        "fingerprint": scene.spec.fingerprint,
        "dataset": scene.table.name,
        "split": _name_split(scene.table, request.split),
        "classes": list(scene.table.classes),
        "class_names": list(names),
        "templates": list(plan.templates),
        "selection": {"name": request.selection, **dataclasses.asdict(plan.config.selection)},
        "confidence": found.confidence,
        "accuracy": found.accuracy,
        "images": len(scene.table),
        "regions": {
            "source": plan.source.to_text(),
            "described": scene.regions.source,
            "way": embedded.way,
            "count": len(scene.regions),
            "lost": scene.regions.lost,
            "side": scene.regions.side,
        },
        "clustering": {
            "asked": write_clusters(scene.search.asked),
            "found": found.clustered,
            "silhouette": scene.search.silhouette,
            "algorithm": "CLARA" if len(scene.regions) > MOST_SWEPT else "FasterPAM",
        },
        "reason": found.reason,
        "notes": [*found.notes, *note_dependence(scene.table)],
        "candidates": [_describe_candidate(scene, one) for one in found.candidates],
        "all_clusters": list(_describe_clusters(scene.search)),
    }


def note_dependence(table: ImageTable) -> tuple[str, ...]:
    r"""Say that images share objects or scenes, where they do; the test takes them for independent.

    Example:
        >>> import tempfile
        >>> from fieldmark.data.tables import read_table
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     rows = "path,label,scene\na.png,cat,hill\nb.png,dog,hill\n"
        ...     for name in ("a.png", "b.png"): (Path(folder) / name).touch()
        ...     _ = (Path(folder) / "t.csv").write_text(rows)
        ...     print(*note_dependence(read_table(Path(folder) / "t.csv")))
        2 images share 1 scenes: they are taken for independent
    """
    own = find_shared(table)
    columns = {"objects": table.objects, "scenes": table.scenes}
    return tuple(
        f"{len(table)} images share {len(set(names))} {what}: "
        + ("p-values move each as one, intervals do not" if what in own else _INDEPENDENT)
        for what, names in columns.items()
        if names is not None and len(set(names)) < len(table)
    )


def find_shared(table: ImageTable) -> dict[str, tuple[str, ...]]:
    """Return what a table's images share, by its name: n names each of objects and of scenes.

    A column whose names are all different shares nothing; one with a single name has nothing that
    could change places. Both are left out.
    """
    columns = {"objects": table.objects, "scenes": table.scenes}
    return {
        what: names
        for what, names in columns.items()
        if names is not None and 1 < len(set(names)) < len(table)
    }


def _name_split(table: ImageTable, split: str | None) -> str:
    return "" if table.splits is None else split or DEFAULT_SPLIT


def _describe_candidate(scene: Scene, candidate: Candidate) -> dict[str, Any]:
    return {
        **dataclasses.asdict(candidate),
        "nearest": [_describe_region(scene, row) for row in candidate.nearest],
    }


def _describe_region(scene: Scene, row: int) -> dict[str, Any]:
    image = int(scene.regions.images[row])
    box = scene.regions.boxes[row].tolist()
    size = scene.table.read(image).size
    inside = locate_box(box, size=size, spec=scene.spec)
    return {
        "row": row,
        "image": scene.table.ids[image],
        "box": box,
        "box_in_file": [round(value, 2) for value in inside],
    }


def _describe_clusters(found: Search) -> Iterator[dict[str, Any]]:
    for cluster, (gap, influence, size, images) in enumerate(
        zip(*(column.tolist() for column in found.figures), strict=True)
    ):
        yield {
            "cluster": cluster,
            "size": size,
            "images": images,
            "gap": gap,
            "influence": influence,
        }


def _list_rows(plan: Plan, scene: Scene) -> list[ResultRow]:
    request, found = plan.request, scene.search.discovery
    blank = ResultRow(
        suite=SUITE,
        dataset=scene.table.name,
        split=_name_split(scene.table, request.split),
        encoder=scene.spec.uri,
        method=request.method,
        head=HEAD,
        seed=request.seed,
        metric="",
    )
    images, regions = len(scene.table), len(scene.regions)
    hits = round(found.accuracy * images)
    low, high = wilson_interval(hits, images)
    counts = {
        "clusters": (found.clustered, regions),
        "candidates": (len(found.candidates), found.clustered),
        "significant": (len(found.significant(request.level)), found.clustered),
    }
    return [
        dataclasses.replace(
            blank, metric="acc_avg", value=found.accuracy, ci_low=low, ci_high=high, count=images
        ),
        *(
            dataclasses.replace(blank, metric=name, value=float(value), count=count)
            for name, (value, count) in counts.items()
        ),
        *(row for one in found.candidates for row in _list_candidate(one, blank=blank)),
    ]


def _list_candidate(candidate: Candidate, *, blank: ResultRow) -> Iterator[ResultRow]:
    """Yield the rows of a candidate; its cluster is their group."""
    own = dataclasses.replace(blank, group=candidate.cluster, count=candidate.images)
    low, high = candidate.interval
    yield dataclasses.replace(own, metric="gap", value=candidate.gap, ci_low=low, ci_high=high)
    for metric in ("influence", "p_value", "adjusted_p_value", "chance"):
        yield dataclasses.replace(own, metric=metric, value=getattr(candidate, metric))
    yield dataclasses.replace(own, metric="size", value=float(candidate.size))
    for label in candidate.classes:
        if label.name == candidate.tied_class:
            low, high = label.interval
            yield dataclasses.replace(
                own,
                metric=f"gap_y:{label.name}",
                value=label.gap,
                ci_low=low,
                ci_high=high,
                count=label.images_with + label.images_without,
            )


def _finish(run: Run, table: ImageTable, encoder: Encoder) -> Path:
    run.data = {"name": table.name, "images": len(table), "content": hash_json(table.hashes())}
    run.weights = {"encoder": encoder.spec.fingerprint}
    return run.finish(write_discovery_page)
