"""Feed damaged inputs to one reader and count what came out."""

from __future__ import annotations

import contextlib
import random
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from fieldmark.core.errors import FieldmarkError
from tests.fuzz.mutate import Damage

# Seconds of processor time for one input: a thousand times what most take.
LIMIT = 5.0
KEPT = 20


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A reader of one kind of input.

    Attributes:
        name: what the table calls it.
        seeds: whole inputs.
        read: reads one, in a folder of the reader's own; its return value is dropped.
        damage: how inputs are made from the seeds.
        share: how many inputs it gets beside the others.
        prepare: fills the folder with what the inputs speak of.
    """

    name: str
    seeds: Sequence[bytes]
    read: Callable[[bytes, Path], object]
    damage: Damage
    share: float = 1.0
    prepare: Callable[[Path], object] = lambda folder: None


@dataclass
class Tally:
    """What came out of the inputs of one reader: counts, and the first foreign errors."""

    inputs: int = 0
    refused: int = 0
    accepted: int = 0
    foreign: int = 0
    slowest: float = 0.0
    failures: list[tuple[str, bytes]] = field(default_factory=list)


class TooSlowError(BaseException):
    """An input took more than its time; no reader can catch this by catching Exception."""


def damage_inputs(reader: Reader, *, count: int, seed: int, start: int = 0) -> Iterator[bytes]:
    """Yield inputs `start` to `count` of a reader; each depends on its own number alone.

    The first ones are the seeds, undamaged.
    """
    for number in range(start, count):
        if number < len(reader.seeds):
            yield reader.seeds[number]
            continue
        rng = random.Random(f"{seed} {reader.name} {number}")
        yield reader.damage(rng, rng.choice(reader.seeds), reader.seeds)


def feed(
    reader: Reader,
    folder: Path,
    *,
    count: int,
    seed: int = 0,
    start: int = 0,
    tell: Callable[[int, bytes], object] = lambda number, content: None,
) -> Tally:
    """Read inputs `start` to `count`; `tell` is called before each, so that a crash is traced."""
    tally = Tally()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, content in enumerate(
            damage_inputs(reader, count=count, seed=seed, start=start), start=start
        ):
            tell(number, content)
            _read_one(reader, content, folder, tally)
    return tally


def _read_one(reader: Reader, content: bytes, folder: Path, tally: Tally) -> None:
    tally.inputs += 1
    began = time.process_time()
    try:
        with _limit(LIMIT):
            reader.read(content, folder)
        tally.accepted += 1
    except FieldmarkError as error:
        tally.refused += 1
        _check_message(error, content, tally)
    except (Exception, TooSlowError) as error:
        tally.foreign += 1
        told = "".join(traceback.format_exception(error)[-4:])
        if len(tally.failures) < KEPT:
            tally.failures.append((f"{type(error).__name__}: {told}"[-1500:], content))
    tally.slowest = max(tally.slowest, time.process_time() - began)


def _check_message(error: FieldmarkError, content: bytes, tally: Tally) -> None:
    """A message must be one line that a terminal and a file can take."""
    try:
        text = str(error).encode("utf-8").decode()
        problem = "" if text and len(text.splitlines()) == 1 else "its message is not one line"
    except UnicodeEncodeError:
        problem = "its message cannot be printed"
    if problem:
        tally.refused -= 1
        tally.foreign += 1
        if len(tally.failures) < KEPT:
            tally.failures.append((f"{type(error).__name__}: {problem}: {error!r}"[:800], content))


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    def stop(signum: int, frame: FrameType | None) -> None:
        raise TooSlowError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
