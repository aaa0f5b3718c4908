"""The images of a task, made ready for one encoder once, and batches of them to fine-tune on.

Every image is decoded and preprocessed a single time, into a store of uint8 pixels in the cache
folder (`data.stores`); training, embedding and another run read it from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fieldmark.core.atomic import hash_json
from fieldmark.core.errors import NotApplicableError, UnsupportedEncoderError
from fieldmark.core.seeds import generator
from fieldmark.data.stores import ImageStore, Pixels, open_store
from fieldmark.data.tables import ImageTable
from fieldmark.methods.prefetch import prefetch
from fieldmark.methods.processes import Processes
from fieldmark.methods.training import Batch
from fieldmark.models.encoder import Encoder

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class TaskImages:
    """Labelled images as an encoder wants them.

    Attributes:
        store: pixels, uint8 (3,S,S) an image.
        rows: (n,) position of each image in the store.
        codes: (n,) index of each image's class into `classes`.
        classes: (C,) labels that occur, ascending.
    """

    store: ImageStore
    rows: Indices
    codes: Indices
    classes: Indices

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Indices) -> TaskImages:
        """Return some of the images, in that order, with the same classes.

        Raises:
            NotApplicableError: a class is left without an image.
        """
        codes = self.codes[indices]
        absent = np.setdiff1d(np.arange(len(self.classes)), codes)
        if len(absent):
            label = int(self.classes[absent[0]])
            raise NotApplicableError(f"a part of the training images has none of class {label}")
        return replace(self, rows=self.rows[indices], codes=codes)

    def read(self, indices: Indices, *, flip: NDArray[np.bool_] | None = None) -> Tensor:
        """Return uint8 images (b,3,S,S), those of `flip` mirrored left to right."""
        shape = self.store.shapes[0]
        image = np.empty((len(indices), *shape), np.uint8)
        for slot, row in zip(image, self.rows[indices], strict=True):
            self.store.read_into(slot, int(row))
        if flip is not None:
            image[flip] = image[flip][..., ::-1]
        return torch.from_numpy(image)


def open_task_images(
    table: ImageTable,
    encoder: Encoder,
    *,
    cache: Path,
    on_progress: Callable[[int, int], None] | None = None,
) -> TaskImages:
    """Decode and preprocess the images of a table, or find them done.

    Args:
        table: labelled images.
        encoder: prepares each image; its weights play no part, so an encoder and what was trained
            from it share the pixels.
        cache: folder of the store.
        on_progress: called with how many images are done and how many there are.

    Raises:
        ImageError: an image cannot be read.
        UnsupportedEncoderError: the encoder makes images of different sizes (NaFlex).
        NotApplicableError: the images are of fewer than two classes.
    """
    classes, codes = np.unique(table.labels, return_inverse=True)
    if len(classes) < 2:
        raise NotApplicableError(f"fine-tuning needs 2 classes, {table.name} has {len(classes)}")
    spec = encoder.spec
    key = {
        "images": table.hashes(),
        "side": spec.image_size,
        "mean": spec.mean,
        "interpolation": spec.interpolation,
        "resize": spec.resize,
    }

    def draw(index: int) -> list[Pixels]:
        return [encoder.preprocess(table.read(index)).numpy()]

    path = cache / f"images-{hash_json(key)[:32]}.u8"
    store = open_store(path, count=len(table), draw=draw, on_progress=on_progress)
    if (store.shapes != store.shapes[0]).any():
        raise UnsupportedEncoderError(
            f"fine-tuning needs images of one size, and {spec.uri} ({spec.resize}) gives several",
            mend="use an encoder with a fixed square input",
        )
    rows = np.arange(len(table))
    return TaskImages(store=store, rows=rows, codes=codes.astype(np.int64), classes=classes)


def embed_task_images(
    encoder: Encoder,
    images: TaskImages,
    *,
    batch_size: int = 64,
    on_progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Embed stored images as they are, in the encoder's own precision.

    Returns:
        (n,D) of unit norm.
    """
    parts: list[NDArray[np.float32]] = []
    done = 0
    with torch.inference_mode():
        for image in prefetch(_read_in_order(images, batch_size)):
            parts.append(encoder.encode_image(image).float().cpu().numpy())
            done += len(image)
            if on_progress is not None:
                on_progress(done, len(images))
    return np.concatenate(parts)


def _read_in_order(images: TaskImages, batch_size: int) -> Iterator[Tensor]:
    for start in range(0, len(images), batch_size):
        yield images.read(np.arange(start, min(start + batch_size, len(images))))


def weigh_classes(codes: Indices) -> NDArray[np.float64]:
    """Return the weight n / (C n_c) of each class, inverse to its frequency (M.3.1).

    Weighted by it, the mean over all images of a weight is 1.

    Example:
        >>> weigh_classes(np.array([0, 0, 0, 1])).round(2).tolist()
        [0.67, 2.0]
    """
    counts = np.bincount(codes)
    return np.asarray(len(codes) / (len(counts) * counts))


def make_targets(codes: Indices, *, weights: NDArray[np.float64], smoothing: float = 0.0) -> Tensor:
    """Return what cross-entropy is computed against: weighted, smoothed one-hot rows.

    A row is w_y ((1 - s) onehot(y) + s / C). Since the loss is linear in its target, the rows can
    be mixed (Mixup) and keep class weights.

    Args:
        codes: (n,) class of each image, in [0, C).
        weights: (C,) weight of each class.
        smoothing: s, in [0, 1).

    Returns:
        (n,C) float32.

    Example:
        >>> make_targets(np.array([1]), weights=np.array([1.0, 2.0]), smoothing=0.5).tolist()
        [[0.5, 1.5]]
    """
    count = len(weights)
    rows = np.eye(count)[codes] * (1 - smoothing) + smoothing / count
    return torch.from_numpy(rows * weights[codes][:, None]).float()


class ImageBatches:
    """A source of batches of stored images, shuffled anew each epoch.

    Args:
        images: to draw from.
        target: (n,...) what the loss is told of each.
        batch_size: images a step; the last step of an epoch may have fewer.
        flip: mirror each image with probability 1/2.
        mixup: parameter of Mixup's Beta distribution, 0 for none; `target` must be of floats.
        seed: seed of the run.
    """

    def __init__(
        self,
        images: TaskImages,
        target: Tensor,
        *,
        batch_size: int,
        flip: bool = True,
        mixup: float = 0.0,
        seed: int,
    ) -> None:
        self._images, self._target, self._size = images, target, batch_size
        self._flip, self._mixup, self._seed = flip, mixup, seed

    @property
    def steps_an_epoch(self) -> int:
        """How many steps an epoch has."""
        return -(-len(self._images) // self._size)

    def draw(self, step: int, *, processes: Processes, device: torch.device) -> Batch:
        """Return this process's part of a step."""
        epoch, position = divmod(step, self.steps_an_epoch)
        order = generator(self._seed, "order", epoch).permutation(len(self._images))
        turned = generator(self._seed, "flips", epoch).random(len(order)) < 0.5
        flip = turned & self._flip
        batch = order[position * self._size : (position + 1) * self._size]
        mine = slice(processes.rank, None, processes.world)
        image, target = self._read(batch[mine], flip)
        if self._mixup:
            random = generator(self._seed, "mixup", step)
            share = float(random.beta(self._mixup, self._mixup))
            other_image, other_target = self._read(random.permutation(batch)[mine], flip)
            image = mix_images(image, other_image, share=share)
            target = share * target + (1 - share) * other_target
        return Batch(image.to(device), target.to(device), len(batch))

    def _read(self, indices: Indices, flip: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
        image = self._images.read(indices, flip=flip[indices])
        return image, self._target[torch.from_numpy(indices)]


def mix_images(image: Tensor, other: Tensor, *, share: float) -> Tensor:
    """Return share * image + (1 - share) * other, rounded to whole pixel values (Mixup, Eq. 1).

    Args:
        image: uint8 (B,3,S,S).
        other: uint8 (B,3,S,S).
        share: in [0, 1].

    Example:
        >>> white = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
        >>> mix_images(white, 0 * white, share=0.2).flatten().tolist()
        [51, 51, 51]
    """
    mixed = torch.lerp(other.float(), image.float(), share)
    return mixed.round_().to(torch.uint8)
