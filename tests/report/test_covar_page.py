"""Sentences and tables of a COVAR page: only what intervals bear, nothing undefined as 0."""

from __future__ import annotations

import json

import pytest

from fieldmark.core.errors import InputError
from fieldmark.report.covar_parts import CovarParts, read_covar_parts
from fieldmark.report.covar_tables import make_accuracy_table, make_drop_table, make_scale_table
from fieldmark.report.covar_words import write_comparisons, write_sentences, write_title


def figure(value, low=None, high=None, count=40):
    return {"value": value, "low": low, "high": high, "count": count}


def encoder(uri, *, scale):
    return {
        "uri": uri,
        "label": uri.rpartition(":")[2],
        "accuracy": {
            "original": figure(0.9, 0.8, 0.95),
            "background": figure(0.8, 0.7, 0.9),
            "scale": figure(0.9 - scale, 0.3, 0.5),
            "average": figure(0.6, 0.5, 0.7),
        },
        "subset_accuracy": {"original": figure(0.9), "background": figure(0.8),
                            "scale_2": figure(0.9 - scale)},
        "drop_original": {"background": figure(0.1, -0.02, 0.2), "scale": figure(scale, 0.3, 0.6),
                          "average": figure(0.3, 0.2, 0.4)},
        "drop_background": {"scale": figure(scale - 0.1, 0.2, 0.5)},
        "classes": [],
        "sources": {},
        "backgrounds": [],
        "factorial": {},
    }  # fmt: skip


@pytest.fixture
def parts(tmp_path):
    values = {
        "schema": 1,
        "dataset": "stamps",
        "images": 120,
        "objects": 10,
        "names": 2,
        "candidates": "own",
        "classes": ["cat", "dog"],
        "subsets": {"original": 40, "background": 40, "scale_2": 40},
        "columns": ["original", "background", "scale"],
        "scenes": [],
        "encoders": [encoder("open_clip:ViT-B-16/openai", scale=0.45), encoder("b", scale=0.3)],
        "comparisons": [
            {
                "first": "open_clip:ViT-B-16/openai",
                "second": "b",
                "columns": {
                    "background": {"accuracy": figure(0.0, -0.1, 0.1),
                                   "drop_original": figure(0.02, -0.05, 0.08)},
                    "scale": {"accuracy": figure(0.15, 0.1, 0.2),
                              "drop_original": figure(0.15, 0.1, 0.2),
                              "drop_background": figure(-0.1, -0.2, -0.05)},
                    "average": {"accuracy": figure(None)},
                },
            }
        ],
        "failed": {},
        "notes": [],
        "strip": [],
    }  # fmt: skip
    (tmp_path / "covar.json").write_text(json.dumps(values))
    return read_covar_parts(tmp_path)


def test_the_title_names_the_change_that_costs_most(parts):
    assert write_title(parts) == "Scale costs ViT-B-16/openai most: 45.0 points"


def test_a_drop_whose_interval_holds_zero_is_not_called_a_loss(parts):
    text = " ".join(write_sentences(parts))
    assert "loses, in points: scale 45.0 [30.0, 60.0]." in text
    assert "Not told from no loss at all against the originals: background." in text


def test_a_comparison_says_only_what_the_interval_bears(parts):
    text = " ".join(write_comparisons(parts))
    assert "The drop against the originals is smaller with b than with ViT-B-16/openai" in text
    assert "Not told apart against the originals: background 2.0 [-5.0, 8.0]." in text
    larger = "against the varied backgrounds is larger with b than with ViT-B-16/openai"
    assert f"{larger}, in points: scale 10.0 [5.0, 20.0]." in text
    assert "average" not in text.lower()


def test_the_papers_row_stands_under_its_encoder_only(parts):
    table = make_accuracy_table(parts)
    names = [line[0].text for line in table.lines]
    assert names == ["ViT-B-16/openai", "the paper, its own images", "b"]
    assert [cell.text for cell in table.lines[1][2:]] == ["52.2", "25.0", "42.5"]
    assert table.headings == ("Encoder", "Original", "Background", "Scale", "Average")


def test_tables_have_a_cell_for_each_heading(parts):
    for table in (make_accuracy_table(parts), make_drop_table(parts), make_scale_table(parts)):
        assert table is not None
        assert {len(line) for line in table.lines} == {len(table.headings)}


def test_a_picture_outside_of_the_run_is_refused(parts, tmp_path):
    values = {**parts.values, "strip": [{"file": "../../secret.png"}]}
    (tmp_path / "covar.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="names a picture outside"):
        read_covar_parts(tmp_path)


def test_a_record_without_encoders_is_damaged(parts, tmp_path):
    assert isinstance(parts, CovarParts)
    (tmp_path / "covar.json").write_text(json.dumps({**parts.values, "encoders": []}))
    with pytest.raises(InputError, match="has no encoder"):
        read_covar_parts(tmp_path)
