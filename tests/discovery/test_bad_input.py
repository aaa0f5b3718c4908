"""Bad input of issue 4: one clear line each, wherever it is noticed first."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from fieldmark.core.errors import InputError, TableError, UsageError
from fieldmark.data.tables import ImageTable
from fieldmark.discovery.clustering import CosineMedoids
from fieldmark.discovery.evidence import gather_evidence, predict_zero_shot
from fieldmark.discovery.ravl import discover, judge_clusters
from fieldmark.discovery.region_embeddings import embed_regions
from fieldmark.discovery.region_sources import make_regions, parse_region_source
from fieldmark.discovery.regions import collect_regions, cut_grid, propose_regions
from fieldmark.metrics.influence import Selection
from fieldmark.testing import FakeEncoder

SPEC = FakeEncoder().spec
ALL = Selection(threshold=-np.inf)


@pytest.fixture
def table(tmp_path):
    """Return four images of 8 x 8: two of a red square on blue, two of a green one."""
    paths = []
    for index in range(4):
        image = Image.new("RGB", (8, 8), "blue")
        image.paste("red" if index < 2 else "green", (2, 2, 6, 6))
        paths.append(tmp_path / f"{index}.png")
        image.save(paths[-1])
    return ImageTable(
        name="squares",
        root=tmp_path,
        ids=tuple("abcd"),
        paths=tuple(paths),
        labels=np.array([0, 0, 1, 1]),
        classes=("red", "green"),
    )


def _evidence(count=12, **change):
    """Return evidence of `count` images of two classes with two regions each, two kinds in all."""
    labels = np.arange(count) % 2
    given: dict[str, Any] = {
        "regions": np.tile([[1.0, 0.1, 0.0], [0.0, 1.0, 0.1]], (count, 1))
        + np.random.default_rng(0).normal(scale=0.01, size=(2 * count, 3)),
        "owners": np.repeat(np.arange(count), 2),
        "labels": labels,
        "predictions": np.where(np.arange(count) % 3 == 0, 1 - labels, labels),
        "prototypes": np.eye(3)[:2],
        "classes": ("cat", "dog"),
    }
    return gather_evidence(**(given | change))


def _one_line(error, message, call, *args, **options):
    with pytest.raises(error, match=message) as raised:
        call(*args, **options)
    assert "\n" not in str(raised.value)


def test_one_class():
    _one_line(InputError, "all images are of one class; give", _evidence, labels=[0] * 12)
    _one_line(
        InputError,
        "all images are of one class",
        _evidence,
        classes=("cat",),
        prototypes=np.eye(3)[:1],
        labels=[0] * 12,
        predictions=[0] * 12,
    )


def test_one_image_in_a_class_is_a_note_and_its_gap_is_left_out():
    evidence = _evidence(labels=[1, *[0] * 11])
    clusters = np.tile([0, 1], 12)
    clusters[[4, 6]] = 1
    found = judge_clusters(evidence, clusters, config=_config())
    assert "one image only, so no gap: dog" in found.notes
    names = {gap.name for candidate in found.candidates for gap in candidate.classes}
    assert names == {"cat"}


def _config():
    from fieldmark.discovery.ravl import DiscoveryConfig

    return DiscoveryConfig(selection=ALL, permutations=20)


def test_no_regions(table, tmp_path):
    _one_line(InputError, "there is no region", _evidence, regions=np.zeros((0, 3)), owners=[])
    _one_line(
        InputError,
        r"none: no region in 4 images; give some boxes",
        propose_regions,
        table,
        lambda image: [],
        spec=SPEC,
        source="none",
    )
    _one_line(InputError, "no region in 0 images", cut_grid, 0, side=8, rows=1, columns=1)
    (tmp_path / "boxes.csv").write_text("image,x0,y0,x1,y1\nelsewhere,0,0,8,8\n")
    source = parse_region_source(f"boxes:{tmp_path / 'boxes.csv'}")
    _one_line(
        InputError, r"boxes.csv: no region in 4 images", make_regions, source, table, spec=SPEC
    )


@pytest.mark.parametrize(
    "box", [(-3, 0, 4, 4), (0, 0, 40, 4), (4, 4, 4, 8), (6, 0, 2, 8), (0, 0, float("nan"), 4)]
)
def test_boxes_outside_of_the_image_or_of_no_area(table, tmp_path, box):
    message = r"is empty or not inside 8 x 8; give x0 < x1 and y0 < y1"
    _one_line(InputError, message, collect_regions, [0], [box], count=4, side=8, source="by hand")
    _one_line(
        InputError, message, propose_regions, table, lambda _: [box], spec=SPEC, source="mine"
    )
    corners = ",".join(str(value) for value in box)
    (tmp_path / "boxes.csv").write_text(f"image,x0,y0,x1,y1\na,0,0,8,8\nb,{corners}\n")
    source = parse_region_source(f"boxes:{tmp_path / 'boxes.csv'}")
    _one_line(
        TableError, rf"boxes.csv, row 3: box .*{message}", make_regions, source, table, spec=SPEC
    )


def test_all_embeddings_equal(table):
    _one_line(
        InputError,
        "all 24 regions have the same embedding; look at the images",
        _evidence,
        regions=np.ones((24, 3)),
    )
    # The same from images on: one plain colour everywhere.
    plain = [Image.new("RGB", (8, 8), "red")] * 4
    for path, image in zip(table.paths, plain, strict=True):
        image.save(path)
    regions = cut_grid(4, side=8, rows=2, columns=2)
    embedded = embed_regions(FakeEncoder(), table, regions=regions)
    _one_line(
        InputError,
        "all 16 regions have the same embedding",
        gather_evidence,
        regions=embedded.values,
        owners=regions.images,
        labels=table.labels,
        predictions=table.labels,
        prototypes=np.eye(6)[:2],
        classes=table.classes,
    )


def test_nan_embeddings(table):
    bad = np.eye(24, 3) + 1
    bad[5, 1] = np.nan
    _one_line(InputError, "region 5 has an embedding that is zero or not", _evidence, regions=bad)
    _one_line(
        InputError, "prototype of a class 1 has", _evidence, prototypes=[[1, 0, 0], [np.inf, 0, 0]]
    )
    _one_line(InputError, "image 0 has an embedding", predict_zero_shot, [[np.nan, 1]], np.eye(2))
    encoder = FakeEncoder()
    with torch.no_grad():
        encoder.image_tower.mix.weight[2, 2] = torch.nan
    regions = cut_grid(4, side=8, rows=1, columns=1)
    message = "a region of image 0 has an embedding that is not finite"
    for way in (None, "tokens", "pool"):
        _one_line(InputError, message, embed_regions, encoder, table, regions=regions, way=way)


@pytest.mark.parametrize(
    "clusterer", [KMeans(25), CosineMedoids(25), CosineMedoids((25, 30)), CosineMedoids(0)]
)
def test_more_clusters_than_regions(clusterer):
    _one_line(
        InputError,
        r"24 regions cannot be clustered \(.*\); ask for fewer clusters",
        discover,
        _evidence(),
        clusterer,
    )


@pytest.mark.parametrize("clusterer", [KMeans(9, n_init=1), CosineMedoids(9)])
def test_more_clusters_than_distinct_regions_is_a_note_and_no_warning(clusterer):
    evidence = _evidence(regions=np.tile([[1.0, 0, 0], [0, 1.0, 0]], (12, 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = discover(evidence, clusterer, config=_config())
    assert found.clustered == 2
    [note] = [note for note in found.notes if note.startswith("clustering: ")]
    assert "2" in note
    assert "9" in note
    assert "\n" not in note


def test_other_warnings_of_a_clusterer_still_go_out_faked():
    """The clusterer is faked: it warns twice of itself, and once of something else."""

    class Noisy:
        labels_ = np.tile([0, 1], 12)

        def fit(self, X, /):
            for _ in range(2):
                warnings.warn("not\nsettled", ConvergenceWarning, stacklevel=1)
            warnings.warn("old option", UserWarning, stacklevel=1)

    with pytest.warns(UserWarning, match="old option"):
        found = discover(_evidence(), Noisy(), config=_config())
    assert [note for note in found.notes if "settled" in note] == ["clustering: not settled"]


def test_a_label_missing_from_the_prompts():
    _one_line(
        InputError,
        "label 2 is none of the 2 classes with a prompt; give a prompt for every class",
        _evidence,
        labels=np.arange(12) % 3,
    )
    _one_line(
        InputError,
        "classes and prototypes differ in number: 3 and 2",
        _evidence,
        classes=("cat", "dog", "cow"),
        labels=np.arange(12) % 3,
    )


def test_words_that_name_no_regions():
    _one_line(UsageError, "unknown source of regions 'squares'", parse_region_source, "squares")
