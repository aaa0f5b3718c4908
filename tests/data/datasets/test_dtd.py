import pytest

from fieldmark.core.errors import TableError, UsageError
from fieldmark.data.backgrounds import Backgrounds
from fieldmark.data.datasets.dtd import INFO, check_dtd, open_dtd
from tests.data.datasets.bird_trees import draw_dtd, draw_noise


@pytest.mark.parametrize("below", ["", "dtd", "dtd/dtd"])
def test_every_level_of_nesting(tmp_path, below):
    draw_dtd(tmp_path / below)
    textures = open_dtd(tmp_path)
    assert textures.categories == ("banded", "polka-dotted")
    assert textures.ids[3] == "polka-dotted/polka-dotted_0000.jpg"
    assert textures.category_ids.tolist() == [0, 0, 0, 1, 1, 1]
    assert textures.read(0).size == (24, 18)


def test_lists_are_optional_and_part_the_images(tmp_path):
    draw_dtd(tmp_path)
    parts = [open_dtd(tmp_path, split=split).ids for split in ("train", "val", "test")]
    assert sorted(name for part in parts for name in part) == list(open_dtd(tmp_path).ids)
    for path in (tmp_path / "labels").iterdir():
        path.unlink()
    assert len(open_dtd(tmp_path)) == 6
    with pytest.raises(TableError, match=r"train2.txt: is missing; .*use split all"):
        open_dtd(tmp_path, split="train", partition=2)


def test_missing_images_are_counted(tmp_path):
    draw_dtd(tmp_path)
    names = [f"banded/gone_{number}.jpg" for number in range(12)]
    (tmp_path / "labels" / "val1.txt").write_text("\n".join(names))
    with pytest.raises(TableError, match=r"12 files are missing: .*gone_9.jpg and 2 more"):
        open_dtd(tmp_path, split="val")


def test_a_path_that_climbs_out_is_refused(tmp_path):
    draw_dtd(tmp_path / "dtd")
    draw_noise(tmp_path / "outside" / "a.jpg")
    (tmp_path / "dtd" / "labels" / "val1.txt").write_text("banded/../../../outside/a.jpg\n")
    with pytest.raises(TableError, match=r"row 1: the path .* leads outside"):
        open_dtd(tmp_path, split="val")


def test_what_is_off_is_said(tmp_path):
    assert "has no images" in check_dtd(tmp_path)[0]
    (tmp_path / "images").mkdir()
    assert "names no image" in check_dtd(tmp_path)[0]
    draw_noise(tmp_path / "images" / "a.jpg")
    assert "row 1: 'a.jpg' is in no category folder" in check_dtd(tmp_path)[0]
    draw_dtd(tmp_path / "dtd")
    assert check_dtd(tmp_path / "dtd") == [
        f"{tmp_path / 'dtd' / 'images'}: has 2 of 47 kinds",
        f"{tmp_path / 'dtd' / 'images'}: has 6 images, not 5640",
    ]
    for options in ({"split": "dev"}, {"partition": 11}):
        with pytest.raises(UsageError):
            open_dtd(tmp_path, **options)


def test_info_fits_its_functions(tmp_path):
    draw_dtd(tmp_path)
    textures = INFO.open(tmp_path, **INFO.options)
    assert isinstance(textures, Backgrounds)
    assert len(textures) == 6
    assert len(INFO.check(tmp_path, **INFO.options)) == 2
