from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fieldmark.core.errors import InputError, MaskError, TableError, UsageError
from fieldmark.data.datasets.coco import open_coco
from fieldmark.data.datasets.people import (
    People,
    choose_people,
    count_margins,
    find_bins,
    isolate_person,
    read_margins,
    sample_flat,
    write_margins,
)
from tests.data.datasets.coco_trees import write_people


def test_a_person_alone_on_grey():
    cutout = Image.new("RGBA", (30, 60), (0, 0, 0, 0))
    cutout.paste((200, 10, 10, 255), (5, 10, 15, 50))
    canvas = np.asarray(isolate_person(cutout, size=40))
    assert canvas.shape == (40, 40, 3)
    assert (canvas[:, 15:25] == (200, 10, 10)).all()
    assert (canvas[:, :15] == 128).all()
    assert (canvas[:, 25:] == 128).all()


def test_what_lies_around_a_person_does_not_show():
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[...] = (0, 255, 0, 0)
    pixels[:, 10:30] = (255, 0, 0, 255)
    pixels[5:35, :, 3] = np.where(pixels[5:35, :, 3] > 0, 255, 100)
    canvas = np.asarray(isolate_person(Image.fromarray(pixels), size=40))
    assert (canvas[:, :9] == 128).all()


def test_no_person_is_no_picture():
    with pytest.raises(MaskError, match="all zero"):
        isolate_person(Image.new("RGBA", (9, 9)), size=8)


def test_people_hash_by_photograph_outline_and_canvas(tmp_path):
    write_people(tmp_path, [(255, 0, 0), (0, 255, 0)])
    foregrounds = open_coco(tmp_path, classes="person", min_box=112)
    people = People(foregrounds, size=16)
    assert len(people) == 2
    assert people.read(0).getpixel((8, 8)) == (255, 0, 0)
    assert len({*people.hashes(), *foregrounds.hashes(), *People(foregrounds).hashes()}) == 6


def test_bins_by_hand():
    margins = np.array([0.2, 0.25, 0.26, -0.99, 0.9901, 0.1999, np.nan])
    # A bin is 0.79 / 15 = 0.0527 wide.
    assert find_bins(margins).tolist() == [0, 0, 1, 14, -1, -1, -1]
    with pytest.raises(UsageError, match=r"15 bins between 0\.9 and 0\.2"):
        find_bins(margins, bounds=(0.9, 0.2))


def test_a_full_round_draws_one_of_each_bin():
    margins = np.repeat([0.25, 0.45, 0.65, 0.85], [50, 3, 2, 1])
    drawn = sample_flat(margins, count=8, bins=4, bounds=(0.2, 1.0), seed=1)
    assert Counter(margins[drawn[:4]].tolist()) == {0.25: 1, 0.45: 1, 0.65: 1, 0.85: 1}
    assert set(margins[drawn[4:7]].tolist()) == {0.25, 0.45, 0.65}
    assert Counter(margins[drawn].tolist())[0.65] == 2


@settings(deadline=None, max_examples=60)
@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=6),
    share=st.floats(0, 1),
    seed=st.integers(0, 5),
)
def test_a_flat_sample_is_as_flat_as_its_bins_allow(counts, share, seed):
    bins = len(counts)
    middles = (np.arange(bins) + 0.5) / bins
    margins = np.repeat(middles, counts) * np.where(np.arange(sum(counts)) % 2, 1, -1)
    wanted = int(share * sum(counts))
    drawn = sample_flat(margins, count=wanted, bins=bins, bounds=(0.0, 1.0), seed=seed)
    assert len(set(drawn.tolist())) == wanted
    taken = np.bincount(find_bins(margins[drawn], bins=bins, bounds=(0.0, 1.0)), minlength=bins)
    # An independent count: fill bins one a round until there are enough.
    rounds = 0
    while sum(min(count, rounds) for count in counts) < wanted:
        rounds += 1
    assert (taken >= [min(count, rounds - 1) for count in counts]).all()
    assert (taken <= [min(count, rounds) for count in counts]).all()


def test_which_bin_is_left_out_of_the_last_round_is_chance():
    margins = np.repeat([0.3, 0.5, 0.7, 0.9], 20)
    last = [
        float(margins[sample_flat(margins, count=5, bins=4, bounds=(0.2, 1), seed=s)[4]])
        for s in range(60)
    ]
    assert set(last) == {0.3, 0.5, 0.7, 0.9}


def test_men_above_and_women_below_zero():
    margins = np.array([0.3, -0.3, 0.5, -0.5, 0.7, -0.7, 0.0, np.nan, 1.0, -1.0])
    chosen = choose_people(margins, per_class=3, seed=0)
    assert sorted(chosen["man"].tolist()) == [0, 2, 4]
    assert sorted(chosen["woman"].tolist()) == [1, 3, 5]
    with pytest.raises(InputError, match=r"class man: only 3 of 4 margins lie between 0\.2 and"):
        choose_people(margins, per_class=4, seed=0)
    counts = count_margins(margins, bins=1)
    assert counts == {"people": 10, "without a margin": 1, "by bin": {"man": [3], "woman": [3]}}


def test_margins_there_and_back(tmp_path):
    write_people(tmp_path, [(255, 0, 0), (0, 255, 0), (0, 0, 9)])
    people = People(open_coco(tmp_path, classes="person", min_box=112))
    path = tmp_path / "margins.csv"
    write_margins(path, ids=("2", "1"), margins=np.array([np.nan, 0.1 + 0.2]))
    found = read_margins(path)(people)
    np.testing.assert_array_equal(found, [0.1 + 0.2, np.nan, np.nan])


@pytest.mark.parametrize("text", ["high", "1.5", "-inf"])
def test_a_margin_that_cannot_be_is_named_with_its_row(tmp_path, text):
    path = tmp_path / "margins.csv"
    path.write_text(f"id,margin\n1,0.5\n2,{text}\n")
    with pytest.raises(TableError, match=r"margins\.csv, row 3: the margin '.*' is no number"):
        read_margins(path)
