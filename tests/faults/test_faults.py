"""What happens to real runs, in short; `python benchmarks/faults.py` is the long version.

The commands are the real ones, on tiny real data and a tiny CLIP with random weights, in forks of
one process.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fieldmark.core.seeds import generator
from tests.faults.harness import judge_resume, open_server, try_kills
from tests.faults.material import write_material
from tests.faults.trials import (
    Bench,
    Trial,
    cut,
    damage_cache,
    fill_disk,
    flip_bit,
    is_refusal,
    refuse_places,
    share_cache,
    turn_clock_back,
)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return write_material(tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with open_server(tmp_path_factory.mktemp("logs"), light=True) as server:
        yield server


def list_lost(trials):
    found = list(trials)
    assert found
    return [trial for trial in found if trial.lost]


@pytest.mark.parametrize("verb", ["embed", "bap"])
def test_a_killed_command_ends_as_if_nothing_had_happened(material, server, tmp_path, verb):
    kills = try_kills(
        material, material.verbs[verb], server=server, folder=tmp_path, count=2, seed=7
    )
    assert [kill.differences for kill in kills] == [[], []]


@pytest.mark.parametrize("fault", [fill_disk, share_cache, turn_clock_back, damage_cache])
def test_embed_survives(material, server, tmp_path, fault):
    assert not list_lost(fault(Bench(material, server, tmp_path, 3), material.verbs["embed"]))


def may_mount():
    return os.geteuid() == 0 and Path("/proc/self/ns/mnt").exists()


@pytest.mark.skipif(not may_mount(), reason="a read-only mount takes root")
def test_places_that_cannot_be_written_are_refused(material, server, tmp_path):
    bench = Bench(material, server, tmp_path, 3)
    found = list(refuse_places(bench, material.verbs["embed"]))
    if any("may not unshare" in trial.lost for trial in found):
        pytest.skip("this root may not make mounts of its own")
    assert [trial.fault for trial in found if not trial.lost] == [
        "OUT on a read-only mount",
        "OUT is a file",
        "cache read-only and empty",
        "cache read-only and filled",
    ]


def test_a_difference_and_a_traceback_are_seen(material, server, tmp_path):
    """The suite itself can fail: a run that differs, and words that end in a traceback."""
    verb = material.verbs["embed"]
    bench = Bench(material, server, tmp_path, 3)
    _, whole = bench.prepare(verb)
    path = tmp_path / "whole" / "embeddings.safetensors"
    flip_bit(path, 0.999)
    assert judge_resume({"code": 0, "log": ""}, tmp_path / "whole", whole) == [path.name]
    assert not is_refusal({"code": 1, "log": "Traceback\nfieldmark: x"})
    assert not is_refusal({"code": None, "log": ""})
    assert Trial("a", "b", lost="x").lost


def test_a_cut_and_a_flip_change_a_file(tmp_path):
    path = tmp_path / "a"
    for seed in range(20):
        place = float(generator(seed).uniform())
        path.write_bytes(bytes(range(50)))
        flip_bit(path, place)
        assert sum(a != b for a, b in zip(path.read_bytes(), range(50), strict=True)) == 1
        cut(path, place)
        assert path.stat().st_size == int(place * 50)
