"""Draw settings from COCO: which category is tied to which, and how closely (RaVL appendices B, D).

Feature and class are sampled from the annotated attributes, and a label set has 2 to 5 classes. An
attribute is a category that some caption names, since a model that learns from captions can learn
no other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fieldmark.core.errors import NotApplicableError
from fieldmark.core.seeds import generator
from fieldmark.data.controlled.coco import (
    LEAST_EVALUATION,
    LEAST_TRAINING,
    choose_images,
    name_feature,
)
from fieldmark.data.controlled.coco_split import View
from fieldmark.data.controlled.images import Setting

# Those of RaVL's generator.
CORRELATIONS = (0.7, 0.8, 0.9, 0.95, 0.99)
LABEL_SETS = (2, 5)
_TRIES = 200


def list_attributes(view: View) -> tuple[str, ...]:
    """List the categories that an image shows while one of its captions names them."""
    split = view.split
    told = (view.named & view.clear[split.speakers]).sum(0)
    return tuple(name for name, count in zip(split.names, told, strict=True) if count)


def draw_settings(
    training: View,
    evaluation: View,
    *,
    count: int,
    seed: int,
    correlations: Sequence[float] = CORRELATIONS,
) -> tuple[Setting, ...]:
    """Draw settings that COCO has images enough for.

    A feature is drawn, then a label set of 2 to 5 classes that occur both with and without it, then
    which of them is the target and how closely it is tied.

    Args:
        training: of `train2017`.
        evaluation: of `val2017`.
        count: how many, no two alike.
        seed: of the draw; the first settings of a longer list are the same.
        correlations: values of Cramer's V to draw from.

    Raises:
        NotApplicableError: there are too few such settings; the message says how many were found.
    """
    pools = _find_pools(training, evaluation)
    features = sorted(pools)
    random = generator(seed, "coco settings")
    found: dict[str, Setting] = {}
    for _ in range(_TRIES * count):
        if len(found) == count or not features:
            break
        feature = features[random.integers(len(features))]
        pool = pools[feature]
        size = min(int(random.integers(LABEL_SETS[0], LABEL_SETS[1] + 1)), len(pool))
        classes = tuple(pool[place] for place in np.sort(random.permutation(len(pool))[:size]))
        setting = Setting(
            domain="coco",
            feature=name_feature(feature),
            size=1.0,
            classes=classes,
            target=classes[random.integers(size)],
            correlation=float(correlations[int(random.integers(len(correlations)))]),
        )
        # Two label sets of one size have one name.
        if setting.name not in found and _bears(setting, training, evaluation):
            found[setting.name] = setting
    if len(found) == count:
        return tuple(found.values())
    raise NotApplicableError(
        f"{training.split.source.name} and {evaluation.split.source.name} bear {len(found)} of the "
        f"{count} settings asked for, at {LEAST_TRAINING} training images a class and "
        f"{LEAST_EVALUATION} evaluation images with and without the feature"
    )


def _find_pools(training: View, evaluation: View) -> dict[str, list[str]]:
    """List for each feature the classes that occur often enough with and without it.

    Counted without regard to the rest of a label set, so it leaves out only what cannot do.
    """
    both = set(list_attributes(training)) & set(list_attributes(evaluation))
    known = [name for name in training.split.names if name in both]
    fits = ~np.eye(len(known), dtype=np.bool_)
    for view, least in ((training, LEAST_TRAINING), (evaluation, LEAST_EVALUATION)):
        columns = [view.split.names.index(name) for name in known]
        clear = view.clear[:, columns].astype(np.float32)
        together, alone = clear.T @ clear, clear.T @ (1 - clear)
        # A tight tie needs next to no training images of a class without the feature, or with it.
        held = together + alone if view is training else np.minimum(together, alone)
        fits &= held >= least
    pools = {
        feature: [name for name, fit in zip(known, fits[:, column], strict=True) if fit]
        for column, feature in enumerate(known)
    }
    return {feature: pool for feature, pool in pools.items() if len(pool) >= LABEL_SETS[0]}


def _bears(setting: Setting, training: View, evaluation: View) -> bool:
    try:
        choose_images(setting, training, tied=True)
        choose_images(setting, evaluation, tied=False)
    except NotApplicableError:
        return False
    return True
