"""Readers of what a run leaves for `--resume`, for other verbs and for export."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from fieldmark.benchmarks import fine_tuning_curves
from fieldmark.benchmarks.attribution import (
    automatic_masks,
    diagnosis_measure,
    explain_measure,
    faithfulness_batches,
)
from fieldmark.benchmarks.attribution.faithfulness_material import read_masks
from fieldmark.benchmarks.discovery_record import read_discovery
from fieldmark.benchmarks.export.base_model import find_base_model
from fieldmark.benchmarks.export.predictions import PREDICTIONS, Predicted, read_predictions
from fieldmark.benchmarks.export.tracked import gather_steps
from fieldmark.benchmarks.store import NOTES, TOWER, Measured, Store
from fieldmark.core.records import ResultRow
from fieldmark.data.tables import read_table
from fieldmark.models.mask_sources import AutomaticMask
from fieldmark.testing import FakeEncoder
from tests.fuzz.kept import damage_sealed, damage_sealed_json, seal_json, write_sealed
from tests.fuzz.lists import put
from tests.fuzz.mutate import Damage, damage_bytes, damage_json, damage_json_lines, damage_text
from tests.fuzz.objects import LOSS, ROW, RUN, make_reader
from tests.fuzz.pages import RECORDS
from tests.fuzz.pictures import _prepare_objects, draw, save
from tests.fuzz.run import Reader

Row = tuple[str, str, bytes | tuple[bytes, ...], Callable[[Path], object], Damage, Any]
BOMB = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (one, one, b", ".join([b"*%c" % (one - 1)] * 9)) for one in b"bcdefghi"
)
CARDS = (
    b"---\n" + BOMB + b"license: *i\n---\n",
    b"---\nlicense: mit\nbase_model: org/base\ntags: [a]\n---\n# Model\n",
)
KEY = "0" * 64


def _make_result() -> bytes:
    arrays: dict[str, Any] = {
        "0/cci/maps": np.zeros((1, 2, 2), np.float32),
        "0/cci/no_support": np.zeros(1, np.bool_),
        "0/cci/clusters": np.zeros((2, 2), np.int64),
        "0/cci/drops": np.zeros((1, 2), np.float32),
    }
    cost = {"forwards": 1.0, "backwards": 0.0, "seconds": 0.5}
    return write_sealed(arrays, {"cost": json.dumps(cost), "images": "1"})


def _make_batch() -> bytes:
    arrays: dict[str, Any] = {
        "rows": np.arange(2),
        "maps": np.zeros((2, 2, 2), np.float32),
        "curves/deletion/cosine": np.zeros((2, 3)),
        "localisation/energy": np.zeros(2),
    }
    costs = dict.fromkeys(("seconds", "forwards", "backwards", "curve_forwards"), 1.0)
    return write_sealed(arrays, {"costs": json.dumps(costs)})


def _make_chunk() -> bytes:
    arrays: dict[str, Any] = {
        "predictions": np.zeros(2, np.int64), "similarity": np.zeros(2, np.float32),
        "parts": np.zeros((2, 1, 4), np.bool_), "drops": np.zeros((2, 2, 1)),
        "maps": np.zeros((2, 4), np.float32), "clusters": np.zeros((2, 4), np.int64),
        "grid": np.array([2, 2]),
    }  # fmt: skip
    return write_sealed(arrays, {})


def _make_regions() -> bytes:
    arrays: dict[str, Any] = {
        "boxes": np.zeros((8, 4), np.float32),
        "images": np.zeros(8, np.int64),
        "clusters": np.array([-1, 0, 1, 0, 1, 0, 1, 0]),
        "medoids": np.zeros((32, 4), np.float32),
    }
    return write_sealed(arrays, {"image_ids": '["a.png"]'})


def _make_discovery() -> bytes:
    """Return the record of a page, with what other verbs read in it beside."""
    record = json.loads((RECORDS / "discovery.json").read_bytes())
    record["regions"]["side"] = 224
    for found in record["candidates"]:
        found["medoid"] = 0
    words = {"fingerprint": "ab", "data": "d", "root": None, "seed": 0}
    lists = {name: ["cat", "dog"] for name in ("classes", "class_names", "templates")}
    return seal_json({**record, **words, **lists})


def _prepare_discovery(folder: Path) -> None:
    put(folder / "discovery.json", _make_discovery())
    put(folder / "regions.safetensors", _make_regions())


def _read_discovery(path: Path) -> None:
    read_discovery(path.parent)


def _make_tower() -> bytes:
    state = FakeEncoder().image_tower.state_dict()
    return write_sealed({name: value.numpy() for name, value in state.items()}, {})


def _prepare_adapted(folder: Path) -> None:
    put(folder / f"adapted/k/{NOTES}", seal_json({"notes": {}, "holdout": [0, 1]}))
    put(folder / f"adapted/k/{TOWER}", _make_tower())


def _read_adapted(path: Path) -> None:
    Store(path.parents[2]).read_adapted("k", native=FakeEncoder())


def _read_job(path: Path) -> None:
    store = Store(path.parents[1])
    if store.has(KEY):
        store.read(KEY)


def _make_job() -> bytes:
    measured = Measured(rows=(ResultRow.from_json(json.dumps(ROW)),), notes={"a": 1})
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place))
        store.write(KEY, measured, job={"method": "bap"})
        return (Path(place) / f"jobs/{KEY}.json").read_bytes()


def _read_mask(path: Path) -> None:
    kept = automatic_masks._read_kept(path)
    assert kept is None or isinstance(kept.score, float)


def _read_masks(path: Path) -> None:
    table = read_table(path.parent / "t.csv")
    shares = read_masks(table, [0], encoder=FakeEncoder(), grid=(2, 2))
    assert ((shares >= 0) & (shares <= 1)).all()


def _make_mask() -> bytes:
    drawn = AutomaticMask(
        mask=np.full((4, 4), 255, np.uint8), score=0.5, note="a note", source="grabcut"
    )
    with tempfile.TemporaryDirectory() as place:
        automatic_masks._keep(Path(place) / "m.png", drawn)
        return (Path(place) / "m.png").read_bytes()


def _read_origin(path: Path) -> None:
    find_base_model(str(path.parent))


def _prepare_model(folder: Path) -> None:
    put(folder / "encoder" / "config.json", b"{}")


def _list_sealed() -> list[Row]:
    rows = np.arange(2)
    return [
        ("explain part", "cci.safetensors", _make_result(),
         functools.partial(explain_measure.load_result, method="cci"), damage_sealed, None),
        ("faithfulness batch", "0.safetensors", _make_batch(),
         functools.partial(faithfulness_batches.read_measured, rows=rows), damage_sealed, None),
        ("diagnosis chunk", "0.safetensors", _make_chunk(),
         functools.partial(diagnosis_measure._load_chunk, count=2), damage_sealed, None),
        ("regions of discovery", "regions.safetensors", _make_regions(), _read_discovery,
         damage_sealed, _prepare_discovery),
        ("record of discovery", "discovery.json", _make_discovery(), _read_discovery,
         damage_sealed_json, _prepare_discovery),
        ("bench job", f"jobs/{KEY}.json", _make_job(), _read_job, damage_sealed_json, None),
        ("bench tower", f"adapted/k/{TOWER}", _make_tower(), _read_adapted, damage_sealed,
         _prepare_adapted),
        ("bench notes", f"adapted/k/{NOTES}", seal_json({"notes": {}, "holdout": [0, 1]}),
         _read_adapted, damage_sealed_json, _prepare_adapted),
    ]  # fmt: skip


def _list_plain() -> list[Row]:
    losses = "".join(json.dumps({**LOSS, "step": step}) + "\n" for step in (1, 2)).encode()
    header = ",".join(field.name for field in fields(Predicted))
    predicted = f"{header}\na,a.png,test,bird,land,zero-shot,0,cat\n".encode()
    return [
        (PREDICTIONS, PREDICTIONS, predicted, lambda path: read_predictions(path.parent),
         damage_text, None),
        ("losses to track", "page/loss.jsonl", losses,
         lambda path: gather_steps(path.parents[1]), damage_json_lines, None),
        ("epoch of a curve", "epoch-00000.json", json.dumps([ROW, ROW]).encode(),
         fine_tuning_curves._read_epoch, damage_json, None),
        ("mask of faithfulness", "mask.png", save(draw("L"), "PNG", {}), _read_masks,
         damage_bytes, _prepare_objects),
        ("automatic mask", "m.png", _make_mask(), _read_mask, damage_bytes, None),
    ]  # fmt: skip


def list_readers() -> list[Reader]:
    """Return the readers of what verbs leave."""
    return _make_readers([*_list_sealed(), *_list_plain()])


def list_long_readers() -> list[Reader]:
    """Return the readers of where a model comes from, which ask open_clip about its name."""
    run = {**RUN, "arguments": {"model": "packaged:nothing"}}
    rows: list[Row] = [
        ("model card", "README.md", CARDS, _read_origin, damage_text, None),
        ("run.json of a base model", "run.json", json.dumps(run).encode(), _read_origin,
         damage_json, _prepare_model),
    ]  # fmt: skip
    return _make_readers(rows)


def _make_readers(rows: Sequence[Row]) -> list[Reader]:
    return [
        make_reader(
            title,
            file,
            seed if isinstance(seed, tuple) else (seed,),
            read,
            prepare=prepare or (lambda folder: None),
            damage=damage,
            share=0.5,
        )
        for title, file, seed, read, damage, prepare in rows
    ]
