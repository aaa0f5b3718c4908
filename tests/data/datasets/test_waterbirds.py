import numpy as np
import pytest

from fieldmark.core.errors import TableError, UsageError
from fieldmark.data.datasets.places365 import PRETRAINING
from fieldmark.data.datasets.waterbirds import (
    COUNTS,
    INFO,
    PUBLISHED,
    check_waterbirds,
    open_waterbirds,
    read_waterbirds,
)
from fieldmark.data.leakage import check_leakage
from fieldmark.data.tables import read_table
from tests.data.datasets.bird_trees import (
    HEADER,
    ROWS,
    SPECIES,
    draw_cub,
    draw_noise,
    draw_places,
    draw_pool,
    draw_waterbirds,
)


def count_groups(table, split):
    groups = table.group_ids()[np.array(table.splits) == split]
    return np.bincount(groups, minlength=4).tolist()


@pytest.mark.parametrize("below", ["", PUBLISHED, f"waterbirds/{PUBLISHED}", "waterbirds_v1.0"])
def test_published_folder_and_wilds_without_release(tmp_path, below):
    draw_waterbirds(tmp_path / below)
    task = open_waterbirds(tmp_path)
    assert len(task.table) == len(ROWS)
    assert task.table.classes == task.class_words == ("landbird", "waterbird")
    assert task.table.group_names()[1] == "y:landbird_background:water"
    assert [count_groups(task.table, split) for split in ("train", "val", "test")] == [
        [1, 1, 2, 2],
        [0, 0, 1, 2],
        [1, 1, 1, 1],
    ]
    assert task.reject == (("land background", "water background"),)
    assert task.accept == (("landbird", "waterbird"),)
    assert (task.tests, task.correlation, task.templates) == (("test",), 0.95, "default")
    assert task.card["counts"]["test"]["y:waterbird_background:land"] == 1


def test_agrees_with_the_plain_table_reader(tmp_path):
    mine, plain = read_waterbirds(draw_waterbirds(tmp_path)), read_table(tmp_path)
    for field in ("ids", "paths", "splits", "objects", "scenes"):
        assert getattr(mine, field) == getattr(plain, field)
    assert mine.group_ids().tolist() == plain.group_ids().tolist()


def test_subpopbench_table(tmp_path):
    folder = draw_waterbirds(tmp_path / "waterbirds" / PUBLISHED)
    (folder / "metadata.csv").unlink()
    lines = ["id,filename,split,y,a"]
    lines += [f"{n},{name},{s},{y},{a}" for n, (name, y, s, a) in enumerate(ROWS, 1)]
    (folder.parent / "metadata_waterbirds.csv").write_text("\n".join(lines))
    for root in (tmp_path, folder.parent, folder):
        table = read_waterbirds(root)
        assert (len(table), table.scenes) == (len(ROWS), None)
        assert count_groups(table, "test") == [1, 1, 1, 1]


def test_fixed_labels_mend_three_species_alone(tmp_path):
    draw_waterbirds(tmp_path)
    official, fixed = (read_waterbirds(tmp_path, labels=name) for name in ("official", "fixed"))
    changed = np.flatnonzero(official.labels != fixed.labels)
    objects = official.objects or ()
    assert {objects[i].split("/")[0] for i in changed} == {
        SPECIES[1],
        SPECIES[4],
        SPECIES[5],
    }
    assert (fixed.labels[changed] == 0).all()


def test_perfect_correlation_drops_the_minority_of_train_and_val(tmp_path):
    draw_waterbirds(tmp_path)
    task = open_waterbirds(tmp_path, correlation=1.0)
    assert [count_groups(task.table, split) for split in ("train", "val", "test")] == [
        [1, 0, 0, 2],
        [0, 0, 0, 2],
        [1, 1, 1, 1],
    ]
    assert task.correlation == 1.0
    fixed = open_waterbirds(tmp_path, correlation=1.0, labels="fixed").table
    assert count_groups(fixed, "train") == [2, 0, 0, 1]
    with pytest.raises(UsageError, match=r"published at correlation 0.95, not 0.8"):
        open_waterbirds(tmp_path, correlation=0.8)


@pytest.mark.parametrize("correlation", [0.95, 1.0])
def test_nothing_of_val_and_test_is_trained_on(tmp_path, correlation):
    draw_cub(tmp_path)
    draw_pool(tmp_path / "places365")
    folder = draw_waterbirds(tmp_path / PUBLISHED)
    task = open_waterbirds(folder, correlation=correlation, scenes="paper")
    held_out = {name for name, _, split, _ in ROWS if split}
    assert task.foregrounds is not None
    assert len(task.foregrounds) == 24 - len(held_out)
    assert not held_out & set(task.foregrounds.ids)
    assert task.foregrounds.classes == task.table.classes
    assert task.backgrounds is not None
    assert len(task.backgrounds) == 50
    assert task.notes == ()
    whole = read_waterbirds(folder)
    for split in ("val", "test"):
        check_leakage(task.foregrounds, whole.select(split), what="foreground")
        check_leakage(task.backgrounds, whole.select(split), what="background")


def test_a_scene_of_a_test_image_is_left_out_in_every_layout(tmp_path):
    folder = draw_waterbirds(tmp_path / "w")
    scenes = read_waterbirds(folder).scenes
    number = next(i for i, row in enumerate(ROWS) if row[2] == 2 and row[3] == 1) + 1
    assert scenes is not None
    assert scenes[number - 1] == f"o/ocean/{number:08d}.jpg"
    draw_places(tmp_path / "p", layout="easy-", categories=PRETRAINING, per_category=1)
    ocean = tmp_path / "p" / "places365_standard" / "train" / "ocean"
    for name in (f"{number:08d}.jpg", "00000999.jpg"):
        draw_noise(ocean / name)
    task = open_waterbirds(folder, places=tmp_path / "p", scenes="paper", per_category=0)
    assert task.backgrounds is not None
    assert "o/ocean/00000999.jpg" in task.backgrounds.ids
    assert f"o/ocean/{number:08d}.jpg" not in task.backgrounds.ids
    disjoint = open_waterbirds(folder, places=tmp_path / "p").backgrounds
    assert disjoint is not None
    assert disjoint.categories == PRETRAINING


def test_absent_pools_are_noted(tmp_path):
    folder = draw_waterbirds(tmp_path / "a" / "b" / "w")
    task = open_waterbirds(folder)
    assert task.foregrounds is None
    assert task.backgrounds is None
    birds, scenes = task.notes
    assert "CUB-200-2011 was not found" in birds
    assert "Places365 was not found" in scenes
    cub = draw_cub(tmp_path / "a")
    (cub / "segmentations").rename(tmp_path / "gone")
    assert "no segmentations/" in open_waterbirds(folder).notes[0]
    with pytest.raises(TableError, match="no segmentations/"):
        open_waterbirds(folder, cub=cub)
    with pytest.raises(TableError, match="has none of the folders"):
        open_waterbirds(folder, places=cub)


def test_missing_images_are_counted_and_the_first_ten_named(tmp_path):
    folder = draw_waterbirds(tmp_path)
    rows = [(f"001.Black_footed_Albatross/gone_{n:02d}.jpg", 1, 2, 0) for n in range(13)]
    draw_waterbirds(folder, rows=(*ROWS, *rows), draw=False)
    message = r"13 files are missing: .*gone_09.jpg and 3 more"
    with pytest.raises(TableError, match=message):
        open_waterbirds(folder)
    (line,) = check_waterbirds(folder)
    assert "13 files are missing" in line


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,a/b.jpg,1,3,0,/o/ocean/1.jpg", "row 2: the split code '3' is none of 0, 1, 2"),
        ("1,a/b.jpg,2,0,0,/o/ocean/1.jpg", "row 2: the class code '2' is none of 0, 1"),
        ("1,a/b.jpg,1,0,,/o/ocean/1.jpg", "row 2: the place code '' is none of 0, 1"),
        ("1,../x/b.jpg,1,0,0,/o/ocean/1.jpg", "row 2: the path '../x/b.jpg' leads outside"),
    ],
)
def test_rows_that_are_off(tmp_path, row, message):
    draw_noise(tmp_path / "x" / "b.jpg")
    draw_noise(tmp_path / "w" / "a" / "b.jpg")
    (tmp_path / "w" / "metadata.csv").write_text(f"{HEADER}\n{row}\n")
    with pytest.raises(TableError, match=message.replace("(", r"\(")):
        open_waterbirds(tmp_path / "w")
    assert message in check_waterbirds(tmp_path / "w")[0]


def test_a_group_that_is_empty_in_test_is_named(tmp_path):
    rows = tuple(row for row in ROWS if row[1:] != (1, 2, 0))
    draw_waterbirds(tmp_path, rows=rows)
    line = "split test has no image of y:waterbird_background:land"
    assert open_waterbirds(tmp_path).notes[0] == line
    assert check_waterbirds(tmp_path)[0] == line


def test_counts_other_than_the_published_are_warnings(tmp_path):
    draw_waterbirds(tmp_path)
    lines = check_waterbirds(tmp_path)
    assert len(lines) == 12
    assert lines[0] == (
        "warning: train has 1 images of y:landbird_background:land, as published 3498"
    )
    assert check_waterbirds(tmp_path, labels="fixed") == []
    assert sum(map(sum, COUNTS.values())) == 11788
    assert [sum(counts) for counts in COUNTS.values()] == [4795, 1199, 5794]


def test_check_looks_at_pools_that_are_named(tmp_path):
    folder = draw_waterbirds(tmp_path / "w")
    assert "has no images.txt" in check_waterbirds(folder, labels="fixed", cub=tmp_path)[0]
    lines = check_waterbirds(folder, labels="fixed", places=tmp_path)
    assert "has none of the folders" in lines[0]
    assert "has no metadata.csv" in check_waterbirds(tmp_path)[0]


def test_info_fits_its_functions(tmp_path):
    draw_waterbirds(tmp_path)
    assert INFO.open(tmp_path, **INFO.options).name == "waterbirds"
    for options in ({"labels": "mine"}, {"scenes": "mine"}):
        with pytest.raises(UsageError, match="'mine' is none of"):
            INFO.open(tmp_path, **options)
