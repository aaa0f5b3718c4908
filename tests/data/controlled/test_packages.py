"""Objects and features out of the packages that hold them."""

from __future__ import annotations

import numpy as np
import pytest

from fieldmark.data.controlled.canvases import draw_images
from fieldmark.data.controlled.features import KINDS, draw_feature, to_pixels
from fieldmark.data.controlled.images import Setting
from fieldmark.data.controlled.objects import FASHION, STAMPS, open_objects

pytestmark = pytest.mark.network


@pytest.mark.parametrize("name", KINDS["object cut-out"])
def test_a_cutout_is_opaque_in_part(name):
    alpha = to_pixels(draw_feature(name, side=64, random=np.random.default_rng(0)))[..., 3] > 127
    assert 0.2 < alpha.mean() < 1


def test_fashion_has_its_published_sizes_and_folds():
    objects = open_objects("fashion")
    assert objects.classes == FASHION
    assert np.bincount(objects.labels[objects.training]).tolist() == [6000] * 10
    assert np.bincount(objects.labels[~objects.training]).tolist() == [1000] * 10
    assert objects.read(0).size == (28, 28)


def test_every_class_of_stamps_has_objects_in_both_folds():
    objects = open_objects("stamps")
    for label in range(len(STAMPS)):
        training = objects.list_fold("training", label=label)
        evaluation = objects.list_fold("evaluation", label=label)
        assert len(evaluation) >= 3
        assert len(training) > len(evaluation)
        for number in (training[0], evaluation[0]):
            assert to_pixels(objects.read(int(number)))[..., 3].max() == 255


@pytest.mark.parametrize("domain", ["fashion", "stamps"])
def test_a_setting_is_drawn(domain):
    objects = open_objects(domain)
    setting = Setting(
        domain=domain,
        feature="pumpkin",
        classes=objects.classes[:3],
        target=objects.classes[1],
        correlation=0.9,
    )
    images = draw_images(setting, objects, fold="evaluation", count=12, side=32, tied=False)
    assert images.feature.sum() == 6
    assert (images.shows == 3).sum() == 6
