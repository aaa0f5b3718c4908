"""Which images the strips of a candidate show."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from fieldmark.benchmarks.discovery_pictures import choose_images
from fieldmark.discovery.evidence import gather_evidence
from fieldmark.discovery.ravl import DiscoveryConfig, judge_clusters
from fieldmark.metrics.influence import Selection


def make_scene() -> Any:
    """Four images of three regions: two of image 0 and one of image 1 are in cluster 1."""
    regions = np.array(
        [
            [9, 1],
            [9, 2],
            [0, 9],
            [8, 3],
            [1, 9],
            [0, 8],
            [1, 8],
            [0, 7],
            [1, 7],
            [0, 6],
            [1, 6],
            [0, 5],
        ]
    )
    evidence = gather_evidence(
        regions=regions,
        owners=np.repeat(np.arange(4), 3),
        labels=[0, 1, 0, 1],
        predictions=[0, 0, 1, 1],
        prototypes=np.eye(2),
        classes=("cat", "dog"),
    )
    clusters = np.isin(np.arange(12), (0, 1, 3)).astype(int)
    found = judge_clusters(
        evidence,
        clusters,
        config=DiscoveryConfig(selection=Selection(threshold=None), permutations=9),
    )
    (candidate,) = (one for one in found.candidates if one.cluster == 1)
    search = SimpleNamespace(members={1: np.flatnonzero(clusters == 1)})
    return SimpleNamespace(evidence=evidence, search=search, candidate=candidate)


def test_the_first_strip_shows_each_image_once_and_counts_images():
    scene = make_scene()
    assert len(scene.candidate.nearest) == 3
    count, chosen = choose_images(scene, scene.candidate)["nearest"]
    assert count == 2
    assert [image for image, _ in chosen] == [0, 1]


def test_regions_that_a_candidate_names_come_before_nearer_ones():
    scene = make_scene()
    _, chosen = choose_images(scene, replace(scene.candidate, nearest=(3, 1)))["nearest"]
    assert chosen == [(1, 3), (0, 1)]
