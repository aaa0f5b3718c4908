"""What fieldmark survives: kills, full disks, places that cannot be written, damaged files.

    python benchmarks/faults.py --kills 20 --seed 0 [--lock FILE]

Drives the real command line on tiny real data and a tiny real CLIP with random weights, and writes
docs/results/faults.md after each verb, so that what was tried is kept when it is stopped. The
commands run in forks of one process that has imported torch; one kill of each verb is of a process
of its own. With --lock each batch waits for that file's lock, so that other heavy work gets its
turn. See tests/faults.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import itertools
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.faults import trials
from tests.faults.harness import (
    Server,
    judge_resume,
    open_server,
    read_outcome,
    require,
    resume,
    run_real,
    spell,
    try_kills,
)
from tests.faults.material import Material, read_trained, write_material
from tests.faults.trials import Bench, Trial

from fieldmark.core.atomic import write_text
from fieldmark.core.seeds import generator

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "results" / "faults.md"
# Which verbs each fault is tried on; kills are tried on all.
FAULTS = {
    "fill_disk": ("embed", "bap", "evaluate", "discover", "mitigate", "explain", "covar build"),
    "refuse_places": ("embed", "bap", "discover", "explain", "covar build"),
    "share_cache": ("embed", "bap", "discover", "explain"),
    "turn_clock_back": ("embed", "bap", "evaluate", "discover", "mitigate", "faithfulness"),
    "damage_cache": ("embed", "bap", "discover", "explain"),
    "damage_unfinished": ("bap", "mitigate", "bench", "explain", "faithfulness", "diagnose"),
}
# Kills of a verb at a time.
ROUND = 5
HEAD = """# Faults tried, survived, lost

Made by `{command}` on {date}, commit {commit}, seed {seed}; {minutes} minutes.{unfinished}

A fault is *survived* when the command, resumed where it was stopped, leaves the same rows (less
timings), weights and pictures as a run that nothing disturbed, or when it is refused with one clear
line and ends right once the fault is gone. Anything else is *lost*. Kills are `kill -9` at moments
drawn uniformly over an undisturbed run's time. The disk is full by a limit on the size of files;
the clock is a fake one that goes back an hour whenever it is asked. Data and encoder are tiny (a
CLIP with random weights, 32 pixels), the command line is the real one.

| part | fault | tried | survived | lost | note |
|---|---|---:|---:|---:|---|
"""


def main() -> None:
    """Try all faults and write the table as far as it got."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="of each verb")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbs", nargs="*", help="to kill; default: all")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--lock", type=Path, help="file whose lock heavy work takes")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    started, found = time.monotonic(), list[Trial]()
    try:
        batches = try_all(folder, kills=asked.kills, seed=asked.seed, verbs=asked.verbs)
        while True:
            with waiting(asked.lock):
                batch = next(batches, None)
            if batch is None:
                break
            found += batch
            write_text(asked.out, format_page(found, asked=asked, started=started, done=False))
        write_text(asked.out, format_page(found, asked=asked, started=started, done=True))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def waiting(lock: Path | None) -> Iterator[None]:
    """Hold the lock of a file, if one is given, and leave others the time to take it after."""
    if lock is None:
        yield
        return
    with lock.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
    time.sleep(1)


def try_all(
    folder: Path, *, kills: int, seed: int, verbs: list[str] | None
) -> Iterator[list[Trial]]:
    """Yield what became of the faults, a batch of a verb at a time.

    Few kills of each verb come first and the rest last, so that all has been tried a little
    wherever this is stopped.
    """
    material = write_material(folder / "material")
    names = verbs or list(material.verbs)
    with open_server(folder / "logs") as server:
        benches = draw_benches(material, server, folder / "bench", seed=seed)
        yield from kill_round(benches, names, first=0, kills=kills)
        for fault, those in FAULTS.items():
            for name in those:
                yield say(getattr(trials, fault)(next(benches), material.verbs[name]))
        for name, user in (
            ("bap", read_trained(material)),
            ("discover", material.verbs["mitigate"]),
            ("covar build", material.verbs["covar evaluate"]),
        ):
            yield say(trials.damage_finished(next(benches), material.verbs[name], user))
        for first in range(ROUND, kills, ROUND):
            yield from kill_round(benches, names, first=first, kills=kills)
    for name in names:
        shutil.rmtree(folder / "bench", ignore_errors=True)
        yield say(kill_real(material, name, folder=folder / "bench", seed=seed))


def draw_benches(material: Material, server: Server, folder: Path, *, seed: int) -> Iterator[Bench]:
    """Yield benches, each in an empty folder, and delete what the one before has left."""
    for number in itertools.count():
        shutil.rmtree(folder, ignore_errors=True)
        place = folder / str(number)
        place.mkdir(parents=True)
        yield Bench(material, server, place, seed)


def kill_round(
    benches: Iterator[Bench], names: list[str], *, first: int, kills: int
) -> Iterator[list[Trial]]:
    """Yield what became of the next few kills of each verb."""
    for name in names:
        yield say(kill_forks(next(benches), name, first=first, count=min(ROUND, kills - first)))


def say(found: Iterable[Trial]) -> list[Trial]:
    """Print what became of faults as they are tried, and return them."""
    kept = []
    try:
        for one in found:
            print(f"{one.part} | {one.fault} | {one.lost or 'survived'} | {one.note}", flush=True)
            kept.append(one)
    except (RuntimeError, OSError) as error:
        # An undisturbed run failed; the table says so instead of ending here.
        print(f"not tried: {error}", flush=True)
        kept.append(Trial("harness", "undisturbed run", lost=str(error)))
    return kept


def kill_forks(bench: Bench, name: str, *, first: int, count: int) -> Iterator[Trial]:
    """Kill a verb at random moments; see `try_kills`."""
    found = try_kills(
        bench.material, bench.material.verbs[name], server=bench.server, folder=bench.folder,
        count=count, seed=bench.seed + first,
    )  # fmt: skip
    for kill in found:
        where = f" (at {kill.share:.0%})" if kill.differences else ""
        yield Trial(name, "kill -9", lost="; ".join(kill.differences) + where)


def kill_real(material: Material, name: str, *, folder: Path, seed: int) -> Iterator[Trial]:
    """Kill a process of its own once and resume it in another."""
    verb, made = material.verbs[name], {}
    if verb.needs:
        made[verb.needs] = folder / "needed"
        words = spell(material.verbs[verb.needs], made[verb.needs], made={})
        require(run_real(words, cache=folder / "needed-cache"))
    start = time.monotonic()
    require(run_real(spell(verb, folder / "whole", made=made), cache=folder / "whole-cache"))
    whole, spent = read_outcome(folder / "whole"), time.monotonic() - start
    share = float(generator(seed, "kill a process", name).uniform(0.6, 0.95))
    words = spell(verb, folder / "killed", made=made)
    hit = run_real(words, cache=folder / "cache", kill_after=share * spent)
    if hit["killed"]:
        again = resume(words, folder / "killed", run=run_real, cache=folder / "cache")
        wrong = judge_resume(again, folder / "killed", whole)
        yield Trial(name, "kill -9 of a process of its own", lost="; ".join(wrong))


def format_page(
    found: list[Trial], *, asked: argparse.Namespace, started: float, done: bool
) -> str:
    """Return the page: its head, one line for each part and fault, the sum, what was lost."""
    counts: dict[tuple[str, str], list[Trial]] = {}
    for one in found:
        counts.setdefault((one.part, one.fault), []).append(one)
    lines = []
    for (part, fault), group in counts.items():
        lost = [one for one in group if one.lost]
        notes = sorted({one.note for one in group if one.note and not one.lost})
        kept = len(group) - len(lost)
        lines.append(
            f"| {part} | {fault} | {len(group)} | {kept} | {len(lost)} | {', '.join(notes)} |"
        )
    lost = [one for one in found if one.lost]
    lines.append(f"| **all** | | {len(found)} | {len(found) - len(lost)} | {len(lost)} | |")
    told = [f"- {one.part}, {one.fault}: {' '.join(one.lost.split())[:300]}" for one in lost]
    head = HEAD.format(
        command=f"python benchmarks/faults.py --kills {asked.kills} --seed {asked.seed}",
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        commit=describe_commit(),
        seed=asked.seed,
        minutes=round((time.monotonic() - started) / 60),
        unfinished="" if done else " Stopped before its end: not all kills were tried.",
    )
    return head + "\n".join([*lines, "", "## Lost", "", *(told or ["Nothing."])]) + "\n"


def describe_commit() -> str:
    """Return the commit, and whether files were changed since."""
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=, with changes"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
