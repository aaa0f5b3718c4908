"""`covar evaluate` from a small COVAR of coloured squares to its page, with fake encoders."""

from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image
from typer.testing import CliRunner

from fieldmark.benchmarks.covar import evaluate
from fieldmark.benchmarks.covar.candidates import choose_candidates
from fieldmark.benchmarks.covar.evaluate import run_covar_evaluation
from fieldmark.benchmarks.covar.request import CovarRequest
from fieldmark.cli.covar import app
from fieldmark.core.errors import InputError, TableError, UsageError
from fieldmark.core.records import read_rows
from fieldmark.data.backgrounds import read_backgrounds
from fieldmark.data.covar import CovarSettings, build_covar
from fieldmark.data.foregrounds import read_foregrounds
from fieldmark.testing import FakeEncoder

SETTINGS = CovarSettings(
    side=32, backgrounds_per_object=2, scales=(2.0, 4.0), object_side=0.5, supersample=1
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("covar")
    # The scenes have the objects' own colours: a small object is taken for its scene.
    for name, colour in (("red", "red"), ("green", "lime")):
        for number in range(2):
            path = folder / "objects" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cutout = Image.new("RGBA", (48, 48))
            cutout.paste(colour, (4, 4, 44, 44 - 4 * number))
            cutout.save(path)
    for colour in ("red", "lime"):
        path = folder / "scenes" / colour / "plain.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (64, 64), colour).save(path)
    build_covar(
        folder / "built",
        foregrounds=read_foregrounds(folder / "objects"),
        backgrounds=read_backgrounds(folder / "scenes"),
        settings=SETTINGS,
    )
    return folder / "built"


@pytest.fixture
def fake(monkeypatch):
    def load(uri, *, device):
        if uri == "broken":
            raise InputError("holds no weights", where=uri)
        return FakeEncoder(background=float(uri))

    monkeypatch.setattr(evaluate, "load_encoder", load)


def ask(data, out, **changes):
    given = {"models": ("1.0", "0.0"), "rules": "causal", "causal_draws": 2, **changes}
    return CovarRequest(data=data, out=out, **given)


def test_a_run_leaves_figures_predictions_and_a_page(data, tmp_path, fake):
    out = run_covar_evaluation(ask(data, tmp_path / "run"))
    record = json.loads((out / "covar.json").read_text())
    first, second = record["encoders"]
    # Eight object-scene pairs in each subset; the blind encoder does not see the scene at all.
    assert first["accuracy"]["background"]["count"] == 8
    assert first["accuracy"]["scale"]["count"] == 16
    assert second["accuracy"]["background"]["value"] == 1.0
    assert record["comparisons"][0]["first"] == "1.0"
    page = (out / "report.html").read_text()
    assert "Accuracy by subset" in page
    assert "What limits it" in page
    assert "data:image/jpeg" in page
    lines = (out / "predictions.csv").read_text().splitlines()
    assert lines[0] == "id,subset,object,label,1.0,0.0"
    assert len(lines) == 1 + record["images"]
    rows = [one for one in read_rows(out) if one.metric == "acc_avg" and one.split == "crop"]
    assert [one.count for one in rows] == [8, 8]
    assert not (out / "work").exists()


def test_source_shares_of_each_column_sum_to_one(data, tmp_path, fake):
    out = run_covar_evaluation(ask(data, tmp_path / "run", models=("1.0",)))
    record = json.loads((out / "covar.json").read_text())
    [one] = record["encoders"]
    seen = 0
    for column, shares in one["sources"]["causal"].items():
        if shares[0]["of"]:
            seen += 1
            assert sum(share["share"] for share in shares) == pytest.approx(1)
            rate = 1 - one["accuracy"][column]["value"]
            assert sum(share["of_images"] for share in shares) == pytest.approx(rate)
    assert seen == sum(1 for c in record["columns"] if one["accuracy"][c]["value"] < 1) > 0


def test_an_encoder_that_fails_is_named_and_the_others_go_on(data, tmp_path, fake):
    request = ask(data, tmp_path / "run", models=("broken", "0.0"), rules="none")
    out = run_covar_evaluation(request)
    assert "Left out: broken: broken: holds no weights" in (out / "report.html").read_text()


def test_no_encoder_that_answers_is_an_error(data, tmp_path, fake):
    with pytest.raises(InputError, match="holds no weights"):
        run_covar_evaluation(ask(data, tmp_path / "run", models=("broken",)))


def test_a_stopped_run_goes_on_to_the_same_figures(data, tmp_path, fake, monkeypatch):
    whole = run_covar_evaluation(ask(data, tmp_path / "whole"))

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr(evaluate, "describe_run", stop)
        with pytest.raises(KeyboardInterrupt):
            run_covar_evaluation(ask(data, tmp_path / "again"))
    assert (tmp_path / "again" / "work").is_dir()
    again = run_covar_evaluation(ask(data, tmp_path / "again", resume=True))
    assert (again / "covar.json").read_text() == (whole / "covar.json").read_text()


def test_a_limit_takes_the_same_compositions_in_all_subsets(data, tmp_path, fake):
    out = run_covar_evaluation(ask(data, tmp_path / "run", models=("0.0",), rules="none", limit=3))
    taken: dict[str, set[str]] = {}
    for line in (out / "predictions.csv").read_text().splitlines()[1:]:
        identity, subset, *_ = line.split(",")
        taken.setdefault(subset, set()).add(identity.partition("/")[2])
    original = taken.pop("original")
    assert len(original) == 3
    assert len({frozenset(one) for one in taken.values()}) == 1


def test_a_folder_that_is_no_covar_is_named(tmp_path):
    with pytest.raises(TableError, match="is no built COVAR"):
        run_covar_evaluation(ask(tmp_path, tmp_path / "run"))


def test_a_missing_image_is_named_before_anything_is_loaded(data, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    next((copy / "images" / "crop").rglob("*.png")).write_bytes(b"half")
    with pytest.raises(TableError, match="is missing or torn"):
        run_covar_evaluation(ask(copy, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_candidates_of_a_file(tmp_path):
    (tmp_path / "names.txt").write_text("blue\nRed\ngreen\n")
    assert choose_candidates(str(tmp_path / "names.txt"), ["red"]).truths.tolist() == [1]
    (tmp_path / "names.txt").write_text("red\nRed\n")
    with pytest.raises(InputError, match="names red twice"):
        choose_candidates(str(tmp_path / "names.txt"), ["red"])
    with pytest.raises(UsageError, match="may mean two things by: crane"):
        choose_candidates("imagenet", ["crane"])


def test_words_become_a_page_and_tables(data, tmp_path, fake):
    words = ["evaluate", "--model", "1.0", "--model", "0.0", "--data", str(data), "--out",
             str(tmp_path / "run"), "--rules", "none"]  # fmt: skip
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0
    assert "Accuracy by subset" in result.output
    assert (tmp_path / "run" / "report.html").is_file()


def test_class_means_come_from_objects_that_are_not_judged(data, tmp_path, fake):
    request = ask(data, tmp_path / "run", models=("0.0",), rules="none", head="class-means")
    out = run_covar_evaluation(request)
    record = json.loads((out / "covar.json").read_text())
    lines = (out / "predictions.csv").read_text().splitlines()[1:]
    judged = {line.split(",")[2] for line in lines}
    # Two objects of each of two classes: one makes the mean, the other is judged.
    assert len(judged) == 2
    assert {one.split("/")[0] for one in judged} == {"red", "green"}
    assert record["encoders"][0]["accuracy"]["background"] == {
        **record["encoders"][0]["accuracy"]["background"],
        "value": 1.0,
        "count": 4,
    }
    assert any("which are not judged" in note for note in record["notes"])
    assert {row.head for row in read_rows(out)} == {"class-means"}


def test_class_means_leave_an_object_of_each_class_to_judge(data, tmp_path, fake):
    request = ask(data, tmp_path / "run", head="class-means", fit_objects=2)
    with pytest.raises(UsageError, match="no object is left to judge of green, red"):
        run_covar_evaluation(request)


def test_class_means_do_not_know_other_names(data, tmp_path, fake):
    with pytest.raises(UsageError, match="class means know the classes of the COVAR alone"):
        run_covar_evaluation(ask(data, tmp_path / "run", head="class-means", candidates="imagenet"))
