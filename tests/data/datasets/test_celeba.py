"""CelebA: three layouts, the same table out of each."""

from __future__ import annotations

import numpy as np
import pytest

from fieldmark.core.errors import TableError
from fieldmark.data.datasets.celeba import PUBLISHED, check_celeba, open_celeba
from tests.data.datasets.animal_trees import (
    FACES,
    write_celeba_csv,
    write_celeba_metadata,
    write_celeba_text,
    write_faces,
)

DFR = ("img_filename", "y", "split", "place")
SUBPOPBENCH = ("filename", "split", "y", "a")


def draw_csv(root):
    write_faces(root / "img_align_celeba" / "img_align_celeba")
    return write_celeba_csv(root)


def draw_authors(root):
    write_faces(root / "Img" / "img_align_celeba")
    return write_celeba_text(root, anno="Anno", evaluation="Eval")


def draw_torchvision(root):
    write_faces(root / "celeba" / "img_align_celeba")
    write_celeba_text(root / "celeba")
    return root


def draw_dfr(root):
    write_faces(root / "img_align_celeba")
    return write_celeba_metadata(root, name="metadata.csv", header=DFR, prefix="")


def draw_subpopbench(root):
    write_faces(root / "img_align_celeba")
    prefix = "celeba/img_align_celeba/"
    return write_celeba_metadata(
        root, name="metadata_celeba.csv", header=SUBPOPBENCH, prefix=prefix
    )


@pytest.mark.parametrize(
    "draw", [draw_csv, draw_authors, draw_torchvision, draw_dfr, draw_subpopbench]
)
def test_every_layout_gives_the_same_table(tmp_path, draw):
    task = open_celeba(draw(tmp_path))
    table = task.table
    assert table.ids == tuple(name for name, *_ in FACES)
    assert table.group_ids().tolist() == [2 * blond + male for _, blond, male, _ in FACES]
    assert table.splits == tuple(("train", "val", "test")[split] for *_, split in FACES)
    assert table.group_names()[3] == "y:blond_background:male"
    assert table.read(11).size == (12, 8)
    assert task.foregrounds is None
    assert task.backgrounds is None
    assert task.templates == "people"
    assert np.isnan(task.correlation)
    assert "BAP has nothing to pre-train on" in task.notes[0]


def test_counts_are_compared_with_the_published_ones(tmp_path):
    assert [sum(groups) for groups in PUBLISHED.values()] == [162770, 19867, 19962]
    lines = check_celeba(draw_csv(tmp_path))
    assert len(lines) == 12
    assert lines[3] == "split train has 1 of y:blond_background:male, 1387 are published"


def test_missing_images_are_listed_with_their_count(tmp_path):
    draw_dfr(tmp_path)
    for name, *_ in FACES[:11]:
        (tmp_path / "img_align_celeba" / name).unlink()
    with pytest.raises(TableError) as raised:
        open_celeba(tmp_path)
    for told in (check_celeba(tmp_path)[0], str(raised.value)):
        assert "11 files are missing: img_align_celeba/000001.jpg, " in told
        assert "img_align_celeba/000010.jpg and 1 more" in told


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(TableError, match=r"has neither list_attr_celeba\.csv, "):
        open_celeba(tmp_path)
    write_celeba_csv(tmp_path)
    with pytest.raises(TableError, match="has no folder img_align_celeba"):
        open_celeba(tmp_path)
    (tmp_path / "list_eval_partition.csv").unlink()
    assert "has no list_eval_partition.csv to go with" in check_celeba(tmp_path)[0]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("list_eval_partition.csv", "000004.jpg,0", "000004.jpg,3",
         r"attr_celeba\.csv, row 5: the split '3' is none of 0, 1 and 2"),
        ("list_eval_partition.csv", "000004.jpg,0\n", "", r"row 5: 000004\.jpg has no split"),
        ("list_attr_celeba.csv", "000002.jpg,-1,-1,1", "000002.jpg,-1,-1,2",
         "row 3: Male is '2', not -1, 0 or 1"),
        ("list_attr_celeba.csv", "000002.jpg", "000001.jpg", "'000001.jpg' is taken by row 2"),
        ("list_attr_celeba.csv", "Blond_Hair", "Hair", "has no column 'Blond_Hair'"),
    ],
)  # fmt: skip
def test_odd_rows_are_named(tmp_path, file, old, new, message):
    draw_csv(tmp_path)
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new))
    with pytest.raises(TableError, match=message):
        open_celeba(tmp_path)


def test_a_short_row_of_the_text_file_is_named(tmp_path):
    draw_torchvision(tmp_path)
    file = tmp_path / "celeba" / "list_attr_celeba.txt"
    lines = file.read_text().splitlines()
    lines[4] = "000003.jpg -1"
    file.write_text("\n".join(lines))
    with pytest.raises(TableError, match="row 5: has 2 words, 5 are expected"):
        open_celeba(tmp_path)


def test_a_name_cannot_lead_out_of_the_folder(tmp_path):
    draw_csv(tmp_path)
    (tmp_path / "list_attr_celeba.csv").write_text(
        (tmp_path / "list_attr_celeba.csv").read_text().replace("000001.jpg", "../../out.jpg")
    )
    text = (tmp_path / "list_eval_partition.csv").read_text()
    (tmp_path / "list_eval_partition.csv").write_text(text.replace("000001.jpg", "../../out.jpg"))
    with pytest.raises(TableError, match=r"missing: img_align_celeba/img_align_celeba/out\.jpg"):
        open_celeba(tmp_path)
