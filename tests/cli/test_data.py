"""`fieldmark data`: columns by kind, layouts, groups, builds and checks, exit codes."""

from __future__ import annotations

import sys
import types

import pytest

from fieldmark.cli.dispatch import run
from tests.data.datasets.animal_trees import write_counteranimal, write_imagenet_s, write_unmixed


def call(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        run([str(word) for word in words])
    return int(stop.value.code or 0)


def test_list_groups_by_kind_in_columns(capsys):
    assert call("data", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    tasks = lines[
        lines.index("tasks, to evaluate on:") + 1 : lines.index("objects, to pre-train on:")
    ]
    objects = lines[lines.index("objects, to pre-train on:") :]
    assert any(line.startswith("  counteranimal  photographs") for line in tasks)
    assert any(line.startswith("  imagenet-s     ImageNet") for line in objects)
    assert not any("imagenet-s" in line for line in tasks)


def test_list_goes_on_past_a_broken_data_set(capsys, monkeypatch):
    name = "fieldmark.data.datasets.celeba"
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    assert call("data", "list") == 0
    told = capsys.readouterr()
    assert "metashift" in told.out
    assert "'celeba' cannot be loaded" in told.err


def test_info_shows_layout_licence_citation_and_options(capsys):
    assert call("data", "info", "counteranimal") == 0
    told = capsys.readouterr().out
    for part in (
        "kind: tasks, to evaluate on",
        "  LAION-final/<ImageNet index> <class>/common-<background>/*.jpg",
        "iNaturalist",
        "arXiv:2403.11497",
        "  pair = ptarmigan-prairie-chicken (of: brambling-bulbul, ",
    ):
        assert part in told


def test_info_counts_the_groups_of_a_folder(tmp_path, capsys):
    write_unmixed(tmp_path)
    assert call("data", "info", "metashift", "--root", tmp_path, "--set", "seed=1") == 0
    told = capsys.readouterr().out
    assert "y:cat_background:indoor                        8" in told
    assert "note: split test has no image of y:cat_background:indoor" in told
    write_imagenet_s(tmp_path)
    assert call("data", "info", "imagenet-s", "--root", tmp_path, "--set", "variant=50") == 0
    assert "foregrounds: 3 in" in capsys.readouterr().out


def test_build_and_check_a_published_data_set(tmp_path, capsys):
    root, out = write_counteranimal(tmp_path / "published"), tmp_path / "out"
    words = ["data", "build", "counteranimal", "--out", out]
    assert call(*words) == 2
    assert "counteranimal needs --root" in capsys.readouterr().err
    assert call(*words, "--root", root, "--set", "seed=3") == 0
    assert call("data", "check", "counteranimal", "--root", out) == 0
    assert "whole" in capsys.readouterr().out
    assert call(*words, "--root", root) == 2
    assert "choose an empty --out" in capsys.readouterr().err


def test_check_shows_ten_lines_and_the_count(tmp_path, capsys):
    root = write_counteranimal(tmp_path)
    for path in (root / "LAION-final").rglob("*.jpg"):
        path.write_bytes(b"no image")
    assert call("data", "check", "counteranimal", "--root", root) == 1
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 11
    assert told.out.splitlines()[-1] == "and 12 more"
    assert "22 things are off" in told.err
    assert call("data", "check", "--root", root, "--set", "pair=all") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["build", "celeba", "--root", "x", "--out", "y"], "celeba is used as it is published"),
        (["build", "synthetic", "--out", "y", "--set", "sizes=3"], "no option 'sizes'"),
        (["build", "synthetic", "--out", "y", "--set", "size"], "is not key=value"),
        (["info", "celeb"], "did you mean celeba?"),
        (["check", "celeb", "--root", "x"], "did you mean celeba?"),
    ],
)
def test_words_that_are_off_are_one_line_and_exit_2(tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert call("data", *words) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
