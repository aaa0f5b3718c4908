import csv
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from fieldmark.core.errors import ImageError, InputError, MaskError, RunExistsError, UsageError
from fieldmark.data.datasets.built import open_built
from fieldmark.data.datasets.waterbirds import check_waterbirds, open_waterbirds
from fieldmark.data.datasets.waterbirds_build import (
    blend_bird,
    build_waterbirds,
    draw_plan,
    fit_scene,
)
from fieldmark.data.leakage import check_leakage
from tests.data.datasets.bird_trees import draw_cub, draw_noise, draw_pool


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    return {"cub": draw_cub(root, per_species=10), "places": draw_pool(root, per_category=30)}


@pytest.fixture(scope="module")
def built(sources, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "waterbirds"
    return build_waterbirds(out, **sources, correlation=0.8, per_category=1, seed=3)


def read_rows(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


PIXELS = arrays.arrays(np.uint8, (3, 4, 3))


@given(bird=PIXELS, scene=PIXELS, mask=arrays.arrays(np.uint8, (3, 4)))
def test_blend_is_the_rounded_sum_of_the_published_script(bird, scene, mask):
    share = mask[..., None].astype(np.float64) / 255
    expected = np.around(bird * share).astype(np.uint8)
    expected = expected + np.around(scene * (1 - share)).astype(np.uint8)
    before = scene.copy()
    assert (blend_bird(bird, scene, mask) == expected).all()
    assert (scene == before).all()


def test_blend_agrees_on_every_value_and_every_weight():
    value, mask = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    colours = np.repeat(value[..., None], 3, 2)
    share = mask[..., None] / 255
    for bird, scene in ((colours, 255 - colours), (colours, colours)):
        expected = np.around(bird * share) + np.around(scene * (1 - share))
        assert (blend_bird(bird, scene, mask) == expected).all()


@given(
    sides=st.tuples(*[st.integers(1, 60)] * 2),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
)
def test_a_scene_fits_any_shape(sides, width, height):
    scene = fit_scene(Image.new("RGB", sides, "red"), width=width, height=height)
    assert scene.size == (width, height)
    assert scene.getpixel((0, 0)) == (255, 0, 0)


def test_a_scene_is_cropped_around_its_middle():
    scene = Image.new("RGB", (60, 20), "black")
    scene.paste("white", (20, 0, 40, 20))
    assert np.asarray(fit_scene(scene, width=20, height=20)).min() == 255
    tall = scene.transpose(Image.Transpose.ROTATE_90)
    assert np.asarray(fit_scene(tall, width=10, height=10)).min() == 255
    small = scene.resize((30, 10), Image.Resampling.NEAREST)
    enlarged = np.asarray(fit_scene(small, width=20, height=20).convert("L"))
    assert enlarged[:, 5:-5].min() > 250


@pytest.mark.parametrize(("correlation", "on_land"), [(0.95, 76), (1.0, 80), (0.5, 40)])
def test_plan_counts(correlation, on_land):
    labels = np.repeat([0, 1], [150, 50])
    is_train = np.tile([True, True, False, False], 50)
    plan = draw_plan(labels, is_train, correlation=correlation, seed=1)
    assert Counter(plan.splits.tolist()) == {"train": 80, "val": 20, "test": 100}
    assert ((plan.splits == "test") == ~is_train).all()
    train = plan.splits == "train"
    assert (plan.places == labels)[train].sum() == pytest.approx(on_land, abs=1)
    for split in ("val", "test"):
        for label in (0, 1):
            rows = (plan.splits == split) & (labels == label)
            assert plan.places[rows].mean() == pytest.approx(0.5, abs=0.5 / rows.sum())


def test_a_built_folder_is_read_as_a_task(built, sources):
    task = open_built(built)
    assert (task.name, task.tests, task.correlation) == ("waterbirds", ("test",), 0.8)
    assert task.table.classes == ("landbird", "waterbird")
    assert task.table.attribute_names == ("land", "water")
    assert task.reject == (("land background", "water background"),)
    assert Counter(task.table.splits) == {"train": 24, "val": 6, "test": 30}
    train = task.table.select("train")
    assert task.foregrounds is not None
    assert task.backgrounds is not None
    assert set(task.foregrounds.ids) == set(train.objects or ())
    assert task.foregrounds.read(0).mode == "RGBA"
    assert len(task.backgrounds) == 50
    for split in ("val", "test"):
        check_leakage(task.foregrounds, task.table.select(split), what="foreground")
        check_leakage(task.backgrounds, task.table, what="background")
    assert check_waterbirds(built) == []
    assert open_waterbirds(built).table.ids == task.table.ids
    card = json.loads((built / "card.json").read_text())
    assert sum(n for split in card["counts"].values() for n in split.values()) == 60


def test_every_image_has_a_scene_of_its_own_kind(built):
    rows = read_rows(built / "metadata.csv")
    assert len({row["scene"] for row in rows}) == len(rows) == 60
    kinds = {"land": ("b/bamboo_forest/", "f/forest/"), "water": ("o/ocean/", "l/lake/")}
    assert all(row["scene"].startswith(kinds[row["attribute"]]) for row in rows)


def test_an_image_is_the_bird_on_its_scene(built, sources):
    row = next(r for r in read_rows(built / "metadata.csv") if r["object"].endswith("0000.jpg"))
    cub = sources["cub"]
    bird = np.asarray(Image.open(cub / "images" / row["object"]).convert("RGB")) / 1.0
    mask = Image.open(cub / "segmentations" / row["object"].replace(".jpg", ".png"))
    share = np.asarray(mask.convert("RGB")) / 255
    source = Image.open(sources["places"] / "data_large" / row["scene"])
    scene = fit_scene(source, width=bird.shape[1], height=bird.shape[0])
    expected = np.around(bird * share) + np.around(np.asarray(scene) * (1 - share))
    reference = built.parent / "reference.jpg"
    Image.fromarray(expected.astype(np.uint8)).save(reference)
    assert (built / row["path"]).read_bytes() == reference.read_bytes()
    assert (built / row["mask"]).is_file()


def test_the_seed_rules_all(built, sources, tmp_path):
    same = build_waterbirds(tmp_path / "a", **sources, correlation=0.8, per_category=1, seed=3)
    for path in sorted(p for p in built.rglob("*") if p.is_file() and p.name != "card.json"):
        assert path.read_bytes() == (same / path.relative_to(built)).read_bytes()
    other = build_waterbirds(tmp_path / "b", **sources, correlation=0.8, per_category=1, seed=4)
    assert read_rows(other / "metadata.csv") != read_rows(built / "metadata.csv")


def test_large_scenes_are_decoded_small_and_look_the_same(tmp_path):
    from fieldmark.data.datasets.waterbirds_build import _read_plain

    scene = Image.linear_gradient("L").convert("RGB").resize((512, 400))
    scene.save(tmp_path / "a.jpg", quality=95)
    small = _read_plain(tmp_path / "a.jpg", least=(60, 40))
    assert small.size == (64, 50)
    wide = fit_scene(small, width=60, height=40)
    exact = fit_scene(_read_plain(tmp_path / "a.jpg"), width=60, height=40)
    assert np.abs(np.asarray(wide, np.int64) - np.asarray(exact, np.int64)).max() <= 3
    assert _read_plain(tmp_path / "a.jpg", least=(300, 210)).size == (512, 400)


def test_too_few_scenes(sources, tmp_path):
    places = draw_pool(tmp_path / "few", per_category=1)
    with pytest.raises(InputError, match=r"has 2 land scenes \(bamboo_forest, forest/broadleaf\)"):
        build_waterbirds(tmp_path / "out", cub=sources["cub"], places=places)
    assert not (tmp_path / "out").exists()


def test_files_that_are_off_leave_nothing_behind(sources, tmp_path):
    cub = draw_cub(tmp_path, per_species=2)
    image = next((cub / "images").rglob("*0000.jpg"))
    draw_noise(image, size=(9, 9))
    with pytest.raises(MaskError, match="the mask is 24 x 18, the image 9 x 9"):
        build_waterbirds(tmp_path / "out", cub=cub, places=sources["places"])
    image.write_bytes(b"no image")
    with pytest.raises(ImageError, match="is not an image"):
        build_waterbirds(tmp_path / "out", cub=cub, places=sources["places"])
    assert {path.name for path in tmp_path.iterdir()} == {"CUB_200_2011"}


def test_arguments_that_cannot_be(sources, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="is made of CUB-200-2011 and Places365"):
        build_waterbirds(out, cub=sources["cub"])
    for options in (
        {"correlation": 0.4},
        {"val_correlation": 1.1},
        {"labels": "species"},
        {"scenes": "mine"},
    ):
        with pytest.raises(UsageError):
            build_waterbirds(out, **sources, **options)
    draw_noise(out / "a.png")
    with pytest.raises(RunExistsError, match="holds other files"):
        build_waterbirds(out, **sources)
