import numpy as np
import pytest

from fieldmark.core.errors import TableError
from fieldmark.data.datasets.coco import (
    INFO,
    VEHICLES,
    check_coco,
    choose_classes,
    open_coco,
    read_licences,
)
from tests.data.datasets.coco_trees import CocoTree, box_polygon, box_runs


def draw_vehicles(root, **options):
    """Two pictures: a car by runs, a bus of 27 px, a truck, a crowd; a boat of two polygons."""
    tree = CocoTree(root, **options)
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[5:35, 10:40] = (255, 0, 0)
    street = tree.add_image(pixels)
    tree.add_object(
        street, "car", box_runs(10, 5, 30, 30, size=(40, 60)), box=(10.0, 5.0, 30.0, 30.0)
    )
    tree.add_object(street, "bus", box_polygon(0, 0, 27, 40), box=(0, 0, 27.9, 40))
    tree.add_object(street, "truck", box_polygon(0, 0, 40, 40), box=(0, 0, 40, 40))
    crowd = box_runs(0, 0, 40, 40, size=(40, 60))
    tree.add_object(street, "bicycle", crowd, box=(0, 0, 40, 40), crowd=1)
    lake = tree.add_image(np.full((50, 50, 3), 9, np.uint8), licence=4)
    parts = [*box_polygon(2, 2, 10, 40), *box_polygon(30, 2, 10, 40)]
    tree.add_object(lake, "boat", parts, box=(2, 2, 38, 40))
    tree.write()
    return tree


def test_vehicles_without_crowds_trucks_and_small_boxes(tmp_path):
    draw_vehicles(tmp_path)
    assert INFO.open is open_coco
    foregrounds = open_coco(tmp_path)
    assert foregrounds.classes == VEHICLES == choose_classes("vehicles")
    assert not {"truck", "motorcycle"} & set(VEHICLES)
    assert foregrounds.ids == ("1", "5")
    assert [foregrounds.classes[label] for label in foregrounds.labels] == ["car", "boat"]
    car = np.asarray(foregrounds.read(0))
    assert car.shape == (30, 30, 4)
    assert (car == (255, 0, 0, 255)).all()
    boat = np.asarray(foregrounds.read(1))[..., 3]
    # Pillow draws the border of a polygon as well, so a box may gain a pixel.
    assert abs(boat.shape[0] - 40) <= 1
    assert abs(boat.shape[1] - 38) <= 1
    assert (boat[:, :10] == 255).all()
    assert (boat[:, 12:28] == 0).all()


def test_a_smaller_least_box_and_named_classes(tmp_path):
    draw_vehicles(tmp_path)
    assert open_coco(tmp_path, min_box=27).ids == ("1", "2", "5")
    assert open_coco(tmp_path, classes="truck, car").classes == ("truck", "car")
    assert open_coco(tmp_path, classes=("boat",)).ids == ("5",)
    assert open_coco(tmp_path, classes="all").ids == ("1", "3", "5")


def test_folders_below_and_images_in_images(tmp_path):
    draw_vehicles(tmp_path / "coco", images="images/train2017")
    assert len(open_coco(tmp_path)) == 2
    assert check_coco(tmp_path, classes="car") == []


def test_val_split(tmp_path):
    draw_vehicles(tmp_path, split="val2017", images="val2017")
    assert open_coco(tmp_path, split="val2017").name == "coco-val2017"
    with pytest.raises(TableError, match=r"instances_train2017\.json"):
        open_coco(tmp_path)


def test_check_names_what_is_missing(tmp_path):
    tree = CocoTree(tmp_path)
    for _ in range(12):
        image = tree.add_image(np.zeros((30, 30, 3), np.uint8))
        tree.add_object(image, "car", box_polygon(0, 0, 30, 30), box=(0, 0, 30, 30))
    tree.write()
    for path in tree.folder.iterdir():
        path.unlink()
    lines = INFO.check(tmp_path)
    assert lines[0].startswith("12 files are missing: train2017/000000000001.png, ")
    assert lines[0].endswith("000000000010.png and 2 more")
    assert lines[1] == "no object of category 'bus' fits"
    assert len(lines) == 6
    with pytest.raises(TableError, match=r"12 files are missing: 000000000001\.png"):
        open_coco(tmp_path)


def test_check_of_nothing_and_of_half(tmp_path):
    assert "has no annotations/instances_train2017.json" in check_coco(tmp_path)[0]
    tree = draw_vehicles(tmp_path)
    tree.folder.rename(tmp_path / "elsewhere")
    assert "has no train2017" in check_coco(tmp_path)[0]


def test_a_file_that_climbs_out(tmp_path):
    (tmp_path / "secret.png").touch()
    tree = CocoTree(tmp_path / "data")
    image = tree.add_image(np.zeros((30, 30, 3), np.uint8))
    tree.images[0]["file_name"] = "../../secret.png"
    tree.add_object(image, "car", box_polygon(0, 0, 30, 30), box=(0, 0, 30, 30))
    tree.write()
    with pytest.raises(TableError, match="leads outside"):
        open_coco(tmp_path / "data")


def test_unknown_category_and_damaged_file(tmp_path):
    path = draw_vehicles(tmp_path).root / "annotations" / "instances_train2017.json"
    with pytest.raises(TableError, match="no category 'unicorn'"):
        open_coco(tmp_path, classes="unicorn")
    path.write_text("{")
    assert "is not a COCO instances file" in check_coco(tmp_path)[0]
    with pytest.raises(TableError, match="is not a COCO"):
        read_licences(path, files=())


def test_licences_by_image(tmp_path):
    draw_vehicles(tmp_path)
    path = tmp_path / "annotations" / "instances_train2017.json"
    found = read_licences(path, files=["000000000001.png", "000000000002.png", "other.png"])
    assert found == {
        "000000000001.png": "Attribution-NonCommercial License http://example.org/by-nc",
        "000000000002.png": "Attribution License http://example.org/by",
        "other.png": "unknown",
    }
