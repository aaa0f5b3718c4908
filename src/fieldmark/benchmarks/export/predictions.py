"""The file `OUT/predictions.csv`: what each head said of each image."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from fieldmark.benchmarks.predictions import Predictions
from fieldmark.core.atomic import write_text
from fieldmark.core.errors import InputError

PREDICTIONS = "predictions.csv"
MEND = "evaluate again with this version of fieldmark"


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What one head said of one image.

    Attributes:
        id: of the image in its table.
        path: of the image.
        split: of the data set.
        label: the class that the table gives.
        attribute: the background, "" where it is not known.
        head: what named the class.
        seed: of the head.
        predicted: the class that it named.
    """

    id: str
    path: Path
    split: str
    label: str
    attribute: str
    head: str
    seed: int
    predicted: str

    @property
    def correct(self) -> bool:
        """Whether the class was named right."""
        return self.predicted == self.label

    @property
    def key(self) -> str:
        """A name that no other image of the run has, without a dot: of its id, and a digest.

        Example:
            >>> Predicted(id="a/b.1.png", path=Path("b.png"), split="test", label="", attribute="",
            ...           head="", seed=0, predicted="").key
            'b_1-5ab99046'
        """
        # FiftyOne takes what follows the last dot of a key for the ending of a file.
        stem = re.sub(r"\W", "_", Path(self.id).stem)
        return f"{stem}-{hashlib.sha256(self.id.encode()).hexdigest()[:8]}"

    @property
    def group(self) -> str:
        """The group in words: the class, and what it stands on where that is known."""
        return f"{self.label} on {self.attribute}" if self.attribute else self.label


def list_predicted(predictions: Iterable[Predictions]) -> Iterator[Predicted]:
    """Yield what heads said, an image at a time.

    Args:
        predictions: of `fieldmark.benchmarks.evaluate.evaluate`.
    """
    for one in predictions:
        table = one.split.table
        for index, (identity, path) in enumerate(zip(table.ids, table.paths, strict=True)):
            attribute = -1 if table.attributes is None else int(table.attributes[index])
            yield Predicted(
                id=identity,
                path=path,
                split=one.split.name,
                label=table.classes[table.labels[index]],
                attribute=table.attribute_names[attribute] if attribute >= 0 else "",
                head=one.head,
                seed=one.seed,
                predicted=table.classes[one.predicted[index]],
            )


def write_predictions(folder: Path, predictions: Iterable[Predictions]) -> Path:
    """Write `predictions.csv`, a row for each image, head and seed, and return its path.

    Args:
        folder: the run directory.
        predictions: of `fieldmark.benchmarks.evaluate.evaluate`.

    Raises:
        FieldmarkError: the file cannot be written.
    """
    stream = io.StringIO()
    names = [one.name for one in fields(Predicted)]
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(one) for one in list_predicted(predictions))
    write_text(folder / PREDICTIONS, stream.getvalue())
    return folder / PREDICTIONS


def read_predictions(folder: Path) -> list[Predicted]:
    """Read `predictions.csv` of a run.

    Raises:
        InputError: it is missing, or not what `write_predictions` writes.

    Example:
        >>> read_predictions(Path("nowhere"))
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.InputError: nowhere: holds no predictions.csv; evaluate again ...
    """
    path = folder / PREDICTIONS
    if not path.is_file():
        raise InputError(f"holds no {PREDICTIONS}", where=folder, mend=MEND)
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        return list(_parse(text, path=path))
    except csv.Error as error:
        raise InputError(f"is no CSV ({error})", where=path, mend=MEND) from error


def _parse(text: str, *, path: Path) -> Iterator[Predicted]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    names = [one.name for one in fields(Predicted)]
    if reader.fieldnames != names:
        raise InputError(f"has not the columns {', '.join(names)}", where=path, mend=MEND)
    for row in reader:
        place = f"{path}, line {reader.line_num}"
        if None in row or None in row.values():
            raise InputError("has not as many cells as the head", where=place, mend=MEND)
        if not re.fullmatch("[0-9]{1,18}", row["seed"]):
            raise InputError(f"{row['seed']!r} is no seed", where=place, mend=MEND)
        yield Predicted(
            id=row["id"],
            path=Path(row["path"]),
            split=row["split"],
            label=row["label"],
            attribute=row["attribute"],
            head=row["head"],
            seed=int(row["seed"]),
            predicted=row["predicted"],
        )
