"""Records: what a verb measured and everything needed to measure it again.

A run directory holds `results.jsonl`, one row a figure, and `run.json`, written after it:
a folder without `run.json` is a run that has not finished. While a run is under way, its pages
included, `run.partial.json` says what it is, so that another run is refused there and the same one
can be resumed. Both carry a checksum, and `run.json` also that of the rows; what does not fit is
refused.
"""

from __future__ import annotations

import functools
import json
import math
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from fieldmark.core.atomic import drop_parts, hash_file, hash_json, write_text
from fieldmark.core.errors import InputError, RunExistsError
from fieldmark.core.sealed import KEY, read_sealed_json, write_sealed_json

SCHEMA = 1
RUN, PARTIAL, RESULTS = "run.json", "run.partial.json", "results.jsonl"
LIBRARIES = (
    "fieldmark",
    "torch",
    "torchvision",
    "open_clip_torch",
    "timm",
    "transformers",
    "numpy",
)


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One figure.

    Attributes:
        suite: what was run ("demo", "evaluate").
        dataset: name of the data set or table.
        split: split that the figure was measured on.
        encoder: URI of the encoder that was measured.
        method: what was done to the encoder ("native", "bap", "data-matched control").
        head: "zero-shot", "linear-probe", ...
        setting: what a sweep varies ("K=4"), or nothing.
        correlation: share of training images whose background goes with their class, or NaN.
        metric: name after WILDS ("acc_avg", "acc_wg", "acc_y:landbird_background:water").
        group: id of the group, or None for a figure over groups.
        seed: seed of the run.
        value: the figure; NaN where it is undefined.
        ci_low: lower end of its 95 % interval, or NaN.
        ci_high: upper end of its 95 % interval, or NaN.
        count: how many images it rests on.

    Example:
        >>> row = ResultRow(suite="demo", dataset="stamps", metric="acc_wg")
        >>> ResultRow.from_json(row.to_json()).to_json() == row.to_json()
        True
    """

    suite: str
    dataset: str
    split: str = ""
    encoder: str = ""
    method: str = ""
    head: str = ""
    setting: str = ""
    correlation: float = math.nan
    metric: str
    group: int | None = None
    seed: int = 0
    value: float = math.nan
    ci_low: float = math.nan
    ci_high: float = math.nan
    count: int = 0

    def to_json(self) -> str:
        """Return the row as one line of strict JSON; NaN becomes null."""
        values = {k: _null_if_nan(v) for k, v in asdict(self).items()}
        return json.dumps(values, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> ResultRow:
        """Read a row that `to_json` wrote; null becomes NaN where a number belongs."""
        values: dict[str, Any] = json.loads(line)
        numbers = {f.name for f in fields(cls) if f.type == "float"}
        for name in numbers:
            if values[name] is None:
                values[name] = math.nan
        return cls(**values)


def _null_if_nan(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(kw_only=True)
class Run:
    """A run directory that is being written.

    Attributes:
        out: the directory.
        verb: the command.
        arguments: what the command was given and what it defaulted to, as JSON values.
        seeds: the seeds that it uses.
        data: fingerprints, licences and sources of the data.
        weights: fingerprints of the weights.
        notes: anything else worth keeping (unreadable images, timings).
    """

    out: Path
    verb: str
    arguments: Mapping[str, Any]
    seeds: list[int] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.time)
    rows: list[ResultRow] = field(default_factory=list)

    @property
    def key(self) -> str:
        """What makes this run this run: SHA-256 of its verb and arguments."""
        return hash_json({"verb": self.verb, "arguments": dict(self.arguments)})

    def add(self, rows: Iterable[ResultRow]) -> None:
        """Add rows to be written by `finish`."""
        self.rows.extend(rows)

    def finish(self, *pages: Callable[[Path], object]) -> Path:
        """Write `results.jsonl`, then `run.json`, then the pages; return the directory.

        Args:
            pages: write something into the directory that they are given, from what lies there.
                A run that is killed before the last of them is done can be resumed.
        """
        write_text(self.out / RESULTS, "".join(row.to_json() + "\n" for row in self.rows))
        manifest = {
            "schema": SCHEMA,
            "verb": self.verb,
            "key": self.key,
            "arguments": dict(self.arguments),
            "seeds": self.seeds,
            "data": self.data,
            "weights": self.weights,
            "notes": self.notes,
            "versions": read_versions(),
            **read_commit(),
            "results_sha256": hash_file(self.out / RESULTS),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            # The clock may have been set back meanwhile.
            "seconds": max(round(time.time() - self.started, 3), 0.0),
        }
        write_sealed_json(self.out / RUN, manifest)
        for write_page in pages:
            write_page(self.out)
        (self.out / PARTIAL).unlink(missing_ok=True)
        return self.out


def start_run(
    out: Path,
    verb: str,
    *,
    arguments: Mapping[str, Any],
    seeds: Iterable[int] = (),
    resume: bool = False,
) -> Run:
    """Claim an output directory for a run.

    Args:
        out: the directory; made if need be.
        verb: the command.
        arguments: all its arguments as JSON values; with the verb they say which run this is.
        seeds: the seeds of the run.
        resume: go on with an unfinished run of the same verb and arguments.

    Raises:
        RunExistsError: the directory holds another run, a finished one, or files of something else.
        InputError: what says which run it holds is damaged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = start_run(Path(folder) / "a", "embed", arguments={"model": "m"})
        ...     _ = run.finish()
        ...     read_run(run.out)["verb"]
        'embed'
    """
    run = Run(out=out, verb=verb, arguments=arguments, seeds=list(seeds))
    if out.exists() and not out.is_dir():
        raise RunExistsError("is a file, not a folder", where=out, mend="choose another --out")
    if (out / PARTIAL).exists():
        _check_same(run, _read_partial(out / PARTIAL), resume=resume)
    elif (out / RUN).exists():
        raise RunExistsError("holds a finished run", where=out, mend="choose another --out")
    elif out.exists() and any(not path.name.startswith(".part-") for path in out.iterdir()):
        raise RunExistsError("holds other files", where=out, mend="choose an empty --out")
    elif resume:
        raise RunExistsError("holds no run to resume", where=out, mend="leave out --resume")
    drop_parts(out)
    write_sealed_json(
        out / PARTIAL,
        {"schema": SCHEMA, "verb": verb, "key": run.key, "arguments": dict(arguments)},
    )
    return run


def _read_partial(path: Path) -> dict[str, Any]:
    """Return which run is under way; the key of an older fieldmark's is its checksum."""
    try:
        values = read_sealed_json(path) if KEY in path.read_text() else json.loads(path.read_text())
        asked = {"verb": values["verb"], "arguments": values["arguments"]}
        whole = values["key"] == hash_json(asked)
    except (InputError, OSError, ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise InputError("is damaged", where=path, mend="choose another --out and run again")
    return dict(values)


def _check_same(run: Run, partial: Mapping[str, Any], *, resume: bool) -> None:
    if partial["key"] != run.key:
        theirs, ours = partial["arguments"], dict(run.arguments)
        changed = sorted(k for k in {*theirs, *ours} if theirs.get(k) != ours.get(k))
        what = ", ".join(changed) if partial["verb"] == run.verb else f"verb {partial['verb']}"
        raise RunExistsError(
            f"holds an unfinished run with other arguments ({what})",
            where=run.out,
            mend="choose another --out, or repeat its arguments with --resume",
        )
    if not resume:
        raise RunExistsError(
            "holds an unfinished run",
            where=run.out,
            mend="add --resume to go on, or choose another --out",
        )


def read_run(out: Path) -> dict[str, Any]:
    """Return the manifest of a finished run.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = out / RUN
    if not path.is_file():
        state = "is unfinished: resume it first" if (out / PARTIAL).exists() else "holds no run"
        raise InputError(f"{state} (no {RUN})", where=out)
    manifest = _read_manifest(path)
    if manifest.get("schema") != SCHEMA:
        raise InputError(
            f"has schema {manifest.get('schema')!r}, this fieldmark reads {SCHEMA}",
            where=path,
            mend="use the version that it names",
        )
    return manifest


def _read_manifest(path: Path) -> dict[str, Any]:
    """Return a manifest; one of an older fieldmark has no checksum and is taken as it is."""
    try:
        if KEY in (text := path.read_text(encoding="utf-8")):
            return read_sealed_json(path)
        values = json.loads(text)
        if isinstance(values, dict):
            return values
    except (InputError, OSError, ValueError, RecursionError):
        pass
    raise InputError("is damaged", where=path, mend="run again into another folder")


def read_rows(out: Path) -> list[ResultRow]:
    """Return the rows of a run, in the order in which they were measured.

    Raises:
        InputError: there are none, or they are not those that the run wrote.
    """
    path = out / RESULTS
    if not path.is_file():
        raise InputError(f"holds no {RESULTS}", where=out)
    stated = _read_manifest(out / RUN).get("results_sha256") if (out / RUN).is_file() else None
    try:
        if stated is None or stated == hash_file(path):
            # splitlines would also cut at the line ends of Unicode, which JSON leaves in texts.
            lines = path.read_text(encoding="utf-8").split("\n")
            return [ResultRow.from_json(line) for line in lines if line]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise InputError("is damaged", where=path, mend="run again into another folder")


@functools.cache
def read_versions() -> dict[str, str]:
    """Return the versions of Python, the platform and the libraries that decide a figure."""
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


@functools.cache
def read_commit() -> dict[str, Any]:
    """Return the commit of a source checkout and if it was changed; None when installed."""
    folder = Path(__file__).parent

    def ask(*words: str) -> str | None:
        try:
            answer = subprocess.run(
                ["git", "-C", str(folder), *words],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return answer.stdout.strip()

    tracked = ask("ls-files", "--error-unmatch", str(Path(__file__)))
    if tracked is None:
        return {"commit": None, "dirty": None}
    return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
