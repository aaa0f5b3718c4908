"""Where shards of work run: in this process, or in workers of a Ray cluster.

A verb cuts its work into fixed shards, hands each to one function and keeps what comes back. Which
engine calls the function changes nothing else: the same shards, batches and number of threads give
the same bytes, so a run may stop under one engine and go on under the other. Only the number of
torch's threads decides the order of a sum; a Ray worker is therefore given as many as this process
has, and asks its cluster for as many CPUs.

Ray moves objects between its own processes by pickle. The cluster that is started here listens on
the loopback address alone and wants a token that no other process is told; a cluster that is joined
by its address must be trusted as this process is.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch

from fieldmark import __version__
from fieldmark.core.errors import FieldmarkError, MissingExtraError, UnknownNameError, UsageError

Shared = TypeVar("Shared")
Shard = TypeVar("Shard")
Part = TypeVar("Part")
NAMES = ("local", "ray", "ray://HOST:PORT")
# A worker may be lost this many times before its shard is given up.
RETRIES = 3
# Shards under way for each worker: one that it works on, and one that waits.
AHEAD = 2


class Engine(Protocol):
    """What runs the shards of a piece of work."""

    def map(
        self,
        work: Callable[[Shared, Shard], Generator[Part]],
        shared: Shared,
        shards: Sequence[Shard],
        *,
        device: torch.device | None = None,
    ) -> Generator[tuple[int, Iterable[Part]]]:
        """Yield the number of a shard and the parts that its work yields, shard by shard.

        Args:
            work: a function at the top level of a module; from what all shards share and one shard
                to the parts of its result.
            shared: what all shards share, such as the encoder; sent to each worker once.
            shards: the pieces of work.
            device: where the work computes; a worker is given a GPU of its own where it is one.

        Raises:
            FieldmarkError: what the work raises, after the parts that came before; or a worker was
                lost too often.
        """
        ...


class LocalEngine:
    """Runs one shard after the other in this process, in their order.

    Example:
        >>> def count(base, shard):
        ...     yield from (base + value for value in shard)
        >>> [(n, list(parts)) for n, parts in LocalEngine().map(count, 10, [[1, 2], [3]])]
        [(0, [11, 12]), (1, [13])]
    """

    def map(
        self,
        work: Callable[[Shared, Shard], Generator[Part]],
        shared: Shared,
        shards: Sequence[Shard],
        *,
        device: torch.device | None = None,
    ) -> Generator[tuple[int, Iterable[Part]]]:
        """Yield the shards in order, each part as soon as it is made."""
        for number, shard in enumerate(shards):
            with contextlib.closing(work(shared, shard)) as parts:
                yield number, parts


LOCAL = LocalEngine()


@dataclass(frozen=True, kw_only=True)
class RayEngine:
    """Runs shards in the workers of the Ray session that this process has joined.

    Shards come in the order in which they are finished. A shard whose worker is lost runs again in
    another; what was finished before stays.

    Attributes:
        workers: how many shards run at once.
        threads: torch's threads in each worker.
    """

    workers: int
    threads: int

    def map(
        self,
        work: Callable[[Shared, Shard], Generator[Part]],
        shared: Shared,
        shards: Sequence[Shard],
        *,
        device: torch.device | None = None,
    ) -> Generator[tuple[int, Iterable[Part]]]:
        """Yield each shard when all of it is there."""
        if not shards:
            return
        import ray

        on_gpu = device is not None and device.type == "cuda"
        if on_gpu and not ray.cluster_resources().get("GPU"):
            raise UsageError("the Ray cluster has no GPU", mend="give --device cpu")
        options = ray.remote(
            num_cpus=self.threads,
            num_gpus=1 if on_gpu else 0,
            max_retries=RETRIES,
            max_calls=0,  # by default a worker with a GPU ends after one task
        )
        task = options(_run_shard)
        place = _Place(__version__, self.threads, Path.cwd(), _list_settings())
        waiting = iter(enumerate(shards))
        under_way: dict[Any, int] = {}
        with _naming_losses():
            held = ray.put(shared)
            try:
                while True:
                    while len(under_way) < AHEAD * self.workers and (item := next(waiting, None)):
                        reference = task.remote(work, [held], item[1], place=place)
                        under_way[reference] = item[0]
                    if not under_way:
                        return
                    (done,), _ = ray.wait(list(under_way), num_returns=1)
                    number = under_way.pop(done)
                    yield number, _collect(done, number=number)
            finally:
                for reference in under_way:
                    ray.cancel(reference)


@contextlib.contextmanager
def _naming_losses() -> Iterator[None]:
    """Say in a line that the cluster is gone."""
    import ray

    try:
        yield
    except ray.exceptions.RayTaskError:
        raise
    except (ConnectionError, ray.exceptions.RayError) as error:
        raise FieldmarkError(
            f"the Ray cluster was lost ({_shorten(error)})",
            mend="look at its head; the same command with --resume goes on where it was",
        ) from error


@contextlib.contextmanager
def open_engine(name: str = "local", *, workers: int | None = None) -> Iterator[Engine]:
    """Open an engine by its name, and leave its cluster at the end.

    Args:
        name: `local`; `ray` for workers of a cluster that is started on this machine, or that
            RAY_ADDRESS names, or that this process has joined; `ray://HOST:PORT` for a Ray client
            server.
        workers: how many shards run at once; by default as many as the cluster has CPUs for, each
            with as many threads as torch has here.

    Raises:
        UnknownNameError: there is no such engine.
        UsageError: a number of workers below 1, or for the engine `local`; or Ray was imported
            before, without the secret of a cluster of our own.
        MissingExtraError: Ray is not installed.
        FieldmarkError: the cluster cannot be reached.

    Example:
        >>> with open_engine("local") as engine:
        ...     engine is LOCAL
        True
    """
    if name not in ("local", "ray") and not name.startswith("ray://"):
        raise UnknownNameError("engine", name, NAMES)
    if workers is not None and (workers < 1 or name == "local"):
        mend = "give --engine ray" if workers > 0 else "give 1 or more"
        raise UsageError(f"{workers} workers of the engine {name}", mend=mend)
    if name == "local":
        yield LOCAL
        return
    with _joined(name, workers=workers) as ray:
        threads = torch.get_num_threads()
        fitting = int(ray.cluster_resources().get("CPU", 0)) // threads
        if not fitting:
            raise UsageError(
                f"no host of the Ray cluster has the {threads} CPUs of a worker",
                where=name,
                mend="set OMP_NUM_THREADS to fewer",
            )
        yield RayEngine(workers=min(workers or fitting, fitting), threads=threads)


@contextlib.contextmanager
def _joined(name: str, *, workers: int | None) -> Iterator[Any]:
    """Yield the library once this process is in a session; end the session if it began here."""
    address = os.environ.get("RAY_ADDRESS", "local") if name == "ray" else name
    early = bool(sys.modules.get("ray")) and not _make_token.cache_info().currsize
    with _quiet_environment(own=address == "local"):
        try:
            import ray
        except ModuleNotFoundError:
            raise MissingExtraError("ray", extra="ray") from None
        if ray.is_initialized():
            yield ray
            return
        if early and address == "local":
            # Ray reads the token when it is imported.
            raise UsageError(
                "Ray was imported before the engine was opened",
                mend="open the engine first, or call ray.init, whose session it then joins",
            )
        # A joined cluster has its own size and settings.
        sizes: dict[str, Any] = {}
        if address == "local":
            threads = torch.get_num_threads()
            count = workers or max(1, len(os.sched_getaffinity(0)) // threads)
            sizes = {"num_cpus": count * threads, "include_dashboard": False}
        _reach(address)
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **sizes)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise FieldmarkError(
                f"Ray cannot be started or reached ({_shorten(error)})", where=address, mend=_MEND
            ) from error
        try:
            yield ray
        finally:
            ray.shutdown()


_MEND = "see docs/howto/scale.md"


def _shorten(error: Exception) -> str:
    """Return the first line and the last; between them may stand a trace of Ray's own."""
    told = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(dict.fromkeys([*told[:1], *told[-1:]])) or type(error).__name__


def _reach(address: str) -> None:
    """Refuse at once an address where nobody listens; Ray would try for many minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        if address.startswith("ray://"):
            raise UsageError("names no port", where=address, mend="give ray://HOST:PORT")
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        raise FieldmarkError(
            f"no Ray cluster can be reached ({error})", where=address, mend=_MEND
        ) from None


@functools.cache
def _make_token() -> str:
    """Return this process's secret: Ray reads it once, so a second session needs the same."""
    return secrets.token_hex(32)


@contextlib.contextmanager
def _quiet_environment(*, own: bool) -> Iterator[None]:
    """Set what Ray reads from the environment: it reports nothing and, of our own, hears nobody."""
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    if own:
        # Despite its name this is Ray's switch for "the loopback address only" on every system.
        settings |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        settings |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _make_token()}
        # By default workers give way to every other process.
        settings |= {"RAY_worker_niceness": "0"}
    before = {key: os.environ.get(key) for key in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})


class _Failure(NamedTuple):
    """One of our errors on its way home; not every one survives pickle by itself."""

    kind: type[FieldmarkError]
    text: str
    facts: dict[str, Any]

    def restore(self) -> FieldmarkError:
        error = self.kind.__new__(self.kind)
        error.args = (self.text,)
        vars(error).update(self.facts)
        return error


class _Result(NamedTuple):
    parts: list[Any]
    failure: _Failure | None


class _Place(NamedTuple):
    """What a worker takes over from the process that sends it work."""

    version: str
    threads: int
    folder: Path
    settings: dict[str, str]

    def enter(self) -> None:
        if __version__ != self.version:
            raise UsageError(
                f"fieldmark is {self.version} here and {__version__} on {socket.gethostname()}",
                mend="install the same on every host",
            )
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        with contextlib.suppress(OSError):  # on another host the folder may be missing
            os.chdir(self.folder)
        for key in _list_settings().keys() - self.settings.keys():
            del os.environ[key]
        os.environ.update(self.settings)


def _list_settings() -> dict[str, str]:
    names = ("FIELDMARK_", "HF_HOME", "HF_HUB_OFFLINE")
    return {key: value for key, value in os.environ.items() if key.startswith(names)}


# In a worker: what the shards of the last piece of work share, by its reference.
_held: dict[str, Any] = {}


def _run_shard(work: Any, reference: list[Any], shard: Any, *, place: _Place) -> _Result:
    """Do one shard in a worker, which keeps what it was sent for the next."""
    import ray

    name = reference[0].hex()
    parts: list[Any] = []
    try:
        place.enter()
        if name not in _held:
            _held.clear()
            _held[name] = ray.get(reference[0])
        parts.extend(work(_held[name], shard))
    except FieldmarkError as error:
        facts = {key: str(value) for key, value in vars(error).items() if value is not None}
        return _Result(parts, _Failure(type(error), str(error), facts))
    return _Result(parts, None)


def _collect(reference: Any, *, number: int) -> Generator[Any]:
    """Yield the parts of a finished shard, then raise what stopped it."""
    import ray

    try:
        result: _Result = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if not isinstance(error, ray.exceptions.RaySystemError):
            raise
        raise FieldmarkError(
            f"a Ray worker cannot read what it was sent ({str(error).strip().splitlines()[-1]})",
            mend="install the same fieldmark, with the same extras, on every host",
        ) from error
    except ray.exceptions.RayError as error:
        raise FieldmarkError(
            f"shard {number} was lost with its Ray worker {RETRIES + 1} times",
            mend="look at the worker's memory; the same command goes on where it was",
        ) from error
    yield from result.parts
    if result.failure is not None:
        raise result.failure.restore()
