import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from fieldmark.benchmarks.gender import (
    LABELLER,
    TEMPLATES,
    build_gender,
    compare_to_prototypes,
    label_people,
)
from fieldmark.core.errors import InputError
from fieldmark.data.backgrounds import read_backgrounds
from fieldmark.data.datasets.built import open_built
from fieldmark.data.datasets.coco import open_coco
from fieldmark.data.datasets.coco_gender import INFO
from fieldmark.data.datasets.people import People, read_margins
from fieldmark.testing import FakeEncoder
from tests.data.datasets.coco_trees import write_people, write_places

# From red to green over mixtures, so that margins differ.
COLOURS = [(250 - 6 * n, 60 + 6 * n, 0) for n in range(32)]


class FakeLabeller(FakeEncoder):
    """Takes men for red and women for green, on grey."""

    def encode_text(self, texts):
        return super().encode_text(
            [t.replace("woman", "green").replace("man", "red") for t in texts]
        )


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    write_people(folder / "coco", COLOURS)
    write_places(folder, {"excavation": 4, "construction_site": 4, "kitchen": 8, "alley": 2})
    return folder


def open_people(sources):
    return People(open_coco(sources / "coco", classes="person", min_box=112), size=16)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 99), st.floats(0.1, 150))
def test_margins_agree_with_a_softmax(seed, scale):
    rng = np.random.default_rng(seed)
    vectors, prototypes = rng.normal(size=(5, 4)), rng.normal(size=(2, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    found = compare_to_prototypes(vectors, prototypes, logit_scale=scale)
    share = softmax(scale * vectors @ prototypes.T, axis=1)
    np.testing.assert_allclose(found, share[:, 0] - share[:, 1], atol=1e-12)


def test_people_are_seen_alone_on_grey(sources):
    people = open_people(sources)
    margins = label_people(people, FakeLabeller(background=0))
    red, green = np.array(COLOURS, float).T[:2]
    cosine = (red - green) / np.hypot(red, green)
    np.testing.assert_allclose(margins, np.tanh(10 * cosine / 2), atol=0.02)
    assert (np.diff(margins) < 0).all()


def test_margins_are_kept_by_content(sources, tmp_path):
    people = open_people(sources)
    told = []
    first = label_people(
        people, FakeLabeller(), cache=tmp_path, progress=lambda done, total: told.append(done)
    )
    assert told[-1] == len(people)
    again = label_people(
        people, FakeLabeller(), cache=tmp_path, progress=lambda *_: pytest.fail("embedded again")
    )
    np.testing.assert_array_equal(again, first)


def test_a_person_who_cannot_be_read_has_no_margin(tmp_path):
    tree = write_people(tmp_path, COLOURS[:3])
    (tree.folder / "000000000002.png").write_bytes(b"torn")
    people = People(open_coco(tmp_path, classes="person", min_box=112), size=16)
    assert np.isnan(label_people(people, FakeLabeller())).tolist() == [False, True, False]
    for path in tree.folder.iterdir():
        path.write_bytes(b"torn")
    with pytest.raises(InputError, match=r"nobody can be labelled: .*000000000001\.png"):
        label_people(people, FakeLabeller())


def test_from_photographs_to_a_task(sources, tmp_path):
    told = []
    places = read_backgrounds(sources / "places365_standard" / "train")
    options = {
        "root": sources / "coco",
        "places": places,
        "per_class": 6,
        "test_per_class": 4,
        "calibration": 1,
        "size": 16,
        "bounds": (0.05, 1.0),
    }
    folder = build_gender(
        tmp_path / "a",
        encoder=FakeLabeller(),
        cache=tmp_path / "cache",
        on_progress=lambda what, done, total: told.append((what, done, total)),
        **options,
    )
    assert INFO.check(folder) == []
    assert ("people", 32, 32) in told
    assert told[-1] == ("composites", 12, 12)
    table = open_built(folder).table
    assert table.objects is not None
    margins = read_margins(folder / "margins.csv")(open_people(sources))
    for label, person in zip(table.labels, table.objects, strict=True):
        assert (margins[int(person) - 1] > 0) == (table.classes[label] == "man")
    card = json.loads((folder / "card.json").read_text())
    assert card["labeller"]["encoder"] == "fake:colours"
    assert card["labeller"]["templates"] == list(TEMPLATES)
    # The paper's labeller is not needed again where the margins are kept.
    assert LABELLER == "open_clip:ViT-H-14/laion2b_s32b_b79k"
    again = build_gender(tmp_path / "b", margins=folder / "margins.csv", **options)
    assert (again / "metadata.csv").read_bytes() == (folder / "metadata.csv").read_bytes()
