"""Shuffles of whole units: what they move, and the level of a test that uses them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldmark.core.seeds import generator
from fieldmark.metrics.cluster_gaps import permute_gaps
from fieldmark.metrics.unit_shuffles import shuffle_units

RUNS = 100


@given(units=st.lists(st.integers(0, 4), min_size=1, max_size=12), seed=st.integers(0, 99))
def test_the_places_of_a_unit_are_filled_by_one_unit_and_each_unit_gives_once(units, seed):
    own = np.array(units)
    for row in shuffle_units(own, size=5, random=generator(seed, "test")):
        donors = {unit: set(own[row[own == unit]].tolist()) for unit in set(units)}
        assert all(len(names) == 1 for names in donors.values())
        assert set().union(*donors.values()) == set(units)


@given(count=st.integers(1, 5), width=st.integers(1, 4), seed=st.integers(0, 99))
def test_units_of_one_size_are_permuted_without_loss(count, width, seed):
    own = np.repeat(np.arange(count), width)
    drawn = shuffle_units(own, size=4, random=generator(seed, "test"))
    assert (np.sort(drawn, axis=1) == np.arange(count * width)).all()


@pytest.mark.parametrize("most", [8, 15])
def test_the_level_holds_where_images_of_one_object_are_right_or_wrong_together(most):
    found = np.zeros(2)
    for seed in range(RUNS):
        random = generator(seed, "level", most)
        sizes = np.full(20, 8) if most == 8 else random.integers(1, most + 1, 20)
        objects = np.repeat(np.arange(20), sizes)
        right, present = (random.random((2, 20)) < 0.5)[:, objects]
        for place, units in enumerate((None, objects)):
            chance = permute_gaps(
                present[:, None],
                np.zeros(len(objects), int),
                correct=right,
                width=1,
                seed=seed,
                permutations=99,
                units=units,
            )
            found[place] += chance.p_values[0] <= 0.05
    alone, together = found / RUNS
    # 0.11 is the upper end of 99 % of runs at a level of 0.05.
    assert together <= 0.11 < 0.3 < alone
