"""Faults other than kills: what each does, and what counts as survived.

A fault is survived when the command ends right and equal to an undisturbed run, or is refused with
one clear line and ends right once the fault is gone. Anything else is lost.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldmark.core.seeds import generator
from tests.faults.harness import (
    Server,
    judge_resume,
    list_differences,
    read_outcome,
    require,
    resume,
    spell,
)
from tests.faults.material import Material, Verb


@dataclass(frozen=True)
class Trial:
    """One fault and what became of it.

    Attributes:
        part: verb, or part of it.
        fault: what was done.
        lost: why it was lost, "" if it was survived.
        note: how it was survived.
    """

    part: str
    fault: str
    lost: str = ""
    note: str = ""


@dataclass(frozen=True)
class Bench:
    """What a trial needs.

    Attributes:
        material: data, model and words.
        server: runs commands.
        folder: an empty one for the trial.
        seed: of what is drawn.
    """

    material: Material
    server: Server
    folder: Path
    seed: int

    def prepare(self, verb: Verb) -> tuple[dict[str, Path], dict[str, Any]]:
        """Make what a verb needs and run it undisturbed; return both."""
        made = {}
        if verb.needs:
            made[verb.needs] = self.folder / "needed"
            words = spell(self.material.verbs[verb.needs], made[verb.needs], made={})
            require(self.server.run(words, cache=self.folder / "needed-cache"))
        words = spell(verb, self.folder / "whole", made=made)
        require(self.server.run(words, cache=self.folder / "whole-cache"))
        return made, read_outcome(self.folder / "whole")


def is_refusal(done: dict[str, Any]) -> bool:
    """Say whether a command failed with one clear line and no traceback."""
    told = [line for line in done["log"].splitlines() if line.startswith("fieldmark: ")]
    return done["code"] in (1, 2) and len(told) == 1 and "Traceback" not in done["log"]


def fill_disk(bench: Bench, verb: Verb) -> Iterator[Trial]:
    """Limit the size of files, as a full disk would, then take the limit away and go on."""
    made, whole = bench.prepare(verb)
    for limit in (300, 9_000, 60_000):
        out, cache = bench.folder / f"full-{limit}", bench.folder / f"cache-{limit}"
        words, fault = spell(verb, out, made=made), "disk full"
        hit = bench.server.run(words, cache=cache, file_limit=limit)
        if hit["code"] == 0:  # no file was that large
            continue
        if not is_refusal(hit):
            yield Trial(verb.name, fault, lost=f"exit {hit['code']}: {hit['log'][-300:]}")
            continue
        wrong = judge_resume(resume(words, out, run=bench.server.run, cache=cache), out, whole)
        yield Trial(verb.name, fault, lost="; ".join(wrong), note="one line, then resumed")


def refuse_places(bench: Bench, verb: Verb) -> Iterator[Trial]:
    """Give places that cannot be written: a read-only mount, a file, a read-only cache."""
    made, whole = bench.prepare(verb)
    mount, file = bench.folder / "mount", bench.folder / "file"
    mount.mkdir()
    file.write_text("mine")
    cache = bench.folder / "place-cache"
    for name, out, more in (
        ("OUT on a read-only mount", mount / "run", {"read_only": str(mount)}),
        ("OUT is a file", file, {}),
    ):
        done = bench.server.run(spell(verb, out, made=made), cache=cache, **more)
        kept = file.read_text() == "mine" and not list(mount.iterdir())
        lost = "" if is_refusal(done) and kept else f"exit {done['code']}: {done['log'][-300:]}"
        yield Trial(verb.name, name, lost=lost, note="one line")
    empty = bench.folder / "empty-cache"
    empty.mkdir()
    for name, place in (
        ("cache read-only and empty", empty),
        ("cache read-only and filled", bench.folder / "whole-cache"),
    ):
        place.mkdir(exist_ok=True)
        out = bench.folder / name.replace(" ", "-")
        words = spell(verb, out, made=made)
        done = bench.server.run(words, cache=place, read_only=str(place))
        if is_refusal(done):
            again = resume(words, out, run=bench.server.run, cache=bench.folder / "other-cache")
            wrong = judge_resume(again, out, whole)
            yield Trial(verb.name, name, lost="; ".join(wrong), note="one line")
        else:
            yield Trial(verb.name, name, lost="; ".join(judge_resume(done, out, whole)))


def share_cache(bench: Bench, verb: Verb) -> Iterator[Trial]:
    """Run the same work twice at once on one empty cache."""
    made, whole = bench.prepare(verb)
    cache = bench.folder / "shared-cache"
    outs = [bench.folder / "left", bench.folder / "right"]
    done = bench.server.run_pair([spell(verb, out, made=made) for out in outs], cache=cache)
    for code, out in zip(done["codes"], outs, strict=True):
        wrong = judge_resume({"code": code, "log": done["log"]}, out, whole)
        yield Trial(verb.name, "two runs on one cache at once", lost="; ".join(wrong))


def turn_clock_back(bench: Bench, verb: Verb) -> Iterator[Trial]:
    """Run with a clock that is an hour earlier whenever it is asked."""
    made, whole = bench.prepare(verb)
    out = bench.folder / "back"
    words = spell(verb, out, made=made)
    done = bench.server.run(words, cache=bench.folder / "back-cache", clock_back=True)
    wrong = judge_resume(done, out, whole)
    yield Trial(verb.name, "clock going back (a fake one)", lost="; ".join(wrong))


def flip_bit(path: Path, place: float) -> None:
    """Flip one bit, at a share of the file."""
    data = bytearray(path.read_bytes())
    bit = min(int(place * 8 * len(data)), 8 * len(data) - 1)
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def cut(path: Path, place: float) -> None:
    """Cut a file off, at a share of it."""
    path.write_bytes(path.read_bytes()[: int(place * path.stat().st_size)])


DAMAGES: dict[str, Callable[[Path, float], None]] = {"flipped bit": flip_bit, "cut off": cut}


def list_files(folder: Path) -> list[Path]:
    """Return the files of a folder that hold something, without locks, first and last of a kind."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    kinds: dict[tuple[Path, str], list[Path]] = {}
    for path in paths:
        if path.suffix != ".lock":
            kinds.setdefault((path.parent, path.suffix), []).append(path.relative_to(folder))
    return sorted({path for found in kinds.values() for path in (found[0], found[-1])})


def damage_cache(bench: Bench, verb: Verb) -> Iterator[Trial]:
    """Damage each file of a filled cache and run the verb again on it."""
    made, whole = bench.prepare(verb)
    chance = generator(bench.seed, "cache", verb.name)
    for name in list_files(bench.folder / "whole-cache"):
        for damage, spoil in DAMAGES.items():
            cache, out = bench.folder / "cache", bench.folder / "damaged"
            shutil.copytree(bench.folder / "whole-cache", cache)
            spoil(cache / name, float(chance.uniform()))
            done = bench.server.run(spell(verb, out, made=made), cache=cache)
            yield _judge_damage(done, out, whole, part=f"{verb.name}: cache {name.parts[0]}",
                                damage=f"{damage} in {name.suffix or name.name}")  # fmt: skip
            for path in (cache, out):
                shutil.rmtree(path, ignore_errors=True)


def damage_unfinished(bench: Bench, verb: Verb) -> Iterator[Trial]:
    """Kill a verb late, damage each file that it left in OUT, and resume it."""
    made, whole = bench.prepare(verb)
    chance = generator(bench.seed, "unfinished", verb.name)
    left, cache = bench.folder / "left", bench.folder / "left-cache"
    _leave_unfinished(bench, spell(verb, left, made=made), out=left, cache=cache)
    out, used = bench.folder / "killed", bench.folder / "cache"
    for name in list_files(left):
        for damage, spoil in DAMAGES.items():
            shutil.copytree(left, out)
            if cache.exists():
                shutil.copytree(cache, used)
            spoil(out / name, float(chance.uniform()))
            done = bench.server.run([*spell(verb, out, made=made), "--resume"], cache=used)
            yield _judge_damage(done, out, whole, part=f"{verb.name}: unfinished OUT",
                                damage=f"{damage} in {name.name}")  # fmt: skip
            for path in (out, used):
                shutil.rmtree(path, ignore_errors=True)


def _leave_unfinished(bench: Bench, words: list[str], *, out: Path, cache: Path) -> None:
    """Kill a command where it has left more than the name of the run, the later the better."""
    timed = bench.server.run(words, cache=cache)["seconds"]
    for share in (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.5, 0.4, 0.3):
        for path in (out, cache):
            shutil.rmtree(path, ignore_errors=True)
        hit = bench.server.run(words, cache=cache, kill_after=share * timed)
        if hit["killed"] and not (out / "run.json").exists() and len(list_files(out)) > 1:
            return


def damage_finished(bench: Bench, verb: Verb, user: Verb) -> Iterator[Trial]:
    """Damage each file of a finished run that another verb reads, and run that verb."""
    made, _ = bench.prepare(verb)
    finished = bench.folder / "whole"
    chance = generator(bench.seed, "finished", verb.name)
    sound = bench.folder / "sound"
    words = spell(user, sound, made={**made, verb.name: finished})
    require(bench.server.run(words, cache=bench.folder / "user-cache"))
    whole = read_outcome(sound)
    # Damaged in its place, for rows name the folder of the encoder.
    kept, out = bench.folder / "kept", bench.folder / "out"
    shutil.copytree(finished, kept)
    for name in list_files(kept):
        if not name.match("*.html") and name.parts[0] not in (
            "page",
            "pictures",
            "images",
            "masks",
        ):
            for damage, spoil in DAMAGES.items():
                spoil(finished / name, float(chance.uniform()))
                words = spell(user, out, made={**made, verb.name: finished})
                done = bench.server.run(words, cache=bench.folder / f"{damage}-cache")
                yield _judge_damage(done, out, whole, part=f"{verb.name}: finished OUT",
                                    damage=f"{damage} in {name.name}")  # fmt: skip
                shutil.copyfile(kept / name, finished / name)
                shutil.rmtree(out, ignore_errors=True)


def _judge_damage(
    done: dict[str, Any], out: Path, whole: dict[str, Any], *, part: str, damage: str
) -> Trial:
    if done["code"] == 0:
        wrong = list_differences(read_outcome(out), whole)
        found = "made again" if "is damaged" in done["log"] else "not used by this command"
        return Trial(part, damage, lost="; ".join(wrong), note=found)
    if is_refusal(done):
        return Trial(part, damage, note="refused")
    return Trial(part, damage, lost=f"exit {done['code']}: {done['log'][-400:]}")
