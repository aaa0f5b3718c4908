import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fieldmark.core.errors import ImageError, MissingExtraError, TableError
from fieldmark.data.images import hash_image
from fieldmark.data.tables import find_unreadable, read_table

WORD = st.text("abcxyz éß-_,\"'", min_size=1, max_size=8).map(str.strip).filter(bool)


def write_images(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3), (len(name), 0, 0)).save(root / name)


def write_table(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def birds(tmp_path):
    write_images(tmp_path, "a.png", "b.png", "c.png", "d.png", "masks/a.png")
    return write_table(
        tmp_path / "birds.csv",
        "id,path,label,attribute,split,mask,object,scene",
        "1,a.png,waterbird,water,train,masks/a.png,gull,lake",
        "2,b.png,landbird,land,train,,wren,wood",
        "3,c.png,waterbird,land,test,,tern,wood",
        "4,d.png,landbird,,natural,,robin,",
    )


def test_columns_of_a_csv(birds):
    table = read_table(birds)
    assert (table.name, len(table), table.root) == ("birds", 4, birds.parent)
    assert table.ids == ("1", "2", "3", "4")
    assert table.classes == ("landbird", "waterbird")
    assert table.labels.tolist() == [1, 0, 1, 0]
    assert table.attribute_names == ("land", "water")
    assert table.attributes is not None
    assert table.attributes.tolist() == [1, 0, 0, -1]
    assert table.masks == (birds.parent / "masks/a.png", None, None, None)
    assert table.objects == ("gull", "wren", "tern", "robin")
    assert table.scenes == ("lake", "wood", "wood", "")
    assert table.read(0).size == (4, 3)
    assert table.hashes() == tuple(map(hash_image, table.paths))


def test_groups_are_numbered_by_label_then_attribute(birds):
    table = read_table(birds)
    assert table.group_ids().tolist() == [3, 0, 2, -1]
    assert table.group_names() == {
        0: "y:landbird_background:land",
        1: "y:landbird_background:water",
        2: "y:waterbird_background:land",
        3: "y:waterbird_background:water",
    }


def test_a_split_keeps_the_names_of_the_whole(birds):
    test = read_table(birds, split="test")
    assert (test.ids, test.classes, test.group_ids().tolist()) == (
        ("3",),
        ("landbird", "waterbird"),
        [2],
    )
    natural = read_table(birds).select("natural")
    assert natural.attributes is None
    assert natural.group_ids().tolist() == [0]
    assert natural.group_names() == {0: "y:landbird", 1: "y:waterbird"}
    with pytest.raises(
        TableError, match="has no split 'val'; its splits are: natural, test, train"
    ):
        read_table(birds, split="val")


def test_rows_come_back_in_the_order_asked_for(birds):
    table = read_table(birds).take([2, 0])
    assert table.ids == ("3", "1")
    assert table.masks == (None, birds.parent / "masks/a.png")
    assert table.group_ids().tolist() == [2, 3]


def test_parquet_and_csv_give_the_same_table(birds):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    with birds.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        row["label"] = 1 if row["label"] == "waterbird" else 0
        row["attribute"] = row["attribute"] or None
    path = birds.with_suffix(".parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    first, second = read_table(birds), read_table(path)
    assert second.classes == ("0", "1")
    assert np.array_equal(first.group_ids(), second.group_ids())
    assert (first.paths, first.masks, first.splits) == (second.paths, second.masks, second.splits)
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(TableError, match="is not a Parquet file"):
        read_table(path)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "t.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"needs pyarrow; pip install 'fieldmark\[arrow\]'"):
        read_table(tmp_path / "t.parquet")


def test_waterbirds_metadata_as_it_is(tmp_path):
    write_images(tmp_path, "001.Albatross/x.jpg", "002.Wren/y.jpg", "002.Wren/z.jpg")
    write_table(
        tmp_path / "metadata.csv",
        "img_id,img_filename,y,split,place,place_filename",
        "1,001.Albatross/x.jpg,1,0,1,/o/ocean/1.jpg",
        "2,002.Wren/y.jpg,0,1,0,/b/bamboo_forest/2.jpg",
        "3,002.Wren/z.jpg,0,2,1,/o/ocean/3.jpg",
    )
    table = read_table(tmp_path)
    assert table.name == tmp_path.name
    assert table.splits == ("train", "val", "test")
    assert table.group_ids().tolist() == [3, 0, 1]
    assert table.objects == ("001.Albatross/x.jpg", "002.Wren/y.jpg", "002.Wren/z.jpg")
    assert table.scenes == ("o/ocean/1.jpg", "b/bamboo_forest/2.jpg", "o/ocean/3.jpg")


def test_folders_with_and_without_splits(tmp_path):
    write_images(tmp_path / "plain", "cat/1.png", "dog/deep/2.png", "dog/3.jpg")
    plain = read_table(tmp_path / "plain")
    assert plain.ids == ("cat/1.png", "dog/3.jpg", "dog/deep/2.png")
    assert (plain.classes, plain.labels.tolist(), plain.splits) == (("cat", "dog"), [0, 1, 1], None)
    write_images(tmp_path / "split", "train/cat/1.png", "test/dog/2.png", "train/dog/3.png")
    split = read_table(tmp_path / "split", split="train")
    assert (split.classes, split.labels.tolist()) == (("cat", "dog"), [0, 1])
    write_images(tmp_path / "plain", "loose.png")
    with pytest.raises(TableError, match=r"the image loose\.png is in no class folder"):
        read_table(tmp_path / "plain")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TableError, match="empty: has no image; give it one folder a class"):
        read_table(tmp_path / "empty")


BAD = {
    "no column 'label' \\(or y\\); its columns are path, kind": ["path,kind", "a.png,x"],
    "row 3: the id '1' is taken by row 2": ["id,path,label", "1,a.png,x", "1,b.png,x"],
    "row 2: the id is blank": ["id,path,label", ",a.png,x"],
    "row 3: the id 'a.png' is taken by row 2": ["path,label", "a.png,x", "a.png,x"],
    "row 4: the label is blank": ["path,label", "a.png,x", "", "b.png,"],
    "row 2: the path is blank": ["path,label", ",x"],
    "row 2: no such file: 'gone.png'": ["path,label", "gone.png,x"],
    "row 2: no such file: 'masks'": ["path,label", "masks,x"],
    "row 2: the path '../t.csv' leads outside": ["path,label", "../t.csv,x"],
    "row 2: the path '/etc/hostname' leads outside": ["path,label", "/etc/hostname,x"],
    "row 2: the path 'link.png' leads outside": ["path,label", "link.png,x"],
    "row 2: the path 'way/out.png' leads outside": ["path,label", "way/out.png,x"],
    "row 3: no such file: 'gone.png'": ["path,label,mask", "a.png,x,", "b.png,x,gone.png"],
    "row 2: has 3 fields where the header has 2": ["path,label", "a.png,x,y"],
    "has the column 'path' twice": ["path,label,path", "a.png,x,a.png"],
    "t.csv: has no rows": ["path,label"],
}


@pytest.mark.parametrize("problem", BAD)
def test_bad_tables_name_file_row_and_mend(tmp_path, problem):
    root, outside = tmp_path / "root", tmp_path / "outside"
    write_images(root, "a.png", "b.png", "masks/a.png")
    write_images(outside, "out.png")
    (root / "link.png").symlink_to(outside / "out.png")
    (root / "way").symlink_to(outside)
    source = write_table(root / "t.csv", *BAD[problem])
    with pytest.raises(TableError, match=problem) as caught:
        read_table(source)
    assert str(caught.value).startswith(str(source))
    assert caught.value.mend
    assert "\n" not in str(caught.value)


def test_links_inside_the_root_are_fine(tmp_path):
    write_images(tmp_path, "real/a.png")
    (tmp_path / "link.png").symlink_to("real/a.png")
    (tmp_path / "folder").symlink_to("real")
    source = write_table(tmp_path / "t.csv", "id,path,label", "1,link.png,x", "2,folder/a.png,x")
    assert read_table(source).paths == (tmp_path / "link.png", tmp_path / "real/a.png")


def test_files_that_are_no_tables(tmp_path):
    with pytest.raises(TableError, match=r"gone\.csv: no such table"):
        read_table(tmp_path / "gone.csv")
    for body, problem in [
        (b"", "is empty"),
        (b"path,label\n\xff\xfe,x", "is not a UTF-8 CSV file"),
    ]:
        (tmp_path / "t.csv").write_bytes(body)
        with pytest.raises(TableError, match=problem):
            read_table(tmp_path / "t.csv")


def test_a_label_that_is_none_of_the_known_classes(birds):
    with pytest.raises(
        TableError, match="row 2: the label 'waterbird' is none of the classes landbird"
    ):
        read_table(birds, classes=["landbird"])
    assert read_table(birds, classes=["waterbird", "landbird"]).labels.tolist() == [0, 1, 0, 1]


def test_root_may_lie_elsewhere(birds, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    table = write_table(elsewhere / "t.tsv", "path\tlabel", "b.png\tx")
    assert read_table(table, root=tmp_path).paths == (tmp_path / "b.png",)
    with pytest.raises(TableError, match="set --root"):
        read_table(table)


def test_unreadable_images_are_listed(birds):
    (birds.parent / "b.png").write_text("not an image")
    table, calls = read_table(birds), []
    found = find_unreadable(table, on_progress=lambda *counts: calls.append(counts))
    assert [(item.index, item.path.name) for item in found] == [(1, "b.png")]
    assert "b.png: is not an image" in found[0].reason
    assert calls[-1] == (4, 4)
    with pytest.raises(ImageError):
        table.read(1)
    kept = table.take([i for i in range(4) if i not in {item.index for item in found}])
    assert (kept.ids, find_unreadable(kept)) == (("1", "3", "4"), [])


@settings(deadline=None, max_examples=30)
@given(rows=st.lists(st.tuples(WORD, WORD, st.one_of(st.just(""), WORD)), min_size=1, max_size=6))
def test_a_table_comes_back_as_it_was_written(tmp_path_factory, rows):
    root = tmp_path_factory.mktemp("table")
    (root / "a.png").touch()
    with (root / "t.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "path", "label", "place", "object"])
        for index, (label, name, place) in enumerate(rows):
            writer.writerow([index, "a.png", label, place, name])
    table = read_table(root / "t.csv")
    assert [table.classes[label] for label in table.labels] == [row[0] for row in rows]
    assert table.objects == tuple(row[1] for row in rows)
    places = [""] * len(rows)
    if table.attributes is not None:
        places = [table.attribute_names[a] if a >= 0 else "" for a in table.attributes]
    assert places == [row[2] for row in rows]
    assert list(table.classes) == sorted(table.classes)


def test_reading_tables_loads_no_torch():
    code = "import sys, fieldmark.data.tables; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
