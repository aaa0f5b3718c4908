import numpy as np
import pytest
from PIL import Image

from fieldmark.core.errors import InputError, TableError
from fieldmark.data.backgrounds import fit_background, read_backgrounds


@pytest.fixture
def pool(tmp_path):
    for name in ("f/forest/broadleaf/1.png", "f/forest/broadleaf/2.png", "o/ocean/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (len(name), 0, 0)).save(tmp_path / name)
    return tmp_path


def test_categories_are_the_folders(pool):
    backgrounds = read_backgrounds(pool)
    assert backgrounds.categories == ("f/forest/broadleaf", "o/ocean")
    assert backgrounds.category_ids.tolist() == [0, 0, 1]
    assert backgrounds.ids[2] == "o/ocean/3.png"
    assert backgrounds.read(2).getpixel((0, 0)) == (13, 0, 0)
    assert backgrounds.take([2]).ids == ("o/ocean/3.png",)
    assert len(set(backgrounds.hashes())) == 2


def test_a_flat_folder_is_one_category(pool):
    assert read_backgrounds(pool / "o" / "ocean").categories == ("ocean",)


def test_table_with_categories_and_ids(pool):
    (pool / "backgrounds.csv").write_text(
        "id,path,category\nsea,o/ocean/3.png,water\nwood,f/forest/broadleaf/1.png,land\n"
    )
    backgrounds = read_backgrounds(pool)
    assert (backgrounds.ids, backgrounds.categories) == (("sea", "wood"), ("land", "water"))
    assert backgrounds.select("water").ids == ("sea",)
    with pytest.raises(
        InputError, match="the background pool sky is empty; choose among land, water"
    ):
        backgrounds.select("sky")


def test_pools_that_cannot_be_used_are_named(pool, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="none: the background pool is empty; put images into it"):
        read_backgrounds(tmp_path / "none")
    (pool / "t.csv").write_text("path\ngone.png\n")
    with pytest.raises(TableError, match=r"t\.csv, row 2: no such file"):
        read_backgrounds(pool / "t.csv")
    (pool / "t.csv").write_text("path\n")
    with pytest.raises(InputError, match="has no rows"):
        read_backgrounds(pool / "t.csv")


@pytest.mark.parametrize("size", [(90, 30), (30, 90), (31, 30), (70, 50)])
def test_a_scene_is_cropped_around_its_middle(size):
    image = np.zeros((size[1], size[0], 3), np.uint8)
    side = min(size)
    top, left = (size[1] - side) // 2, (size[0] - side) // 2
    image[top : top + side + size[1] % 2, left : left + side + size[0] % 2] = 200
    fitted = np.asarray(fit_background(Image.fromarray(image), side=16))
    assert fitted.shape == (16, 16, 3)
    assert (fitted[3:-3, 3:-3] == 200).all()
    assert fitted.mean() > 190
