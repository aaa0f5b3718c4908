"""The paper's Tables 3 and 4 as typed, and the names that lead to them."""

from __future__ import annotations

import math

import pytest

from fieldmark.core.errors import InputError
from fieldmark.report.published_covar import (
    COLUMNS,
    find_covar_encoder,
    find_covar_reference,
    parse_covar_references,
    read_covar_references,
)

HEAD = ",".join(COLUMNS)


def test_printed_averages_are_those_of_the_eight_subsets():
    rows = [one for one in read_covar_references() if one.table == 3]
    for encoder in {one.encoder for one in rows}:
        mine = {one.subset: one.value for one in rows if one.encoder == encoder}
        average = mine.pop("average")
        assert len(mine) == 8
        assert abs(sum(mine.values()) / 8 - average) < 0.001


def test_one_cell_of_table_4_cannot_be_read():
    rows = [one for one in read_covar_references() if one.table == 4]
    assert len(rows) == 18 * 8 * 2 - 1
    unreadable = "open_clip:ViT-L-14/laion2b_s32b_b82k"
    metric = "background_errors"
    assert math.isnan(find_covar_reference(unreadable, subset="background", metric=metric))
    assert find_covar_reference(unreadable, subset="h_flip", metric=metric) == 0.14


@pytest.mark.parametrize(
    ("uri", "value"),
    [
        ("open_clip:ViT-B-32-256/datacomp_s34b_b86k", 0.242),
        ("ViT-H-14-378,dfn5b", 0.393),
        ("hf:google/siglip2-base-patch16-512", 0.364),
    ],
)
def test_an_encoder_is_found_by_its_names(uri, value):
    assert find_covar_reference(uri, subset="scale") == value


def test_an_unknown_encoder_gets_none():
    assert find_covar_encoder("open_clip:RN50/openai") is None


def test_every_encoder_is_known_to_open_clip():
    import open_clip

    known = {f"open_clip:{name}/{tag}" for name, tag in open_clip.list_pretrained()}
    assert {one.encoder for one in read_covar_references()} <= known


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("3,a,n,crop,accuracy,x", "line 2: cannot be read"),
        ("3,a,n,crop,accuracy,55.8", "line 2: gives no share of 1"),
        ("3,a,n,crop,accuracy,0.5\n3,a,n,crop,accuracy,0.5", "line 3: repeats"),
    ],
)
def test_a_bad_line_is_named(line, problem):
    with pytest.raises(InputError, match=problem):
        parse_covar_references(f"{HEAD}\n{line}\n", where="a.csv")
