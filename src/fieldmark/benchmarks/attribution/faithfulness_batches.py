"""One batch of images under one method: maps, curves, and how well the maps find the object.

Each is kept on disk as soon as it is there, so a run that was stopped goes on behind it.

    OUT/batches/METHOD/00000.safetensors    rows, maps, curves and figures of one batch

Shape letters: B images, P points of a curve, h and w rows and columns of the grid.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from fieldmark.attribution.attribute import attribute
from fieldmark.attribution.config import AttributionConfig
from fieldmark.attribution.faithfulness import Ends, embed_ends, measure_curves
from fieldmark.attribution.methods import find_method, require_support
from fieldmark.attribution.perturbing import to_input
from fieldmark.attribution.protocols import CURVES
from fieldmark.benchmarks.attribution.faithfulness_material import (
    Material,
    read_masks,
    read_pixels,
)
from fieldmark.core.errors import InputError, NotApplicableError
from fieldmark.core.sealed import SEAL, is_whole, sealing
from fieldmark.metrics.localisation import measure_localisation
from fieldmark.models.device import synchronise
from fieldmark.models.encoder import Encoder

FOLDER = "batches"
# These spend a backward pass on every text, so each image is explained for its own text alone. The
# others get all texts in one go, at no further forward.
ONE_TEXT = frozenset({"grad-cam", "game", "m2ib", "grad-eclip", "legrad", "integrated-gradients"})


@dataclass(frozen=True, eq=False, kw_only=True)
class Explained:
    """Maps of a batch and what they cost.

    Attributes:
        maps: (B,h,w), of each image for its text.
        seconds: of wall time, for the batch.
        forwards: image-tower forwards for each image.
        backwards: backward passes for each image.
    """

    maps: NDArray[np.float32]
    seconds: float
    forwards: float
    backwards: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Measured:
    """What one method gave on some images.

    Attributes:
        rows: (B,) rows of the table.
        maps: (B,h,w).
        curves: (B,P) by curve and score: `deletion/cosine`.
        localisation: (B,) by name, NaN where there is no mask.
        seconds: of wall time, for the maps of all.
        forwards: for the map of each image.
        backwards: likewise.
        curve_forwards: for the curves of each image, the shared ends left out.
    """

    rows: NDArray[np.int64]
    maps: NDArray[np.float32]
    curves: Mapping[str, NDArray[np.float64]]
    localisation: Mapping[str, NDArray[np.float64]]
    seconds: float
    forwards: float
    backwards: float
    curve_forwards: float


def explain_batch(
    encoder: Encoder,
    images: Tensor,
    texts: Tensor,
    *,
    targets: Tensor,
    method: str,
    config: AttributionConfig,
    ids: Sequence[str],
) -> Explained:
    """Explain each image for a text of its own.

    Args:
        encoder: any encoder.
        images: (B,3,H,W).
        texts: (T,D) of unit norm.
        targets: (B,) text of each image.
        method: a name out of `METHODS`.
        config: its settings.
        ids: B names that chance is drawn by.

    Raises:
        NotApplicableError: the tower does not bear the method.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> encoder = FakeEncoder()
        >>> explain_batch(
        ...     encoder, torch.zeros(1, 3, 8, 8), encoder.encode_text(["red", "blue"]),
        ...     targets=torch.tensor([1]), method="centre", config=AttributionConfig(), ids=["a"],
        ... ).maps.shape
        (1, 4, 4)
    """
    groups: list[tuple[Tensor, Tensor]] = [(torch.arange(len(images)), texts)]
    if method in ONE_TEXT:
        groups = [
            (torch.nonzero(targets == text)[:, 0], texts[text : text + 1])
            for text in torch.unique(targets).tolist()
        ]
    device = next(encoder.image_tower.parameters()).device
    start, found = time.perf_counter(), []
    for rows, some in groups:
        names = [ids[row] for row in rows.tolist()]
        made = attribute(
            encoder,
            images[rows].to(device),
            some.to(device),
            method=method,
            config=config,
            ids=names,
        )
        found.append((rows, made))
    synchronise(device)
    seconds = time.perf_counter() - start
    maps = np.empty((len(images), *found[0][1].values.shape[2:]), np.float32)
    for rows, made in found:
        own = targets[rows].numpy() if made.values.shape[1] > 1 else np.zeros(len(rows), np.int64)
        maps[rows.numpy()] = made.values[np.arange(len(rows)), own]
    weights = [len(rows) for rows, _ in found]
    return Explained(
        maps=maps,
        seconds=seconds,
        forwards=float(np.average([made.forwards for _, made in found], weights=weights)),
        backwards=float(np.average([made.backwards for _, made in found], weights=weights)),
    )


def measure_batches(
    material: Material,
    methods: Sequence[str],
    *,
    out: Path,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[str, list[Measured]], dict[str, str]]:
    """Measure all methods on all batches, one batch at a time.

    Args:
        material: images and texts.
        methods: names out of `METHODS`.
        out: folder of the run; what is already there is read.
        report: called with how many (method, batch) pairs are done and how many there are.

    Returns:
        What each method gave, and why the others could not be run.
    """
    skipped = _find_unsupported(material.encoder, methods)
    found: dict[str, list[Measured]] = {name: [] for name in methods if name not in skipped}
    total, done = len(found) * len(material.batches), 0
    for number, rows in enumerate(material.batches):
        batch: _Batch | None = None
        for name in [name for name in found if name not in skipped]:
            path = out / FOLDER / name / f"{number:05d}.safetensors"
            measured = read_measured(path, rows=rows) if path.is_file() else None
            if measured is None:
                batch = batch or _open_batch(material, rows)
                try:
                    measured = _measure(material, batch, name)
                except (NotApplicableError, InputError) as error:
                    skipped[name] = str(error)
                    continue
                write_measured(path, measured)
            found[name].append(measured)
            done += 1
            report(done, total)
    return {name: parts for name, parts in found.items() if name not in skipped}, skipped


def _find_unsupported(encoder: Encoder, methods: Sequence[str]) -> dict[str, str]:
    lacks = {}
    for name in methods:
        try:
            require_support(encoder, find_method(name))
        except NotApplicableError as error:
            lacks[name] = str(error)
    return lacks


@dataclass(frozen=True, eq=False, kw_only=True)
class _Batch:
    rows: NDArray[np.int64]
    ids: list[str]
    pixels: list[Tensor]
    inputs: Tensor
    ends: Ends
    ties: NDArray[np.float32] | None


def _open_batch(material: Material, rows: NDArray[np.int64]) -> _Batch:
    """Read a batch, and embed what all methods share."""
    plan, encoder = material.plan, material.encoder
    ids = [material.table.ids[row] for row in rows.tolist()]
    pixels = read_pixels(material.table, rows.tolist(), encoder=encoder, protocol=plan.protocol)
    inputs = torch.stack([to_input(p, encoder=encoder, protocol=plan.protocol) for p in pixels])
    ends = embed_ends(
        encoder,
        pixels,
        ids=ids,
        protocol=plan.protocol,
        whole=material.whole[torch.from_numpy(rows)],
        batch_size=plan.request.batch_size,
    )
    ties = None
    if plan.protocol.tie_break == "maskclip":
        ties = explain_batch(
            encoder,
            inputs,
            material.texts.embeddings,
            targets=material.explained[torch.from_numpy(rows)],
            method="maskclip",
            config=plan.config,
            ids=ids,
        ).maps
    return _Batch(rows=rows, ids=ids, pixels=pixels, inputs=inputs, ends=ends, ties=ties)


def _measure(material: Material, batch: _Batch, method: str) -> Measured:
    plan, encoder = material.plan, material.encoder
    made = explain_batch(
        encoder,
        batch.inputs,
        material.texts.embeddings,
        targets=material.explained[torch.from_numpy(batch.rows)],
        method=method,
        config=plan.config,
        ids=batch.ids,
    )
    curves = measure_curves(
        encoder,
        batch.pixels,
        made.maps,
        ids=batch.ids,
        score=material.score(batch.rows),
        protocol=plan.protocol,
        ends=batch.ends,
        ties=batch.ties,
        batch_size=plan.request.batch_size,
    )
    return Measured(
        rows=batch.rows,
        maps=made.maps,
        curves={f"{c}/{name}": v for c in CURVES for name, v in curves.of(c).items()},
        localisation=_locate(material, batch, made.maps),
        seconds=made.seconds,
        forwards=made.forwards,
        backwards=made.backwards,
        curve_forwards=curves.forwards,
    )


def _locate(
    material: Material, batch: _Batch, maps: NDArray[np.float32]
) -> dict[str, NDArray[np.float64]]:
    if material.table.masks is None:
        return {}
    grid = (maps.shape[1], maps.shape[2])
    shares = read_masks(material.table, batch.rows.tolist(), encoder=material.encoder, grid=grid)
    found = measure_localisation(maps, shares)._asdict()
    missing = np.array([material.table.masks[row] is None for row in batch.rows.tolist()])
    return {name: np.where(missing, np.nan, values) for name, values in found.items()}


def write_measured(path: Path, measured: Measured) -> None:
    """Write what one method gave on one batch, whole or not at all."""
    tensors: dict[str, NDArray[np.generic]] = {"rows": measured.rows, "maps": measured.maps}
    for folder, values in (("curves", measured.curves), ("localisation", measured.localisation)):
        tensors |= {f"{folder}/{name}": np.ascontiguousarray(v) for name, v in values.items()}
    names = ("seconds", "forwards", "backwards", "curve_forwards")
    costs = json.dumps({name: getattr(measured, name) for name in names})
    with sealing(path) as part:
        save_file(tensors, part, metadata={**SEAL, "costs": costs})


def read_measured(path: Path, *, rows: NDArray[np.int64]) -> Measured | None:
    """Read what `write_measured` wrote; None where it is of other images.

    Raises:
        InputError: the file is not what it should be.
    """
    try:
        if not is_whole(path):
            raise ValueError("its checksum does not fit its bytes")
        with safe_open(path, framework="numpy") as file:
            costs = json.loads((file.metadata() or {})["costs"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if not np.array_equal(tensors.get("rows", ()), rows):
            return None
        return _gather(tensors, costs, rows=rows)
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise InputError(
            f"cannot be read ({error})", where=path, mend="delete it; --resume measures it again"
        ) from error


def _gather(
    tensors: Mapping[str, NDArray[Any]], costs: Mapping[str, float], *, rows: NDArray[np.int64]
) -> Measured:
    parts: dict[str, dict[str, NDArray[np.float64]]] = {"curves": {}, "localisation": {}}
    for name, values in tensors.items():
        folder, slash, key = name.partition("/")
        if slash:
            parts[folder][key] = values
    return Measured(
        rows=rows,
        maps=tensors["maps"],
        curves=parts["curves"],
        localisation=parts["localisation"],
        seconds=float(costs["seconds"]),
        forwards=float(costs["forwards"]),
        backwards=float(costs["backwards"]),
        curve_forwards=float(costs["curve_forwards"]),
    )


def join_measured(parts: Sequence[Measured], *, count: int) -> Measured:
    """Put the batches of one method together, in the order of the table.

    Args:
        parts: of all batches.
        count: n, images of the table.
    """
    rows = np.concatenate([part.rows for part in parts])
    order = np.argsort(rows)
    weights = [len(part.rows) for part in parts]
    if not np.array_equal(rows[order], np.arange(count)):
        raise ValueError("the batches do not hold each image once")

    def join(values: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        joined: NDArray[np.float64] = np.concatenate(values)[order]
        return joined

    first = parts[0]  # its names sorted, since a file does not keep their order
    return Measured(
        rows=np.arange(count),
        maps=np.concatenate([part.maps for part in parts])[order]
        if len({part.maps.shape[1:] for part in parts}) == 1
        else np.empty((0, 0, 0), np.float32),
        curves={name: join([part.curves[name] for part in parts]) for name in sorted(first.curves)},
        localisation={
            name: join([part.localisation[name] for part in parts])
            for name in sorted(first.localisation)
        },
        seconds=sum(part.seconds for part in parts),
        forwards=float(np.average([part.forwards for part in parts], weights=weights)),
        backwards=float(np.average([part.backwards for part in parts], weights=weights)),
        curve_forwards=float(np.average([part.curve_forwards for part in parts], weights=weights)),
    )
