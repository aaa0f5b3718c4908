from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.cluster import DBSCAN, KMeans

from fieldmark.core.errors import InputError, UsageError
from fieldmark.discovery.clustering import CosineMedoids
from fieldmark.discovery.evidence import (
    Vocabulary,
    gather_evidence,
    normalise_rows,
    note_limits,
    predict_zero_shot,
)
from fieldmark.discovery.members import find_medoids, rank_members
from fieldmark.discovery.ravl import DiscoveryConfig, discover, judge_clusters
from fieldmark.discovery.region_embeddings import embed_regions
from fieldmark.discovery.regions import cut_quadrants
from fieldmark.metrics.influence import REFERENCE, Selection, measure_precision
from fieldmark.models.embed import embed_images
from fieldmark.testing import FakeEncoder

CAT, DOG, FLOWER, GRASS = np.eye(6)[:4]
PROTOTYPES = np.stack([CAT, DOG])
CLASSES = ("cat", "dog")


def plant(*, seed=0, count=80, pull=0.9):
    """Make images of an animal, a place and perhaps a flower, which the model takes for a cat.

    Region 0 of an image is its animal, 1 is grass, and 2 is a flower in half of the images of
    either class and grass in the others. The flower's embedding points to "cat" by `pull`, the
    image's is the mean of its regions.
    """
    random = np.random.default_rng(seed)
    labels = np.repeat([0, 1], count // 2)
    flowered = np.tile([True, False], count // 2)
    flower = FLOWER + pull * CAT
    rows = np.stack([0.4 * PROTOTYPES[labels] + 0.1 * random.random((count, 6))] * 3, axis=1)
    # A cat without a flower is hardly told from a dog: the model has learnt the flower instead.
    rows[(labels == 0), 0] += 0.45 * DOG
    rows[:, 0, 4] += 2
    rows[:, 1] = GRASS
    rows[:, 2] = np.where(flowered[:, None], flower, GRASS)
    rows += 0.02 * random.normal(size=rows.shape)
    return gather_evidence(
        regions=rows.reshape(-1, 6),
        owners=np.repeat(np.arange(count), 3),
        labels=labels,
        predictions=predict_zero_shot(rows.mean(axis=1), PROTOTYPES),
        prototypes=PROTOTYPES,
        classes=CLASSES,
    ), np.stack([np.zeros(count), np.zeros(count), flowered], axis=1).ravel() > 0


VOCABULARY = Vocabulary(words=("grass", "a flower", "a cat"), embeddings=[GRASS, FLOWER, CAT])


@pytest.mark.parametrize("selection", [Selection(), REFERENCE])
def test_a_planted_flower_is_found_first_with_its_class_and_words(selection):
    evidence, has_flower = plant()
    found = discover(
        evidence,
        KMeans(3, n_init=3, random_state=0),
        vocabulary=VOCABULARY,
        config=DiscoveryConfig(selection=selection, nearest=5),
    )
    [candidate] = found.candidates
    assert has_flower[list(candidate.nearest)].all()
    assert measure_precision(has_flower[found.clusters == candidate.cluster]).value == 1
    assert (candidate.size, candidate.images, len(candidate.nearest)) == (40, 40, 5)
    assert candidate.tied_class == "cat"
    assert candidate.influence == 1
    assert candidate.adjusted_p_value <= 0.005
    assert candidate.gap > 1.5 > candidate.chance
    assert candidate.interval.low <= candidate.gap <= candidate.interval.high
    assert [word.word for word in candidate.words][:2] == ["a flower", "a cat"]
    assert found.significant() == (candidate,)
    assert found.clustered == 3


class Squares:
    """Pictures of 8 x 8: a green or a blue quadrant, and in half of either class a red one."""

    def __init__(self, count):
        self.labels = np.repeat([0, 1], count // 2)
        self.has_red = np.tile([True, False], count // 2)

    def __len__(self):
        return len(self.labels)

    def read(self, index, /):
        random = np.random.default_rng(index)
        image = Image.new("RGB", (8, 8), (90, 90, 90))
        image.paste(("green", "blue")[self.labels[index]], (0, 0, 4, 4))
        if self.has_red[index]:
            image.paste("red", (4, 4, 8, 8))
        noise = random.integers(-8, 9, size=(8, 8, 3))
        return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))

    def hashes(self):
        return [str(index) for index in range(len(self))]


def test_from_images_to_the_red_square_that_stands_for_green():
    images, encoder = Squares(60), FakeEncoder()
    regions = cut_quadrants(len(images), side=8)
    # A model that calls green what has red in it, and blue what has not, green squares too.
    prototypes = np.array([[1.3, -0.15, 0.6] * 2, [0.3, 0.15, 1.4] * 2])
    evidence = gather_evidence(
        regions=embed_regions(encoder, images, regions=regions).values,
        owners=regions.images,
        labels=images.labels,
        predictions=predict_zero_shot(embed_images(encoder, images).values, prototypes),
        prototypes=prototypes,
        classes=("green", "blue"),
    )
    words = ("red", "lime", "blue", "white")
    vocabulary = Vocabulary(
        words=words, embeddings=encoder.encode_text([f"{word} {word}" for word in words]).numpy()
    )
    found = discover(evidence, CosineMedoids((4, 6)), vocabulary=vocabulary)
    assert found.accuracy == 0.5
    first = found.candidates[0]
    is_red = images.has_red[regions.images] & (np.arange(len(regions)) % 4 == 3)
    assert measure_precision(is_red[list(first.nearest)]).value == 1
    assert first.tied_class == "green"
    assert first.words[0].word == "red"
    assert first.adjusted_p_value <= 0.005


def test_the_gap_of_the_planted_flower_is_what_its_four_groups_say():
    evidence, has_flower = plant()
    [candidate] = discover(evidence, KMeans(3, n_init=3, random_state=0)).candidates
    right = evidence.predictions == evidence.labels
    with_it = np.isin(np.arange(80), evidence.owners[has_flower])
    gaps = {}
    for label, name in enumerate(CLASSES):
        mine = evidence.labels == label
        gaps[name] = right[mine & with_it].mean() - right[mine & ~with_it].mean()
    assert [gap.name for gap in candidate.classes] == ["cat", "dog"]
    for gap in candidate.classes:
        assert gap.gap == pytest.approx(gaps[gap.name])
        assert gap.gap == pytest.approx(gap.accuracy_with - gap.accuracy_without)
        assert gap.interval.low <= gap.gap <= gap.interval.high
        assert (gap.images_with, gap.images_without) == (20, 20)
    # Half of each class has it, so every weight is 1.
    assert candidate.gap == pytest.approx(sum(map(abs, gaps.values())))


def test_nothing_is_found_where_the_flower_does_not_mislead():
    evidence, _ = plant()
    evidence = replace(evidence, predictions=evidence.labels)
    found = discover(evidence, KMeans(3, n_init=3, random_state=0))
    assert found.candidates == found.significant() == ()
    assert found.reason.startswith("of 3 clusters 3 left out: ")
    assert found.notes == ("every image is predicted right, so no cluster has influence",)
    assert found.accuracy == 1


def test_gaps_in_the_numbering_and_regions_in_no_cluster_change_nothing():
    evidence, has_flower = plant()
    plain = np.where(has_flower, 1, np.tile([0, 2, 2], 80))
    sparse = np.where(has_flower, 9, np.tile([4, -1, -1], 80))
    medoids = np.full(10, -7)
    medoids[[4, 9]] = [0, np.flatnonzero(has_flower)[3]]
    [one] = judge_clusters(evidence, plain).candidates
    found = judge_clusters(evidence, sparse, medoids=medoids)
    [other] = found.candidates
    assert (other.cluster, other.gap, other.size) == (9, one.gap, one.size)
    assert other.medoid == other.nearest[0] == np.flatnonzero(has_flower)[3]
    assert found.clustered == 2


def test_any_clusterer_of_scikit_learn_does():
    evidence, has_flower = plant()
    [candidate] = discover(evidence, DBSCAN(eps=0.3, min_samples=5)).candidates
    assert has_flower[candidate.medoid]


def test_medoids_under_cosine_distance_find_it_too():
    evidence, has_flower = plant()
    clusterer = CosineMedoids(3)
    [candidate] = discover(evidence, clusterer).candidates
    assert has_flower[candidate.medoid]
    assert candidate.medoid in clusterer.medoid_indices_


def test_a_clusterers_own_medoids_are_used():
    class Fixed:
        def __init__(self, labels, medoids):
            self.labels_, self.medoid_indices_ = labels, medoids

        def fit(self, X, /):
            assert np.allclose(np.linalg.norm(X, axis=1), 1, atol=1e-5)

    evidence, has_flower = plant()
    fourth = int(np.flatnonzero(has_flower)[4])
    [candidate] = discover(evidence, Fixed(has_flower.astype(int), [0, fourth])).candidates
    assert candidate.medoid == fourth


def test_a_medoid_has_the_least_sum_of_cosine_distances():
    random = np.random.default_rng(0)
    rows, clusters = normalise_rows(random.normal(size=(40, 5)), what="row"), np.arange(40) % 4 - 1
    medoids = find_medoids(rows, clusters, width=4)
    for cluster in range(3):
        members = np.flatnonzero(clusters == cluster)
        sums = [sum(1 - rows[a] @ rows[b] for b in members) for a in members]
        assert medoids[cluster] == members[int(np.argmin(sums))]
    assert medoids[3] == -1


def test_members_go_by_similarity_to_the_medoid_and_ties_by_row():
    rows = normalise_rows([[1, 0], [1, 1], [1, 0], [0, 1], [-1, 0]], what="row")
    assert rank_members(rows, np.array([0, 1, 2, 4]), medoid=2).tolist() == [0, 2, 1, 4]


def test_one_seed_gives_one_discovery():
    evidence, _ = plant(pull=0.5)
    first, second = (
        discover(evidence, KMeans(4, n_init=1, random_state=1), config=DiscoveryConfig(seed=3))
        for _ in range(2)
    )
    assert first.candidates == second.candidates


def test_where_nothing_is_spurious_few_runs_report_a_finding():
    found = 0
    for seed in range(50):
        random = np.random.default_rng(seed)
        evidence, _ = plant(seed=seed)
        right = random.random(80) < 0.7
        labels = evidence.labels
        evidence = replace(evidence, predictions=np.where(right, labels, 1 - labels))
        clusters = random.integers(6, size=240)
        judged = judge_clusters(evidence, clusters, config=DiscoveryConfig(permutations=99))
        found += bool(judged.significant(0.05))
    # 8 or more of 50 at a rate of 0.05 happen less than once in 300.
    assert found <= 7


GOOD: dict[str, Any] = {
    "regions": np.eye(4, 6),
    "owners": [0, 0, 1, 2],
    "labels": [0, 1, 1],
    "predictions": [0, 1, 0],
    "prototypes": PROTOTYPES,
    "classes": CLASSES,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [1, 1, 1]}, "all images are of one class"),
        ({"classes": ("cat",), "prototypes": [CAT]}, "all images are of one class"),
        ({"regions": np.zeros((0, 6)), "owners": []}, "there is no region"),
        ({"regions": np.ones((4, 6))}, "all 4 regions have the same embedding"),
        ({"regions": np.full((4, 6), np.nan)}, "region 0 has an embedding that is zero or not"),
        ({"regions": np.diag([1, 1, 0, 1])}, "region 2 has an embedding that is zero"),
        ({"regions": np.eye(4)}, "dimensions of regions and prototypes differ in number: 4 and 6"),
        ({"regions": np.ones(4)}, r"embeddings of shape \(4,\) are not one row for each region"),
        ({"labels": [0, 1, 2]}, "label 2 is none of the 2 classes with a prompt; give a prompt"),
        ({"predictions": [0, -1, 1]}, "predicted label -1 is none of the 2 classes"),
        ({"owners": [0, 0, 1, 3]}, "image of a region 3 is none of the 3 images"),
        ({"owners": [0, 0, 1]}, "regions and their images differ in number: 4 and 3"),
        ({"predictions": [0, 1]}, "labels and predictions differ in number: 3 and 2"),
        ({"classes": ("a", "b", "c")}, "classes and prototypes differ in number: 3 and 2"),
    ],
)
def test_evidence_that_holds_nothing_is_one_clear_line(change, message):
    gather_evidence(**GOOD)
    with pytest.raises(InputError, match=message) as caught:
        gather_evidence(**(GOOD | change))
    assert "\n" not in str(caught.value)


def test_clusters_that_do_not_fit_are_one_clear_line():
    evidence = gather_evidence(**GOOD)
    with pytest.raises(InputError, match=r"4 regions cannot be clustered .*fewer clusters"):
        discover(evidence, KMeans(5))
    with pytest.raises(InputError, match=r"clusters of shape \(3,\) do not fit 4 regions"):
        judge_clusters(evidence, [0, 1, 1])
    with pytest.raises(InputError, match="a medoid is missing or lies in another cluster"):
        judge_clusters(evidence, [0, 1, 1, 0], medoids=[0])
    with pytest.raises(InputError, match="a medoid is missing or lies in another cluster"):
        judge_clusters(evidence, [0, 1, 1, 0], medoids=[1, 0])
    with pytest.raises(UsageError, match=r"permutations 0 or .* out of its range"):
        DiscoveryConfig(permutations=0)
    with pytest.raises(InputError, match="no region is in a cluster"):
        judge_clusters(evidence, [-1] * 4)
    with pytest.raises(InputError, match="images of 2 dimensions do not fit prototypes of 6"):
        predict_zero_shot([[1, 1]], PROTOTYPES)


def test_a_vocabulary_of_another_width_is_refused():
    evidence, has_flower = plant()
    words = Vocabulary(words=("a", "b"), embeddings=np.eye(2))
    with pytest.raises(InputError, match=r"2 words with embeddings of shape \(2, 2\) do not fit"):
        judge_clusters(evidence, has_flower.astype(int), vocabulary=words)


def test_what_limits_a_finding_is_noted():
    evidence = gather_evidence(
        regions=np.eye(2, 9),
        owners=[0, 0],
        labels=[0, 0, *range(1, 8)],
        predictions=[1] * 9,
        prototypes=np.eye(9),
        classes=tuple("abcdefghi"),
    )
    assert note_limits(evidence) == (
        "no image: i",
        "one image only, so no gap: b, c, d, e, f and 2 more",
        "8 of 9 images have no region and count as without every cluster",
    )
