"""Unit embeddings with a planted core and a planted spurious direction."""

import numpy as np

from fieldmark.core.seeds import generator
from fieldmark.methods.head import Features

NAMES = {0: "landbird on land", 1: "landbird on water", 2: "waterbird on land",
         3: "waterbird on water"}  # fmt: skip
TRAIN, EVEN = (1900, 100, 100, 1900), (500, 500, 500, 500)


def plant_directions(*, dim=32):
    """Two orthonormal directions: core and spurious."""
    return np.linalg.qr(generator(0, "directions").normal(size=(dim, 2)))[0].T


def plant_features(counts, *, split, seed=0, dim=32, core=1.5, spurious=2.0):
    """Groups 2 * class + place; noise of variance 1 in each coordinate, then unit norm."""
    random = generator(seed, "planted", split)
    labels, places = np.repeat([0, 0, 1, 1], counts), np.repeat([0, 1, 0, 1], counts)
    directions = plant_directions(dim=dim)
    signs = np.stack([(2 * labels - 1) * core, (2 * places - 1) * spurious], axis=1)
    values = random.normal(size=(len(labels), dim)) + signs @ directions
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return Features(
        embeddings=values.astype(np.float32), labels=labels, groups=2 * labels + places, names=NAMES
    )


def best_threshold_accuracy(score, places):
    """Accuracy of the best split of one number (n,), either way round, at telling two places."""
    found = places[np.argsort(score)]
    ones_left = np.concatenate([[0], np.cumsum(found)])
    zeros_left = np.arange(len(found) + 1) - ones_left
    right = zeros_left + ones_left[-1] - ones_left
    return float(max(right.max(), len(found) - right.min()) / len(found))
