import shutil

import pytest
from PIL import Image

from fieldmark.core.errors import LeakageError
from fieldmark.data.backgrounds import read_backgrounds
from fieldmark.data.foregrounds import read_foregrounds
from fieldmark.data.leakage import check_leakage, find_leaks
from fieldmark.data.tables import read_table


@pytest.fixture
def material(tmp_path):
    """Five cut-outs and two scenes to train with, and a test split of composites made of others."""
    for index in range(5):
        path = tmp_path / "objects" / "bird" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGBA", (4, 4), (index, 0, 0, 128)).save(path)
    for index in range(2):
        path = tmp_path / "scenes" / "sea" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (0, index, 0)).save(path)
    (tmp_path / "test").mkdir()
    Image.new("RGB", (4, 4), (0, 0, 9)).save(tmp_path / "test" / "composite.png")
    return tmp_path


def evaluate_on(material, *rows):
    table = material / "test.csv"
    table.write_text("\n".join(["id,path,label,object,scene", *rows]))
    return read_table(table)


def test_nothing_in_common_passes(material):
    table = evaluate_on(material, "1,test/composite.png,bird,bird/99.png,sea/99.png")
    check_leakage(read_foregrounds(material / "objects"), table, what="foreground")
    check_leakage(read_backgrounds(material / "scenes"), table, what="background")


def test_the_same_object_in_a_new_composite(material):
    table = evaluate_on(material, "1,test/composite.png,bird,bird/3.png,sea/99.png")
    foregrounds = read_foregrounds(material / "objects")
    assert find_leaks(foregrounds, table, what="foreground") == [(3, "same object")]
    with pytest.raises(
        LeakageError, match=r"1 of 5 foregrounds occur .*bird/3\.png \(same object\)"
    ):
        check_leakage(foregrounds, table, what="foreground")
    check_leakage(read_backgrounds(material / "scenes"), table, what="background")


def test_the_same_scene_in_a_new_composite(material):
    table = evaluate_on(material, "1,test/composite.png,bird,,sea/1.png")
    with pytest.raises(LeakageError, match=r"1 of 2 backgrounds .*sea/1\.png \(same scene\)"):
        check_leakage(read_backgrounds(material / "scenes"), table, what="background")


def test_the_same_file_by_another_name(material):
    (material / "test" / "link.png").symlink_to(material / "objects" / "bird" / "0.png")
    shutil.copy(material / "objects" / "bird" / "1.png", material / "test" / "copy.png")
    table = evaluate_on(
        material,
        "1,test/link.png,bird,,",
        "2,test/copy.png,bird,,",
        "3,objects/bird/2.png,bird,,",
    )
    assert find_leaks(read_foregrounds(material / "objects"), table, what="foreground") == [
        (0, "same file"),
        (1, "same content"),
        (2, "same file"),
    ]


def test_many_are_counted_and_a_few_named(material):
    rows = [f"{i},objects/bird/{i}.png,bird,," for i in range(5)]
    with pytest.raises(LeakageError) as caught:
        check_leakage(
            read_foregrounds(material / "objects"), evaluate_on(material, *rows), what="foreground"
        )
    message = str(caught.value)
    assert message.startswith("evaluation split of test: 5 of 5 foregrounds occur in it: ")
    assert message.count(".png") == 3
    assert "and 2 more; take these foregrounds out of the pool" in message


def test_waterbirds_knows_the_photograph_a_bird_was_cut_from(material):
    (material / "metadata.csv").write_text(
        "img_id,img_filename,y,split,place,place_filename\n1,bird/2.png,1,2,1,/sea/0.png\n"
    )
    (material / "bird").mkdir()
    shutil.copy(material / "test" / "composite.png", material / "bird" / "2.png")
    table = read_table(material, split="test")
    foregrounds = read_foregrounds(material / "objects")
    assert find_leaks(foregrounds, table, what="foreground") == [(2, "same object")]
    backgrounds = read_backgrounds(material / "scenes")
    assert find_leaks(backgrounds, table, what="background") == [(0, "same scene")]
