"""Reading what a run leaves for its page: all of it optional, none of it trusted."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from fieldmark.core.errors import InputError
from fieldmark.report.parts import Parts, read_parts


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def test_nothing_there_is_nothing_read(tmp_path: Path) -> None:
    assert read_parts(tmp_path / "none") == Parts()


def test_composites_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "notes.txt"):
        write(tmp_path / "composites" / name, "x")
    write(tmp_path / "composites.json", {"b.png": "bird on water"})
    found = read_parts(tmp_path).composites
    assert [item.path.name for item in found] == ["a.jpg", "b.png"]
    assert [item.caption for item in found] == ["composite 1", "bird on water"]


def test_losses_are_sorted_by_seed_and_the_later_row_of_a_step_holds(tmp_path: Path) -> None:
    rows = [
        {"method": "bap", "step": 2, "epoch": 0, "loss": 0.4, "learning_rate": 1e-6},
        {"method": "bap", "step": 1, "epoch": 0, "loss": None},
        {"method": "bap", "step": 2, "epoch": 0, "loss": 0.3, "learning_rate": 2e-6},
        {"method": "bap", "seed": 1, "step": 1, "epoch": 0, "loss": 0.9},
    ]
    write(tmp_path / "loss.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n")
    first, second = read_parts(tmp_path).losses["bap"]
    assert first.steps == (1.0, 2.0)
    assert math.isnan(first.losses[0])
    assert (first.losses[1], first.rates[1]) == (0.3, 2e-6)
    assert second.losses == (0.9,)


def test_maps_and_neighbours(tmp_path: Path) -> None:
    write(tmp_path / "map.json", [{"encoder": "before", "points": [{"x": 1, "y": 2, "label": 3}]}])
    query = {"image": "t/q.png", "label": "bird"}
    strip = [{"image": "t/n.png", "label": "bird", "attribute": "land", "similarity": 0.5}]
    write(tmp_path / "neighbours.json", [{"query": query, "before": strip, "control": strip}])
    parts = read_parts(tmp_path)
    assert parts.maps[0].points[0].label == "3"
    (item,) = parts.neighbours
    assert list(item.found) == ["before", "control"]
    assert item.found["before"][0].similarity == 0.5
    assert item.query.path == (tmp_path / "t/q.png").resolve()


@pytest.mark.parametrize("image", ["../secret.png", "/etc/passwd", "a/../../b.png"])
def test_an_image_outside_the_folder_is_refused(tmp_path: Path, image: str) -> None:
    query = {"image": image, "label": "bird"}
    write(tmp_path / "page" / "neighbours.json", [{"query": query, "before": []}])
    with pytest.raises(InputError, match="lies outside"):
        read_parts(tmp_path / "page")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("map.json", "{", r"map.json: is not JSON"),
        ("map.json", "{}", r"map.json: should be a list, not dict"),
        ("map.json", '[{"points": []}]', r"map 1: has no 'encoder'; it has points"),
        ("map.json", '[{"encoder": "a", "points": [{"x": 1}]}]', r"point 1: has no 'y'"),
        ("map.json", '[{"encoder": "a", "points": [{"x": "1"}]}]', r"x should be a number"),
        ("loss.jsonl", '\n{"method": "a"}', r"loss.jsonl, row 2: has no 'step'"),
        ("loss.jsonl", "[]", r"row 1: should be an object, not list"),
        ("neighbours.json", "[3]", r"query 1: should be an object, not int"),
        ("summary.json", '{"not_tested": "x"}', r"not_tested: should be a list"),
        ("composites.json", "[]", r"composites.json: should be an object"),
    ],
)
def test_a_bad_file_is_named_with_its_row(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    write(tmp_path / name, text)
    with pytest.raises(InputError, match=message):
        read_parts(tmp_path)
