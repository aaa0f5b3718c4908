"""What the fuzzer found in the readers of runs, streams and saved data sets."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.numpy

from fieldmark.benchmarks import fine_tuning_curves
from fieldmark.benchmarks.attribution import explain_measure, faithfulness_batches
from fieldmark.benchmarks.export.base_model import find_base_model, read_front_matter
from fieldmark.benchmarks.export.predictions import read_predictions
from fieldmark.benchmarks.export.tracked import gather_steps
from fieldmark.benchmarks.store import NOTES, Store
from fieldmark.core.errors import InputError, MaskError, TableError
from fieldmark.models.stream import read_embedded
from fieldmark.testing import FakeEncoder
from tests.fuzz import kept, runs
from tests.fuzz.lists import put
from tests.fuzz.pictures import _prepare_objects, make_bomb


@pytest.mark.parametrize("words", [{}, {"rows": "[1", "content": "", "key": ""}, {"rows": "[]"}])
def test_a_sealed_shard_of_a_stream_of_another_content_is_refused(words, tmp_path):
    content = kept.write_sealed({"embeddings": np.zeros((1, 2), np.float32)}, words)
    (tmp_path / "shard-000000.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="is not a whole shard"):
        list(read_embedded(tmp_path))


def test_a_part_of_explain_with_other_costs_is_refused(tmp_path):
    path = tmp_path / "cci.safetensors"
    arrays = safetensors.numpy.load(runs._make_result())
    path.write_bytes(kept.write_sealed(arrays, {"cost": '{"watts": 1}', "images": "1"}))
    with pytest.raises(InputError, match="cannot be read"):
        explain_measure.load_result(path, method="cci")


@pytest.mark.parametrize("lost", ["maps", "costs"])
def test_a_batch_of_faithfulness_without_one_of_its_parts_is_refused(lost, tmp_path):
    path = tmp_path / "0.safetensors"
    arrays = safetensors.numpy.load(runs._make_batch())
    arrays = {name: value for name, value in arrays.items() if name != lost}
    costs = {} if lost == "costs" else dict.fromkeys(("seconds", "forwards", "backwards"), 1)
    path.write_bytes(kept.write_sealed(arrays, {"costs": json.dumps(costs)}))
    with pytest.raises(InputError, match="cannot be read"):
        faithfulness_batches.read_measured(path, rows=np.arange(2))


@pytest.mark.parametrize("values", [{}, {"holdout": [0, [1]], "notes": {}}, {"holdout": None}])
def test_an_adapted_encoder_with_other_notes_is_refused(values, tmp_path):
    runs._prepare_adapted(tmp_path)
    put(tmp_path / f"adapted/k/{NOTES}", kept.seal_json(values))
    with pytest.raises(InputError, match="is no whole adapted encoder"):
        Store(tmp_path).read_adapted("k", native=FakeEncoder())


@pytest.mark.parametrize("text", ["[", "[1]", '[{"a": 1}]', "3"])
def test_scores_of_an_epoch_that_are_none_are_refused(text, tmp_path):
    (tmp_path / "epoch-00000.json").write_text(text)
    with pytest.raises(InputError, match="is no scores of an epoch"):
        fine_tuning_curves._read_epoch(tmp_path / "epoch-00000.json")


def test_a_mask_that_is_a_bomb_is_refused(tmp_path):
    _prepare_objects(tmp_path)
    (tmp_path / "mask.png").write_bytes(make_bomb())
    with pytest.raises(MaskError, match="pixels that are taken for safe"):
        runs._read_masks(tmp_path / "mask.png")


def test_a_seed_of_thousands_of_digits_is_none(tmp_path):
    row = f"a,a.png,test,bird,land,zero-shot,{'9' * 5000},cat\n"
    header = "id,path,split,label,attribute,head,seed,predicted\n"
    (tmp_path / "predictions.csv").write_text(header + row)
    with pytest.raises(InputError, match="is no seed"):
        read_predictions(tmp_path)


@pytest.mark.parametrize("line", ['{"step": 1e999, "loss": 1}', "[" * 100_000])
def test_a_loss_at_no_step_is_refused(line, tmp_path):
    put(tmp_path / "page" / "loss.jsonl", line.encode())
    with pytest.raises(InputError, match="is no row of losses"):
        gather_steps(tmp_path)


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 100_000])
def test_a_card_that_is_nested_without_end_says_nothing(value, tmp_path):
    (tmp_path / "README.md").write_text(f"---\nlicense: {value}\n---\n")
    assert read_front_matter(tmp_path / "README.md") == {}


@pytest.mark.parametrize(
    "arguments", [3, {"model": f"packaged:{'a' * 5000}"}, {"model": "packaged:none"}]
)
def test_a_run_of_an_odd_record_leads_to_an_unknown_licence(arguments, tmp_path):
    (tmp_path / "encoder").mkdir()
    (tmp_path / "run.json").write_text(json.dumps({"verb": "bap", "arguments": arguments}))
    assert find_base_model(str(tmp_path)).licence == "unknown"


def test_a_saved_data_set_of_text_that_is_none_is_refused(tmp_path):
    from fieldmark.data.external import open_external
    from tests.fuzz import external

    external._prepare_saved(tmp_path)
    (path,) = (tmp_path / "saved").glob("*.arrow")
    path.write_bytes(path.read_bytes().replace(b"landwater", b"land\xff\xfe\xfd\xfc\xfb"))
    with pytest.raises(TableError, match="cannot be read as a data set"):
        open_external("hf-dataset:saved", root=tmp_path)
