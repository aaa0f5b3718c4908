"""Inputs that hypothesis builds by the grammar of their format, where random bytes seldom get."""

from __future__ import annotations

import contextlib
import csv
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fieldmark.cli.settings import parse_yaml, read_settings
from fieldmark.core.errors import FieldmarkError, MaskError, TableError, UsageError
from fieldmark.core.json_text import parse_json
from fieldmark.data.coco import (
    decode_runs,
    draw_segmentation,
    encode_runs,
    parse_runs,
    read_instances,
)
from fieldmark.data.columns import read_columns
from fieldmark.discovery.region_sources import parse_region_source
from fieldmark.methods.bap.config import BapConfig

quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
numbers = st.integers() | st.floats() | st.booleans()
leaves = st.none() | numbers | st.text(max_size=8)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["id", "size", "counts", "bbox", "name", ""]), inner)
    ),
    max_leaves=8,
)
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


@quick
@given(sizes, st.data())
def test_any_mask_comes_back_from_its_runs(size, data):
    cells = st.lists(
        st.sampled_from([0, 255]), min_size=size[0] * size[1], max_size=size[0] * size[1]
    )
    mask = np.array(data.draw(cells), np.uint8).reshape(size)
    np.testing.assert_array_equal(decode_runs(encode_runs(mask), size=size), mask)


def compress(counts: list[int]) -> str:
    """Write counts as COCO does, from its description: five bits a character, differences."""
    text = ""
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        while True:
            bits, value = value & 31, value >> 5
            done = value == (-1 if bits & 16 else 0)
            text += chr(48 + (bits if done else bits | 32))
            if done:
                break
    return text


@quick
@given(st.lists(st.integers(0, 10_000_000), max_size=12))
def test_any_counts_come_back_from_their_string(counts):
    assert parse_runs(compress(counts)) == counts


@quick
@given(values, sizes)
def test_any_value_is_a_mask_or_refused_as_one(value, size):
    with contextlib.suppress(MaskError):
        assert draw_segmentation(value, size=size).shape == size


@quick
@given(st.lists(st.floats(-20, 30) | st.integers(-20, 30), max_size=9))
def test_any_polygon_is_drawn_inside_or_refused(points):
    try:
        assert set(draw_segmentation([points], size=(7, 5)).ravel().tolist()) <= {0, 255}
    except MaskError:
        assert len(points) % 2


@quick
@given(
    content=st.fixed_dictionaries(
        {part: st.lists(values, max_size=2) | values for part in ("images", "annotations")}
    ),
    categories=values,
)
def test_any_object_is_a_coco_file_or_refused_as_one(content, categories, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({**content, "categories": categories}))
    with pytest.raises(TableError):
        read_instances(tmp_path / "c.json")


@quick
@given(values)
def test_any_json_is_read_as_python_reads_it(value):
    text = json.dumps(value)
    assert json.dumps(parse_json(text)) == text


@quick
@given(rows=st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), min_size=1, max_size=4))
def test_any_fields_come_back_from_a_table(rows, tmp_path):
    path = tmp_path / "t.csv"
    with path.open("w", newline="", encoding="utf-8", errors="replace") as stream:
        writer = csv.writer(stream)
        writer.writerow(["first", "second"])
        writer.writerows(rows)
    try:
        held = read_columns(path)
    except TableError as error:
        raise AssertionError(rows) from error
    assert [*held.values["first"]] == [row[0].strip() for row in rows]


@quick
@given(st.text(max_size=20))
def test_any_words_are_settings_or_refused_in_ours(text):
    with contextlib.suppress(ValueError):
        parse_yaml(text)
    for word in (text, f"contexts={text}", f"{text}=1"):
        with contextlib.suppress(UsageError):
            assert read_settings(BapConfig(), file=None, given=[word]).contexts >= 1


@quick
@given(
    st.sampled_from(["grid:", "scales:", "quadrants", "boxes:", "coco:", "function:", ""]),
    st.text(),
)
def test_any_words_are_a_source_of_regions_or_refused_in_ours(kind, rest):
    try:
        source = parse_region_source(kind + rest)
    except FieldmarkError:
        return
    assert parse_region_source(source.to_text()) == source
