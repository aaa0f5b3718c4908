import pytest

from fieldmark.core.errors import TableError, UsageError
from fieldmark.data.backgrounds import Backgrounds
from fieldmark.data.datasets import places365
from fieldmark.data.datasets.places365 import INFO, check_places365, open_places365
from tests.data.datasets.bird_trees import (
    draw_flat_validation,
    draw_noise,
    draw_places,
    place_scene,
)

LAYOUTS = ("torchvision", "tar", "easy-", "easy_", "easy/")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_image_has_one_id_in_all_layouts(tmp_path, layout):
    draw_places(tmp_path, layout=layout, categories=("forest/broadleaf", "ocean"))
    scenes = open_places365(tmp_path)
    assert set(scenes.categories) == {"forest/broadleaf", "ocean"}
    assert scenes.ids == (
        *(f"f/forest/broadleaf/{number:08d}.jpg" for number in (1, 2, 3)),
        *(f"o/ocean/{number:08d}.jpg" for number in (1, 2, 3)),
    )
    assert scenes.category_ids.tolist() == [0, 0, 0, 1, 1, 1]
    assert scenes.read(5).size == (20, 26)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["/f/forest/broadleaf", "forest-broadleaf", "forest_broadleaf"])
def test_a_category_is_found_by_any_of_its_names(tmp_path, layout, name):
    draw_places(tmp_path / "places365", layout=layout, categories=("forest/broadleaf", "ocean"))
    scenes = open_places365(tmp_path, categories=[name])
    assert (scenes.categories, len(scenes)) == (("forest/broadleaf",), 3)


def test_larger_images_are_preferred(tmp_path):
    draw_places(tmp_path, layout="torchvision", categories=("ocean",))
    draw_places(tmp_path, layout="tar", categories=("ocean",), per_category=1)
    assert "data_large" in open_places365(tmp_path).paths[0].parts


def test_a_sibling_of_a_nested_category_stays_apart(tmp_path):
    draw_places(tmp_path, categories=("forest/broadleaf", "forest_path", "desert/sand"))
    assert open_places365(tmp_path).categories == ("desert/sand", "forest/broadleaf", "forest_path")


def test_flat_validation_images_are_sorted_by_the_list(tmp_path):
    draw_flat_validation(tmp_path)
    scenes = open_places365(tmp_path, split="val")
    assert scenes.ids == tuple(f"val/Places365_val_{n:08d}.jpg" for n in (2, 4, 1, 3))
    assert [scenes.categories[i] for i in scenes.category_ids] == ["forest/broadleaf"] * 2 + [
        "ocean"
    ] * 2
    assert open_places365(tmp_path, split="val", categories="ocean").ids == scenes.ids[2:]


def test_validation_images_of_the_easy_format(tmp_path):
    draw_noise(tmp_path / "places365_standard" / "val" / "ocean" / "Places365_val_00000007.jpg")
    scenes = open_places365(tmp_path, split="val", categories="ocean")
    assert scenes.ids == ("val/Places365_val_00000007.jpg",)


def test_validation_images_without_lists_or_with_bad_ones(tmp_path):
    draw_flat_validation(tmp_path)
    listed = tmp_path / "places365_val.txt"
    listed.write_text(listed.read_text() + "no number\n")
    with pytest.raises(TableError, match=r"places365_val.txt, row 5: 'no number' is not a name"):
        open_places365(tmp_path, split="val")
    listed.write_text("Places365_val_00000001.jpg 9\n")
    with pytest.raises(TableError, match=r"row 1: category 9 is not in categories_places365.txt"):
        open_places365(tmp_path, split="val")
    listed.write_text("".join(f"Places365_val_{n:08d}.jpg 0\n" for n in range(5, 18)))
    (line,) = check_places365(tmp_path, split="val")
    assert "13 files are missing" in line
    assert "Places365_val_00000014.jpg and 3 more" in line
    listed.unlink()
    with pytest.raises(TableError, match=r"there is no places365_val.txt beside it"):
        open_places365(tmp_path, split="val")


def test_few_of_a_category_are_drawn_by_the_seed(tmp_path):
    draw_places(tmp_path, categories=("ocean", "sky"), per_category=8)
    few = open_places365(tmp_path, per_category=3, seed=1)
    assert few.category_ids.tolist() == [0, 0, 0, 1, 1, 1]
    assert few.ids == open_places365(tmp_path, per_category=3, seed=1).ids
    assert few.ids != open_places365(tmp_path, per_category=3, seed=2).ids
    # What is drawn of one category does not hang on which others there are.
    assert open_places365(tmp_path, categories="sky", per_category=3, seed=1).ids == few.ids[3:]
    assert len(open_places365(tmp_path, per_category=99)) == 16


def test_missing_categories_are_counted(tmp_path):
    draw_places(tmp_path, categories=("alley",))
    (place_scene(tmp_path, "attic", layout="tar")).mkdir(parents=True)
    with pytest.raises(TableError, match=r"1 category has no image: attic; unpack"):
        open_places365(tmp_path, categories="attic,alley")
    with pytest.raises(TableError, match=r"49 categories have no image: attic, .* and 39 more"):
        open_places365(tmp_path, categories="pretraining")


def test_what_only_places205_had_may_be_missing(tmp_path):
    draw_places(tmp_path, categories=("kitchen",))
    assert open_places365(tmp_path, categories="gender-woman").categories == ("kitchen",)
    with pytest.raises(TableError, match="has no image"):
        open_places365(tmp_path, categories="kitchenette")


def test_paths_that_lead_outside_are_refused(tmp_path):
    draw_places(tmp_path / "inside", categories=("ocean",))
    draw_noise(tmp_path / "outside.jpg")
    link = place_scene(tmp_path / "inside", "ocean", layout="tar") / "link.jpg"
    link.symlink_to(tmp_path / "outside.jpg")
    with pytest.raises(TableError, match="leads outside"):
        open_places365(tmp_path / "inside")


def test_arguments_that_cannot_be(tmp_path):
    with pytest.raises(TableError, match="has none of the folders data_large_standard"):
        open_places365(tmp_path)
    for options in ({"split": "test"}, {"categories": " , "}, {"per_category": -1}):
        with pytest.raises(UsageError):
            open_places365(tmp_path, **options)


def test_check_counts_categories_and_uses_their_list(tmp_path):
    assert "has none of the folders" in check_places365(tmp_path)[0]
    draw_places(tmp_path, categories=("ocean", "sky"))
    assert check_places365(tmp_path) == [f"{tmp_path / 'data_large'}: has 2 of 365 categories"]
    assert check_places365(tmp_path, categories="ocean") == []
    (tmp_path / "categories_places365.txt").write_text("/o/ocean 0\n/s/sky 1\n")
    assert check_places365(tmp_path) == []
    (tmp_path / "categories_places365.txt").write_text("/o/ocean 0\n/s/sky 1\n/w/wave 2\n")
    assert "1 category has no image: wave" in check_places365(tmp_path)[0]


def test_pretraining_categories_are_fifty_and_in_no_test():
    tested = {
        *places365.WATERBIRDS_LAND,
        *places365.WATERBIRDS_WATER,
        *places365.GENDER_MAN,
        *places365.GENDER_WOMAN,
    }
    assert len(set(places365.PRETRAINING)) == 50
    assert not tested & set(places365.PRETRAINING)
    assert set(places365.PRETRAINING_PAPER) - set(places365.PRETRAINING) == {"ocean"}
    assert len(set(places365.PRETRAINING_PAPER)) == 50


def test_info_fits_its_functions(tmp_path):
    draw_places(tmp_path)
    scenes = INFO.open(tmp_path, **INFO.options)
    assert isinstance(scenes, Backgrounds)
    assert len(scenes) == 12
    assert INFO.kind == "backgrounds"
