"""`fieldmark embed` on webdataset shards: recorded, resumable, equal to embedding a table."""

from __future__ import annotations

import csv
import multiprocessing
import os
import signal

import numpy as np
import pytest
from safetensors.numpy import load_file

from fieldmark.benchmarks import runs, streams
from fieldmark.cli.dispatch import run
from fieldmark.core.errors import RunExistsError, TableError, UsageError
from fieldmark.core.records import read_rows, read_run
from fieldmark.testing import FakeEncoder
from tests.data.external.pictures import draw, pack, write_tar

EACH, SHARDS = 7, 3


class FakeDying(FakeEncoder):
    """Kills its own process at the thirteenth image."""

    seen = 0

    def encode_image(self, image_BCHW):
        self.seen += len(image_BCHW)
        if self.seen > 12:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_image(image_BCHW)


@pytest.fixture(autouse=True)
def fake_encoder(tmp_path, monkeypatch):
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path / "cache"))
    for module in (streams, runs):
        monkeypatch.setattr(module, "load_encoder", lambda *words, **options: FakeEncoder())


@pytest.fixture
def data(tmp_path):
    for shard in range(SHARDS):
        members = [
            member
            for i in range(EACH)
            for member in (
                (f"{i}.png", pack(draw(shard * EACH + i))),
                (f"{i}.cls", str(i % 2).encode()),
            )
        ]
        write_tar(tmp_path / "birds" / f"{shard}.tar", members)
    return f"wds:{tmp_path / 'birds'}/{{0..{SHARDS - 1}}}.tar"


def embed(data, out, **options):
    settings = {"shard_size": 5, "batch_size": 2, "precision": "fp32", **options}
    return streams.run_stream_embedding(model="fake", data=data, out=out, **settings)


def read(out):
    paths = sorted((out / "embeddings").glob("shard-*.safetensors"))
    return np.concatenate([load_file(path)["embeddings"] for path in paths])


def read_index(out):
    with (out / "index.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_a_stream_gives_what_the_table_gives(data, tmp_path):
    told = []
    embed(data, tmp_path / "stream", report=lambda *step: told.append(step))
    runs.run_embedding(
        model="fake", data=data, out=tmp_path / "table", batch_size=2, precision="fp32"
    )
    table = load_file(tmp_path / "table" / "embeddings.safetensors")["embeddings"]
    assert read(tmp_path / "stream") == pytest.approx(table, abs=1e-6)
    index, rows = read_index(tmp_path / "stream"), read_index(tmp_path / "table")
    assert [row["id"] for row in index] == [row["id"] for row in rows]
    assert [row["label"] for row in index] == [row["label"] for row in rows]
    assert index[6] == {"id": "0/6", "shard": "shard-000001.safetensors", "row": "1",
                        "label": "0", "split": "", "problem": ""}  # fmt: skip
    record = read_run(tmp_path / "stream")
    assert (record["data"]["images"], record["data"]["name"]) == (EACH * SHARDS, "birds")
    [row] = read_rows(tmp_path / "stream")
    assert (row.metric, row.value, row.count) == ("images", EACH * SHARDS, EACH * SHARDS)
    assert told[0] == (0, SHARDS, "1 images")
    assert told[-1] == (SHARDS, SHARDS, f"{EACH * SHARDS} images")
    assert not (tmp_path / "stream" / "cache").exists()


def test_a_killed_run_goes_on_to_the_same_bytes(data, tmp_path, monkeypatch):
    embed(data, tmp_path / "whole")
    monkeypatch.setattr(streams, "load_encoder", lambda *words, **options: FakeDying())
    process = multiprocessing.get_context("fork").Process(
        target=embed, args=(data, tmp_path / "part")
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    monkeypatch.setattr(streams, "load_encoder", lambda *words, **options: FakeEncoder())
    kept = sorted(path.name for path in (tmp_path / "part" / "embeddings").glob("shard-*"))
    assert kept == ["shard-000000.safetensors", "shard-000001.safetensors"]
    with pytest.raises(RunExistsError, match="add --resume"):
        embed(data, tmp_path / "part")
    with pytest.raises(RunExistsError, match=r"other arguments \(shard_size\)"):
        embed(data, tmp_path / "part", shard_size=6, resume=True)
    embed(data, tmp_path / "part", resume=True)
    for name in ("index.csv", "results.jsonl", *(f"embeddings/{name}" for name in kept)):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert read_run(tmp_path / "part")["data"] == read_run(tmp_path / "whole")["data"]


def test_unreadable_images_are_recorded(data, tmp_path):
    write_tar(tmp_path / "birds" / "1.tar", [("x.png", b"no"), ("y.png", pack(draw(1)))])
    embed(data, tmp_path / "run", skip_unreadable=True)
    index = read_index(tmp_path / "run")
    assert [row["id"] for row in index if row["problem"]] == ["1/x"]
    assert np.isnan(read(tmp_path / "run")).all(axis=1).tolist() == [
        r["id"] == "1/x" for r in index
    ]
    notes = read_run(tmp_path / "run")["notes"]
    assert notes["unreadable images"] == 1
    assert "1.tar, sample 'x': is not an image" in notes["unreadable"]["1/x"]


def test_what_cannot_be_streamed_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="is no stream; write wds:PATTERN"):
        embed("birds.csv", tmp_path / "run")
    write_tar(tmp_path / "none.tar", [])
    with pytest.raises(TableError, match="has no image"):
        embed(f"wds:{tmp_path / 'none.tar'}", tmp_path / "run")


def test_the_verb(data, tmp_path, capsys):
    words = ["embed", "--model", "fake", "--data", data, "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as ended:
        run([*words, "--engine", "ray"])
    assert ended.value.code == 2
    assert "a stream is embedded by one process" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        run(words)
    assert ended.value.code == 0
    said = capsys.readouterr().err
    assert "embed: 3/3, 21 images" in said
    assert said.splitlines()[-1].endswith("run/embeddings")
    assert len(read(tmp_path / "run")) == EACH * SHARDS
