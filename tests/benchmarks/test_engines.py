"""The engines: the same bytes from two Ray workers, one of them killed, as from this process.

One Ray session of two workers serves the whole module.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fieldmark.benchmarks.jobs import Job, TaskRef
from fieldmark.benchmarks.runner import _chain, run_jobs
from fieldmark.benchmarks.store import Store
from fieldmark.cli.dispatch import run
from fieldmark.core.errors import (
    FieldmarkError,
    ImageError,
    MissingExtraError,
    UnknownNameError,
    UsageError,
)
from fieldmark.discovery import region_embeddings
from fieldmark.discovery.region_embeddings import embed_regions
from fieldmark.discovery.regions import cut_scales
from fieldmark.methods.bap import anchors
from fieldmark.methods.bap.anchors import make_anchors
from fieldmark.models import embed, engine
from fieldmark.models.embed import embed_images
from fieldmark.models.engine import LOCAL, open_engine
from fieldmark.models.load import load_encoder
from fieldmark.testing import FakeEncoder
from tests.methods.bap_material import open_compositor
from tests.models import tiny

HERE = os.getpid()
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIELDMARK_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def ray_engine():
    with open_engine("ray", workers=2) as opened:
        yield opened


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return f"local-dir:{tiny.write_open_clip(tmp_path_factory.mktemp('model') / 'clip', 'clip')}"


@pytest.fixture(scope="module")
def encoder(model):
    return load_encoder(model, device="cpu")


class FakePhotographs:
    """Smooth random pictures. Reading one of them kills the process, the first time, by -9."""

    def __init__(self, count, *, deadly=-1, mark=None, unreadable=-1):
        self.count, self.deadly, self.mark, self.unreadable = count, deadly, mark, unreadable
        self.home = HERE

    def __len__(self):
        return self.count

    def read(self, index, /):
        if index == self.unreadable:
            raise ImageError("is not an image", where=f"image {index}", mend="delete it")
        if index == self.deadly and os.getpid() != self.home and not self.mark.exists():
            self.mark.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return tiny.photograph(40, 32, seed=index)

    def hashes(self):
        return tuple(str(index) for index in range(self.count))


def read_files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.safetensors")}


def test_embeddings_are_the_same_bytes_though_a_worker_is_killed(
    ray_engine, encoder, tmp_path, monkeypatch
):
    monkeypatch.setattr(embed, "SHARD", 8)
    mark, seen = tmp_path / "killed", []
    options: dict[str, Any] = {"batch_size": 3, "precision": "fp32"}
    local = embed_images(encoder, FakePhotographs(37), cache=tmp_path / "a", **options)
    ray = embed_images(
        encoder,
        FakePhotographs(37, deadly=21, mark=mark),
        cache=tmp_path / "b",
        engine=ray_engine,
        progress=lambda *step: seen.append(step),
        **options,
    )
    assert int(mark.read_text()) != HERE
    assert ray.values.tobytes() == local.values.tobytes()
    assert (ray.computed, ray.reused) == (37, 0)
    assert len(read_files(tmp_path / "a")) == 5
    assert read_files(tmp_path / "b") == read_files(tmp_path / "a")
    assert seen[-1] == (37, 37)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_a_stopped_run_goes_on_under_the_other_engine_to_the_same_bytes(
    ray_engine, encoder, tmp_path, monkeypatch
):
    monkeypatch.setattr(embed, "SHARD", 8)
    images = FakePhotographs(30)
    options: dict[str, Any] = {"batch_size": 3, "precision": "fp32"}

    def stop(done, total):
        if done >= 11:
            raise KeyboardInterrupt

    whole = embed_images(encoder, images, cache=tmp_path / "whole", **options)
    for first, second in ((ray_engine, LOCAL), (LOCAL, ray_engine)):
        folder = tmp_path / type(first).__name__
        with pytest.raises(KeyboardInterrupt):
            embed_images(encoder, images, cache=folder, engine=first, progress=stop, **options)
        rest = embed_images(encoder, images, cache=folder, engine=second, **options)
        assert 11 <= rest.reused < 30
        assert rest.values.tobytes() == whole.values.tobytes()


def test_anchors_are_the_same_bytes(ray_engine, tmp_path, monkeypatch):
    monkeypatch.setattr(anchors, "PART", 2)
    compositor = open_compositor(tmp_path, objects=7)
    options: dict[str, Any] = {"contexts": 4, "seed": 0, "batch_size": 3}
    seen = []
    local = make_anchors(FakeEncoder(), compositor, cache=tmp_path / "a", **options)
    ray = make_anchors(
        FakeEncoder(),
        compositor,
        cache=tmp_path / "b",
        engine=ray_engine,
        progress=lambda *step: seen.append(step),
        **options,
    )
    assert torch.equal(local, ray)
    assert len(read_files(tmp_path / "a")) == 4
    assert read_files(tmp_path / "b") == read_files(tmp_path / "a")
    assert seen[-1] == (28, 28)


@pytest.mark.parametrize("way", ["crop", "tokens", "pool"])
def test_regions_are_the_same_bytes(way, ray_engine, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(region_embeddings, "SHARD", 17)
    options: dict[str, Any] = {
        "regions": cut_scales(6, side=32, scales=(1, 2)),
        "way": way,
        "batch_size": 4,
        "precision": "fp32",
    }
    images = FakePhotographs(6)
    local = embed_regions(encoder, images, cache=tmp_path / "a", **options)
    ray = embed_regions(encoder, images, cache=tmp_path / "b", engine=ray_engine, **options)
    assert ray.values.tobytes() == local.values.tobytes()
    assert len(read_files(tmp_path / "a")) == 2
    assert read_files(tmp_path / "b") == read_files(tmp_path / "a")


SYNTHETIC = {"size": 32, "n_objects": 6, "n_scenes": 4, "per_class": 24, "per_group": 4}
TUNING = {"epochs": 1, "batch_size": 8, "warmup": 1, "precision": "fp32", "probe_epochs": 1}
SETTINGS = {"lp-ft": TUNING, "bap": {"epochs": 1, "batch_size": 8, "contexts": 1, "objects": 4,
            "anchor_contexts": 2, "precision": "fp32"}}  # fmt: skip


def list_jobs(model):
    ref = TaskRef(dataset="synthetic", options={**SYNTHETIC, "correlation": 0.95, "seed": 0})
    methods = [
        ("native", "zero-shot"),
        ("lp-ft", "trained"),
        ("bap", "zero-shot"),
        ("wise-ft", "trained"),
        ("native", "dfr"),
    ]
    return [
        Job(task=ref, model=model, recipe=recipe, settings=SETTINGS, arguments={"head": head})
        for recipe, head in methods
    ]


def read_jobs(store):
    """Return what finished jobs found, without the seconds that it took."""

    def strip(value):
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if "second" not in k and "sha" not in k}
        return [strip(part) for part in value] if isinstance(value, list) else value

    return {p.name: strip(json.loads(p.read_text())) for p in (store.root / "jobs").glob("*.json")}


def test_jobs_that_share_an_adapted_encoder_are_one_chain(model):
    # wise-ft starts from lp-ft; the native encoder's embeddings are shared too.
    assert list(_chain(list_jobs(model))) == [[0, 4], [1, 3], [2]]


def test_jobs_find_the_same(ray_engine, model, tmp_path):
    jobs = list_jobs(model)
    stores = {name: Store(tmp_path / name) for name in ("local", "ray")}
    local = run_jobs(jobs, store=stores["local"])
    seen = []
    ray = run_jobs(
        jobs,
        store=stores["ray"],
        engine=ray_engine,
        report=lambda phase, done, total, note: seen.append((phase, done, total)),
    )
    assert [one.key for one in ray] == [one.key for one in local]
    assert read_jobs(stores["ray"]) == read_jobs(stores["local"])
    assert seen == [("jobs", done, 5) for done in range(1, 6)]
    adapted = {n: read_files(s.root / "adapted") for n, s in stores.items()}
    assert adapted["ray"] == adapted["local"]
    assert len(adapted["ray"]) > 2


ERRORS = {
    "unknown": lambda: UnknownNameError("kind", "a", ["b"]),  # pickle could not bring it home
    "missing": lambda: MissingExtraError("ray", extra="ray"),
    "image": lambda: ImageError("is empty", where=Path("a.png")),
}


def raise_after(name, shard):
    """Yield the shard's values, then raise one of our errors."""
    yield from shard
    raise ERRORS[name]()


@pytest.mark.parametrize("name", ERRORS)
def test_errors_come_home_after_what_was_done(name, ray_engine):
    error = ERRORS[name]()
    with contextlib.closing(ray_engine.map(raise_after, name, [[1, 2]])) as made:
        _, parts = next(made)
        assert [next(iter(parts)), next(iter(parts))] == [1, 2]
        with pytest.raises(type(error)) as raised:
            next(iter(parts))
    assert str(raised.value) == str(error)
    assert raised.value.problem == error.problem


def test_an_image_that_cannot_be_read_stops_or_is_listed(ray_engine, encoder):
    images = FakePhotographs(5, unreadable=3)
    with pytest.raises(ImageError, match="image 3: is not an image; delete it"):
        embed_images(encoder, images, engine=ray_engine, precision="fp32")
    found = embed_images(encoder, images, engine=ray_engine, precision="fp32", skip_unreadable=True)
    assert [one.index for one in found.unreadable] == [3]
    assert np.isnan(found.values).all(axis=1).tolist() == [False, False, False, True, False]


def die(shared, shard):
    """Kill the process that runs this."""
    yield shard
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_shard_that_kills_every_worker_is_given_up(ray_engine, monkeypatch):
    monkeypatch.setattr(engine, "RETRIES", 0)
    with contextlib.closing(ray_engine.map(die, None, [0])) as made:
        _, parts = next(made)
        with pytest.raises(FieldmarkError, match="shard 0 was lost with its Ray worker 1 times"):
            list(parts)


def look_around(shared, shard):
    """Yield what a worker takes over."""
    yield torch.get_num_threads(), Path.cwd(), os.environ["FIELDMARK_CACHE"], os.getpid()


def test_a_worker_has_this_process_s_threads_folder_and_settings(ray_engine):
    [(_, [found])] = [(n, list(parts)) for n, parts in ray_engine.map(look_around, None, [0])]
    assert found[:3] == (torch.get_num_threads(), Path.cwd(), os.environ["FIELDMARK_CACHE"])
    assert found[3] != HERE


def list_descendants(process):
    children = Path(f"/proc/{process}/task/{process}/children")
    with contextlib.suppress(OSError):
        for child in children.read_text().split():
            yield int(child)
            yield from list_descendants(int(child))


def list_listeners(processes):
    """Return the addresses, in the kernel's hexadecimal, that processes listen on."""
    inodes = set()
    for process in processes:
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{process}/fd").iterdir():
                with contextlib.suppress(OSError):
                    inodes.add(str(link.readlink()))
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in inodes:
                found.append(words[1].split(":")[0])
    return found


def test_the_cluster_of_our_own_listens_on_the_loopback_address_alone(ray_engine):
    list(ray_engine.map(look_around, None, [0]))
    found = list_listeners([HERE, *list_descendants(HERE)])
    assert len(found) >= 3  # its table, its scheduler, this process
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert set(found) <= loopback


def test_names_and_numbers_of_workers_are_checked():
    for name in ("spark", "ray:1", "rays://a"):
        with pytest.raises(UnknownNameError, match="known: local, ray, ray://HOST:PORT"):
            open_engine(name).__enter__()
    with pytest.raises(UsageError, match="give --engine ray"):
        open_engine("local", workers=2).__enter__()
    with pytest.raises(UsageError, match="give 1 or more"):
        open_engine("ray", workers=0).__enter__()


def test_an_address_where_nobody_listens_is_refused_at_once(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(FieldmarkError, match=rf"ray://{address}: no Ray cluster .*scale.md"):
            _open_anew(monkeypatch, f"ray://{address}")
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(FieldmarkError, match=rf"{address}: no Ray cluster can be reached"):
            _open_anew(monkeypatch, "ray")
    with pytest.raises(UsageError, match="ray://here: names no port"):
        _open_anew(monkeypatch, "ray://here")


def _open_anew(monkeypatch, name):
    """Open an engine as a process does that has joined no session."""
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    open_engine(name).__enter__()


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fieldmark\[ray\]'"):
        open_engine("ray").__enter__()


@pytest.mark.parametrize("verb", ["embed", "bap", "discover"])
def test_verbs_name_a_wrong_engine(verb, tmp_path, capsys):
    words = [verb, "--model", "packaged:a", "--out", str(tmp_path / "out"), "--engine", "spark"]
    data = ["--foregrounds", "a", "--backgrounds", "b"] if verb == "bap" else ["--data", "a"]
    with pytest.raises(SystemExit) as stopped:
        run([*words, *data])
    assert stopped.value.code == 2
    assert "unknown engine 'spark'; known: local, ray, ray://HOST:PORT" in capsys.readouterr().err


def test_a_command_says_nothing_of_ray_and_leaves_nothing_running(model, tmp_path):
    folder = tmp_path / "images" / "a"
    folder.mkdir(parents=True)
    for seed in range(3):
        tiny.photograph(40, 32, seed=seed).save(folder / f"{seed}.png")
    command = [sys.executable, "-m", "fieldmark", "embed", "--model", model]
    command += ["--data", str(folder.parent), "--out", str(tmp_path / "out")]
    ran = subprocess.run(
        [*command, "--engine", "ray", "--workers", "1"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert [line.split(":")[0] for line in ran.stderr.splitlines()] == ["embed", "done"]
    assert ran.stdout == ""
