"""Feed damaged files to every reader and write what comes out to `docs/results/fuzzing.md`.

Each reader runs in a process of its own with a limit on its memory, so that a crash in native code
and a run without end are counted as well. The inputs depend on the seed and their number alone.

    python benchmarks/fuzz.py --inputs 100000 --seed 0 --out docs/results/fuzzing.md
"""

from __future__ import annotations

import argparse
import logging
import math
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.fuzz.inventory import LONG_RUN, NOT_REACHED
from tests.fuzz.readers import list_long_readers, list_readers
from tests.fuzz.run import LIMIT, Reader, Tally, damage_inputs, feed

# What one input may ask for, beside what the process holds before the first.
MEMORY = 2 << 30
BATCH = 250
LEAST = 100
# Seconds without an input done after which a process is ended.
PATIENCE = 90.0
SHOWN = 3


@dataclass
class Result:
    """What came out of all inputs of one reader."""

    name: str
    tally: Tally
    peak: float = 0.0
    crashes: int = 0
    seconds: float = 0.0

    @property
    def foreign(self) -> int:
        """Foreign errors, with crashes and runs without end."""
        return self.tally.foreign + self.crashes


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz, print the table as it grows, and write it; the exit code is 1 if anything came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", default=[], help="readers with this in the name")
    parser.add_argument("--out", type=Path, help="file for the table; printed only by default")
    words = parser.parse_args(arguments)
    readers = list_readers() | list_long_readers()
    assert set(LONG_RUN.values()) <= readers.keys()
    total = sum(reader.share for reader in readers.values())
    began, results = time.time(), []
    print(HEADER, flush=True)
    for name, reader in readers.items():
        if words.only and not any(word in name for word in words.only):
            continue
        count = max(LEAST, math.ceil(words.inputs * reader.share / total))
        results.append(fuzz(reader, count=count, seed=words.seed))
        print(write_line(results[-1]), flush=True)
        for told, content in results[-1].tally.failures[:SHOWN]:
            print(f"\n{content[:200]!r}\n{told}\n", file=sys.stderr)
    page = write_page(results, words=words, seconds=time.time() - began)
    print(summarise(results))
    if words.out is not None:
        words.out.write_text(page, encoding="utf-8")
    return int(any(result.foreign for result in results))


def fuzz(reader: Reader, *, count: int, seed: int) -> Result:
    """Read `count` inputs in processes of their own; one that dies is followed by another."""
    result, done = Result(reader.name, Tally()), 0
    context = multiprocessing.get_context("fork")
    began = time.time()
    while done < count:
        at = context.Value("q", done, lock=False)
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_work, args=(reader, done, count, seed, theirs, at))
        child.start()
        theirs.close()
        done = _gather(child, ours, result, at=at, done=done)
        child.join()
        if done < count:
            # The process died at this input: it counts, and the next ones go on after it.
            number = at.value
            content = next(iter(damage_inputs(reader, count=number + 1, seed=seed, start=number)))
            result.crashes += 1
            result.tally.inputs += number + 1 - done
            code = child.exitcode
            result.tally.failures.append((f"the process died at input {number} ({code})", content))
            done = number + 1
    result.seconds = time.time() - began
    return result


def _gather(child: Any, pipe: Connection, result: Result, *, at: Any, done: int) -> int:
    last, since = at.value, time.time()
    while True:
        if pipe.poll(1.0):
            try:
                number, tally, peak = pipe.recv()
            except EOFError:
                return done
            _merge(result.tally, tally)
            result.peak, done = max(result.peak, peak), number
        if at.value != last:
            last, since = at.value, time.time()
        elif time.time() - since > PATIENCE:
            child.kill()
            since = time.time()


def _merge(whole: Tally, part: Tally) -> None:
    for name in ("inputs", "refused", "accepted", "foreign"):
        setattr(whole, name, getattr(whole, name) + getattr(part, name))
    whole.slowest = max(whole.slowest, part.slowest)
    whole.failures += part.failures


def _work(reader: Reader, start: int, count: int, seed: int, pipe: Connection, at: Any) -> None:
    logging.disable(logging.CRITICAL)
    # Native readers of images speak of damage on standard error.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    with tempfile.TemporaryDirectory() as place:
        # Some levels down, so that `..` leads to a folder of ours.
        folder = Path(place) / "a" / "b" / "c" / "work"
        folder.mkdir(parents=True)
        reader.prepare(folder)
        limit = _read_status("VmSize") + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        Path("/proc/self/clear_refs").write_text("5")
        before = _read_status("VmRSS")

        def tell(number: int, content: bytes) -> None:
            at.value = number

        for first in range(start, count, BATCH):
            end = min(first + BATCH, count)
            tally = feed(reader, folder, count=end, seed=seed, start=first, tell=tell)
            peak = (_read_status("VmHWM") - before) / 2**20
            pipe.send((end, tally, peak))
    pipe.close()


def _read_status(field: str) -> int:
    """Return a field of this process's status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"this kernel does not tell {field}")


REST = tuple(NOT_REACHED.items())
HEADER = (
    "| reader | inputs | accepted | refused in our words | foreign | slowest, s | peak, MiB |\n"
    "|---|--:|--:|--:|--:|--:|--:|"
)


def write_line(result: Result) -> str:
    """Return a reader's line of the table."""
    tally = result.tally
    return (
        f"| {result.name} | {tally.inputs:,} | {tally.accepted:,} | {tally.refused:,} | "
        f"{result.foreign} | {tally.slowest:.2f} | {result.peak:.0f} |"
    )


def write_page(results: Sequence[Result], *, words: argparse.Namespace, seconds: float) -> str:
    """Return the page of the results."""
    lines = "\n".join(write_line(result) for result in results)
    rest = "\n".join(f"| `{file}` | `{name}` | {what} |" for (file, name), what in REST)
    return f"""# Damaged files

`python benchmarks/fuzz.py --inputs {words.inputs} --seed {words.seed}` made this table in
{seconds / 60:.1f} minutes. Whole files of each kind were damaged at random: bits flipped,
numbers swapped for those that overflow, pieces cut, repeated and spliced, fields and JSON values
exchanged for others, nesting of up to 100,000 levels, sizes declared that no file has. Each reader
had a process of its own, {LIMIT:.0f} seconds of processor time for an input and {MEMORY >> 30} GiB
of memory beyond what it held before the first. What came out was either a value or one of
fieldmark's own errors in one printable line; anything else, a crash or a run without end counts as
foreign.

What fieldmark seals with a checksum was damaged as a disk would leave it, and as often with a new
checksum, as a forger would.

Accepted does not mean whole: many changes leave a file that says something else. Slowest is in
seconds of processor time for one input, peak the memory of the process beyond its start.

{HEADER}
{lines}

{summarise(results)}

## What it does not reach

Every function of fieldmark with a call that reads or parses is found in its syntax tree
(`tests/fuzz/inventory.py`). A test asks that the whole inputs of the readers above reach it, so
that a reader that is written later is not forgotten. These it does not reach:

| module | function | what it reads |
|---|---|---|
{rest}
"""


def summarise(results: Sequence[Result]) -> str:
    """Return what came out of all readers, in two lines."""
    inputs, accepted, refused = (
        sum(getattr(result.tally, name) for result in results)
        for name in ("inputs", "accepted", "refused")
    )
    foreign = sum(result.foreign for result in results)
    slowest = max((result.tally.slowest for result in results), default=0.0)
    peak = max((result.peak for result in results), default=0.0)
    return (
        f"In all {inputs:,} inputs of {len(results)} readers: {accepted:,} accepted, {refused:,} "
        f"refused in\nour words, {foreign} foreign; the slowest took {slowest:.2f} s, the largest "
        f"{peak:.0f} MiB."
    )


if __name__ == "__main__":
    sys.exit(main())
