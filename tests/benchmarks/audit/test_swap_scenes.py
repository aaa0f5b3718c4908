"""Painting over objects, and that no object is ever laid on a photograph of itself or its place."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fieldmark.benchmarks.audit.swap_objects import choose_objects, name_object, order_evenly
from fieldmark.benchmarks.audit.swap_scenes import (
    ScenePool,
    draw_scenes,
    find_free_scenes,
    grow_hole,
    paint_over,
)
from fieldmark.core.errors import FieldmarkError
from fieldmark.data.covar import CovarSettings
from fieldmark.data.tables import read_table


@st.composite
def draw_pictures(draw):
    height, width = draw(st.integers(8, 40)), draw(st.integers(8, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    mask = np.zeros((height, width), np.uint8)
    top, left = draw(st.integers(0, height - 3)), draw(st.integers(0, width - 3))
    rows, columns = draw(st.integers(1, height // 2)), draw(st.integers(1, width // 2))
    mask[top : top + rows, left : left + columns] = draw(st.integers(101, 255))
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8), mask


@given(draw_pictures())
@settings(max_examples=40, deadline=None)
def test_nothing_of_the_object_is_left_and_nothing_else_changes(picture):
    image, mask = picture
    painted, hole = paint_over(image, mask), grow_hole(mask)
    np.testing.assert_array_equal(painted[~hole], image[~hole])
    np.testing.assert_array_equal(paint_over(255 - image, mask)[~hole], 255 - image[~hole])
    repainted = image.copy()
    repainted[hole] = 255 - repainted[hole]
    np.testing.assert_array_equal(paint_over(repainted, mask), painted)


@given(st.integers(0, 255))
@settings(max_examples=10, deadline=None)
def test_plain_surroundings_go_on(value):
    image, mask = np.full((30, 20, 3), value, np.uint8), np.zeros((30, 20), np.uint8)
    mask[8:20, 5:12] = 255
    image[8:20, 5:12] = 255 - value
    assert (paint_over(image, mask) == value).all()


def test_a_slope_goes_on_as_laplace_has_it():
    # A linear slope solves Laplace's equation, so the membrane must give it back.
    slope = np.repeat(np.linspace(20, 220, 64)[None, :], 64, axis=0)
    image, mask = np.rint(slope)[..., None].repeat(3, axis=2).astype(np.uint8), np.zeros((64, 64))
    mask[20:44, 20:44] = 255
    broken = image.copy()
    broken[20:44, 20:44] = 0
    found = paint_over(broken, mask.astype(np.uint8)).astype(float)
    assert np.abs(found - image).max() <= 12
    assert np.abs(found - image)[20:44, 20:44].mean() < 4


def test_grain_goes_on_but_no_seam_is_left():
    random = np.random.default_rng(0)
    image = random.normal(128, 20, (96, 96, 1)).repeat(3, 2).clip(0, 255).astype(np.uint8)
    mask = np.zeros((96, 96), np.uint8)
    mask[30:66, 30:66] = 255
    found = paint_over(image, mask)[34:62, 34:62].astype(float)
    assert 14 < found.std() < 26
    assert abs(found.mean() - image.mean()) < 6


def test_what_cannot_be_painted_is_refused():
    image = np.zeros((9, 9, 3), np.uint8)
    with pytest.raises(ValueError, match="differ in size"):
        paint_over(image, np.zeros((9, 8), np.uint8))
    with pytest.raises(ValueError, match="nothing to paint from"):
        paint_over(image, np.full((9, 9), 255, np.uint8))
    np.testing.assert_array_equal(paint_over(image, np.zeros((9, 9), np.uint8)), image)


def write_table(folder, rows):
    """Write pictures of plain noise with a square in the middle; rows: class, object, scene."""
    folder.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((8, 8), np.uint8)
    mask[3:5, 3:5] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    lines = ["path,label,mask,object,scene"]
    for number, (label, item, scene) in enumerate(rows):
        random = np.random.default_rng(number)
        image = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{label},mask.png,{item},{scene}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return read_table(folder / "table.csv")


def open_pool(table, folder):
    return ScenePool(table=table, masks=table.masks, folder=folder / "scenes", side=8)


@given(
    st.lists(
        st.tuples(st.sampled_from("xyz"), st.integers(0, 4), st.integers(0, 4)),
        min_size=2,
        max_size=12,
    ),
    st.integers(1, 4),
    st.integers(0, 99),
    st.sampled_from([1, 240]),
)
@settings(max_examples=25, deadline=None)
def test_scenes_never_leak(tmp_path_factory, rows, count, seed, most):
    folder = tmp_path_factory.mktemp("leak")
    table = write_table(folder, rows)
    pool = open_pool(table, folder)
    draws = draw_scenes(table, range(len(table)), pool, count=count, seed=seed, most=most)
    for draw in draws:
        mine, its = draw.item, draw.scene.row
        assert mine != its
        assert table.objects[mine] != table.objects[its]
        assert table.scenes[mine] != table.scenes[its]
        assert draw.other == (table.labels[mine] != table.labels[its])
    drawn = Counter((draw.item, draw.other, draw.scene.row) for draw in draws)
    assert max(drawn.values(), default=1) == 1
    # Each object gets as many of either kind as there are, up to the count.
    for mine in range(len(table)):
        for other in (False, True):
            free = [
                its
                for its in range(len(table))
                if table.objects[mine] != table.objects[its]
                and table.scenes[mine] != table.scenes[its]
                and other == (table.labels[mine] != table.labels[its])
            ]
            got = sum(draw.item == mine and draw.other == other for draw in draws)
            assert got == min(count, len(free))
    again = draw_scenes(
        table, range(len(table)), open_pool(table, folder), count=count, seed=seed, most=most
    )
    assert again == draws


def test_a_copy_of_the_own_photograph_is_no_scene(tmp_path):
    table = write_table(tmp_path, [("x", "a", "s"), ("x", "b", "t"), ("x", "c", "u")])
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes())
    draws = draw_scenes(table, [0], open_pool(table, tmp_path), count=3, seed=0)
    assert [draw.scene.row for draw in draws] == [2]
    pool = open_pool(table, tmp_path)
    every = [pool.find(row) for row in range(3)]
    assert [one.row for one in find_free_scenes(table, [0], pool, scenes=every)] == [2]


def test_objects_and_places_without_an_id_are_not_the_same(tmp_path):
    table = write_table(tmp_path, [("x", "", ""), ("x", "", ""), ("y", "a", "s"), ("y", "", "")])
    pool = open_pool(table, tmp_path)
    draws = draw_scenes(table, [0], pool, count=3, seed=0)
    assert sorted(draw.scene.row for draw in draws) == [1, 2, 3]
    assert [name_object(table, row) for row in (0, 2)] == ["0.png", "a"]
    chosen = choose_objects(
        table, table.masks or (), count=9, settings=CovarSettings(side=8), seed=0
    )
    assert sorted(chosen.foregrounds.ids) == ["0.png", "1.png", "3.png", "a"]


def test_scenes_are_shared_as_evenly_as_they_can_be(tmp_path):
    rows = [("xy"[number % 2], f"o{number}", f"s{number}") for number in range(20)]
    table = write_table(tmp_path, rows)
    draws = draw_scenes(table, range(20), open_pool(table, tmp_path), count=3, seed=0)
    uses = Counter(draw.scene.row for draw in draws)
    assert len(uses) == 20
    assert max(uses.values()) - min(uses.values()) <= 2
    few = draw_scenes(table, range(20), open_pool(table, tmp_path), count=3, seed=0, most=8)
    assert len({draw.scene.row for draw in few}) == 8


def test_other_classes_take_turns(tmp_path):
    rows = [(name, f"{name}{k}", f"s{name}{k}") for name in "wxyz" for k in range(4)]
    table = write_table(tmp_path, rows)
    draws = draw_scenes(table, [0], open_pool(table, tmp_path), count=3, seed=0)
    kinds = [table.classes[table.labels[one.scene.row]] for one in draws if one.other]
    assert sorted(kinds) == ["x", "y", "z"]


def test_photographs_that_give_no_scene_are_counted(tmp_path):
    rows = [("x", f"o{k}", f"s{k}") for k in range(5)]
    table = write_table(tmp_path, rows)
    masks = list(table.masks)
    Image.new("L", (8, 8), 255).save(tmp_path / "full.png")
    Image.new("L", (7, 8), 255).save(tmp_path / "small.png")
    (tmp_path / "torn.png").write_bytes(b"torn")
    masks[1], masks[2], masks[3] = (tmp_path / f"{name}.png" for name in ("full", "small", "torn"))
    pool = ScenePool(table=table, masks=masks, folder=tmp_path / "scenes", side=8)
    draws = draw_scenes(table, [0], pool, count=4, seed=0)
    assert [draw.scene.row for draw in draws] == [4]
    assert sum(pool.faults.values()) == 3
    assert pool.faults["show the object on more than 60% of the photograph"] == 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    table = write_table(tmp_path, [("x", "a", "s"), ("x", "b", "t")])
    (tmp_path / "scenes").write_text("a file where the folder should be")
    with pytest.raises(FieldmarkError, match=r"scenes.*cannot be written"):
        open_pool(table, tmp_path).find(0)


def test_classes_take_turns_and_in_each_its_groups_do(tmp_path):
    lines = ["path,label,attribute"]
    for number in range(24):
        Image.new("RGB", (2, 2)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{'xyz'[number % 3]},{'ab'[number // 18]}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    table = read_table(tmp_path / "table.csv")
    order = order_evenly(table, seed=0)
    assert sorted(order) == list(range(24))
    assert sorted(table.labels[order[:3]].tolist()) == [0, 1, 2]
    groups = Counter(table.group_ids()[order[:12]].tolist())
    assert set(groups.values()) == {2}
    assert order != order_evenly(table, seed=1)
