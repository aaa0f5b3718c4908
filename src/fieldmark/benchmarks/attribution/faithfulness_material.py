"""Images, texts and masks that a faithfulness run looks at.

Shape letters: n images, B images of a batch, T texts, D embedding dimensions, h and w rows and
columns of the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fieldmark.attribution.faithfulness import Score, score_classes, score_retrieval
from fieldmark.attribution.foreground import prepare_mask, share_foreground
from fieldmark.attribution.perturbing import read_native, to_input
from fieldmark.attribution.protocols import Protocol
from fieldmark.benchmarks.attribution.faithfulness_request import Plan
from fieldmark.core.errors import ImageError, MaskError, TableError
from fieldmark.core.seeds import generator
from fieldmark.data.columns import read_columns
from fieldmark.data.images import read_grey
from fieldmark.data.tables import ImageTable
from fieldmark.models.encoder import Encoder
from fieldmark.models.prompts import ensemble_prompts

# The first of these that a table has.
SPLITS = ("test", "test_unseen", "val")
_TEXTS = 256


@dataclass(frozen=True, eq=False, kw_only=True)
class Texts:
    """What images are held against.

    Attributes:
        names: T class names or captions.
        embeddings: (T,D) of unit norm.
        owners: (n,) the text of each image.
        has_captions: whether captions came from the table.
    """

    names: tuple[str, ...]
    embeddings: Tensor
    owners: Tensor
    has_captions: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Material:
    """All that batches are made of.

    Attributes:
        plan: of the run.
        encoder: that is explained.
        table: n images.
        texts: see `Texts`.
        whole: (n,D) embeddings of the images as they are.
        explained: (n,) text that each map is made for.
        watched: (n,) text that each score watches.
        batches: rows of the table, one array a batch; all images of one have one shape.
    """

    plan: Plan
    encoder: Encoder
    table: ImageTable
    texts: Texts
    whole: Tensor
    explained: Tensor
    watched: Tensor
    batches: tuple[NDArray[np.int64], ...]

    def score(self, rows: NDArray[np.int64]) -> Score:
        """Return the score of the images of these rows."""
        scale = self.encoder.spec.logit_scale
        places = torch.from_numpy(rows)
        if self.plan.request.task == "classification":
            return score_classes(self.texts.embeddings, self.watched[places], scale=scale)
        return score_retrieval(
            self.texts.embeddings,
            self.whole,
            owners=self.texts.owners,
            places=places,
            scale=scale,
        )


def choose_images(
    table: ImageTable, *, split: str | None, limit: int | None, seed: int
) -> ImageTable:
    """Return the images of a split, or as many of them as were asked for, in their order.

    Raises:
        TableError: there is no such split.
    """
    if split is None:
        split = next((name for name in SPLITS if name in (table.splits or ())), None)
    part = table if split is None else table.select(split)
    if limit is None or limit >= len(part):
        return part
    chosen = generator(seed, "faithfulness", "images").permutation(len(part))[:limit]
    return part.take(np.sort(chosen))


def read_captions(data: str, table: ImageTable) -> tuple[str, ...] | None:
    """Return the caption of each image, where the table's file has a column of that name.

    Raises:
        TableError: a caption is empty.
    """
    source = Path(data)
    source = source / "metadata.csv" if source.is_dir() else source
    if not source.is_file():
        return None
    columns = read_columns(source)
    captions = columns.find("caption", "title", "text")
    paths = columns.find("path", "filepath", "img_filename")
    if captions is None or paths is None:
        return None
    by_id = dict(zip(columns.find("id", "img_id", "image_id") or paths, captions, strict=True))
    for identity in table.ids:
        if not by_id.get(identity, "").strip():
            raise TableError(
                f"image {identity} has no caption", where=source, mend="write one, or drop the row"
            )
    return tuple(by_id[identity].strip() for identity in table.ids)


def gather_texts(plan: Plan, encoder: Encoder, table: ImageTable) -> Texts:
    """Embed class names, or captions for retrieval.

    Raises:
        UsageError: the class names given are not as many as the classes.
        TableError: a caption is empty.
    """
    request = plan.request
    names = table.name_classes(request.class_names)
    captions = read_captions(request.data, table) if request.task == "retrieval" else None
    if captions is None:
        with torch.inference_mode():
            prototypes = ensemble_prompts(encoder, names, plan.templates)
        owners = torch.from_numpy(table.labels.copy())
        return Texts(names=tuple(names), embeddings=_own(prototypes), owners=owners)
    distinct = tuple(dict.fromkeys(captions))
    places = {caption: place for place, caption in enumerate(distinct)}
    with torch.inference_mode():
        parts = [
            encoder.encode_text(list(distinct[start : start + _TEXTS]))
            for start in range(0, len(distinct), _TEXTS)
        ]
    return Texts(
        names=distinct,
        embeddings=_own(torch.cat(parts)),
        owners=torch.tensor([places[caption] for caption in captions]),
        has_captions=True,
    )


def _own(embeddings: Tensor) -> Tensor:
    return functional.normalize(embeddings.float().cpu(), dim=-1).clone()


def read_pixels(
    table: ImageTable, rows: Sequence[int], *, encoder: Encoder, protocol: Protocol
) -> list[Tensor]:
    """Read images into the protocol's space: uint8 (3,H,W) each.

    Raises:
        ImageError: one cannot be read.
    """
    if protocol.space == "native":
        return [read_native(table.read(row), most=protocol.native_side) for row in rows]
    return [encoder.preprocess(table.read(row)) for row in rows]


def gather_material(
    plan: Plan,
    encoder: Encoder,
    table: ImageTable,
    *,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Material:
    """Embed texts and whole images, and cut the images into batches.

    Raises:
        UsageError: class names do not fit.
        TableError: there is no image, or no caption.
        ImageError: an image cannot be read.
    """
    if not len(table):
        raise TableError("has no image", where=table.name, mend="choose another split")
    texts = gather_texts(plan, encoder, table)
    whole, shapes = _embed_whole(plan, encoder, table, report=report)
    predicted = (whole @ texts.embeddings.T).argmax(1)
    request, protocol = plan.request, plan.protocol
    is_retrieval = request.task == "retrieval"
    explained = predicted if request.labels == "prediction" and not is_retrieval else texts.owners
    watched = predicted if protocol.target == "prediction" and not is_retrieval else texts.owners
    return Material(
        plan=plan,
        encoder=encoder,
        table=table,
        texts=texts,
        whole=whole,
        explained=explained,
        watched=watched,
        batches=cut_batches(shapes, explained.tolist(), size=request.batch_size),
    )


def _embed_whole(
    plan: Plan, encoder: Encoder, table: ImageTable, *, report: Callable[[int, int], None]
) -> tuple[Tensor, list[tuple[int, ...]]]:
    device = next(encoder.image_tower.parameters()).device
    parts, shapes = [], []
    for row in range(len(table)):
        [pixels] = read_pixels(table, [row], encoder=encoder, protocol=plan.protocol)
        shapes.append(pixels)
        if len(shapes) == plan.request.batch_size or row + 1 == len(table):
            parts.append(_embed_batch(plan, encoder, shapes, device=device))
            shapes = []
            report(row + 1, len(table))
    found = [shape for _, some in parts for shape in some]
    return torch.cat([values for values, _ in parts]), found


def _embed_batch(
    plan: Plan, encoder: Encoder, images: Sequence[Tensor], *, device: torch.device
) -> tuple[Tensor, list[tuple[int, ...]]]:
    """Embed images whose inputs may differ in shape, as those of NaFlex do."""
    inputs = [to_input(one, encoder=encoder, protocol=plan.protocol) for one in images]
    shapes = [tuple(one.shape) for one in inputs]
    values = torch.empty(len(inputs), encoder.spec.dim)
    for shape in dict.fromkeys(shapes):
        rows = [row for row, other in enumerate(shapes) if other == shape]
        with torch.inference_mode():
            found = encoder.encode_image(torch.stack([inputs[row] for row in rows]).to(device))
        values[rows] = functional.normalize(found.float(), dim=-1).cpu()
    return values, shapes


def cut_batches(
    shapes: Sequence[tuple[int, ...]], targets: Sequence[int], *, size: int
) -> tuple[NDArray[np.int64], ...]:
    """Cut rows into batches of one shape, rows of one text side by side.

    Example:
        >>> [rows.tolist() for rows in cut_batches([(8,), (4,), (8,)], [1, 0, 0], size=2)]
        [[1], [2, 0]]
    """
    order = sorted(range(len(shapes)), key=lambda row: (shapes[row], targets[row], row))
    batches: list[list[int]] = []
    for row in order:
        last = batches[-1] if batches else []
        if not last or len(last) == size or shapes[last[0]] != shapes[row]:
            batches.append([])
        batches[-1].append(row)
    return tuple(np.array(rows, np.int64) for rows in batches)


def read_masks(
    table: ImageTable, rows: Sequence[int], *, encoder: Encoder, grid: tuple[int, int]
) -> NDArray[np.float32]:
    """Return the share of each patch that the mask covers: (B,h,w), zero where there is no mask.

    Raises:
        MaskError: a mask cannot be read, or is of another size than its image.
    """
    shares = np.zeros((len(rows), *grid), np.float32)
    for place, row in enumerate(rows):
        path = table.masks[row] if table.masks else None
        if path is None:
            continue
        try:
            mask = read_grey(path)
        except ImageError as error:
            raise MaskError(error.problem, where=path, mend=error.mend) from error
        prepared = prepare_mask(mask, image=table.read(row), encoder=encoder)
        shares[place] = share_foreground(prepared[None], grid=grid)[0].clamp(0, 1).numpy()
    return shares
