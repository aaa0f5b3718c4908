"""What goes wrong on an engine: one line of ours each, from the right place.

The Ray session of two workers is that of `conftest`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
import torch

from fieldmark.cli.dispatch import run
from fieldmark.core.errors import (
    FieldmarkError,
    ImageError,
    MissingExtraError,
    UnknownNameError,
    UsageError,
)
from fieldmark.models import engine
from fieldmark.models.engine import open_engine

pytestmark = pytest.mark.slow


def give_back(shared, shard):
    """Yield a shard as it is."""
    yield shard


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


def test_a_worker_with_another_fieldmark_is_refused(ray_engine, monkeypatch):
    monkeypatch.setattr(engine, "__version__", "9.9")
    with contextlib.closing(ray_engine.map(give_back, None, [0])) as made:
        _, parts = next(made)
        with pytest.raises(UsageError, match=r"fieldmark is 9\.9 here and .*; install the same on"):
            next(iter(parts))


def test_a_worker_that_lacks_a_module_is_one_line(ray_engine, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("def work(shared, shard):\n    yield shard\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    work = importlib.import_module("only_here").work
    with contextlib.closing(ray_engine.map(work, None, [0])) as made:
        _, parts = next(made)
        message = "cannot read what it was sent .*No module named 'only_here'.*; install the same"
        with pytest.raises(FieldmarkError, match=message):
            next(iter(parts))


def test_a_gpu_that_the_cluster_lacks_is_not_waited_for(ray_engine):
    with pytest.raises(UsageError, match="the Ray cluster has no GPU; give --device cpu"):
        next(ray_engine.map(give_back, None, [0], device=torch.device("cuda")))


def test_a_cluster_that_is_lost_is_one_line_by_a_fake_loss(ray_engine, monkeypatch):
    import ray

    def lose(*_, **__):
        raise ConnectionError("gone\n  a trace\nfor good")

    monkeypatch.setattr(ray, "wait", lose)
    message = r"the Ray cluster was lost \(gone for good\); .* --resume goes on"
    with pytest.raises(FieldmarkError, match=message):
        next(ray_engine.map(give_back, None, [0]))


def test_ray_that_was_imported_before_has_no_secret(monkeypatch):
    import ray

    assert ray.__version__
    monkeypatch.setattr(engine, "_make_token", functools.cache(engine._make_token.__wrapped__))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UsageError, match="Ray was imported before the engine was opened"):
        _open_anew(monkeypatch, "ray")


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
