"""Write a run's predictions so that FiftyOne imports them in three lines; it need not be installed.

The layout is FiftyOne's `FiftyOneImageClassificationDataset`: `data.json` says where each image is,
`labels.json` names its class, and one more file of labels for each further field gives its group,
its split, and what each head predicted. Targets are plain texts, which every version reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from fieldmark.benchmarks.export.predictions import Predicted, read_predictions
from fieldmark.core.atomic import write_json
from fieldmark.core.errors import RunExistsError

DATA, LABELS = "data.json", "labels.json"
LINES = """import fiftyone as fo
kind = fo.types.FiftyOneImageClassificationDataset
dataset = fo.Dataset.from_dir(dataset_dir={out!r}, dataset_type=kind, data_path="data.json")
for field in {fields!r}:
    dataset.merge_dir(dataset_dir={out!r}, dataset_type=kind, data_path="data.json",
                      labels_path=f"{{field}}.json", label_field=field, add_info=False)"""


def export_fiftyone(run: Path, *, out: Path) -> list[Path]:
    """Write `data.json`, `labels.json` and a file of labels for each further field.

    Args:
        run: a run with `predictions.csv`.
        out: the new folder.

    Returns:
        The files of the further fields, called after them: `group`, `split`, then heads.

    Raises:
        InputError: the run kept no predictions, or they are damaged.
        RunExistsError: `out` holds other files.
    """
    rows = read_predictions(run)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunExistsError("holds other files", where=out, mend="choose an empty --out")
    write_json(out / DATA, {row.key: str(row.path) for row in rows})
    _write_labels(out / LABELS, {row.key: row.label for row in rows})
    paths = []
    for field, labels in gather_fields(rows).items():
        paths.append(out / f"{field}.json")
        _write_labels(paths[-1], labels)
    return paths


def _write_labels(path: Path, labels: Mapping[str, str]) -> None:
    write_json(path, {"classes": sorted(set(labels.values())), "labels": dict(labels)})


def gather_fields(rows: Iterable[Predicted]) -> dict[str, dict[str, str]]:
    """Gather labels by the name of a FiftyOne field, then by the key of an image.

    A head has a field of its own, with the seed in its name after the first.

    Example:
        >>> row = Predicted(id="a", path=Path("a.png"), split="", label="cat", attribute="mat",
        ...                 head="linear-probe", seed=1, predicted="dog")
        >>> {field: list(labels.values()) for field, labels in gather_fields([row]).items()}
        {'group': ['cat on mat'], 'linear_probe_seed1': ['dog']}
    """
    fields: dict[str, dict[str, str]] = {"group": {}, "split": {}}
    for row in rows:
        fields["group"][row.key] = row.group
        if row.split:
            fields["split"][row.key] = row.split
        # FiftyOne's fields are names as Python's.
        name = re.sub(r"\W", "_", row.head) + (f"_seed{row.seed}" if row.seed else "")
        fields.setdefault(name, {})[row.key] = row.predicted
    return {field: labels for field, labels in fields.items() if labels}


def write_import(out: Path, fields: Iterable[Path]) -> str:
    """Return the lines of Python that import what `export_fiftyone` wrote."""
    return LINES.format(out=str(out), fields=[path.stem for path in fields])
