"""Tables as torch data sets, with the names that WILDS and torchvision give to such things.

`dataset[i]` is `(image, y, metadata)`, as in WILDS; `transform`, `target_transform`, `classes`,
`class_to_idx` and `targets` are as in torchvision. Unlike in WILDS the groups that `eval` finds no
image of are NaN, not 0, a subset of a fraction is drawn with a seed, and `metadata_array` has no
column `from_source_domain`, since no data set here has domains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from fieldmark.core.errors import TableError, UsageError
from fieldmark.core.seeds import generator
from fieldmark.data.backgrounds import Backgrounds
from fieldmark.data.foregrounds import Foregrounds
from fieldmark.data.tables import ImageTable
from fieldmark.metrics.groups import name_metrics, summarise_groups

Transform = Callable[[Any], Any]
Source = ImageTable | Foregrounds | Backgrounds
# The numbers of WILDS; other splits are numbered on.
SPLIT_NUMBERS = {"train": 0, "val": 1, "test": 2}
_SPLIT_WORDS = {"train": "Train", "val": "Validation", "test": "Test"}
# In no split.
_NO_SPLIT = -1


class GroupDataset(Dataset[tuple[Any, Any, Tensor]]):
    r"""Labelled images with what they may be spuriously tied to.

    Args:
        source: a table; or foregrounds (each an RGBA cut-out), or backgrounds (their kind is `y`).
        transform: from an upright PIL image to what a row gives.
        target_transform: from the label, an int, to what a row gives.
        indices: rows of `source` to keep, in order; all by default.

    Attributes:
        dataset_name: name for records.
        root: folder of the files; `data_dir` is the same as a string.
        ids: n unique ids.
        classes: names of the classes; `class_to_idx` gives their numbers.
        n_classes: how many classes there are.
        y_array: (n,) int64 labels; `targets` has them as a list.
        y_size: 1.
        metadata_fields: `["background", "y"]`, or `["y"]` where no background is known.
        metadata_array: (n, fields) int64, -1 where a row's background is not known.
        metadata_map: names of the values of each field.
        split_dict: name of a split to its number: train 0, val 1, test 2, then the others.
        split_names: name of a split to a name for print.
        split_array: (n,) int64 numbers of splits, -1 for a row that is in none.
        group_array: (n,) int64 group of each row, y * backgrounds + background; -1 where unknown.
        indices: (n,) int64 rows of `source`.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fieldmark.data.tables import read_table
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (2, 2), "red").save(Path(folder) / "a.png")
        ...     text = "path,label,place,split\na.png,1,0,train\n"
        ...     _ = (Path(folder) / "metadata.csv").write_text(text)
        ...     dataset = GroupDataset(read_table(Path(folder)))
        ...     image, y, metadata = dataset[0]
        >>> dataset.metadata_fields, metadata.tolist(), int(y), dataset.split_array.tolist()
        (['background', 'y'], [0, 0], 0, [0])
    """

    def __init__(
        self,
        source: Source,
        *,
        transform: Transform | None = None,
        target_transform: Transform | None = None,
        indices: ArrayLike | None = None,
    ) -> None:
        rows = np.arange(len(source)) if indices is None else np.asarray(indices, np.int64)
        columns = _Columns(source)
        self.source: Source = source
        self.indices: NDArray[np.int64] = rows.astype(np.int64)
        self.transform, self.target_transform = transform, target_transform
        self.dataset_name, self.root = source.name, source.root
        self.data_dir = str(source.root)
        self.ids = tuple(source.ids[row] for row in rows)
        self.classes = list(columns.classes)
        self.class_to_idx = {name: number for number, name in enumerate(self.classes)}
        self.n_classes, self.y_size = len(self.classes), 1
        self.is_classification, self.is_detection, self.collate = True, False, None
        self.y_array = torch.from_numpy(columns.labels[rows].astype(np.int64))
        self.targets: list[int] = self.y_array.tolist()
        self.metadata_fields = list(columns.metadata)
        stacked = np.stack([values[rows] for values in columns.metadata.values()], axis=1)
        self.metadata_array = torch.from_numpy(stacked.astype(np.int64))
        self.metadata_map = {name: list(values) for name, values in columns.names.items()}
        self.split_dict = columns.split_numbers
        self.split_names = {name: _SPLIT_WORDS.get(name, name) for name in self.split_dict}
        self.split_array: NDArray[np.int64] = columns.splits[rows]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Any, Any, Tensor]:
        image: Any = self.get_input(index)
        if self.transform is not None:
            image = self.transform(image)
        target: Any = self.y_array[index]
        if self.target_transform is not None:
            target = self.target_transform(int(target))
        return image, target, self.metadata_array[index]

    def __repr__(self) -> str:
        groups = " x ".join(f"{len(self.metadata_map[f])} {f}" for f in self.metadata_fields)
        return f"GroupDataset({self.dataset_name!r}, {len(self)} images, {groups})"

    def get_input(self, idx: int) -> Image.Image:
        """Read image `idx`, before any transform.

        Raises:
            ImageError: it cannot be read.
        """
        if not -len(self) <= idx < len(self):
            raise IndexError(f"row {idx} of {len(self)}")
        return self.source.read(int(self.indices[idx]))

    def get_subset(
        self,
        split: str,
        frac: float = 1.0,
        transform: Transform | None = None,
        *,
        seed: int = 0,
    ) -> GroupDataset:
        """Return the rows of one split, or a share of them, with the fields of the whole.

        Args:
            split: a key of `split_dict`.
            frac: share of its rows to draw, in (0, 1]; their order stays.
            transform: in place of the data set's own, if given.
            seed: of the draw.

        Raises:
            TableError: there is no such split, or it has no row.
            UsageError: `frac` is out of range.
        """
        if not 0 < frac <= 1:
            raise UsageError(f"frac is {frac}, not in (0, 1]")
        number = self.split_dict.get(split)
        rows = np.flatnonzero(self.split_array == number) if number is not None else np.empty(0)
        if not rows.size:
            present = [n for n, code in self.split_dict.items() if (self.split_array == code).any()]
            raise TableError(
                f"has no split {split!r}; its splits are: {', '.join(present) or 'none'}",
                where=self.dataset_name,
                mend="choose one of them",
            )
        if frac < 1:
            count = max(1, round(frac * rows.size))
            random = generator(seed, "get_subset", self.dataset_name, split)
            rows = np.sort(random.choice(rows, count, replace=False))
        return GroupDataset(
            self.source,
            transform=transform if transform is not None else self.transform,
            target_transform=self.target_transform,
            indices=self.indices[rows],
        )

    @property
    def group_array(self) -> Tensor:
        """Group of each row, (n,) int64, -1 where its background is not known."""
        return self._groups_of(self.metadata_array)

    @property
    def group_names(self) -> dict[int, str]:
        """Name of each group, as WILDS writes it: "y:landbird_background:water"."""
        ys = self.metadata_map["y"]
        if "background" not in self.metadata_map:
            return {number: f"y:{name}" for number, name in enumerate(ys)}
        backgrounds = self.metadata_map["background"]
        return {
            number * len(backgrounds) + code: f"y:{name}_background:{background}"
            for number, name in enumerate(ys)
            for code, background in enumerate(backgrounds)
        }

    def eval(
        self,
        y_pred: Tensor,
        y_true: Tensor,
        metadata: Tensor,
        prediction_fn: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[dict[str, float], str]:
        """Measure predictions by group, under the names of WILDS.

        Args:
            y_pred: (n,) labels, or what `prediction_fn` makes labels of.
            y_true: (n,) labels.
            metadata: (n, fields) rows of `metadata_array`.
            prediction_fn: from outputs to labels.

        Returns:
            `acc_avg`, `acc_wg`, and `acc_GROUP` and `count_GROUP` of each group, NaN for one
            without images; and the same in words. Rows of unknown background count for `acc_avg`
            alone. `adj_acc_avg` is weighted by the groups of the split train.
        """
        labels = y_pred if prediction_fn is None else prediction_fn(y_pred)
        correct = (labels.cpu() == y_true.cpu()).numpy()
        groups = self._groups_of(metadata.cpu()).numpy()
        known = groups >= 0
        names = self.group_names
        summary = summarise_groups(
            correct[known], groups[known], known=names, train_counts=self._count_training()
        )
        results = name_metrics(summary, names=names)
        results["acc_avg"] = float(correct.mean()) if correct.size else float("nan")
        return results, _write_results(results, names=names)

    def _groups_of(self, metadata: Tensor) -> Tensor:
        y = metadata[:, self.metadata_fields.index("y")]
        if "background" not in self.metadata_fields:
            return y.clone()
        background = metadata[:, self.metadata_fields.index("background")]
        groups = y * len(self.metadata_map["background"]) + background
        return torch.where(background < 0, -1, groups)

    def _count_training(self) -> dict[int, int]:
        groups = GroupDataset(self.source).group_array.numpy()
        splits = _Columns(self.source).splits
        found = groups[(splits == SPLIT_NUMBERS["train"]) & (groups >= 0)]
        return {int(g): int(n) for g, n in zip(*np.unique(found, return_counts=True), strict=True)}


class _Columns:
    """The columns of any source under the names of WILDS."""

    def __init__(self, source: Source) -> None:
        count = len(source)
        self.splits = np.full(count, _NO_SPLIT, np.int64)
        self.split_numbers = dict(SPLIT_NUMBERS)
        self.metadata: dict[str, NDArray[np.int64]] = {}
        self.names: dict[str, tuple[str, ...]] = {}
        if isinstance(source, Backgrounds):
            self.labels, self.classes = source.category_ids, source.categories
        else:
            self.labels, self.classes = source.labels, source.classes
        if isinstance(source, ImageTable):
            if source.attributes is not None:
                self.metadata["background"] = source.attributes
                self.names["background"] = source.attribute_names
            self._number_splits(source.splits or ("",) * count)
        self.metadata["y"], self.names["y"] = self.labels, self.classes

    def _number_splits(self, splits: tuple[str, ...]) -> None:
        for name in sorted({name for name in splits if name} - SPLIT_NUMBERS.keys()):
            self.split_numbers[name] = len(self.split_numbers)
        numbers: Mapping[str, int] = {"": _NO_SPLIT, **self.split_numbers}
        self.splits = np.fromiter((numbers[name] for name in splits), np.int64, len(splits))


def _write_results(results: Mapping[str, float], *, names: Mapping[int, str]) -> str:
    lines = [f"Average acc: {results['acc_avg']:.3f}"]
    for name in names.values():
        count = int(results[f"count_{name}"])
        if count:
            lines.append(f"  {name}  [n = {count:6d}]:\tacc = {results[f'acc_{name}']:5.3f}")
    return "\n".join([*lines, f"Worst-group acc: {results['acc_wg']:.3f}", ""])
