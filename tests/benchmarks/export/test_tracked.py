"""Runs in trackers, read back by the trackers' own readers."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from fieldmark.benchmarks.export.tracked import export_to_tracker, gather_steps
from fieldmark.benchmarks.tracking import TRACKERS, TrackedRun, Tracker, open_tracker
from fieldmark.core.errors import (
    FieldmarkError,
    InputError,
    MissingExtraError,
    RunExistsError,
    UnknownNameError,
)
from fieldmark.core.records import ResultRow
from tests.benchmarks.export.runs import make_rows, write_run

WORST = "native/zero-shot/test/acc_wg"


@pytest.fixture
def run(tmp_path) -> Path:
    return write_run(tmp_path / "my run", [*make_rows(), *make_rows(seed=1)])


def test_losses_stand_at_their_step_and_figures_at_their_seed(run):
    steps = gather_steps(run)
    assert list(steps) == [0, 1, 2, 3]
    assert [steps[step].get("loss/bap") for step in range(4)] == [1.0, 0.5, 1 / 3, None]
    assert all(steps[step]["learning_rate/bap"] == 1e-3 for step in range(4))
    for seed in (0, 1):
        assert steps[seed][WORST] == 0.5
        assert steps[seed][f"{WORST}.ci_low"] == 0.2
        assert steps[seed][f"{WORST}.count"] == 4
        undefined = "native/zero-shot/test/acc_y:cat_background:water"
        assert undefined not in steps[seed]
        assert steps[seed][f"{undefined}.count"] == 0
    assert not any(name.startswith("native") for name in steps[2])


def test_two_encoders_do_not_share_a_name(tmp_path):
    run = write_run(tmp_path / "run", [*make_rows(), *make_rows(encoder="packaged:y")])
    names = set(gather_steps(run)[0])
    assert {f"packaged:x/{WORST}", f"packaged:y/{WORST}"} <= names


def test_encoders_by_their_path_are_named_by_its_end_unless_two_share_it(tmp_path):
    for number, (paths, told) in enumerate(
        [
            (("/runs/bap", "packaged:x"), {f"bap/{WORST}", f"packaged:x/{WORST}"}),
            (("/a/bap", "/b/bap"), {f"/a/bap/{WORST}", f"/b/bap/{WORST}"}),
        ]
    ):
        rows = [row for path in paths for row in make_rows(encoder=path)]
        assert told <= set(gather_steps(write_run(tmp_path / str(number), rows))[0])


def test_no_figure_of_a_finding_is_written_over_another(tmp_path):
    """Rows of `discover` differ in their group alone."""
    rows = [
        ResultRow(suite="discover", dataset="d", method="ravl", metric="gap", group=group, value=v)
        for group, v in ((0, 0.1), (2, 0.3))
    ]
    figures = gather_steps(write_run(tmp_path / "run", rows))[0]
    assert (figures["ravl/group 0/gap"], figures["ravl/group 2/gap"]) == (0.1, 0.3)


def test_a_damaged_loss_is_one_line(run):
    path = run / "page" / "loss.jsonl"
    path.write_text(path.read_text() + '{"step": "x"}\n')
    with pytest.raises(InputError, match=r"loss.jsonl, line 5: is no row of losses"):
        gather_steps(run)


def test_tensorboard_reads_scalars_and_pictures(run, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    export_to_tracker(run, kind="tensorboard", out=tmp_path / "tb")
    read = EventAccumulator(str(tmp_path / "tb" / "my run"))
    read.Reload()
    assert [(e.step, e.value) for e in read.Scalars("loss/bap")] == [
        (0, 1.0),
        (1, 0.5),
        (2, pytest.approx(1 / 3)),
    ]
    assert [e.step for e in read.Scalars(WORST)] == [0, 1]
    (picture,) = read.Images("page/composites/1.png")
    assert (picture.width, picture.height) == (5, 4)
    assert picture.encoded_image_string == (run / "page/composites/1.png").read_bytes()
    with pytest.raises(RunExistsError, match=r"my run: holds a run already; choose another --out"):
        export_to_tracker(run, kind="tensorboard", out=tmp_path / "tb")


def test_mlflow_reads_figures_settings_and_files(run, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    for _ in range(2):
        export_to_tracker(run, kind="mlflow", out=tmp_path / "ml", project="mine")
    client = MlflowClient(tracking_uri=(tmp_path / "ml").as_uri())
    experiment = client.get_experiment_by_name("mine")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 2, "a store holds many runs"
    ours = runs[0]
    assert (ours.info.run_name, ours.info.status) == ("my run", "FINISHED")
    assert ours.data.params["config.epochs"] == "2"
    history = client.get_metric_history(ours.info.run_id, "loss/bap")
    assert [(one.step, one.value) for one in history] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert ours.data.metrics["native/zero-shot/test/acc_y:bird_background:water"] == 0.5
    kept = Path(client.download_artifacts(ours.info.run_id, ""))
    assert (kept / "page/composites/0.png").read_bytes() == (
        run / "page/composites/0.png"
    ).read_bytes()
    assert (kept / "run.json").read_text() == (run / "run.json").read_text()


def test_mlflow_takes_figures_of_any_name(tmp_path):
    """Encoders go by paths, and MLflow refuses a name that is no plain path below its folder."""
    from mlflow.tracking import MlflowClient

    paths = ["/a/bap", "/b/bap", "../bap", "./bap/", "b#%c", "x" * 300]
    rows = [row for path in paths for row in make_rows(encoder=path) if row.metric == "acc_wg"]
    run = write_run(tmp_path / "run", rows)
    export_to_tracker(run, kind="mlflow", out=tmp_path / "ml")
    client = MlflowClient(tracking_uri=(tmp_path / "ml").as_uri())
    experiment = client.get_experiment_by_name("fieldmark")
    (ours,) = client.search_runs([experiment.experiment_id])
    assert sum(value == 0.5 for value in ours.data.metrics.values()) == len(paths)


@pytest.mark.parametrize(
    ("kind", "project", "message"),
    [
        ("mlflow", "", r"refuses the run \(Invalid experiment name"),
        ("wandb", "a/b", r"refuses the run \(Invalid project name 'a/b'"),
    ],
)
def test_a_project_that_a_tracker_refuses_is_one_line(run, tmp_path, kind, project, message):
    with pytest.raises(FieldmarkError, match=message) as told:
        export_to_tracker(run, kind=kind, out=tmp_path / "out", project=project)
    assert "\n" not in str(told.value)


def read_history(log: Path) -> list[dict[str, Any]]:
    """Read the rows of a `.wandb` file, by its frames: checksum, length and kind before each."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, rows = log.read_bytes(), 7, []
    assert len(content) < 32768, "the frames of one block"
    while place < len(content):
        _, length, kind = struct.unpack_from("<IHB", content, place)
        assert kind == 1, "a whole record"
        record = Record.FromString(content[place + 7 : place + 7 + length])
        place += 7 + length
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
    return rows


def test_wandb_writes_an_offline_run_and_asks_nothing_of_the_network(run, tmp_path, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "home"))
    export_to_tracker(run, kind="wandb", out=tmp_path / "wb")
    (folder,) = (tmp_path / "wb" / "wandb").glob("offline-run-*")
    (log,) = folder.glob("run-*.wandb")
    for key in (b"config.epochs", b"my run"):
        assert key in log.read_bytes(), key
    told = {row["_step"]: row for row in read_history(log)}
    for step, figures in gather_steps(run).items():
        assert {key: told[step][key] for key in figures} == figures
    assert len(list(folder.glob("files/media/images/page/composites/*.png"))) == 2
    for name in ("run.json", "results.jsonl"):
        assert (folder / "files" / name).read_bytes() == (run / name).read_bytes()
    assert not (tmp_path / "home").exists(), "all of it lies in the store"
    assert not (folder / "files" / "requirements.txt").exists()


def test_a_mode_of_wandb_that_is_none_is_one_line(run, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(UnknownNameError, match="unknown WANDB_MODE 'ofline'; did you mean offline"):
        export_to_tracker(run, kind="wandb", out=tmp_path / "wb")


@pytest.mark.parametrize("kind", TRACKERS)
def test_a_missing_library_is_one_line(run, tmp_path, monkeypatch, kind):
    for name in [name for name in sys.modules if name.split(".")[0] == TRACKERS[kind]]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, TRACKERS[kind], None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fieldmark\[track\]'"):
        export_to_tracker(run, kind=kind, out=tmp_path / "out")


def test_a_tracker_fits_the_protocol(tmp_path):
    tracker = open_tracker(
        "tensorboard", TrackedRun(folder=tmp_path, project="p", name="n", settings={})
    )
    assert isinstance(tracker, Tracker)
    tracker.finish()
