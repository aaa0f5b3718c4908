"""What a mitigation is made of: captions, pixels that are decoded once, regions with clusters.

Shape letters: n images, R regions, C clusters, Y classes, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fieldmark.benchmarks.mitigation_request import MitigationPlan
from fieldmark.core.errors import InputError, NotApplicableError, TableError, UsageError
from fieldmark.core.fetch import cache_dir
from fieldmark.data.columns import Columns, read_columns
from fieldmark.data.tables import ImageTable
from fieldmark.discovery.cosine import find_nearest
from fieldmark.discovery.evidence import normalise_rows
from fieldmark.discovery.region_embeddings import Way, embed_regions
from fieldmark.discovery.region_sources import make_regions
from fieldmark.discovery.regions import Regions
from fieldmark.discovery.vocabulary import embed_vocabulary
from fieldmark.methods.images import TaskImages, open_task_images
from fieldmark.methods.mitigation.captions import assign_labels, parse_captions
from fieldmark.models.embed import Precision
from fieldmark.models.encoder import Encoder

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Report = Callable[[str, int, int], None]
PROMPT = "a photo of a {}"
CAPTION = "caption"


@dataclass(frozen=True, eq=False, kw_only=True)
class Captions:
    """The captions of the training images, and the classes that they name.

    Attributes:
        texts: n captions.
        source: where they come from, for records.
        labels: (n,Y) bool, the classes of each image; none where its caption names none.
        unnamed: how many captions name no class.
        several: how many name more than one.
        differing: labelled images whose labels leave out the class of the table.
    """

    texts: tuple[str, ...]
    source: str
    labels: NDArray[np.bool_]
    unnamed: int
    several: int
    differing: int


@dataclass(frozen=True, eq=False)
class StoredImages:
    """Images of a store for those who embed files: already prepared, which changes no pixel again.

    Attributes:
        images: prepared pixels.
        hashes_of_files: n hashes, by which embeddings of the same files are found in the cache.
    """

    images: TaskImages
    hashes_of_files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int, /) -> Image.Image:
        """Return the prepared image `index`, RGB (S,S)."""
        pixels = self.images.read(np.array([index]))[0]
        return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())

    def hashes(self) -> tuple[str, ...]:
        """Return the SHA-256 of each image file."""
        return self.hashes_of_files


@dataclass(frozen=True, eq=False, kw_only=True)
class Part:
    """The images of a split and their regions, as the model that was discovered on saw them.

    Attributes:
        name: of the split.
        table: the images.
        pixels: the same, prepared.
        stored: the same, to be embedded.
        regions: of these images.
        embeddings: (R,D) of the regions.
        clusters: (R,) the nearest cluster of each region.
        chosen: ids of the clusters to train away.
    """

    name: str
    table: ImageTable
    pixels: TaskImages
    stored: StoredImages
    regions: Regions
    embeddings: Floats
    clusters: Ints
    chosen: tuple[int, ...]

    @property
    def marked(self) -> NDArray[np.bool_]:
        """Which regions are of a chosen cluster, (R,)."""
        return np.isin(self.clusters, self.chosen)

    @property
    def has_cluster(self) -> NDArray[np.bool_]:
        """Which images have such a region, (n,)."""
        return np.bincount(self.regions.images[self.marked], minlength=len(self.table)) > 0


def read_captions(plan: MitigationPlan) -> Captions:
    """Read the captions of the training images, or make them, and the classes that they name.

    Classes are looked for under the names of the prompts and, unless it is a number, under the name
    of the label.

    Raises:
        TableError: the column is not there, or a caption is blank.
        UsageError: a column was asked for and the data are no table.
        NotApplicableError: no caption names a class.
    """
    request, record, train = plan.request, plan.record, plan.train
    found = find_captions(request.data, column=request.caption_column)
    if found is None:
        source = f"prompts {PROMPT!r}"
        texts = tuple(PROMPT.replace("{}", record.class_names[code]) for code in train.labels)
    else:
        source = f"column {request.caption_column or CAPTION!r}"
        texts = _match(found, plan)
    names = [
        (prompt,) if label.isdecimal() or label == prompt else (prompt, label)
        for prompt, label in zip(record.class_names, record.classes, strict=True)
    ]
    parsed = parse_captions(texts, names)
    labels = assign_labels(
        parsed,
        several=request.several,
        unnamed=train.labels if request.unnamed == "table" else None,
        seed=request.seed,
    )
    labelled = labels.any(axis=1)
    if not labelled.any():
        raise NotApplicableError(
            f"none of {len(texts)} captions names a class ({', '.join(record.class_names[:8])})",
            where=source,
            mend="discover with each --class-name as captions have it, or give another column",
        )
    own = labels[np.arange(len(texts)), train.labels]
    return Captions(
        texts=texts,
        source=source,
        labels=labels,
        unnamed=parsed.unnamed,
        several=parsed.several,
        differing=int((labelled & ~own).sum()),
    )


def find_captions(data: str, *, column: str | None) -> tuple[Columns, Sequence[str]] | None:
    """Find the captions of a table, or None where it has none.

    Args:
        data: what `--data` named.
        column: its name; `caption` by default, which may be absent.

    Raises:
        TableError: there is no such column.
        UsageError: a column was asked for and the data are no table.
    """
    path = Path(data)
    path = path / "metadata.csv" if path.is_dir() else path
    if not path.is_file():
        if column is not None:
            raise UsageError(
                "is no table, so it has no column of captions",
                where=data,
                mend="leave out --caption-column, or give a table",
            )
        return None
    columns = read_columns(path)
    if column is not None:
        return columns, columns.require(column)
    texts = columns.find(CAPTION)
    return None if texts is None else (columns, texts)


def _match(found: tuple[Columns, Sequence[str]], plan: MitigationPlan) -> tuple[str, ...]:
    columns, texts = found
    # A table of images keeps the order of its file.
    rows = {identity: row for row, identity in enumerate(plan.table.ids)}
    chosen = [rows[identity] for identity in plan.train.ids]
    blank = next((row for row in chosen if not texts[row]), None)
    if blank is not None:
        raise TableError(
            "the caption is blank", where=columns.where(blank), mend="write one, or drop the row"
        )
    return tuple(texts[row] for row in chosen)


def embed_captions(encoder: Encoder, texts: Sequence[str], *, cache: Path | None) -> Floats:
    """Return unit embeddings (n,D) of n captions, each distinct one embedded once."""
    distinct = tuple(dict.fromkeys(texts))
    place = {text: row for row, text in enumerate(distinct)}
    found = embed_vocabulary(encoder, distinct, templates=("{}",), cache=cache).embeddings
    values = normalise_rows(found, what="caption")
    return np.asarray(values[[place[text] for text in texts]], np.float32)


def prepare_parts(plan: MitigationPlan, encoder: Encoder, *, report: Report) -> dict[str, Part]:
    """Decode all images once, cut and embed their regions, and find the cluster of each.

    Args:
        plan: says which images, regions and clusters.
        encoder: the model that was discovered on.
        report: called with the phase, what is done and how much there is.

    Returns:
        The parts by split, the one to train on first.

    Raises:
        InputError: the images or the boxes cannot be used, or the encoder's embeddings have
            another number of dimensions than the discovery's.
        NotApplicableError: the encoder does not bear regions.
    """
    width = plan.record.regions.medoids.shape[1]
    if encoder.spec.dim != width:
        raise InputError(
            f"its embeddings have {encoder.spec.dim} dimensions, those of the discovery {width}",
            where=encoder.spec.uri,
            mend="discover on this model",
        )
    tables = {plan.request.train_split: plan.train, **plan.tests}
    whole = plan.train
    for table in plan.tests.values():
        whole = _join(whole, table)
    images = open_task_images(
        whole,
        encoder,
        cache=cache_dir(),
        on_progress=lambda done, total: report("pixels", done, total),
    )
    parts, start = {}, 0
    for name, table in tables.items():
        rows = slice(start, start + len(table))
        pixels = replace(images, rows=images.rows[rows], codes=images.codes[rows])
        parts[name] = _prepare(plan, encoder, table, name=name, pixels=pixels, report=report)
        start += len(table)
    return parts


def _join(first: ImageTable, second: ImageTable) -> ImageTable:
    """Return the images of both; only what pixels need is kept."""
    return ImageTable(
        name=first.name,
        root=first.root,
        ids=(*first.ids, *second.ids),
        paths=(*first.paths, *second.paths),
        labels=np.concatenate([first.labels, second.labels]),
        classes=first.classes,
    )


def _prepare(
    plan: MitigationPlan,
    encoder: Encoder,
    table: ImageTable,
    *,
    name: str,
    pixels: TaskImages,
    report: Report,
) -> Part:
    stored = StoredImages(pixels, table.hashes())
    regions = make_regions(plan.source, table, spec=encoder.spec, table=table)
    embedded = embed_part(
        encoder,
        stored,
        regions=regions,
        way=plan.record.way,
        batch_size=plan.request.batch_size,
        precision=plan.precision,
        cache=cache_dir() / "embeddings",
        progress=lambda done, total: report(f"regions of {name}", done, total),
    )
    nearest = find_nearest(embedded, plan.record.regions.medoids)
    return Part(
        name=name,
        table=table,
        pixels=pixels,
        stored=stored,
        regions=regions,
        embeddings=embedded,
        clusters=np.asarray(nearest.labels, np.int64),
        chosen=plan.clusters,
    )


def embed_part(
    encoder: Encoder,
    stored: StoredImages,
    *,
    regions: Regions,
    way: str,
    batch_size: int,
    precision: Precision,
    cache: Path | None,
    progress: Callable[[int, int], None],
) -> Floats:
    """Embed the regions of stored images as a discovery did: (R,D) of unit norm."""
    return embed_regions(
        encoder,
        stored,
        regions=regions,
        way=cast("Way", way),
        cache=cache,
        batch_size=batch_size,
        precision=precision,
        progress=progress,
    ).values
