"""Labels out of captions: whole words, plurals, overlaps, several and none."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldmark.core.errors import InputError, UnknownNameError
from fieldmark.methods.mitigation.captions import ParsedCaptions, assign_labels, parse_captions

NAMES = ["dog", ("hot dog", "frankfurter"), ("person", "people", "man"), "bus", "dog house"]


@pytest.mark.parametrize(
    ("caption", "classes"),
    [
        ("A DOG.", (0,)),
        ("dogs, dogs and a dog's bowl", (0,)),
        ("dogma and hotdogs and underdog", ()),
        ("a hot dog", (1,)),
        ("hot-dogs on a bus", (1, 3)),
        ("a hot  dog\nand a dog", (1, 0)),
        ("a hot_dog", (1,)),
        ("Two buses full of people", (3, 2)),
        ("a man with a frankfurter", (2, 1)),
        ("a hot dog house", (4,)),
        ("dog house dog", (4, 0)),
        ("", ()),
        ("business as usual", ()),
        ("a woman", ()),
        ("der Hund", ()),
    ],
)
def test_captions_name_classes(caption, classes):
    assert parse_captions([caption], NAMES).mentions == (classes,)


def test_excluded_phrases_are_no_class():
    captions = ["a guide dog", "two guide dogs", "a dog and a guide-dog", "a dog"]
    parsed = parse_captions(captions, ["dog"], excluded=["guide dog"])
    assert parsed.mentions == ((), (), (0,), (0,))
    assert (parsed.unnamed, parsed.several) == (2, 0)


def test_signs_in_names_are_signs():
    assert parse_captions(["a c++ book", "c"], ["c++"]).mentions == ((0,), ())


def test_a_plural_that_is_a_name_of_its_own_stays_one():
    for names in (["glass", "glasses"], ["glasses", "glass"]):
        parsed = parse_captions(["a glass", "glasses"], names)
        own = [names.index("glass"), names.index("glasses")]
        assert [of for (of,) in parsed.mentions] == own


@given(st.lists(st.sampled_from(["cat", "cow", "owl", "a", "red", "cats", "cowl"]), max_size=8))
def test_single_words_equal_splitting(words):
    codes = {"cat": 0, "cats": 0, "cow": 1, "cows": 1, "owl": 2, "owls": 2}
    wanted = tuple(dict.fromkeys(codes[word] for word in words if word in codes))
    assert parse_captions([" ".join(words)], ["cat", "cow", "owl"]).mentions == (wanted,)


PARSED = ParsedCaptions(mentions=((2, 0), (1,), (), (0, 1, 2)), classes=3)


@pytest.mark.parametrize(
    ("several", "wanted"),
    [
        ("skip", [[0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]),
        ("first", [[0, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 0]]),
        ("all", [[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 1]]),
    ],
)
def test_several_labels(several, wanted):
    assert assign_labels(PARSED, several=several).astype(int).tolist() == wanted
    assert (PARSED.unnamed, PARSED.several) == (1, 2)


def test_a_random_label_is_one_of_them_and_follows_from_the_seed():
    parsed = ParsedCaptions(mentions=((0, 2),) * 400, classes=3)
    labels = assign_labels(parsed, several="random", seed=1)
    assert (labels.sum(1) == 1).all()
    assert not labels[:, 1].any()
    assert 150 < labels[:, 0].sum() < 250
    assert np.array_equal(labels, assign_labels(parsed, several="random", seed=1))
    assert not np.array_equal(labels, assign_labels(parsed, several="random", seed=2))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "there are no classes"),
        (["dog", []], "class 1 has no name"),
        (["dog", " "], "class 1 has an empty name"),
        (["dog", "Dog"], "'Dog' is a name of class 0 and of another"),
        (["dog", ("cat", "dog")], "'dog' is a name of class 0 and of another"),
    ],
)
def test_bad_names(names, message):
    with pytest.raises(InputError, match=re.escape(message)):
        parse_captions(["a dog"], names)


def test_an_unknown_option():
    with pytest.raises(UnknownNameError, match="known: all, first, random, skip"):
        assign_labels(PARSED, several="most")  # type: ignore[arg-type]
