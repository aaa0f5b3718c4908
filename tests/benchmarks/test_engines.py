"""The engines: the same bytes from two Ray workers, one of them killed, as from this process.

The Ray session of two workers is that of `conftest`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fieldmark.benchmarks.controlled import run as controlled
from fieldmark.benchmarks.controlled.plan import plan_ravl
from fieldmark.benchmarks.controlled.run import run_controlled
from fieldmark.benchmarks.jobs import Job, TaskRef
from fieldmark.benchmarks.runner import _chain, run_jobs
from fieldmark.benchmarks.store import Store
from fieldmark.core.errors import (
    ImageError,
)
from fieldmark.discovery import region_embeddings
from fieldmark.discovery.region_embeddings import embed_regions
from fieldmark.discovery.regions import cut_scales
from fieldmark.methods.bap import anchors
from fieldmark.methods.bap.anchors import make_anchors
from fieldmark.models import embed
from fieldmark.models.embed import embed_images
from fieldmark.models.engine import LOCAL
from fieldmark.models.load import load_encoder
from fieldmark.testing import FakeEncoder
from tests.benchmarks.fake_controlled import make_request
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


def read_rows(store):
    return {path.name: path.read_bytes() for path in (store.root / "jobs").glob("*.json")}


class DeadlyOnce:
    """A layer that kills a worker by -9, the first time that one is there."""

    def __init__(self, mark):
        self.mark, self.home = mark, HERE

    def __call__(self, module, given):
        if os.getpid() != self.home and not self.mark.exists():
            self.mark.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)


def test_controlled_settings_find_the_same_though_a_worker_is_killed(
    ray_engine, tmp_path, monkeypatch
):
    model = f"local-dir:{tiny.write_open_clip(tmp_path / 'model', 'resnet')}"
    # The least precision lets the mitigation go through to its end.
    study = {"settings": 2, "mitigations": 1, "least_precision": 0, "epochs": 1}
    jobs = plan_ravl(make_request(model=model, **study))
    stores = {name: Store(tmp_path / name) for name in ("local", "ray")}
    local = run_controlled(jobs, store=stores["local"])
    mark, seen = tmp_path / "killed", []

    def load_deadly(uri, *, device):
        encoder = load_encoder(uri, device=device)
        convolution = next(m for m in encoder.image_tower.modules() if type(m) is torch.nn.Conv2d)
        convolution.register_forward_pre_hook(DeadlyOnce(mark))
        return encoder

    monkeypatch.setattr(controlled, "load_encoder", load_deadly)
    ray = run_controlled(
        jobs,
        store=stores["ray"],
        engine=ray_engine,
        report=lambda phase, done, total, note: seen.append((phase, done, total)),
    )
    assert int(mark.read_text()) != HERE
    assert ray == local
    assert len(read_rows(stores["ray"])) == len(jobs) == 3
    assert read_rows(stores["ray"]) == read_rows(stores["local"])
    assert seen == [("settings", done, 3) for done in range(4)]
    # A run that stopped under one engine goes on under the other.
    next((stores["ray"].root / "jobs").glob("*.json")).unlink()
    monkeypatch.undo()
    assert run_controlled(jobs, store=stores["ray"]) == local
    assert read_rows(stores["ray"]) == read_rows(stores["local"])


def test_an_image_that_cannot_be_read_stops_or_is_listed(ray_engine, encoder):
    images = FakePhotographs(5, unreadable=3)
    with pytest.raises(ImageError, match="image 3: is not an image; delete it"):
        embed_images(encoder, images, engine=ray_engine, precision="fp32")
    found = embed_images(encoder, images, engine=ray_engine, precision="fp32", skip_unreadable=True)
    assert [one.index for one in found.unreadable] == [3]
    assert np.isnan(found.values).all(axis=1).tolist() == [False, False, False, True, False]


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
