"""What `fieldmark mitigate` was asked for, understood as far as it can be without a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fieldmark.benchmarks.arguments import list_arguments
from fieldmark.benchmarks.discovery_record import DiscoveryRecord, read_discovery
from fieldmark.benchmarks.sources import open_table
from fieldmark.core.atomic import hash_json
from fieldmark.core.errors import NotApplicableError, TableError, UsageError
from fieldmark.core.registry import look_up
from fieldmark.data.tables import ImageTable
from fieldmark.discovery.region_sources import RegionSource, parse_region_source
from fieldmark.methods.mitigation.captions import Several
from fieldmark.methods.mitigation.config import MitigationConfig
from fieldmark.methods.mitigation.objectives import MITIGATIONS
from fieldmark.metrics.influence import Selection
from fieldmark.report.discovery_parts import read_record


@dataclass(frozen=True, kw_only=True)
class MitigationRequest:
    """What to train away, from what, and how.

    Attributes:
        model: URI of the encoder, the one that was discovered on.
        data: the images, as `open_table` reads them; they need splits.
        discovery: folder of a finished `fieldmark discover`.
        out: folder of the run.
        root: folder that a table's paths lie in.
        method: a name out of `MITIGATIONS`.
        clusters: ids of the clusters to train away; the first candidate where none is named.
        train_split: what is trained on.
        splits: what is measured on; every split whose name starts with "test" by default, else val.
        caption_column: of the table; `caption` by default where there is one, else a prompt.
        several: what a caption that names several classes gives (`assign_labels`).
        unnamed: what a caption that names none gives: no label (`skip`), or the `table`'s.
        config: settings of the training.
        seed: of the run.
        gallery: pictures of each cluster on the page at most.
        batch_size: images or regions in one forward while nothing is trained.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        allow_other_model: take another model than the one that was discovered on, if its embeddings
            have as many dimensions.
        resume: go on with the unfinished run in `out`.
    """

    model: str
    data: str
    discovery: Path
    out: Path
    root: Path | None = None
    method: str = "ravl"
    clusters: tuple[int, ...] = ()
    train_split: str = "train"
    splits: tuple[str, ...] = ()
    caption_column: str | None = None
    several: Several = "skip"
    unnamed: Literal["skip", "table"] = "skip"
    config: MitigationConfig = field(default_factory=MitigationConfig)
    seed: int = 0
    gallery: int = 12
    batch_size: int = 64
    device: str = "auto"
    allow_other_model: bool = False
    resume: bool = False

    def arguments(self) -> dict[str, Any]:
        """Return as JSON values what decides weights and figures."""
        return list_arguments(self)


@dataclass(frozen=True, eq=False, kw_only=True)
class MitigationPlan:
    """A request with the discovery and the images that it names.

    Attributes:
        request: the words.
        record: of the discovery.
        discovery_key: hash of the record, so that a later discovery is not taken for this one.
        selection: which images the discovery's influence looked at, and whether gaps were weighted.
        precision: of the weights that regions were embedded with.
        source: where regions come from.
        clusters: ids of the clusters to train away.
        table: all images.
        train: the images to train on.
        tests: the images to measure on, by split.
        config: settings, with regions embedded as in the discovery.
    """

    request: MitigationRequest
    record: DiscoveryRecord
    discovery_key: str
    selection: Selection
    precision: Any
    source: RegionSource
    clusters: tuple[int, ...]
    table: ImageTable
    train: ImageTable
    tests: dict[str, ImageTable]
    config: MitigationConfig


def make_mitigation_plan(request: MitigationRequest) -> MitigationPlan:
    """Read the discovery and the table, and check that they fit the words.

    Raises:
        UnknownNameError: no such method.
        NotApplicableError: nothing was discovered, or nothing that new regions can be compared to.
        UsageError: no such cluster, or a split is both trained and measured on.
        InputError: the discovery or the table cannot be read.
        TableError: no such split, or other classes than those of the discovery.
    """
    look_up(MITIGATIONS, request.method, kind="mitigation")
    record, values = read_discovery(request.discovery), read_record(request.discovery)
    clusters = choose_spurious(record, request.clusters)
    table = open_table(request.data, root=request.root)
    if table.classes != record.classes:
        raise TableError(
            f"has the classes {_list(table.classes)}, the discovery has {_list(record.classes)}",
            where=table.name,
            mend="give the data that was discovered on, or discover on these",
        )
    chosen = values.get("selection") or {}
    return MitigationPlan(
        request=request,
        record=record,
        discovery_key=hash_json(values),
        selection=Selection(
            skip_single_regions=bool(chosen.get("skip_single_regions", False)),
            weighted=bool(chosen.get("weighted", True)),
        ),
        precision=values.get("precision", "auto"),
        source=parse_region_source(record.source),
        clusters=clusters,
        table=table,
        train=table.select(request.train_split),
        tests=choose_tests(table, request.splits, train_split=request.train_split),
        config=_embed_as_discovered(request.config, record),
    )


def choose_spurious(record: DiscoveryRecord, asked: Sequence[int]) -> tuple[int, ...]:
    """Return the clusters to train away: those asked for, else the first candidate.

    Args:
        record: of the discovery.
        asked: ids of clusters, candidates or not.

    Raises:
        NotApplicableError: none was asked for and the discovery has no candidate, or its
            candidates are groups of regions that have no medoid.
        UsageError: there is no such cluster.
    """
    total = len(record.regions.medoids)
    for cluster in asked:
        if not 0 <= cluster < total:
            known = ", ".join(map(str, record.candidate_ids)) or "none"
            raise UsageError(
                f"there is no cluster {cluster}; the candidates are: {known}",
                where=record.folder,
                mend=f"name one from 0 to {total - 1}",
            )
    if asked:
        return tuple(dict.fromkeys(asked))
    if not record.candidates:
        raise NotApplicableError(
            f"nothing was found to train away ({record.reason})",
            where=record.folder,
            mend="discover on more images or with other --regions, or name a --cluster yourself",
        )
    if not record.candidate_ids:
        raise NotApplicableError(
            f"{record.method} names regions that are no cluster, so no other region can be compared"
            " to them",
            where=record.folder,
            mend="discover with --method ravl, or name a --cluster",
        )
    return record.candidate_ids[:1]


def choose_tests(
    table: ImageTable, asked: Sequence[str], *, train_split: str
) -> dict[str, ImageTable]:
    """Return the images to measure on, by split.

    Args:
        table: all images.
        asked: names of splits; by default those that start with "test", else val.
        train_split: is none of them.

    Raises:
        TableError: no such split, or none to measure on.
        UsageError: the split that is trained on was asked for.
    """
    if train_split in asked:
        raise UsageError(
            f"split {train_split!r} is trained on", where="--split", mend="measure on another one"
        )
    known = dict.fromkeys(name for name in table.splits or () if name != train_split)
    found = [name for name in known if name.startswith("test")]
    names = list(dict.fromkeys(asked)) or found or [name for name in known if name == "val"]
    if not names:
        raise TableError(
            f"has no split to measure on beside {train_split!r}; others: {_list(known) or 'none'}",
            where=table.name,
            mend="name one with --split, or add one to the column 'split'",
        )
    return {name: table.select(name) for name in names}


def _embed_as_discovered(config: MitigationConfig, record: DiscoveryRecord) -> MitigationConfig:
    crop = record.way == "crop"
    return config.model_copy(update={"regions": "crop"}) if crop else config


def _list(names: Sequence[str] | dict[str, None]) -> str:
    shown = list(names)
    tail = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
    return ", ".join(shown[:8]) + tail
