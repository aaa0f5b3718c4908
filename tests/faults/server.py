"""Runs commands of fieldmark in forks of one process that has imported everything already.

Each line of its input is a job in JSON, each line of its output the answer. A fork has the same
code, no threads and no state of an earlier command; it saves the seconds that importing torch
takes, so that many moments can be tried.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import itertools
import json
import os
import pkgutil
import resource
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import fieldmark
from fieldmark.core.records import read_commit, read_versions

NEW_MOUNTS = 0x00020000
# Extras, and what would start threads.
SKIPPED = ("fieldmark.testing", "fieldmark.__main__")


def import_all() -> None:
    """Import every module of fieldmark that can be imported here."""
    for found in pkgutil.walk_packages(fieldmark.__path__, "fieldmark."):
        if not found.name.startswith(SKIPPED):
            try:
                importlib.import_module(found.name)
            except ImportError:
                continue


def run_child(job: dict[str, Any]) -> None:
    """Run one command, its words in a log, and leave with its exit code."""
    os.setpgid(0, 0)
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ["FIELDMARK_CACHE"] = job["cache"]
    prepare_fault(job)
    code, known = 70, set(sys.modules)
    try:
        from fieldmark.cli.dispatch import run

        run(job["words"])
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        Path(f"{job['log']}.modules").write_text("\n".join(sorted({*sys.modules} - known)))
        os._exit(code)


def prepare_fault(job: dict[str, Any]) -> None:
    """Put a fault into this process and its file system."""
    if limit := job.get("file_limit"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if folder := job.get("read_only"):
        mount_read_only(folder)
    if job.get("clock_back"):
        # A fake clock, an hour earlier whenever it is asked.
        hours = itertools.count()
        time.time = lambda: 2e9 - 3600.0 * next(hours)


def mount_read_only(folder: str) -> None:
    """Make a folder a read-only mount, for this process alone.

    Raises:
        PermissionError: the process may not mount.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(NEW_MOUNTS) != 0:
        raise PermissionError(ctypes.get_errno(), "may not unshare")
    for words in (
        ["--make-rprivate", "/"],
        ["--bind", folder, folder],
        ["-o", "remount,bind,ro", folder],
    ):
        subprocess.run(["mount", *words], check=True)


def import_more(path: Path) -> None:
    """Import what a fork had to import by itself, so that the next ones need not."""
    for name in path.read_text().split() if path.exists() else ():
        # Some are made by other modules and are no files.
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def start_child(job: dict[str, Any]) -> int:
    """Fork and return the child's process id."""
    child = os.fork()
    if child == 0:
        run_child(job)
    # Both do it: a kill before the child has come so far would otherwise hit this process too.
    with contextlib.suppress(OSError):
        os.setpgid(child, child)
    return child


def run_pair(jobs: list[dict[str, Any]]) -> dict[str, Any]:
    """Run two commands at once and say how both ended."""
    children = [start_child(job) for job in jobs]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return {"codes": codes, "log": "".join(Path(job["log"]).read_text() for job in jobs)}


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Fork, wait or kill, and say how it ended."""
    start = time.monotonic()
    child = start_child(job)
    deadline = job.get("kill_after")
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        spent = time.monotonic() - start
        if done:
            break
        if spent > job["timeout"] or (deadline is not None and spent >= deadline):
            os.killpg(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(0.002)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    code = None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    seconds = time.monotonic() - start
    import_more(Path(f"{job['log']}.modules"))
    return {"code": code, "killed": killed, "seconds": seconds}


def main() -> None:
    """Answer jobs until the input ends."""
    import torch

    torch.set_num_threads(1)
    if "--light" not in sys.argv:
        import_all()
    read_versions()
    read_commit()
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    sys.stdout.write(json.dumps({"threads": threads}) + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        job = json.loads(line)
        answer = run_pair(job["pair"]) if "pair" in job else run_job(job)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
