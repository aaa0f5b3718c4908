import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fieldmark.core.errors import ImageError, InputError, MaskError, TableError
from fieldmark.data.coco import encode_runs
from fieldmark.data.foregrounds import extend_colours, read_foregrounds, require_per_class
from fieldmark.data.tables import find_unreadable

BOX = (30, 20, 80, 70)


@pytest.fixture
def photograph():
    rows, columns = np.mgrid[0:100, 0:120]
    return Image.fromarray(np.stack([rows, columns, rows + columns], axis=-1).astype(np.uint8))


@pytest.fixture
def mask():
    mask = np.zeros((100, 120), np.uint8)
    mask[20:70, 30:80] = 255
    mask[20:30, 30:40] = 90
    return mask


@pytest.fixture
def pool(tmp_path, photograph, mask):
    """One object as a cut-out, with a mask and with a box."""
    photograph.save(tmp_path / "photograph.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    cutout = photograph.copy()
    cutout.putalpha(Image.fromarray(mask))
    cutout.save(tmp_path / "cutout.png")
    lines = [
        "id,path,label,mask,box",
        "alpha,cutout.png,bird,,",
        "mask,photograph.png,bird,mask.png,",
        'box,photograph.png,fish,,"30,20,50,50"',
    ]
    (tmp_path / "foregrounds.csv").write_text("\n".join(lines))
    return tmp_path


def spoil(pool, line):
    (pool / "bad.csv").write_text(f"path,label,mask,box\n{line}\n")
    return read_foregrounds(pool / "bad.csv")


def test_cut_out_mask_and_box_give_the_same_object(pool, photograph, mask):
    foregrounds = read_foregrounds(pool)
    assert foregrounds.ids == ("alpha", "mask", "box")
    assert (foregrounds.classes, foregrounds.labels.tolist()) == (("bird", "fish"), [0, 0, 1])
    inside = mask[20:70, 30:80] > 100
    colours = np.asarray(photograph.crop(BOX))
    for index in range(3):
        pixels = np.asarray(foregrounds.read(index))
        assert pixels.shape == (50, 50, 4)
        assert np.array_equal(pixels[inside, :3], colours[inside])
        assert (pixels[inside, 3] == 255).all()
    assert np.array_equal(np.asarray(foregrounds.read(1))[..., :3], colours)
    assert np.array_equal(np.asarray(foregrounds.read(1))[..., 3], mask[20:70, 30:80])


def test_surroundings_of_a_cut_out_take_the_nearest_colour(pool, photograph):
    cutout = np.array(read_foregrounds(pool).read(0))
    # Pixel (0, 9) of the crop lies outside; the nearest inside is one to the right.
    assert cutout[0, 9, 3] == 90
    assert cutout[0, 9, :3].tolist() == np.asarray(photograph)[20, 40].tolist()


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_extended_colours_are_those_of_a_nearest_pixel(seed):
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (6, 7, 4), np.uint8)
    got = np.asarray(extend_colours(Image.fromarray(pixels)))
    inside = np.argwhere(pixels[..., 3] > 100)
    assert np.array_equal(got[..., 3], pixels[..., 3])
    for place in np.ndindex(6, 7) if len(inside) else ():
        distance = ((inside - place) ** 2).sum(1)
        nearest = [pixels[tuple(p)][:3].tolist() for p in inside[distance == distance.min()]]
        assert got[place][:3].tolist() in nearest


def test_degraded_masks_show_the_original_surroundings(pool, photograph):
    dilated = read_foregrounds(pool, degrade="dilated").read(1)
    # 15 pixels of 500 are 3.6 of 120.
    assert dilated.size == (56, 56)
    assert np.array_equal(np.asarray(dilated)[28, 0, :3], np.asarray(photograph)[45, 27])
    box = np.asarray(read_foregrounds(pool).with_degradation("box").read(1))
    assert np.array_equal(box[..., :3], np.asarray(photograph.crop(BOX)))
    assert (box[..., 3] == 255).all()
    assert read_foregrounds(pool, degrade="eroded").read(0).size == (40, 40)


@pytest.mark.parametrize("degrade", ["dilated", "box"])
def test_a_cut_out_has_no_surroundings_to_show(pool, degrade):
    with pytest.raises(MaskError, match=rf"cutout\.png.*no surroundings, .* cannot be {degrade}"):
        read_foregrounds(pool, degrade=degrade).read(0)


def test_masks_that_cannot_be_used_are_named(pool, mask):
    Image.fromarray(mask * 0).save(pool / "zero.png")
    Image.fromarray((mask > 0).astype(np.uint8)).save(pool / "ones.png")
    Image.fromarray(mask[:50]).save(pool / "half.png")
    (pool / "text.png").write_text("no mask")
    problems = {
        "photograph.png,x,zero.png,": r"zero\.png: the mask is all zero; draw it again",
        "photograph.png,x,ones.png,": r"ones\.png: .* its largest is 1; store masks as 0 to 255",
        "photograph.png,x,half.png,": r"half\.png: the mask is 120 x 50, the image 120 x 100; use",
        "photograph.png,x,,": r"photograph\.png .*: the image has no transparent pixel",
        'photograph.png,x,,"500,0,9,9"': r"photograph\.png .*: the mask is all zero",
    }
    for line, problem in problems.items():
        with pytest.raises(MaskError, match=problem):
            spoil(pool, line).read(0)
    with pytest.raises(ImageError, match=r"text\.png: is not an image"):
        spoil(pool, "photograph.png,x,text.png,").read(0)
    with pytest.raises(TableError, match=r"bad\.csv, row 2: no such file: 'gone.png'"):
        spoil(pool, "photograph.png,x,gone.png,")
    for box in ("1,2,3", "1,2,0,4", "a,b,c,d", "0,0,inf,1"):
        with pytest.raises(TableError, match=r"row 2: .* is not a box; write it as x,y,width"):
            spoil(pool, f'photograph.png,x,,"{box}"')


def test_unusable_foregrounds_can_be_found_and_left_out(pool):
    foregrounds = read_foregrounds(pool, degrade="dilated")
    assert [item.index for item in find_unreadable(foregrounds)] == [0]
    assert foregrounds.take([1, 2]).ids == ("mask", "box")
    assert foregrounds.take([2]).labels.tolist() == [1]


def test_a_class_with_one_foreground_is_named(pool):
    foregrounds = read_foregrounds(pool)
    with pytest.raises(
        InputError, match="at least 2 foregrounds: fish has 1; add foregrounds of it"
    ):
        require_per_class(foregrounds)
    require_per_class(foregrounds, 1)
    with pytest.raises(InputError, match="bird has 0, fish has 1"):
        require_per_class(foregrounds.take([2]))


def test_hashes_follow_image_mask_box_and_degradation(pool):
    foregrounds = read_foregrounds(pool)
    hashes = foregrounds.hashes()
    assert len({*hashes, *foregrounds.with_degradation("eroded").hashes()}) == 6
    assert read_foregrounds(pool).hashes() == hashes
    Image.new("L", (120, 100), 255).save(pool / "mask.png")
    assert [a == b for a, b in zip(hashes, foregrounds.hashes(), strict=True)] == [
        True,
        False,
        True,
    ]


def test_folder_of_folders(pool, tmp_path):
    for name in ("cat/1.png", "dog/2.png"):
        (tmp_path / "pool" / name).parent.mkdir(parents=True)
        (tmp_path / "pool" / name).write_bytes((pool / "cutout.png").read_bytes())
    foregrounds = read_foregrounds(tmp_path / "pool")
    assert (foregrounds.name, foregrounds.ids) == ("pool", ("cat/1.png", "dog/2.png"))
    assert foregrounds.read(1).size == (50, 50)
    (tmp_path / "pool" / "loose.png").touch()
    with pytest.raises(TableError, match=r"the image loose\.png is in no class folder"):
        read_foregrounds(tmp_path / "pool")


def test_coco_polygons_and_runs(pool, mask):
    solid = np.where(mask > 0, 255, 0).astype(np.uint8)
    row = {"image_id": 1, "category_id": 5, "bbox": [30, 20, 50, 50]}
    content = {
        "images": [{"id": 1, "file_name": "photograph.png", "height": 100, "width": 120}],
        "categories": [{"id": 5, "name": "bird"}],
        "annotations": [
            {**row, "id": 11, "segmentation": [[30, 20, 80, 20, 80, 70, 30, 70]]},
            {**row, "id": 12, "segmentation": {"counts": encode_runs(solid), "size": [100, 120]}},
            {**row, "id": 13, "segmentation": {"counts": [6], "size": [2, 3]}},
        ],
    }
    (pool / "instances.json").write_text(json.dumps(content))
    foregrounds = read_foregrounds(pool / "instances.json", root=pool)
    assert (foregrounds.ids, foregrounds.classes) == (("11", "12", "13"), ("bird",))
    assert foregrounds.read(0).size == pytest.approx((50, 50), abs=1)
    assert np.array_equal(np.asarray(foregrounds.read(1))[..., 3], solid[20:70, 30:80])
    with pytest.raises(MaskError, match=r"photograph\.png \(13\): the mask is 3 x 2"):
        foregrounds.read(2)
    with pytest.raises(TableError, match=r"row of object 11: no such file: 'photograph\.png'"):
        read_foregrounds(pool / "instances.json", root=pool.parent)
