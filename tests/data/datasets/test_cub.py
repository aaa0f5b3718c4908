import numpy as np
import pytest

from fieldmark.core.errors import InputError, TableError, UsageError
from fieldmark.data.datasets.cub import (
    INFO,
    MISLABELLED,
    check_cub,
    is_waterbird,
    open_cub,
)
from fieldmark.data.datasets.waterbirds import read_waterbirds
from fieldmark.data.foregrounds import Foregrounds
from fieldmark.data.tables import read_table
from tests.data.datasets.bird_trees import SPECIES, draw_cub, draw_waterbirds


@pytest.mark.parametrize("masks_beside", [False, True])
def test_masks_are_found_inside_and_beside(tmp_path, masks_beside):
    folder = draw_cub(tmp_path, masks_beside=masks_beside)
    for root in (tmp_path, folder):
        birds = open_cub(root)
        assert len(birds) == 24
        assert all(path.is_relative_to(birds.root) for path in birds.paths)
        assert all(o.mask and o.mask.is_relative_to(birds.root) for o in birds.outlines)
    assert birds.ids[0] == "001.Black_footed_Albatross/Black_footed_Albatross_0000.jpg"


def test_species_are_the_classes(tmp_path):
    draw_cub(tmp_path, per_species=2)
    birds = open_cub(tmp_path)
    assert birds.classes[0] == "Black footed Albatross"
    assert birds.labels.tolist() == np.repeat(range(6), 2).tolist()


def test_soft_masks_and_grey_images_come_out_as_cutouts(tmp_path):
    draw_cub(tmp_path)
    cutout = open_cub(tmp_path).read(0)
    alpha = np.asarray(cutout.getchannel("A"))
    assert cutout.mode == "RGBA"
    assert {51, 102, 255} <= set(np.unique(alpha).tolist())
    # At least two of five people: 102 belongs to the bird, 51 does not.
    assert (alpha[:, 0] > 100).any()
    red, green, blue, _ = np.moveaxis(np.asarray(cutout), -1, 0)
    assert (red == green).all()
    assert (green == blue).all()


def test_official_and_fixed_labels(tmp_path):
    draw_cub(tmp_path, per_species=1)
    official, fixed = (open_cub(tmp_path, labels=labels) for labels in ("official", "fixed"))
    assert official.classes == fixed.classes == ("landbird", "waterbird")
    assert official.labels.tolist() == [1, 1, 1, 0, 1, 1]
    assert fixed.labels.tolist() == [1, 0, 1, 0, 0, 0]
    wrong = {name.partition(".")[2].lower() for name in SPECIES} & set(MISLABELLED)
    assert wrong == set(MISLABELLED)


@pytest.mark.parametrize(
    ("species", "expected"),
    [
        ("064.Ring_billed_Gull", True),
        ("086.Pacific_Loon", True),
        ("141.Artic_Tern", True),
        ("106.Horned_Puffin", True),
        ("183.Northern_Waterthrush", False),
        ("079.Belted_Kingfisher", False),
        ("074.Florida_Jay", False),
    ],
)
def test_species_that_both_lists_agree_on(species, expected):
    image = f"{species}/a.jpg"
    assert is_waterbird(image) is is_waterbird(image, labels="fixed") is expected


def test_official_split(tmp_path):
    draw_cub(tmp_path)
    train, test = (open_cub(tmp_path, split=split) for split in ("train", "test"))
    assert len(train) == len(test) == 12
    assert not set(train.ids) & set(test.ids)
    assert all(name.endswith(("0000.jpg", "0002.jpg")) for name in train.ids)
    assert train.classes == test.classes


def test_birds_of_a_table_are_left_out(tmp_path):
    draw_cub(tmp_path)
    table = read_waterbirds(draw_waterbirds(tmp_path / "w")).select("test")
    birds = open_cub(tmp_path, exclude=table)
    assert len(birds) == 24 - 4
    assert not set(birds.ids) & set(table.objects or ())
    assert read_table(tmp_path / "w").objects == read_waterbirds(tmp_path / "w").objects


def test_nothing_left(tmp_path):
    draw_cub(tmp_path, per_species=1)
    with pytest.raises(InputError, match="no bird is left"):
        open_cub(tmp_path, split="test")


def test_missing_files_are_counted_and_the_first_ten_named(tmp_path):
    folder = draw_cub(tmp_path, per_species=12)
    gone = sorted((folder / "segmentations" / SPECIES[0]).iterdir())
    for path in gone:
        path.unlink()
    with pytest.raises(TableError, match=r"12 files are missing: seg.*_0009.png and 2 more"):
        open_cub(tmp_path)
    (folder / "images" / SPECIES[1] / "Eastern_Towhee_0003.jpg").unlink()
    images, masks = check_cub(tmp_path)
    assert "1 file is missing: 021.Eastern_Towhee/Eastern_Towhee_0003.jpg" in images
    assert "12 files are missing" in masks


def test_no_masks_at_all(tmp_path):
    folder = draw_cub(tmp_path)
    (folder / "segmentations").rename(tmp_path / "elsewhere")
    with pytest.raises(TableError, match=r"no segmentations/ inside or beside it; .*tgz"):
        open_cub(tmp_path)
    assert "no segmentations/" in check_cub(tmp_path)[0]


def test_a_path_that_climbs_out_is_refused(tmp_path):
    folder = draw_cub(tmp_path / "cub")
    for name in ("x/a.jpg", "x/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    lines = (folder / "images.txt").read_text().splitlines()
    lines[3] = "4 ../../../x/a.jpg"
    (folder / "images.txt").write_text("\n".join(lines))
    with pytest.raises(TableError, match=r"images.txt, row 4: the path .* leads outside"):
        open_cub(tmp_path)
    assert "leads outside" in check_cub(tmp_path)[0]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("images.txt", "1 a/b.jpg\n1 a/c.jpg\n", "the id '1' is taken by row 1"),
        ("images.txt", "1 a/b.jpg\n2 a/b.jpg\n", "row 2: the id 'a/b.jpg' is taken"),
        ("images.txt", "nonsense\n", "row 1: 'nonsense' is not a number and a value"),
        ("train_test_split.txt", "1 0\n2 7\n", "row 2: the split code '7' is neither 1"),
        ("train_test_split.txt", "1 0\n2 1\n", "22 images are in no split, the first is 3"),
    ],
)
def test_lists_that_are_off(tmp_path, file, text, message):
    folder = draw_cub(tmp_path)
    (folder / file).write_text(text)
    with pytest.raises(TableError, match=message):
        open_cub(tmp_path)
    assert message in check_cub(tmp_path)[0]


def test_missing_lists_and_wrong_words(tmp_path):
    with pytest.raises(TableError, match=r"has no images.txt"):
        open_cub(tmp_path)
    folder = draw_cub(tmp_path)
    with pytest.raises(UsageError, match="labels 'genus' is none of"):
        open_cub(tmp_path, labels="genus")
    with pytest.raises(UsageError, match="split 'val' is none of"):
        open_cub(tmp_path, split="val")
    (folder / "train_test_split.txt").unlink()
    with pytest.raises(TableError, match=r"train_test_split.txt: is missing"):
        open_cub(tmp_path)


def test_a_whole_folder_has_nothing_to_say(tmp_path):
    draw_cub(tmp_path)
    assert check_cub(tmp_path) == []
    assert check_cub(tmp_path, split="train") == []
    birds = INFO.open(tmp_path, **INFO.options)
    assert isinstance(birds, Foregrounds)
    assert len(birds) == 24
