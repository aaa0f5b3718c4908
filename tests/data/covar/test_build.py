"""Building: identity on photographs, bytes, names, resuming, foreign folders, bad input."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import pytest
from PIL import Image

from fieldmark.core.errors import InputError, MaskError, RunExistsError, TableError, UsageError
from fieldmark.data.covar import Origin, build_covar, check_covar, open_covar
from fieldmark.data.covar.build import name_file
from fieldmark.data.covar.layers import find_square, fit_square
from fieldmark.data.covar.pools import choose_objects, choose_scenes
from fieldmark.data.covar.stamps import read_list
from fieldmark.data.foregrounds import read_foregrounds
from fieldmark.data.tables import read_table
from tests.data.covar.drawn_pools import SMALL, draw_ellipse, paint, write_cutouts, write_scenes

OBJECTS = ("bird/a", "bird/b", "fish/c")
SCENES = ("lake/one", "lake/two", "wood/three")
SUBSETS = (
    "original",
    "background",
    "scale_2",
    "scale_4",
    "translate",
    "rotation",
    "h_flip",
    "v_flip",
    "crop",
)


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pools")
    return (
        write_cutouts(folder / "objects", names=OBJECTS),
        write_scenes(folder / "scenes", names=SCENES),
    )


@pytest.fixture(scope="module")
def built(pools, tmp_path_factory):
    out = tmp_path_factory.mktemp("covar") / "out"
    origin = Origin(licences=("drawn: CC0-1.0",), sources=({"name": "drawn"},))
    return build(out, pools, origin=origin)


def build(out, pools, *, config=SMALL, **options):
    foregrounds, backgrounds = pools
    return build_covar(
        out, foregrounds=foregrounds, backgrounds=backgrounds, settings=config, **options
    )


def read_mask(covar, row):
    masks = covar.table.masks
    assert masks is not None
    path = masks[row]
    assert path is not None
    return np.asarray(Image.open(path))


def list_bytes(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_object_is_on_the_same_scenes_in_every_subset(built):
    covar = open_covar(built)
    objects, scenes = covar.table.objects, covar.table.scenes
    assert objects is not None
    assert scenes is not None
    assert covar.subsets == SUBSETS
    assert len(covar) == 3 + 8 * 3 * 2 == sum(covar.info["counts"].values())
    for subset in SUBSETS[1:]:
        rows = covar.find_rows(subset)
        pairs = {(objects[row], scenes[row]) for row in rows}
        assert len(pairs) == 6
        assert len({scene for _, scene in pairs}) == 2
    assert covar.table.classes == ("bird", "fish")
    assert covar.table.attribute_names == ("lake", "wood")
    assert covar.info["licences"] == ["drawn: CC0-1.0"]
    assert "grey card" in covar.info["originals"]
    assert check_covar(built) == []


def test_the_table_is_read_like_any_other(built):
    table = read_table(built / "covar.csv")
    assert len(table) == 51
    assert table.masks is not None
    assert all(table.masks)
    assert table.read(0).size == (32, 32)


def test_recorded_areas_are_those_of_the_masks(built):
    covar = open_covar(built)
    for row in range(len(covar)):
        area = read_mask(covar, row).mean() / 255
        assert covar.realised_area[row] == pytest.approx(area, abs=1e-6)
    assert (covar.visible > 0.999).all()
    assert not covar.cut_off.any()
    originals = covar.find_rows("original")
    card = np.asarray(covar.table.read(originals[0]))
    assert (card[0, 0] == 128).all()
    assert covar.table.attributes is not None
    assert covar.table.attributes[originals].tolist() == [-1, -1, -1]


def test_bytes_hang_on_the_seed_alone(built, pools, tmp_path):
    again = build(tmp_path / "again", pools, workers=4)
    mine, other = list_bytes(built), list_bytes(again)
    assert mine.keys() == other.keys()
    assert [name for name in mine if mine[name] != other[name]] == ["info.json"]
    moved = build(tmp_path / "moved", pools, config=dataclasses.replace(SMALL, seed=3))
    assert list_bytes(moved)["covar.csv"] != mine["covar.csv"]


def test_an_object_is_the_same_whatever_else_is_in_the_pool(built, pools, tmp_path):
    foregrounds, backgrounds = pools
    alone = build(tmp_path / "alone", (foregrounds.take([1]), backgrounds))
    mine, other = list_bytes(built), list_bytes(alone)
    images = [name for name in other if name.endswith(".png")]
    assert len(images) == 2 * 17
    assert all(mine[name] == other[name] for name in images)


def test_a_killed_build_goes_on_and_keeps_what_is_whole(built, pools, tmp_path):
    out = tmp_path / "out"

    def stop(phase, done, total):
        if done > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(out, pools, on_progress=stop)
    with (out / "rows.jsonl").open("a") as journal:
        journal.write('["torn')
    with pytest.raises(TableError, match="unfinished"):
        open_covar(out)
    with pytest.raises(RunExistsError, match="add --resume"):
        build(out, pools)
    done = [json.loads(line)[1] for line in (out / "rows.jsonl").read_text().split("\n")[1:5]]
    whole, torn = out / done[0], out / done[1]
    os.utime(whole, (1, 1))
    torn.write_bytes(torn.read_bytes()[:-5])
    build(out, pools, resume=True)
    assert whole.stat().st_mtime == 1
    mine, other = list_bytes(built), list_bytes(out)
    assert {n for n in mine if mine[n] != other[n]} == {"info.json"}
    assert mine.keys() == other.keys()


def test_a_finished_build_stays_as_it_is(built, pools):
    before = list_bytes(built)
    with pytest.raises(RunExistsError, match="holds a finished COVAR"):
        build(built, pools)
    assert build(built, pools, resume=True) == built
    assert list_bytes(built) == before
    with pytest.raises(RunExistsError, match="other objects, scenes or settings"):
        build(built, pools, config=dataclasses.replace(SMALL, seed=1), resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_build_killed_while_it_first_named_itself_starts_anew(tmp_path, pools, resume):
    out = tmp_path / "covar"
    out.mkdir()
    (out / ".part-x.json").write_text("{")
    build(out, pools, resume=resume)
    assert not list(out.rglob(".part-*"))
    assert (out / "info.json").is_file()


def test_foreign_folders_are_left_alone(pools, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(RunExistsError, match="holds other files"):
            build(tmp_path, pools, resume=resume)
    with pytest.raises(RunExistsError, match="holds other files"):
        build(tmp_path / "mine.txt", pools)
    assert list_bytes(tmp_path) == {"mine.txt": b"mine"}


def test_check_names_what_is_missing_or_torn(pools, tmp_path):
    out = build(tmp_path / "out", pools, config=dataclasses.replace(SMALL, subsets=("crop",)))
    row = open_covar(out).find_rows("crop")[0]
    path = open_covar(out).table.paths[row]
    path.write_bytes(path.read_bytes()[:40])
    assert check_covar(out) == [f"{path} is torn"]
    path.unlink()
    assert "1 file is missing" in check_covar(out)[0]
    assert "no built COVAR" in check_covar(tmp_path)[0]
    (tmp_path / "info.json").write_text('{"kind": "other"}')
    assert "not that of a COVAR" in check_covar(tmp_path)[0]


def write_photographs(folder, *, sizes, box=None):
    lines = ["path,label,mask,box"]
    for number, size in enumerate(sizes):
        paint(number, size).save(folder / f"{number}.png")
        mask = f"{number}-mask.png"
        draw_ellipse(size, margin=min(size) / 4).save(folder / mask)
        lines.append(f"{number}.png,thing,{'' if box else mask},{box or ''}")
    (folder / "photographs.csv").write_text("\n".join(lines) + "\n")
    return read_foregrounds(folder / "photographs.csv")


@pytest.mark.parametrize("supersample", [1, 2, 3])
def test_a_photograph_on_its_own_background_comes_back(pools, tmp_path, supersample):
    sizes = [(32, 32), (64, 64), (41, 30), (57, 90), (130, 70)]
    foregrounds = write_photographs(tmp_path, sizes=sizes)
    config = dataclasses.replace(SMALL, subsets=("background",), supersample=supersample)
    covar = open_covar(build(tmp_path / "out", (foregrounds, pools[1]), config=config))
    objects = covar.table.objects
    assert objects is not None
    for row, size in zip(covar.find_rows("original"), sizes, strict=True):
        photograph = Image.open(tmp_path / objects[row])
        square = find_square(size)
        wanted = fit_square(photograph, square, side=32 * supersample).reduce(supersample)
        if size == (32, 32):
            assert wanted.tobytes() == photograph.tobytes()
        difference = np.asarray(covar.table.read(row)).astype(int) - np.asarray(wanted)
        assert np.abs(difference).max() <= 1
        assert covar.table.scenes is not None
        assert covar.table.scenes[row] == objects[row]
        assert 0.1 < covar.realised_area[row] < 0.5
    assert "own photographs" in covar.info["originals"]


def test_an_object_of_a_photograph_keeps_its_place_or_is_centred(pools, tmp_path):
    foregrounds = write_photographs(tmp_path, sizes=[(100, 50)], box='"70,10,20,30"')
    config = dataclasses.replace(SMALL, subsets=("background",))
    kept = open_covar(build(tmp_path / "kept", (foregrounds, pools[1]), config=config))
    mask = read_mask(kept, 1) > 127
    # The square is columns 50 to 100 of the photograph, 32 pixels for 50.
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert (rows[0], rows[-1] + 1) == (6, 26)
    assert (columns[0], columns[-1] + 1) == (13, 26)
    config = dataclasses.replace(config, placement="centre")
    centred = open_covar(build(tmp_path / "centred", (foregrounds, pools[1]), config=config))
    mask = read_mask(centred, 1) > 127
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert abs(rows[0] + rows[-1] - 31) <= 1
    assert abs(columns[0] + columns[-1] - 31) <= 1
    assert rows[-1] - rows[0] + 1 == pytest.approx(0.6 * 32, abs=1.5)


def test_a_mask_of_another_size_is_one_clear_line(pools, tmp_path):
    foregrounds = write_photographs(tmp_path, sizes=[(40, 40)])
    Image.new("L", (20, 40), 255).save(tmp_path / "0-mask.png")
    with pytest.raises(MaskError, match=r"0-mask\.png: the mask is 20 x 40, the image 40 x 40"):
        build(tmp_path / "out", (foregrounds, pools[1]))


def test_viewpoints_come_from_a_users_function(pools, tmp_path):
    file = tmp_path / "views.py"
    file.write_text(
        "from PIL import Image\n"
        "def turn(cutout, number):\n"
        "    return cutout.resize((cutout.width // (number + 1), cutout.height))\n"
        "def fail(cutout, number):\n    return 1 / 0\n"
        "def nothing(cutout, number):\n    return Image.new('RGBA', (3, 3))\n"
    )
    config = dataclasses.replace(SMALL, subsets=("background", "viewpoint_1", "viewpoint_2"))
    covar = open_covar(
        build(tmp_path / "out", pools, config=config, viewpoint=f"function:{file}:turn")
    )
    first, second = (
        read_mask(covar, covar.find_rows(name)[0]) > 127 for name in ("viewpoint_1", "viewpoint_2")
    )
    assert first.any(0).sum() > second.any(0).sum() > 0
    assert covar.parameters[covar.find_rows("viewpoint_2")[0]] == {"view": 2}
    for name, problem in (("fail", "ZeroDivision"), ("nothing", "no RGBA image"), ("x", "'x'")):
        with pytest.raises(InputError, match=problem):
            build(tmp_path / name, pools, config=config, viewpoint=f"function:{file}:{name}")


def test_pools_are_drawn_by_name(pools):
    foregrounds, backgrounds = pools
    one = dataclasses.replace(SMALL, objects_per_class=1)
    drawn = choose_objects(foregrounds, settings=one)
    assert [foregrounds.classes[label] for label in drawn.labels] == ["bird", "fish"]
    fewer = choose_objects(foregrounds.take([0, 1]), settings=one)
    assert fewer.ids == drawn.ids[:1]
    scenes = choose_scenes(backgrounds, settings=SMALL)
    assert {scenes.categories[kind] for kind in scenes.category_ids} == {"lake", "wood"}


def test_too_few_scenes_and_workers(pools, tmp_path):
    many = dataclasses.replace(SMALL, backgrounds_per_object=9)
    with pytest.raises(InputError, match=r"3 scenes, 9 are asked for.*--backgrounds-per-object 3"):
        build(tmp_path / "out", pools, config=many)
    with pytest.raises(UsageError, match="0 workers"):
        build(tmp_path / "out", pools, workers=0)
    assert not (tmp_path / "out").exists()


def test_file_names_keep_ids_apart():
    names = [name_file(text) for text in ("a b", "a-b", "a/b", "../a", "x" * 300, "x" * 301, "")]
    assert len(set(names)) == len(names)
    assert all(len(name) < 80 and "/" not in name and not name.startswith(".") for name in names)


def test_the_list_of_stamps_has_enough_of_every_class():
    labels = [row["label"] for row in read_list("cutouts.csv")]
    assert min(labels.count(name) for name in set(labels)) >= 3
    assert len(set(labels)) >= 20
    scenes = read_list("scenes.csv")
    assert len({row["label"] for row in scenes}) == len(scenes) == 20
