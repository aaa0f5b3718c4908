"""Results as CLIP_benchmark and FiftyOne read them, and predictions there and back."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldmark.benchmarks.export.clip_benchmark import (
    average_recall,
    export_clip_benchmark,
    list_results,
)
from fieldmark.benchmarks.export.fiftyone import export_fiftyone, write_import
from fieldmark.benchmarks.export.predictions import (
    PREDICTIONS,
    list_predicted,
    read_predictions,
    write_predictions,
)
from fieldmark.benchmarks.predictions import EvaluatedSplit, Predictions
from fieldmark.core.errors import InputError, RunExistsError
from fieldmark.core.records import ResultRow
from fieldmark.data.tables import ImageTable
from tests.benchmarks.export.runs import make_rows, write_run

KEYS = {"dataset", "model", "pretrained", "task", "metrics", "language"}


def test_result_files_have_clip_benchmarks_keys_and_what_the_rows_bear(tmp_path):
    rows = make_rows(encoder="open_clip:ViT-B-16/laion2b_s34b_b88k")
    run = write_run(tmp_path / "run", [*rows, *make_rows(head="linear-probe")])
    paths = export_clip_benchmark(run, out=tmp_path / "out")
    assert [path.name for path in paths] == [
        "birds_cats_laion2b_s34b_b88k_ViT-B-16_en_zeroshot_classification.json",
        "birds_cats__packaged_x_en_linear_probe.json",
    ]
    first = json.loads(paths[0].read_text())
    assert set(first) >= KEYS
    # Birds: 1.0 of 2 and 0.5 of 4; cats: 5 of 6.
    assert first["metrics"] == {
        "acc1": 0.75,
        "acc5": None,
        "mean_per_class_recall": pytest.approx((4 / 6 + 5 / 6) / 2),
    }
    assert (first["model"], first["pretrained"]) == ("ViT-B-16", "laion2b_s34b_b88k")
    group = first["groups"]["acc_y:bird_background:water"]
    assert group == {"value": 0.5, "ci_low": 0.2, "ci_high": 0.8, "count": 4}
    probe = json.loads(paths[1].read_text())["metrics"]
    assert probe == {f"lp_{key}": value for key, value in first["metrics"].items()}
    undefined = first["groups"]["acc_y:cat_background:water"]
    assert undefined == {"value": None, "ci_low": None, "ci_high": None, "count": 0}


def test_its_table_of_many_files_can_be_built_as_clip_benchmark_builds_it(tmp_path):
    """`clip_benchmark build` flattens `metrics` and joins model and tag; done here by hand."""
    run = write_run(tmp_path / "run", [row for s in (0, 1) for row in make_rows(seed=s)])
    rows = []
    for path in export_clip_benchmark(run, out=tmp_path / "out"):
        data = json.loads(path.read_text())
        rows.append(
            {**data, **data.pop("metrics"), "name": f"{data['model']} {data['pretrained']}"}
        )
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    read = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert [(row["seed"], row["acc1"]) for row in read] == [("0", "0.75"), ("1", "0.75")]


def test_one_file_for_one_result_alone(tmp_path):
    run = write_run(tmp_path / "run", make_rows())
    assert export_clip_benchmark(run, out=tmp_path / "a.json") == [tmp_path / "a.json"]
    two = write_run(tmp_path / "two", [*make_rows(), *make_rows(split="val")])
    with pytest.raises(InputError, match=r"holds 2 results, and .*b.json is one file"):
        export_clip_benchmark(two, out=tmp_path / "b.json")
    none = write_run(tmp_path / "none", [])
    with pytest.raises(InputError, match="holds no accuracy"):
        export_clip_benchmark(none, out=tmp_path / "c")


cells = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.booleans()), min_size=1
)


@given(cells)
def test_recall_by_groups_is_recall_by_images(images):
    """Against the plain mean over classes of the share of right images."""
    rows = [_row("acc_avg", [right for *_, right in images])]
    for label, on in sorted({(label, on) for label, on, _ in images}):
        hits = [right for name, where, right in images if (name, where) == (label, on)]
        rows.append(_row(f"acc_y:{label}_background:{on}", hits))
    by_class = [
        np.mean([right for name, _, right in images if name == label])
        for label in {label for label, *_ in images}
    ]
    assert average_recall(rows) == pytest.approx(np.mean(by_class))
    (result,) = list_results(rows)
    assert result["metrics"]["acc1"] == pytest.approx(np.mean([r for *_, r in images]))


def _row(metric: str, hits: list[bool]) -> ResultRow:
    return ResultRow(
        suite="s", dataset="d", metric=metric, value=float(np.mean(hits)), count=len(hits)
    )


def test_recall_is_undefined_where_groups_do_not_hold_every_image():
    rows = [_row("acc_avg", [True] * 5), _row("acc_y:a_background:x", [True] * 3)]
    assert np.isnan(average_recall(rows))


def make_predictions(root: Path) -> list[Predictions]:
    table = ImageTable(
        name="t",
        root=root,
        ids=("a/1.png", 'b,"2".1.png', "c\n3.png"),
        paths=(root / "a/1.png", root / 'b,"2".png', root / "c 3.png"),
        labels=np.array([0, 1, 1]),
        classes=("cat", "dog"),
        attributes=np.array([0, -1, 1]),
        attribute_names=("land", "water"),
    )
    split = EvaluatedSplit(name="test", table=table, embeddings=np.zeros((3, 2), np.float32))
    return [
        Predictions(split=split, head=head, seed=seed, predicted=np.array(predicted))
        for head, seed, predicted in (
            ("zero-shot", 0, [0, 0, 1]),
            ("linear-probe", 0, [0, 1, 1]),
            ("linear-probe", 1, [1, 1, 1]),
        )
    ]


def test_predictions_come_back_as_they_were_written(tmp_path):
    predictions = make_predictions(tmp_path)
    write_predictions(tmp_path, predictions)
    rows = read_predictions(tmp_path)
    assert rows == list(list_predicted(predictions))
    assert [row.correct for row in rows[:3]] == [True, False, True]
    assert [row.group for row in rows[:3]] == ["cat on land", "dog", "dog on water"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text.replace("predicted", "said", 1), "has not the columns id, path"),
        (lambda text: text + "x,y\n", "line 14: has not as many cells as the head"),
        (lambda text: text.replace("zero-shot,0", "zero-shot,-1", 1), "'-1' is no seed"),
        (lambda text: text + "x" * 200_000, "is no CSV"),
        (lambda text: "", "has not the columns"),
    ],
)
def test_damaged_predictions_are_one_line(tmp_path, spoil, message):
    path = write_predictions(tmp_path, make_predictions(tmp_path))
    path.write_text(spoil(path.read_text()))
    with pytest.raises(InputError, match=message) as caught:
        read_predictions(tmp_path)
    assert "\n" not in str(caught.value)
    assert PREDICTIONS in str(caught.value)


class StandInImporter:
    """What FiftyOne's importer of image classification datasets does, after its source.

    Keys of the manifest lose what follows their last dot, and keys of the labels do not.
    """

    def __init__(self, folder: Path, labels: str) -> None:
        data = json.loads((folder / "data.json").read_text())
        self.paths = {str(Path(key).with_suffix("")): folder / path for key, path in data.items()}
        assert len(self.paths) == len(data)
        self.read = json.loads((folder / labels).read_text())

    def samples(self) -> dict[str, str]:
        labels = self.read["labels"]
        assert set(labels) <= set(self.paths)
        assert all(label in self.read["classes"] for label in labels.values())
        return {str(self.paths[key]): label for key, label in labels.items()}


def test_a_stand_in_for_fiftyones_importer_gets_every_field(tmp_path):
    write_predictions(tmp_path, make_predictions(tmp_path))
    out = tmp_path / "out"
    fields = export_fiftyone(tmp_path, out=out)
    assert [path.stem for path in fields] == [
        "group",
        "split",
        "zero_shot",
        "linear_probe",
        "linear_probe_seed1",
    ]
    paths = [str(path) for path in make_predictions(tmp_path)[0].split.table.paths]
    expected = {
        "labels": ["cat", "dog", "dog"],
        "group": ["cat on land", "dog", "dog on water"],
        "split": ["test"] * 3,
        "zero_shot": ["cat", "cat", "dog"],
        "linear_probe": ["cat", "dog", "dog"],
        "linear_probe_seed1": ["dog"] * 3,
    }
    for field, labels in expected.items():
        found = StandInImporter(out, f"{field}.json").samples()
        assert found == dict(zip(paths, labels, strict=True)), field
    compile(write_import(out, fields), "import", "exec")
    with pytest.raises(RunExistsError):
        export_fiftyone(tmp_path, out=out)
