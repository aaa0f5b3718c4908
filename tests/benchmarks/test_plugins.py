"""A user's own head and data set, each out of one file, in the tables beside all others."""

from __future__ import annotations

from typing import Any

import pytest

from fieldmark.benchmarks import plugins
from fieldmark.benchmarks.methods import METHODS, choose_methods
from fieldmark.benchmarks.plugins import load_plugin
from fieldmark.core.errors import InputError, UsageError
from fieldmark.data import datasets
from fieldmark.data.datasets import DATASETS
from fieldmark.methods.heads import HEADS
from fieldmark.methods.recipes import RECIPES

HEAD = """
import numpy as np
from fieldmark.methods.head import HeadKind


class Centroids:
    def __init__(self, X, y):
        self.middles = np.stack([X[y == label].mean(axis=0) for label in np.unique(y)])

    def predict(self, X):
        return (np.asarray(X) @ self.middles.T).argmax(axis=1)

    def describe(self):
        return {"head": "centroids"}


CENTROIDS = HeadKind(
    name="centroids",
    make=lambda data: Centroids(data.train.embeddings, data.train.labels),
    needs=frozenset({"train"}),
    seeded=False,
)
"""
DATASET = """
from fieldmark.data.datasets.built import check_built, open_built
from fieldmark.data.datasets.info import DatasetInfo

INFO = DatasetInfo(
    name="mine", summary="mine", licence="CC0-1.0", citation="me", layout="metadata.csv",
    open=open_built, check=check_built,
)
"""


@pytest.fixture(autouse=True)
def registries():
    """Put the registries back as they were."""
    tables: list[Any] = [HEADS, RECIPES, METHODS, plugins.LOADED, datasets._KNOWN.added]
    before = [dict(table) for table in tables]
    yield
    for table, held in zip(tables, before, strict=True):
        table.clear()
        table.update(held)


def write(tmp_path, text, name="mine.py"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_head_is_a_method(tmp_path):
    assert load_plugin(write(tmp_path, HEAD)) == ("centroids",)
    assert (METHODS["centroids"].recipe, METHODS["centroids"].head) == ("native", "centroids")
    assert choose_methods(["centroids", "zero-shot"]) == ("zero-shot", "centroids")
    assert plugins.LOADED["mine.py"]


def test_a_data_set_is_known_by_its_name(tmp_path):
    load_plugin(write(tmp_path, DATASET))
    assert DATASETS["mine"].citation == "me"
    assert "mine" in list(DATASETS)


def test_a_name_that_is_taken_is_refused(tmp_path):
    with pytest.raises(UsageError, match="'dfr' is taken"):
        load_plugin(write(tmp_path, HEAD.replace('name="centroids"', 'name="dfr"')))
    with pytest.raises(UsageError, match="'stamps' is taken"):
        load_plugin(write(tmp_path, DATASET.replace('"mine"', '"stamps"')))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import nothing_like_it", "cannot be run"),
        ("x = 1", "holds no HeadKind"),
        ("(", "cannot be run"),
    ],
)
def test_a_file_that_is_no_plugin_is_named(tmp_path, text, reason):
    with pytest.raises(InputError, match=rf"mine\.py: {reason}"):
        load_plugin(write(tmp_path, text))
