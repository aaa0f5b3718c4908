"""`fieldmark covar build`: files, counts on the screen, words that are off."""

from __future__ import annotations

import pytest

from fieldmark.cli.covar import app
from fieldmark.core.errors import ImageError, InputError, UsageError
from fieldmark.data.covar import open_covar
from tests.data.covar.drawn_pools import write_cutouts, write_scenes


@pytest.fixture
def words(tmp_path):
    write_cutouts(tmp_path / "objects", names=("bird/a", "fish/b"))
    write_scenes(tmp_path / "scenes", names=("lake/one", "wood/two"))
    return [
        "build",
        f"--foregrounds={tmp_path / 'objects'}",
        f"--backgrounds={tmp_path / 'scenes'}",
        f"--out={tmp_path / 'out'}",
        "--side=32",
        "--backgrounds-per-object=2",
    ]


def call(*words):
    app([str(word) for word in words], standalone_mode=False)


def test_build_writes_a_covar_and_prints_its_subsets(words, tmp_path, capsys):
    call(*words, "--subsets=background,crop, scale_2", "--scales=2", "--class=bird")
    covar = open_covar(tmp_path / "out")
    assert covar.subsets == ("original", "background", "scale_2", "crop")
    assert covar.info["classes"] == ["bird"]
    told = capsys.readouterr()
    lines = [line.split() for line in told.out.splitlines()]
    assert [line[:2] for line in lines[1:]] == [
        ["original", "1"],
        ["background", "2"],
        ["scale_2", "2"],
        ["crop", "2"],
    ]
    assert "1 objects of 1 classes on 2 scenes" in told.err
    assert "objects says" in covar.info["licences"][0]


def test_unreadable_objects_are_left_out_when_asked(words, tmp_path, capsys):
    (tmp_path / "objects/bird/torn.png").write_bytes(b"torn")
    with pytest.raises(ImageError, match=r"torn\.png"):
        call(*words, "--subsets=crop")
    call(*words, "--subsets=crop", "--skip-unreadable")
    assert "left out" in capsys.readouterr().err
    assert len(open_covar(tmp_path / "out").find_rows("crop")) == 4


def test_words_that_are_off(words):
    with pytest.raises(UsageError, match="are not numbers"):
        call(*words, "--scales=2,x")
    with pytest.raises(UsageError, match=r"known: .*rotation"):
        call(*words, "--subsets=rotaton")
    with pytest.raises(InputError, match="3 are asked for"):
        call(*words[:-1], "--backgrounds-per-object=3")
