"""`fieldmark explain` from its words to its page, on drawn images and a fake encoder.

The texts name the colour in the middle of an image and the one around it, so it is known which
patches speak for a text.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from fieldmark.benchmarks.attribution import explain
from fieldmark.benchmarks.attribution.explain_measure import explain_images, load_result
from fieldmark.cli import explain as verb
from fieldmark.core.errors import (
    ImageError,
    InputError,
    MaskError,
    RunExistsError,
    UnsupportedEncoderError,
    UsageError,
)
from fieldmark.core.records import read_rows, read_run
from fieldmark.testing import FakeEncoder

QUICK = ["--set", "rise_masks=40"]


@pytest.fixture(autouse=True)
def fake_encoder(monkeypatch, tmp_path):
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(explain, "load_encoder", lambda uri, device: FakeEncoder())


def draw(path, colour, ground, *, side=8):
    image = Image.new("RGB", (side, side), ground)
    image.paste(colour, (side // 4, side // 4, 3 * side // 4, 3 * side // 4))
    image.save(path)
    return path


@pytest.fixture
def image(tmp_path):
    return draw(tmp_path / "red.png", "red", "blue")


@pytest.fixture
def mask(tmp_path):
    return draw(tmp_path / "mask.png", "white", "black")


@pytest.fixture
def table(tmp_path):
    """Write six images of a colour on another, with masks."""
    folder = tmp_path / "images"
    folder.mkdir()
    draw(folder / "mask.png", "white", "black")
    lines = ["id,path,label,mask"]
    for number in range(6):
        colour, ground = (("red", "green"), ("blue", "yellow"))[number % 2]
        draw(folder / f"{number}.png", colour, ground)
        # The last is labelled wrongly, so that it is taken for another class.
        label = "red" if number == 5 else colour
        lines.append(f"i{number},{number}.png,{label},mask.png")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder / "metadata.csv"


def call(*given):
    words = ["--model", "fake:colours", *map(str, given)]
    return verb.app(words, prog_name="f", standalone_mode=False)


def test_an_image_and_a_text_give_maps_pictures_rows_and_a_page(image, mask, tmp_path, capsys):
    out = tmp_path / "run"
    call("--image", image, "--mask", mask, "--text", "a red <b>bird</b>", "--out", out,
         "--method", "cci,occlusion", "--set", "clusters=2")  # fmt: skip
    record = json.loads((out / "explanation.json").read_text())
    [one] = record["images"]
    [text] = one["texts"]
    maps = load_file(out / "maps.safetensors")
    # The red square is a cluster, and alone it speaks for the text.
    assert text["similarity"] == pytest.approx(2**-0.5, abs=1e-6)
    assert maps["similarities"][0, 0] == pytest.approx(2**-0.5, abs=1e-6)
    inner = np.zeros((4, 4), bool)
    inner[1:3, 1:3] = True
    assert (maps["0/cci/maps"][0][inner] > 0).all()
    assert (maps["0/cci/maps"][0][~inner] <= 0).all()
    assert np.array_equal(maps["0/mask"] == 1, inner)
    assert len(set(maps["0/cci/clusters"][inner])) == 1
    assert text["maps"]["cci"]["energy"] == pytest.approx(1)
    assert one["mask"] == {"area": 0.25, "patches": 4, "resolvable": True}
    rows = {(row.method, row.metric): row for row in read_rows(out)}
    assert rows["occlusion", "energy_in_mask"].value == pytest.approx(1, abs=1e-3)
    drops = [rows["cci", f"drop_of_cluster_{number}"].value for number in range(2)]
    assert sorted(drops) == pytest.approx(sorted(np.unique(maps["0/cci/drops"])))
    for name in (one["picture"], one["clusters_picture"], text["maps"]["cci"]["picture"]):
        with Image.open(out / name) as opened:
            assert max(opened.size) == 224
    page = (out / "report.html").read_text()
    assert "a red &lt;b&gt;bird&lt;/b&gt;" in page
    assert "<b>bird</b>" not in page
    assert page.count("<img") == page.count(' alt="')
    assert not (out / "parts").exists()
    assert "What speaks for" in capsys.readouterr().err


def test_all_methods_leave_out_with_the_reason_what_the_tower_does_not_bear(image, tmp_path):
    out = tmp_path / "run"
    call("--image", image, "--text", "red", "--text", "yellow", "--out", out, "--method", "all",
         *QUICK)  # fmt: skip
    record = json.loads((out / "explanation.json").read_text())
    names = [one["name"] for one in record["methods"]]
    assert names[:3] == ["cci", "rise", "occlusion"]
    assert {"random", "centre"} <= set(names)
    assert "cannot be taken apart" in record["skipped"]["rollout"]
    page = (out / "report.html").read_text()
    assert "does not depend on the text" in page
    assert all(name in page for name in record["skipped"])


def test_a_table_explains_the_class_taken_for_and_the_true_one(table, tmp_path):
    out = tmp_path / "run"
    call("--data", table, "--limit", 5, "--seed", 1, "--out", out, "--method", "occlusion")
    record = json.loads((out / "explanation.json").read_text())
    assert len(record["images"]) == 5
    assert record["texts"] == ["blue", "red"]
    for one in record["images"]:
        wanted = [one["predicted"]]
        wanted += [one["truth"]] if one["truth"] != one["predicted"] else []
        assert [text["text"] for text in one["texts"]] == wanted
    again = tmp_path / "again"
    call("--data", table, "--limit", 5, "--seed", 1, "--out", again, "--method", "occlusion")
    ids = [[one["id"] for one in json.loads((folder / "explanation.json").read_text())["images"]]
           for folder in (out, again)]  # fmt: skip
    assert ids[0] == ids[1]


def test_a_text_without_support_is_flagged_in_words(image, tmp_path):
    out = tmp_path / "run"
    # Green is nowhere: neither cluster can lower a cosine of 0.
    call("--image", image, "--text", "green on green", "--out", out)
    [one] = json.loads((out / "explanation.json").read_text())["images"]
    assert one["texts"][0]["maps"]["cci"]["no_support"]
    assert "nothing speaks for the text" in (out / "report.html").read_text()


def test_a_foreground_below_a_patch_is_reported_not_refused(image, tmp_path):
    mask = tmp_path / "dot.png"
    dot = Image.new("L", (8, 8))
    dot.putpixel((3, 3), 255)
    dot.save(mask)
    out = tmp_path / "run"
    call("--image", image, "--mask", mask, "--text", "red", "--out", out)
    [one] = json.loads((out / "explanation.json").read_text())["images"]
    assert one["mask"]["resolvable"] is False
    assert one["texts"][0]["maps"]["cci"]["energy"] is None
    assert "smaller than a patch" in (out / "report.html").read_text()
    [row] = [row for row in read_rows(out) if row.metric == "energy_in_mask"]
    assert np.isnan(row.value)
    assert row.count == 0


def test_a_stopped_run_goes_on_after_the_methods_that_are_done(image, tmp_path, monkeypatch):
    out, words = tmp_path / "run", ["--image", image, "--text", "red", "--method", "cci,occlusion"]
    real = explain_images
    asked: list[str] = []

    def fail_second(material, *, method, config):
        asked.append(method)
        if len(asked) == 2:
            raise RuntimeError("stopped")
        return real(material, method=method, config=config)

    monkeypatch.setattr(explain, "explain_images", fail_second)
    with pytest.raises(RuntimeError, match="stopped"):
        call(*words, "--out", out)
    with pytest.raises(RunExistsError, match="--resume"):
        call(*words, "--out", out)
    call(*words, "--out", out, "--resume")
    assert asked == ["cci", "occlusion", "occlusion"]
    assert read_run(out)["verb"] == "explain"


def test_a_damaged_part_says_how_to_mend_it(tmp_path):
    path = tmp_path / "cci.safetensors"
    path.write_bytes(b"not a tensor")
    with pytest.raises(InputError, match="delete it; --resume makes it again"):
        load_result(path, method="cci")


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--text", " "], InputError, "text 1: the text is empty"),
        ([], UsageError, "there is no text .* give --text, or --class-name"),
        (["--text", "red", "--method", "saliency"], UsageError, "unknown attribution method"),
        (["--text", "red", "--method", "rollout"], UnsupportedEncoderError, "use one of: cci, "),
        (["--text", "red", "--mask", "-", "--mask", "-"], UsageError, "2 masks for 1 images"),
        (["--text", "red", "--data", "x"], UsageError, "both images and data"),
        (["--text", "red", "--set", "cluster=3"], UsageError, "unknown setting 'cluster'"),
    ],
)
def test_bad_words_give_one_line(image, tmp_path, words, error, message):
    with pytest.raises(error, match=message) as found:
        call("--image", image, "--out", tmp_path / "run", *words)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "run").exists()


def test_bad_files_are_named_in_one_line(image, tmp_path):
    run = ["--out", tmp_path / "run", "--text", "red"]
    small = tmp_path / "small.png"
    Image.new("RGB", (1, 9)).save(small)
    with pytest.raises(ImageError, match=r"small.png: .* 1 x 9 pixels is smaller than a patch"):
        call("--image", small, *run)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ImageError, match=r"text.png"):
        call("--image", tmp_path / "text.png", *run)
    with pytest.raises(MaskError, match=r"small.png: the mask is 1 x 9, the image 8 x 8"):
        call("--image", image, "--mask", small, *run)
    with pytest.raises(MaskError, match=r"text.png"):
        call("--image", image, "--mask", tmp_path / "text.png", *run)
    with pytest.raises(UsageError, match="given twice"):
        call("--image", image, "--image", image, *run)
    assert not (tmp_path / "run").exists()
