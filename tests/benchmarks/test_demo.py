"""The demo, from a built data set to its page, with a tiny CLIP with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fieldmark.benchmarks.demo import DemoRequest, run_demo
from fieldmark.benchmarks.demo_parts import choose_queries, find_neighbours
from fieldmark.benchmarks.predictions import EvaluatedSplit
from fieldmark.core.records import read_rows, read_run
from fieldmark.data.datasets import build_dataset
from fieldmark.data.tables import read_table
from fieldmark.methods.bap.config import BapConfig
from fieldmark.models.load import load_encoder
from fieldmark.report import write_page
from tests.models import tiny

CONFIG = BapConfig(epochs=1, contexts=2, anchor_contexts=2, batch_size=8, precision="fp32")
SMALL = {"size": 32, "n_objects": 6, "n_scenes": 4, "per_class": 8, "per_group": 4}


class Stopped(Exception):
    """Stands for Ctrl-C."""


@pytest.fixture(scope="module")
def request_(tmp_path_factory) -> DemoRequest:
    folder = tmp_path_factory.mktemp("demo")
    data = build_dataset("synthetic", folder / "data", options=SMALL)
    model = f"local-dir:{tiny.write_open_clip(folder / 'clip', 'clip')}"
    return DemoRequest(data=data, model=model, config=CONFIG)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path / "cache"))


def test_a_demo_that_was_stopped_goes_on_and_leaves_everything(request_, tmp_path):
    out = tmp_path / "run"
    phases = []

    def stop(phase: str, done: int, total: int, note: str) -> None:
        phases.append(phase)
        if phase == "train: bap":
            raise Stopped

    with pytest.raises(Stopped):
        run_demo(request_, out=out, report=stop)
    assert "embed: native" in phases
    run_demo(request_, out=out, resume=True)
    rows = read_rows(out)
    assert {r.method for r in rows} == {"native", "oracle", "data-matched-control", "bap"}
    assert {r.split for r in rows if r.metric == "acc_wg"} == {"test_seen", "test_unseen"}
    assert {r.method for r in rows if r.metric == "additivity"} == {"native", "bap"}
    assert all(r.correlation == 1.0 for r in rows)
    manifest = read_run(out)
    assert len(set(manifest["weights"].values())) == 3
    assert load_encoder(str(out)).spec.dim == load_encoder(request_.model).spec.dim
    assert not list(out.rglob("checkpoint.safetensors"))
    page = write_page(out).read_text()
    for part in ("What the encoder was shown", "Nearest neighbours", "Map of embeddings"):
        assert part in page
    losses = (out / "page" / "loss.jsonl").read_text().splitlines()
    assert {json.loads(line)["method"] for line in losses} == {"bap", "data-matched-control"}


def split_of(data: Path) -> EvaluatedSplit:
    table = read_table(data).select("test_unseen")
    chance = np.random.default_rng(0).normal(size=(len(table), 5)).astype(np.float32)
    unit = chance / np.linalg.norm(chance, axis=1, keepdims=True)
    return EvaluatedSplit(name="test_unseen", table=table, embeddings=unit)


def test_queries_come_from_every_group_and_from_other_objects(request_):
    table = split_of(request_.data).table
    queries = choose_queries(table, count=4, seed=0)
    assert table.objects is not None
    assert len({table.objects[i] for i in queries}) == len(queries)
    assert len({int(table.group_ids()[i]) for i in queries}) == len(queries)


def test_neighbours_are_the_nearest_image_of_each_other_object(request_):
    split = split_of(request_.data)
    nearest, similarity = find_neighbours(split, 0, count=3)
    assert split.table.objects is not None
    others: dict[str, float] = {}
    for i, name in enumerate(split.table.objects):
        if name != split.table.objects[0]:
            cosine = float(split.embeddings[i] @ split.embeddings[0])
            others[name] = max(cosine, others.get(name, -1.0))
    expected = sorted(others.values(), reverse=True)[:3]
    np.testing.assert_allclose(similarity, expected, atol=1e-6)
    assert len({split.table.objects[i] for i in nearest}) == len(nearest)
