import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldmark.core.errors import UsageError
from fieldmark.data.splits import split_correlated

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 3)), max_size=60)


def columns(rows):
    return (
        np.array([label for label, _ in rows], np.int64),
        np.array([attribute for _, attribute in rows], np.int64),
    )


@settings(deadline=None, max_examples=60)
@given(rows=ROWS, test=st.floats(0, 0.9), val=st.floats(0, 0.9), seed=st.integers(0, 3))
def test_each_class_is_trained_on_in_its_usual_background_alone(rows, test, val, seed):
    labels, attributes = columns(rows)
    usual = {0: 1, 2: 0, 3: 3}
    splits = split_correlated(
        labels, attributes, usual=usual, test_share=test, val_share=val, seed=seed
    )
    for label, attribute, split in zip(labels.tolist(), attributes.tolist(), splits, strict=True):
        if label not in usual or attribute not in usual.values():
            assert split == ""
        elif attribute != usual[label]:
            assert split == "test"
        else:
            assert split in ("train", "val", "test")
    for label, attribute in usual.items():
        group = splits[(labels == label) & (attributes == attribute)]
        if group.size:
            assert (group == "train").any()
        if group.size > 1 and test > 0:
            assert abs((group == "test").sum() - test * group.size) <= 1
        if test == 0:
            assert not (group == "test").any()


def test_four_fifths_and_a_fifth_of_each_class():
    labels = np.repeat([0, 1], [100, 50])
    splits = split_correlated(labels, labels, usual={0: 0, 1: 1}, seed=0)
    assert [(splits[labels == n] == "test").sum() for n in (0, 1)] == [20, 10]
    splits = split_correlated(labels, labels, usual={0: 0, 1: 1}, val_share=0.25, seed=0)
    assert [(splits[labels == n] == "val").sum() for n in (0, 1)] == [20, 10]


def test_one_class_does_not_change_the_other():
    labels = np.repeat([0, 1], [30, 20])
    first = split_correlated(labels, labels, usual={0: 0, 1: 1}, seed=5)
    more = np.repeat([0, 1], [30, 40])
    second = split_correlated(more, more, usual={0: 0, 1: 1}, seed=5)
    assert (first[:30] == second[:30]).all()
    other = split_correlated(labels, labels, usual={0: 0, 1: 1}, seed=6)
    assert (first != other).any()


def test_a_share_that_cannot_be():
    labels = np.array([0, 1])
    with pytest.raises(UsageError, match=r"test_share 1 is not in \[0, 1\)"):
        split_correlated(labels, labels, usual={0: 0, 1: 1}, test_share=1, seed=0)
    with pytest.raises(UsageError, match=r"val_share -0\.1"):
        split_correlated(labels, labels, usual={0: 0, 1: 1}, val_share=-0.1, seed=0)
    with pytest.raises(UsageError, match="1 class cannot be told from another"):
        split_correlated(labels, labels, usual={0: 0}, seed=0)
