"""Kill a command, resume it, and compare what it left with an undisturbed run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from fieldmark.core.atomic import hash_file
from fieldmark.core.seeds import generator
from tests.faults.material import Material, Verb

ROOT = Path(__file__).parents[2]
# Files of a run that are the same whenever it is done, beside its rows.
TENSORS: tuple[str, ...] = ("embeddings.safetensors", "encoder/*.safetensors", "maps.safetensors")
TENSORS += ("regions.safetensors", "probes/**/*.safetensors")
PAGES = ("*.html", "*.md")
FILES = ("*.csv", "images/**/*", "masks/**/*", "page/*.png")


@dataclass
class Server:
    """A process that runs commands in forks of itself; see server.py."""

    process: subprocess.Popen[str]
    folder: Path
    jobs: int = field(default=0)

    def run(self, words: list[str], *, cache: Path, **more: Any) -> dict[str, Any]:
        """Run a command and return how it ended, its log and its words."""
        self.jobs += 1
        log = self.folder / f"{self.jobs:04d}.log"
        job = {"words": words, "cache": str(cache), "log": str(log), "timeout": 300, **more}
        return {**self._ask(job), "log": log.read_text(errors="replace") if log.exists() else ""}

    def run_pair(self, pair: list[list[str]], *, cache: Path) -> dict[str, Any]:
        """Run two commands at once on one cache."""
        jobs = []
        for words in pair:
            self.jobs += 1
            log = str(self.folder / f"{self.jobs:04d}.log")
            jobs.append({"words": words, "cache": str(cache), "log": log})
        return self._ask({"pair": jobs})

    def _ask(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


@contextlib.contextmanager
def open_server(folder: Path, *, light: bool = False) -> Iterator[Server]:
    """Start a server that keeps the logs of its commands in a folder.

    A light one imports little beforehand: quicker where few commands are run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.faults.server", *(["--light"] if light else [])],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        threads = json.loads(process.stdout.readline())["threads"]
        # The allocator of pyarrow has a thread and bears a fork.
        assert set(threads) <= {"python", "jemalloc_bg_thd"}, f"a fork would lose {threads}"
        try:
            yield Server(process, folder)
        finally:
            assert process.stdin is not None
            process.stdin.close()


def run_real(words: list[str], *, cache: Path, kill_after: float | None = None) -> dict[str, Any]:
    """Run a command as a process of its own, as a user does; kill it when its time has come."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FIELDMARK_CACHE": str(cache)}
    process = subprocess.Popen(
        [sys.executable, "-m", "fieldmark", *words],
        cwd=ROOT,
        env={**environment, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        log, _ = process.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        log, _ = process.communicate()
    return {"code": process.returncode, "killed": process.returncode == -9, "log": log}


def spell(verb: Verb, out: Path, *, made: dict[str, Path]) -> list[str]:
    """Return the words of a verb with its output and the runs that it needs filled in."""
    words = [word.format(**{key: str(path) for key, path in made.items()}) for word in verb.words]
    return [*words, "--out", str(out)]


def resume(
    words: list[str], out: Path, *, run: Callable[..., dict[str, Any]], cache: Path
) -> dict[str, Any]:
    """Do what a user does after a kill: repeat the command, with --resume where it says so."""
    if (out / "run.json").exists() and not (out / "run.partial.json").exists():
        return {"code": 0, "log": "finished before the kill"}
    first = run(words, cache=cache)
    if first["code"] == 2 and "add --resume" in first["log"]:
        return run([*words, "--resume"], cache=cache)
    return first


def read_outcome(out: Path) -> dict[str, Any]:
    """Return what a finished run measured and made: rows without timings, tensors, files.

    Pages tell times and folders; of them only the names are kept.
    """
    found: dict[str, Any] = {}
    if (out / "results.jsonl").exists():
        rows = [
            json.loads(line) for line in (out / "results.jsonl").read_text().split("\n") if line
        ]
        found["rows"] = [row for row in rows if "second" not in row["metric"]]
    for pattern in TENSORS:
        for path in sorted(out.glob(pattern)):
            found[str(path.relative_to(out))] = read_tensors(path)
    for pattern in FILES:
        paths = (path for path in sorted(out.glob(pattern)) if path.is_file())
        found |= {str(path.relative_to(out)): hash_file(path) for path in paths}
    found["pages"] = [path.name for pattern in PAGES for path in sorted(out.glob(pattern))]
    found["leftovers"] = [str(path.relative_to(out)) for path in sorted(out.rglob(".part-*"))]
    return found


def read_tensors(path: Path) -> dict[str, bytes]:
    """Return the bytes of every tensor of a file."""
    with safe_open(path, framework="numpy") as file:
        names = list(file.keys())
        return {name: np.asarray(file.get_tensor(name)).tobytes() for name in names}


def list_differences(found: dict[str, Any], whole: dict[str, Any]) -> list[str]:
    """Return the names of what differs from the undisturbed run."""
    names = sorted({*found, *whole})
    return [name for name in names if found.get(name) != whole.get(name)]


@dataclass(frozen=True)
class Kill:
    """One kill and what became of it.

    Attributes:
        verb: that was killed.
        share: of the undisturbed run's time at which it was killed.
        differences: what differs after the resume; the last line of its log where it failed.
    """

    verb: str
    share: float
    differences: list[str]


def try_kills(
    material: Material, verb: Verb, *, server: Server, folder: Path, count: int, seed: int
) -> list[Kill]:
    """Run a verb undisturbed, then kill it at `count` random moments and resume it each time."""
    made = {}
    if verb.needs:
        made[verb.needs] = folder / "needed"
        needed = spell(material.verbs[verb.needs], made[verb.needs], made={})
        require(server.run(needed, cache=folder / "needed-cache"))
    words = spell(verb, folder / "whole", made=made)
    whole = server.run(words, cache=folder / "whole-cache")
    require(whole)
    expected = read_outcome(folder / "whole")
    # Once more, now that all is imported: twice the same, and the time that kills are drawn from.
    again = server.run(spell(verb, folder / "twice", made=made), cache=folder / "twice-cache")
    wrong = judge_resume(again, folder / "twice", expected)
    if wrong:
        raise RuntimeError(f"two undisturbed runs of {verb.name} differ: {wrong}")
    chance, kills = generator(seed, "kill", verb.name), list[Kill]()
    while len(kills) < count:
        share = float(chance.uniform(0.02, 0.98))
        out, cache = folder / "killed", folder / "cache"
        words = spell(verb, out, made=made)
        hit = server.run(words, cache=cache, kill_after=share * again["seconds"])
        if hit["killed"]:
            resumed = resume(words, out, run=server.run, cache=cache)
            kills.append(Kill(verb.name, share, judge_resume(resumed, out, expected)))
        for path in (out, cache):
            shutil.rmtree(path, ignore_errors=True)
    return kills


def judge_resume(again: dict[str, Any], out: Path, expected: dict[str, Any]) -> list[str]:
    """Return what is wrong after a resume, nothing if all is well."""
    if again["code"] != 0:
        return [f"exit {again['code']}: {again['log'].strip()[-300:]}"]
    return list_differences(read_outcome(out), expected)


def require(done: dict[str, Any]) -> None:
    """Stop where a command that nothing disturbed did not end well."""
    if done["code"] != 0:
        raise RuntimeError(f"exit {done['code']}: {done['log'][-2000:]}")
