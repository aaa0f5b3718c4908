from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from fieldmark.benchmarks import discovery
from fieldmark.benchmarks.discovery import run_discovery
from fieldmark.benchmarks.discovery_record import REGIONS, read_discovery
from fieldmark.benchmarks.discovery_request import (
    DiscoveryRequest,
    choose_regions,
    parse_clusters,
    write_clusters,
)
from fieldmark.benchmarks.discovery_search import choose_clusters, choose_selection
from fieldmark.core.errors import InputError, RunExistsError, TableError, UsageError
from fieldmark.core.records import read_rows, read_run
from fieldmark.core.sealed import KEY, read_sealed_json, write_sealed_json
from fieldmark.data.tables import read_table
from fieldmark.discovery.evidence import predict_zero_shot
from fieldmark.discovery.region_embeddings import embed_regions
from fieldmark.discovery.regions import cut_quadrants
from fieldmark.models.embed import embed_images
from fieldmark.report.discovery_parts import RECORD
from fieldmark.testing import FakeEncoder
from tests.benchmarks.planted_corners import CLASS_NAMES, draw_corners, has_corner


@pytest.fixture(scope="module", autouse=True)
def fake_encoder(tmp_path_factory):
    """Every model that these tests name is a FakeEncoder, and the cache is their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIELDMARK_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(discovery, "load_encoder", lambda uri, *, device: FakeEncoder())
        yield


def ask(table, out, **changed):
    words = out.parent / "words.txt"
    words.write_text("red\ngreen\nwhite\n")
    templates = out.parent / "templates.txt"
    templates.write_text("{}\n")
    request = DiscoveryRequest(
        model="fake:colours",
        data=str(table),
        out=out,
        regions="quadrants",
        class_names=CLASS_NAMES,
        templates=str(templates),
        vocabulary=words,
        precision="fp32",
    )
    return replace(request, **changed)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    return run_discovery(ask(draw_corners(folder / "images"), folder / "run"))


def read_page(out):
    return (out / "report.html").read_text(encoding="utf-8")


def test_the_planted_corner_comes_first_and_passes(planted):
    record = read_discovery(planted)
    first = record.candidates[0]
    shown = [
        has_corner(record.regions.boxes[row], record.regions.image_ids[record.regions.images[row]])
        for row in first.nearest
    ]
    assert len(shown) == 10
    assert all(shown)
    assert first.size == 32
    assert first.tied_class == "rose"
    assert first.words[0].word == "red"
    assert record.significant == (first,)
    assert "With 1 of 4 clusters" in read_page(planted)


def test_the_class_table_is_what_counting_by_hand_gives(planted):
    first = read_discovery(planted).candidates[0]
    encoder, table = FakeEncoder(), read_table(planted.parent / "images" / "table.csv")
    prototypes = encoder.encode_text(list(CLASS_NAMES)).numpy()
    predicted = predict_zero_shot(embed_images(encoder, table, precision="fp32").values, prototypes)
    marked = np.array([has_corner((0, 0, 4, 4), name) for name in table.ids])
    right = predicted == table.labels
    for one in first.classes:
        own = table.labels == table.classes.index(one.name)
        assert one.accuracy_with == right[own & marked].mean()
        assert one.accuracy_without == right[own & ~marked].mean()
        assert (one.images_with, one.images_without) == (16, 16)
    rows = {(row.metric, row.group): row for row in read_rows(planted)}
    assert rows["acc_avg", None].value == right.mean()
    assert rows["gap", first.cluster].value == first.gap
    assert rows["gap", first.cluster].ci_low == first.interval.low
    assert rows["gap_y:rose", first.cluster].value == first.classes[0].gap
    assert rows["adjusted_p_value", first.cluster].value == first.adjusted_p_value
    assert rows["significant", None].value == 1


def test_the_medoids_lead_every_region_to_its_own_cluster(planted):
    record = read_discovery(planted)
    table = read_table(planted.parent / "images" / "table.csv")
    cut = cut_quadrants(len(table), side=8)
    found = embed_regions(FakeEncoder(), table, regions=cut, precision="fp32").values
    np.testing.assert_array_equal(record.regions.boxes, cut.boxes)
    nearest = (found @ record.regions.medoids.T).argmax(axis=1)
    np.testing.assert_array_equal(nearest, record.regions.clusters)
    assert record.candidate_ids[0] == record.candidates[0].cluster
    assert record.regions.image_ids == table.ids


def test_the_record_says_how_to_do_it_again(planted):
    record = read_discovery(planted)
    assert (record.source, record.way, record.side) == ("quadrants", "crop", 8)
    assert record.model == "fake:colours"
    assert record.fingerprint == FakeEncoder().spec.fingerprint
    assert record.classes == ("berry", "rose")
    assert record.class_names == CLASS_NAMES
    assert record.templates == ("{}",)
    values = json.loads((planted / RECORD).read_text())
    assert values["candidates"][0]["nearest"][0]["box_in_file"] == [0, 0, 8, 8]
    assert values["clustering"]["asked"] == "4-10"
    assert len(values["all_clusters"]) == values["clustering"]["found"] == 4
    kept = {one["cluster"]: one for one in values["candidates"]}
    for one in values["all_clusters"]:
        if one["cluster"] in kept:
            assert one["gap"] == pytest.approx(kept[one["cluster"]]["gap"])
            assert one["influence"] == pytest.approx(kept[one["cluster"]]["influence"])
            assert one["size"] == kept[one["cluster"]]["size"]


def test_the_pictures_show_the_corner_and_where_it_is(planted):
    strips = json.loads((planted / "page" / "pictures.json").read_text())
    first = strips[str(read_discovery(planted).candidates[0].cluster)]
    shot = first["nearest"]["pictures"][0]
    with Image.open(planted / "page" / shot["crop"]) as crop:
        red, green, blue = np.asarray(crop).mean(axis=(0, 1))
    assert red > 200
    assert max(green, blue) < 30
    assert first["misled"]["count"] == 16
    assert {(p["label"], p["predicted"]) for p in first["misled"]["pictures"]} == {
        ("berry", "rose")
    }
    assert len(first["misled"]["pictures"]) == 12
    for shot in first["missed"]["pictures"]:
        assert (shot["label"], shot["predicted"], shot["crop"]) == ("rose", "berry", None)
        assert not has_corner((0, 0, 4, 4), shot["image"])


def test_where_nothing_is_planted_nothing_passes(tmp_path):
    table = draw_corners(tmp_path / "images", planted=False, seed=1)
    out = run_discovery(ask(table, tmp_path / "run"))
    assert read_discovery(out).significant == ()
    assert "is told from chance at level 0.05" in read_page(out)


def test_a_model_without_errors_has_nothing_to_be_found(tmp_path):
    table = draw_corners(tmp_path / "images", planted=False, noise=0)
    out = run_discovery(ask(table, tmp_path / "run"))
    record = read_discovery(out)
    assert record.candidates == ()
    assert "accuracy does not change with it" in record.reason
    assert any("predicted right" in note for note in record.notes)
    page = read_page(out)
    assert "<h1>Nothing found in 4 clusters of regions</h1>" in page
    assert record.reason in page


def test_the_same_seed_gives_the_same_files_and_the_second_run_embeds_nothing(planted, tmp_path):
    table = planted.parent / "images" / "table.csv"
    again = run_discovery(ask(table, tmp_path / "run"))
    assert (again / REGIONS).read_bytes() == (planted / REGIONS).read_bytes()
    first, second = (json.loads((out / RECORD).read_text()) for out in (planted, again))
    for name in ("templates", "vocabulary", KEY):
        del first[name], second[name]
    assert first == second


def test_a_rival_that_names_a_cluster_has_its_corrected_p_value(planted, tmp_path):
    table = planted.parent / "images" / "table.csv"
    out = run_discovery(ask(table, tmp_path / "run", method="spurious-aware"))
    one = read_discovery(out).candidates[0]
    assert one.cluster >= 0
    assert one.adjusted_p_value >= one.p_value > 0


def test_a_rival_whose_regions_are_no_cluster_has_no_p_value(planted, tmp_path):
    table = planted.parent / "images" / "table.csv"
    out = run_discovery(ask(table, tmp_path / "run", method="george"))
    record = read_discovery(out)
    assert record.candidate_ids == ()
    assert record.significant == ()
    assert np.isnan(record.candidates[0].adjusted_p_value)
    assert "george names one group of regions; it has no p-value" in read_page(out)
    assert "Not tested" in read_page(out)


def test_regions_in_a_random_order_tell_nothing(planted, tmp_path):
    table = planted.parent / "images" / "table.csv"
    out = run_discovery(ask(table, tmp_path / "run", method="random"))
    record = read_discovery(out)
    assert record.candidates == ()
    assert "no label has images both with and without it" in record.reason


def test_without_influence_the_corner_still_has_the_largest_gap(planted, tmp_path):
    table = planted.parent / "images" / "table.csv"
    out = run_discovery(ask(table, tmp_path / "run", method="gap-only"))
    record = read_discovery(out)
    assert len(record.candidates) == 4
    assert record.candidates[0].nearest == read_discovery(planted).candidates[0].nearest


def test_a_stopped_run_goes_on(planted, tmp_path, monkeypatch):
    request = ask(planted.parent / "images" / "table.csv", tmp_path / "run")

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(discovery, "draw_pictures", stop)
        with pytest.raises(KeyboardInterrupt):
            run_discovery(request)
    with pytest.raises(RunExistsError, match="add --resume"):
        run_discovery(request)
    with pytest.raises(RunExistsError, match=r"other arguments \(seed\)"):
        run_discovery(replace(request, resume=True, seed=1))
    out = run_discovery(replace(request, resume=True))
    assert (out / REGIONS).read_bytes() == (planted / REGIONS).read_bytes()
    assert read_run(out)["verb"] == "discover"


def test_an_unreadable_image_stops_or_is_left_out(tmp_path):
    table = draw_corners(tmp_path / "images", count=24)
    (tmp_path / "images" / "5.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"5\.png"):
        run_discovery(ask(table, tmp_path / "stopped"))
    out = run_discovery(ask(table, tmp_path / "run", skip_unreadable=True))
    assert list(read_run(out)["notes"]["unreadable"]) == ["5.png"]
    assert "5.png" not in read_discovery(out).regions.image_ids
    assert len(read_discovery(out).regions.images) == 4 * 23


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"level": 1.5}, "level 1.5 is not between 0 and 1"),
        ({"gallery": -1}, "gallery -1"),
        ({"permutations": 0}, "permutations 0"),
        ({"method": "ravel"}, "unknown method 'ravel'"),
        ({"selection": "papr"}, "unknown selection 'papr'; did you mean paper?"),
        ({"threshold": 2.0}, "threshold 2 is not in"),
        ({"method": "domino", "threshold": 0.5}, "method domino has no threshold"),
        ({"regions": "circles"}, "circles"),
        ({"class_names": ("red",)}, "1 class names for 2 classes; name these, in order"),
    ],
)
def test_a_request_that_is_off_is_refused_before_anything_is_written(
    planted, tmp_path, changed, message
):
    request = ask(planted.parent / "images" / "table.csv", tmp_path / "run", **changed)
    with pytest.raises(UsageError, match=message):
        run_discovery(request)
    assert not (tmp_path / "run").exists()


def test_a_split_that_is_not_there_is_named(planted, tmp_path):
    table = planted.parent / "images" / "table.csv"
    with pytest.raises(TableError, match="has no split 'test'"):
        run_discovery(ask(table, tmp_path / "run", split="test"))


def test_more_clusters_than_regions_are_refused(planted, tmp_path):
    table = planted.parent / "images" / "table.csv"
    with pytest.raises(InputError, match="256 regions cannot be clustered"):
        run_discovery(ask(table, tmp_path / "run", clusters=300))


def test_only_the_chosen_split_is_looked_at(tmp_path):
    table = draw_corners(tmp_path / "images", count=48)
    lines = table.read_text().splitlines()
    parts = ["split", *(["val"] * 40 + ["train"] * 8)]
    table.write_text("\n".join(f"{a},{b}" for a, b in zip(lines, parts, strict=True)) + "\n")
    out = run_discovery(ask(table, tmp_path / "run"))
    record = read_discovery(out)
    assert record.split == "val"
    assert len(record.regions.image_ids) == 40


def test_a_table_with_corners_brings_its_own_boxes(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("path,label,x0,y0,x1,y1\na.png,cat,0,0,4,4\n")
    assert choose_regions(str(table)) == f"boxes:{table}"
    table.write_text("path,label,x0\na.png,cat,0\n")
    assert choose_regions(str(table)) == "scales:2,3"


def test_numbers_of_clusters_are_read_as_they_are_written():
    for asked in (1, 12, (4, 10), (3, 3)):
        assert parse_clusters(write_clusters(asked)) == asked
    for text in ("", "0", "5-2", "-3", "a", "2-", "2-3-4"):
        with pytest.raises(UsageError, match="is no number of clusters"):
            parse_clusters(text)


def test_above_8000_regions_the_number_of_clusters_is_fixed():
    assert choose_clusters(None, regions=8000, classes=10) == (20, 50)
    assert choose_clusters(None, regions=8001, classes=10) == 20
    assert choose_clusters(7, regions=9000, classes=10) == 7
    with pytest.raises(UsageError, match="too many to try 4 to 9 clusters"):
        choose_clusters((4, 9), regions=8001, classes=2)


def test_the_reference_selection_takes_a_threshold_of_its_own():
    chosen = choose_selection("reference", method="ravl", threshold=0.1)
    assert chosen.opposite_gaps
    assert chosen.threshold == 0.1
    assert choose_selection("paper", method="unweighted-gap-only", threshold=None).weighted is False


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def edit(path, change):
    values = read_sealed_json(path)
    change(values)
    write_sealed_json(path, values)


def spoil_tensors(path, **changed):
    names = json.dumps([f"{number}.png" for number in range(64)])
    save_file({**load_file(path), **changed}, path, metadata={"image_ids": names})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda out: (out / RECORD).unlink(), "holds no discovery.json"),
        (lambda out: (out / REGIONS).unlink(), "holds no regions.safetensors"),
        (lambda out: truncate(out / RECORD), "discovery.json: cannot be read as JSON"),
        (lambda out: truncate(out / REGIONS), "regions.safetensors: is damaged"),
        (lambda out: (out / RECORD).write_text("[]"), "is no JSON object"),
        (lambda out: edit(out / RECORD, lambda v: v.update(schema=9)), "has schema 9"),
        (lambda out: edit(out / RECORD, lambda v: v.pop("classes")), "is damaged"),
        (
            lambda out: edit(out / RECORD, lambda v: v["candidates"][0].update(cluster=99)),
            "candidate 99 does not fit",
        ),
        (
            lambda out: spoil_tensors(out / REGIONS, medoids=np.full((4, 6), np.nan, np.float32)),
            "medoid that is not finite",
        ),
        (
            lambda out: spoil_tensors(out / REGIONS, medoids=np.zeros((4, 6), np.float64)),
            "medoids are of another kind",
        ),
        (
            lambda out: spoil_tensors(out / REGIONS, clusters=np.full(256, 4)),
            "names an image or a cluster",
        ),
        (
            lambda out: spoil_tensors(out / REGIONS, boxes=np.zeros((3, 4), np.float32)),
            "differ in length",
        ),
    ],
)
def test_a_damaged_record_is_one_line(planted, tmp_path, spoil, message):
    out = tmp_path / "copy"
    out.mkdir()
    for name in (RECORD, REGIONS):
        (out / name).write_bytes((planted / name).read_bytes())
    spoil(out)
    with pytest.raises(InputError, match=message) as caught:
        read_discovery(out)
    assert "\n" not in str(caught.value)


def test_boxes_of_a_file_are_the_regions(planted, tmp_path):
    table = planted.parent / "images" / "table.csv"
    boxes = ["image,x0,y0,x1,y1"]
    for number in range(64):
        boxes += [f"{number}.png,0,0,8,8", f"{number}.png,8,8,16,16"]
    (tmp_path / "boxes.csv").write_text("\n".join(boxes) + "\n")
    out = run_discovery(ask(table, tmp_path / "run", regions=f"boxes:{tmp_path / 'boxes.csv'}"))
    record = read_discovery(out)
    assert record.source == f"boxes:{tmp_path / 'boxes.csv'}"
    assert len(record.regions.images) == 128
    assert record.significant[0].tied_class == "rose"
    assert record.significant[0].size == 32
