"""The paper's examples and the labelled pairs; a hand-written extract of WordNet where offline."""

from __future__ import annotations

import numpy as np
import pytest

from fieldmark.attribution.fine_grained import (
    STARTING_THRESHOLDS,
    Prototypes,
    SimilarityThresholds,
    find_similar_classes,
    match_imagenet,
    read_labelled_pairs,
)
from fieldmark.core.errors import InputError, UsageError
from fieldmark.data.wordnet import WordNet
from fieldmark.metrics.similarity import Spread

# Chains from the root, of made-up nodes in the middle: as many as make the similarities of the
# similar pairs those of WordNet 3.0.
CHAINS = {
    "siamang": ["root", *"abcdefghijkl", "ape", "lesser ape", "siamang"],
    "chimpanzee": ["root", *"abcdefghijkl", "ape", "great ape", "chimpanzee"],
    "jaguar": ["root", *"abcdefghijk", "feline", "big cat", "jaguar"],
    "cheetah": ["root", *"abcdefghijk", "feline", "big cat", "cheetah"],
    "trailer truck": ["root", *"ABCDEFGH", "vehicle", "motor vehicle", "truck", "trailer truck"],
    "moving van": ["root", *"ABCDEFGH", "vehicle", "motor vehicle", "truck", "van", "moving van"],
    "great white shark": ["root", *"abcdef", "fish", "shark", "great white shark"],
    "killer whale": ["root", *"abcdef", "mammal", "whale", "dolphin", "killer whale"],
    "cat": ["root", *"abcdefghijk", "feline", "cat"],
    "lion": ["root", *"abcdefghijk", "feline", "big cat", "lion"],
    "airplane": ["root", *"ABCDEFGH", "craft", "aircraft", "airplane"],
    "bicycle": ["root", *"ABCDEFGH", "vehicle", "wheeled vehicle", "bicycle"],
}
ALIKE = [
    ("siamang", "chimpanzee"),
    ("jaguar", "cheetah"),
    ("trailer truck", "moving van"),
]
UNLIKE = [("cat", "airplane"), ("lion", "bicycle")]


@pytest.fixture(scope="module")
def wordnet():
    numbers: dict[str, int] = {}
    parents: dict[int, tuple[int, ...]] = {}
    for chain in CHAINS.values():
        for place, node in enumerate(chain):
            number = numbers.setdefault(node, len(numbers) + 1)
            parents[number] = (numbers[chain[place - 1]],) if place else ()
    senses = {name.replace(" ", "_"): (numbers[name],) for name in CHAINS}
    return WordNet(senses=senses, parents=parents, words={}, irregular={})


def call(found, first, second):
    names = list(found.names)
    return bool(found.similar[names.index(first), names.index(second)])


def test_the_papers_examples_by_a_hand_written_extract(wordnet):
    found = find_similar_classes(list(CHAINS), wordnet=wordnet)
    assert [call(found, *pair) for pair in ALIKE] == [True] * 3
    assert not any(call(found, *pair) for pair in UNLIKE)
    values = [found.wu_palmer[found.names.index(a), found.names.index(b)] for a, b in ALIKE]
    assert values == pytest.approx([28 / 32, 28 / 30, 24 / 27])
    # What WordNet cannot see, prototypes must.
    assert not call(found, "great white shark", "killer whale")
    assert (found.similar == found.similar.T).all()
    assert found.similar.diagonal().all()
    assert found.unmatched == tuple(CHAINS)


def test_prototypes_join_look_alikes_across_kin(wordnet):
    names = list(CHAINS)
    rows = np.random.default_rng(0).normal(size=(len(names), 64))
    shark, whale = names.index("great white shark"), names.index("killer whale")
    rows[whale] = rows[shark] + 0.05 * rows[whale]
    found = find_similar_classes(names, prototypes=rows, wordnet=wordnet)
    assert call(found, "great white shark", "killer whale")
    assert "similar; Wu-Palmer 0.6" in found.explain(shark, whale)
    assert not any(call(found, *pair) for pair in UNLIKE)


def test_a_name_without_any_evidence_is_unknown_and_not_similar(wordnet):
    found = find_similar_classes(["cat", "Australian shepherd"], wordnet=wordnet)
    assert found.unknown == ("Australian shepherd",)
    assert np.isnan(found.wu_palmer[0, 1])
    assert found.known.tolist() == [[True, False], [False, True]]
    assert "unknown, taken as different" in found.explain(0, 1)


def test_steps_are_a_criterion_only_when_asked_for(wordnet):
    strict = SimilarityThresholds(wu_palmer=1.0)
    pair = ["jaguar", "cheetah"]
    assert not find_similar_classes(pair, wordnet=wordnet, thresholds=strict).similar[0, 1]
    near = SimilarityThresholds(wu_palmer=1.0, steps=1)
    found = find_similar_classes(pair, wordnet=wordnet, thresholds=near)
    assert found.similar[0, 1]
    assert "steps 1.00 (<= 1)" in found.explain(0, 1)


def test_a_spread_of_more_classes_is_used_for_the_z(wordnet):
    rows = np.array([[1.0, 0.0], [1.0, 1.0]])
    given = Prototypes(rows, Spread(0.0, 0.1, 499_500))
    found = find_similar_classes(["cat", "airplane"], prototypes=given, wordnet=wordnet)
    assert found.z[0, 1] == pytest.approx(np.sqrt(0.5) / 0.1)
    assert found.similar[0, 1]


@pytest.mark.parametrize(
    "rows", [np.zeros((3, 4)), np.zeros(2), np.array([[np.inf, 0.0], [0.0, 1.0]])]
)
def test_prototypes_that_do_not_fit_are_refused(wordnet, rows):
    with pytest.raises(InputError, match="for 2 classes, or hold an infinity"):
        find_similar_classes(["cat", "lion"], prototypes=rows, wordnet=wordnet)


def test_names_that_repeat_and_thresholds_that_cannot_be_are_refused(wordnet):
    with pytest.raises(UsageError, match="occurs twice"):
        find_similar_classes(["cat", "cat"], wordnet=wordnet)
    with pytest.raises(UsageError, match="wu_palmer 0"):
        SimilarityThresholds(wu_palmer=0)
    with pytest.raises(UsageError, match="use tuning or reporting"):
        read_labelled_pairs("all")  # type: ignore[arg-type]


def test_the_labelled_pairs_are_balanced_and_the_halves_share_none():
    halves = {part: read_labelled_pairs(part) for part in ("tuning", "reporting")}
    for pairs in halves.values():
        assert sum(pair.similar for pair in pairs) == len(pairs) / 2 == 40
    sets = [{frozenset(pair[:2]) for pair in pairs} for pairs in halves.values()]
    assert not sets[0] & sets[1]
    assert len(sets[0] | sets[1]) == 160


@pytest.mark.network
@pytest.mark.parametrize("thresholds", [None, STARTING_THRESHOLDS])
def test_the_papers_examples_by_wordnet_and_imagenets_prototypes(thresholds):
    names = list(CHAINS)
    prototypes = match_imagenet(names)
    found = find_similar_classes(names, prototypes=prototypes, thresholds=thresholds)
    assert all(call(found, *pair) for pair in [*ALIKE, ("great white shark", "killer whale")])
    assert not any(call(found, *pair) for pair in UNLIKE)
    assert found.unknown == ()
    assert prototypes.spread.pairs == 499_500
