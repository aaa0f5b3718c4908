from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from open_clip import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

from fieldmark.core.errors import InputError, UsageError
from fieldmark.models.load import load_encoder
from fieldmark.models.prompts import (
    PEOPLE_TEMPLATES,
    TEMPLATES,
    ensemble_prompts,
    read_templates,
)
from fieldmark.testing import FakeEncoder


def words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.lower().replace(" the ", " a ")))


def test_there_are_forty_distinct_templates_of_our_own():
    assert len(TEMPLATES) == len(set(TEMPLATES)) == 40
    assert all(template.count("{}") == 1 for template in TEMPLATES)
    theirs = {fill("bird") for fill in [*OPENAI_IMAGENET_TEMPLATES, *SIMPLE_IMAGENET_TEMPLATES]}
    ours = {template.format("bird") for template in TEMPLATES}
    # The plainest of all prompts is the paper's own example.
    assert {words(text) for text in ours} & {words(text) for text in theirs} == {
        ("a", "photo", "of", "a", "bird")
    }


def test_the_templates_for_people_are_the_papers():
    assert PEOPLE_TEMPLATES == ("a photo of a {}.", "an image of a {}.", "a picture of a {}.")


def test_the_ensemble_is_the_unit_mean_of_unit_embeddings():
    """Two templates, worked out by hand: red on blue and red on green."""
    prototypes = ensemble_prompts(FakeEncoder(), ["red"], ["{} on blue", "{} on green"])
    half = 1 / np.sqrt(2)
    mean = np.array([half, 0, 0, 0, half / 2, half / 2])
    assert np.allclose(prototypes.numpy(), mean / np.linalg.norm(mean), atol=1e-6)


def test_the_ensemble_of_a_real_text_tower_does_not_depend_on_the_batch(open_clip_folder):
    encoder = load_encoder(f"local-dir:{open_clip_folder('clip')}", device="cpu")
    names = ["landbird", "waterbird", "duck"]
    whole = ensemble_prompts(encoder, names, TEMPLATES[:5])
    parts = ensemble_prompts(encoder, names, TEMPLATES[:5], batch_size=4)
    assert whole.shape == (3, 64)
    assert not whole.requires_grad
    assert torch.allclose(whole, parts, atol=1e-6)
    with torch.no_grad():
        rows = encoder.encode_text([template.format("duck") for template in TEMPLATES[:5]]).numpy()
    mean = rows.astype(np.float64).mean(0)
    assert np.allclose(whole[2].numpy(), mean / np.linalg.norm(mean), atol=1e-5)


@pytest.mark.parametrize(("names", "templates"), [([], ["{}"]), (["a"], [])])
def test_nothing_to_average_is_an_error(names, templates):
    with pytest.raises(UsageError, match="needs a class and a template"):
        ensemble_prompts(FakeEncoder(), names, templates)


def test_a_file_of_templates(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("  a scan of a {}.\n\nein Foto von {}, größer\n", encoding="utf-8")
    assert read_templates(path) == ("a scan of a {}.", "ein Foto von {}, größer")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a {}\nno place\n", r"mine.txt, line 2: template 'no place' has no {} for the class"),
        (b"{} and {}\n", r"mine.txt, line 1: template '{} and {}' has no {} for the class, or"),
        (b"\n\n", r"mine.txt: holds no template"),
        (b"\xff\xfe{}", r"mine.txt: templates cannot be read \(it is not UTF-8 text\)"),
        (None, r"mine.txt: templates cannot be read \(No such file or directory\)"),
    ],
)
def test_a_bad_file_of_templates_is_named_with_its_line(tmp_path, content, message):
    path = tmp_path / "mine.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_templates(path)
