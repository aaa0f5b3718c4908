"""`fieldmark export`, from a tiny BAP run and its evaluation to the tools of others."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import open_clip
import pytest
import torch
from huggingface_hub import ModelCard

from fieldmark.benchmarks.export.base_model import find_base_model
from fieldmark.cli.dispatch import run
from fieldmark.core.records import read_rows, read_run
from fieldmark.data.datasets import build_dataset
from fieldmark.models.load import load_encoder
from tests.models import tiny
from tests.models.hub_stand_in import TOKEN, run_stand_in

SMALL = {"size": 32, "n_objects": 4, "n_scenes": 4, "per_class": 12, "per_group": 3}
QUICK = ["epochs=1", "contexts=2", "anchor_contexts=2", "batch_size=8", "precision=fp32"]
REPO = "lab/mended"


def call(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        run([str(word) for word in words])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Return a folder with `data`, `base`, a BAP run `bap` and its evaluation `figures`."""
    root: Path = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIELDMARK_CACHE", str(root / "cache"))
        data = build_dataset("synthetic", root / "data", options=SMALL)
        base = tiny.write_open_clip(root / "base", "convnext")
        (base / "README.md").write_text(
            "---\nlicense: mit\nbase_model: org/convnext\n---\n# Base\n"
        )
        pools = ["--foregrounds", data / "foregrounds", "--backgrounds", data / "backgrounds"]
        settings = [word for setting in QUICK for word in ("--set", setting)]
        model = f"local-dir:{base}"
        assert call("bap", "--model", model, *pools, "--out", root / "bap", *settings) == 0
        words = ["--model", root / "bap", "--data", data, "--head", "linear-probe"]
        assert call("evaluate", *words, "--out", root / "figures") == 0
    return root


def test_a_mended_model_goes_to_the_hub_with_its_card(made, tmp_path, capsys):
    out = tmp_path / "hub"
    words = ["--to", "hub", "--repo", REPO, "--figures", made / "figures"]
    assert call("export", made / "bap", *words, "--out", out) == 0
    assert f"hf upload {REPO}" in " ".join(capsys.readouterr().err.split())
    card = ModelCard.load(out / "README.md")
    assert (card.data.license, card.data.base_model) == ("mit", "org/convnext")
    values = {
        (one.dataset_split, one.metric_type): one.metric_value for one in card.data.eval_results
    }
    for row in read_rows(made / "figures"):
        if row.metric in ("acc_avg", "acc_wg"):
            assert values[row.split, row.metric] == pytest.approx(row.value, abs=1e-6)
    after = read_run(made / "bap")["weights"]["after"]
    assert f"- weights, after: `{after}`" in card.text
    assert "By `fieldmark bap`." in card.text
    assert str(made) not in card.content, "no local path leaves this machine"
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{out}")
    image = torch.linspace(-1, 1, 3 * 160 * 160).view(1, 3, 160, 160)
    with torch.no_grad():
        theirs = model.eval().encode_image(image, normalize=True)
        ours = load_encoder(str(made / "bap")).encode_image(image)
    assert tiny.largest([theirs - ours]) < 1e-6


@pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")
def test_it_uploads_only_when_asked(made, tmp_path, monkeypatch, capsys):
    words = ["export", made / "bap", "--to", "hub", "--repo", REPO, "--licence", "cc0-1.0"]
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    with run_stand_in() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        assert call(*words, "--out", tmp_path / "a") == 0
        assert hub.asked == []
        assert call(*words, "--out", tmp_path / "b", "--push", "--private") == 0
        assert hub.private == {REPO: True}
        assert set(hub.files[REPO]) == {path.name for path in (tmp_path / "b").iterdir()}
        assert b"license: cc0-1.0" in hub.files[REPO]["README.md"]
    assert f"{hub.address}/{REPO}" in capsys.readouterr().err
    assert call(*words, "--out", tmp_path / "c", "--push") == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert "lab/mended: cannot be uploaded to" in told
    assert (tmp_path / "c" / "open_clip_model.safetensors").is_file(), "the folder stays whole"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--to", "hub"], 2, "--to hub needs a repository; add --repo ORG/NAME"),
        (["--to", "hub", "--repo", "mended"], 2, "is no ORG/NAME"),
        (["--to", "hub", "--repo", REPO, "--private"], 2, "--private is of an upload"),
        (["--to", "hub", "--repo", REPO, "--library", "hf"], 1, "comes from open_clip and is not"),
        (["--to", "hf"], 1, "comes from open_clip and is not rewritten for hf; use open_clip"),
        (["--push"], 2, "--push is for --to hub alone"),
        (["--to", "mlflow", "--repo", REPO], 2, "--repo is for --to hub alone"),
        (["--to", "fiftyone"], 1, "holds no predictions.csv"),
        (["--to", "clip_benchmark"], 1, "holds no accuracy"),
    ],
)
def test_what_cannot_be_is_one_line_and_writes_nothing(
    made, tmp_path, capsys, words, code, message
):
    assert call("export", made / "bap", *words, "--out", tmp_path / "out") == code
    told = capsys.readouterr().err.splitlines()
    assert message in told[-1]
    assert not (tmp_path / "out").exists()


def test_figures_of_other_weights_do_not_get_into_a_card(made, tmp_path, capsys):
    words = ["--to", "hub", "--repo", REPO, "--figures", made / "figures"]
    assert call("export", f"local-dir:{made / 'base'}", *words, "--out", tmp_path / "out") == 2
    assert "measured other weights than these" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_goes_to_a_tracker_and_to_result_files(made, tmp_path, capsys):
    assert call("export", made / "figures", "--to", "tensorboard", "--out", tmp_path / "tb") == 0
    assert f"tensorboard --logdir {tmp_path / 'tb'}" in capsys.readouterr().err
    assert len(list((tmp_path / "tb" / "figures").glob("events.out.tfevents.*"))) == 1
    out = tmp_path / "results"
    assert call("export", made / "figures", "--to", "clip_benchmark", "--out", out) == 0
    found = {json.loads(path.read_text())["split"]: path for path in out.iterdir()}
    assert set(found) == {"test_seen", "test_unseen"}
    assert call("export", tmp_path / "none", "--to", "wandb", "--out", tmp_path / "wb") == 1
    assert "holds no run" in capsys.readouterr().err


def test_a_base_is_found_through_runs_and_licences_are_never_guessed(made, tmp_path):
    base = find_base_model(str(made / "bap"))
    assert base.steps == ("bap",)
    assert (base.uri, base.repo, base.licence) == ("local-dir:base", "org/convnext", "mit")
    (tmp_path / "model").mkdir()
    assert find_base_model(str(tmp_path / "model")).licence == "unknown"
    (tmp_path / "model" / "README.md").write_text("---\nlicense: [\n---\n")
    assert find_base_model(str(tmp_path / "model")).licence == "unknown"
    (tmp_path / "model" / "README.md").write_text(
        "---\nlicense: [mit]\nbase_model:\n- org/clip\n---\n"
    )
    listed = find_base_model(str(tmp_path / "model"))
    assert (listed.licence, listed.repo) == ("mit", "org/clip"), "lists of one"
    (tmp_path / "model" / "README.md").write_text("---\nlicense: [mit, gpl-3.0]\n---\n")
    assert find_base_model(str(tmp_path / "model")).licence == "unknown"
    tag = find_base_model("open_clip:ViT-B-16/laion2b_s34b_b88k")
    assert tag.repo == "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"
    circle = tmp_path / "circle"
    (circle / "encoder").mkdir(parents=True)
    (circle / "run.json").write_text(json.dumps({"arguments": {"model": str(circle)}}))
    assert len(find_base_model(str(circle)).steps) == 16
