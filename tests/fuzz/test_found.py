"""What the fuzzer found, each by what it was. All of it came out as a foreign error, or hung."""

from __future__ import annotations

import json
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from fieldmark.cli.settings import LARGEST, parse_yaml, read_settings
from fieldmark.core.errors import (
    ChecksumError,
    FetchError,
    ImageError,
    InputError,
    MaskError,
    TableError,
    UsageError,
)
from fieldmark.core.json_text import parse_json
from fieldmark.core.sealed import KEY, write_sealed_json
from fieldmark.data import wordnet
from fieldmark.data.coco import decode_runs, draw_segmentation, parse_runs, read_instances
from fieldmark.data.columns import encode_names, read_columns
from fieldmark.data.covar.manifest import read_journal
from fieldmark.data.datasets import rcc
from fieldmark.data.datasets.animal_folders import read_names
from fieldmark.data.datasets.built import open_built
from fieldmark.data.datasets.imagenet_s import open_imagenet_s
from fieldmark.data.datasets.rcc import ResourceFile
from fieldmark.data.datasets.waterbirds_build import _read_plain
from fieldmark.data.images import list_images
from fieldmark.methods import prusc
from fieldmark.methods.bap.config import BapConfig
from fieldmark.methods.checkpoints import CHECKPOINT, load_checkpoint, read_scores
from fieldmark.methods.mitigation import fine_tune
from fieldmark.methods.mitigation.config import MitigationConfig
from fieldmark.models import load, packaged
from fieldmark.models.embedding_cache import EmbeddingCache
from fieldmark.models.onnx_weights import read_dinov2_onnx
from fieldmark.models.open_clip import read_config
from fieldmark.report.parts import read_parts
from fieldmark.report.published import COLUMNS, parse_references
from tests.fuzz import kept, lists
from tests.fuzz.objects import CARD, COCO, _prepare_built
from tests.fuzz.pictures import make_bomb

DEEP = "[" * 100_000
SIZE = (8, 9)


@pytest.mark.parametrize(
    "text", [DEEP, '{"a":' * 100_000, r'"\ud800"', r'{"\udc00": 1}', "9" * 5000]
)
def test_json_that_no_file_should_hold_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"nested|surrogate|digits"):
        parse_json(text)


def test_json_of_whole_surrogate_pairs_is_read():
    assert parse_json(r'"\ud83d\ude00"') == "\N{GRINNING FACE}"


@pytest.mark.parametrize(
    "counts",
    [
        [1e999, 1],
        [2**70, 1],
        [[1, 2], [3]],
        ["8", "64"],
        {"a": 1},
        [36.0, 36.0],
        None,
        # Their sum wraps around to the 72 pixels there are.
        [2**62, 2**62, 2**62, 2**62, 72],
    ],
)
def test_runs_that_are_no_counts_of_pixels_are_refused(counts):
    with pytest.raises(MaskError, match="do not add up to 9 x 8"):
        decode_runs(counts, size=SIZE)


def test_a_run_that_goes_on_and_on_takes_no_time():
    began = time.process_time()
    with pytest.raises(MaskError, match="is damaged"):
        parse_runs("o" * 300_000 + "0")
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    "segmentation",
    [
        {"counts": [72]}, {"size": [8], "counts": [72]}, {"size": 8, "counts": [72]},
        {"size": [8, 9], "counts": [[1], 2]}, [["a"] * 6], [[1, 2, 3, 4, 5, 6, 7]], [None], 5,
        [[{}] * 6], {"size": ["8", "x"], "counts": []}, [[0, 0, 1e300, 0, 5, 5]],
        [[0, 0, float("nan"), 0, 5, 5]],
    ],
)  # fmt: skip
def test_a_segmentation_of_something_else_is_refused(segmentation):
    with pytest.raises(MaskError):
        draw_segmentation(segmentation, size=SIZE)


@pytest.mark.parametrize(
    ("part", "row"),
    [
        ("images", 3), ("images", {"id": [1], "file_name": "a"}), ("annotations", "x"),
        ("categories", {"id": {}, "name": "b"}), ("annotations", {"image_id": 1}),
        ("annotations", {**COCO["annotations"][0], "bbox": 5}),
        ("annotations", {**COCO["annotations"][0], "image_id": []}),
    ],
)  # fmt: skip
def test_a_coco_file_with_a_row_of_another_kind_is_refused(part, row, tmp_path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({**COCO, part: [*COCO[part], row]}))
    with pytest.raises(TableError, match="is not a COCO instances file"):
        read_instances(path)


def test_a_table_of_a_hundred_thousand_columns_takes_no_time(tmp_path):
    (tmp_path / "t.csv").write_text(",".join(map(str, range(100_000))) + "\n")
    began = time.process_time()
    with pytest.raises(TableError, match="has no rows"):
        read_columns(tmp_path / "t.csv")
    assert time.process_time() - began < 2


def test_labels_of_thousands_of_digits_are_sorted_as_texts():
    assert encode_names(["9" * 5000, "10"]).names == ("10", "9" * 5000)
    assert encode_names(["9", "10"]).names == ("9", "10")


def test_published_figures_with_a_field_without_end_are_refused():
    text = ",".join(COLUMNS) + '\n"' + "x" * 200_000
    with pytest.raises(InputError, match="is no CSV"):
        parse_references(text, where="a.csv")


@pytest.mark.parametrize(
    "change",
    [
        {"reject": [["a"]]}, {"accept": 5}, {"notes": 3}, {"classes": 1}, {"correlation": "x"},
        {"correlation": [1]}, {"attributes": 4}, {"class_words": 2},
    ],
)  # fmt: skip
def test_a_card_with_a_value_of_another_kind_is_refused(change, tmp_path):
    _prepare_built(tmp_path)
    (tmp_path / "card.json").write_text(json.dumps({**CARD, **change}))
    with pytest.raises(TableError, match=r"card\.json: has a value of another kind"):
        open_built(tmp_path)


def test_a_journal_of_other_bytes_and_values_counts_for_nothing(tmp_path):
    lines = [b"\xff\xfe", json.dumps([[1]] * 12).encode(), json.dumps(["\0"] * 12).encode()]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join([*lines, DEEP.encode()]) + b"\n")
    assert read_journal(tmp_path) == {}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("map.json", b"\xff"), ("summary.json", DEEP.encode()), ("loss.jsonl", b"\xb0"),
        ("loss.jsonl", b'{"method": "a", "step": 1, "loss": 1, "seed": [1]}'),
        ("loss.jsonl", b'{"method": "a", "step": 1, "loss": 1' + b"0" * 400 + b"}"),
        ("neighbours.json", b'[{"query": {"image": "a\\u0000b", "label": "x"}}]'),
    ],
)  # fmt: skip
def test_a_part_of_a_page_of_other_bytes_or_values_is_refused(file, content, tmp_path):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=file.replace(".", r"\.")):
        read_parts(tmp_path)


@pytest.mark.parametrize(
    "word", ["contexts=[", "contexts=2001-99-99", f"contexts={DEEP}", "a=\x16"]
)
def test_a_word_that_is_no_yaml_is_refused(word):
    with pytest.raises(UsageError):
        read_settings(BapConfig(), file=None, given=[word])


def test_a_value_without_end_is_not_repeated_whole():
    with pytest.raises(UsageError) as caught:
        read_settings(BapConfig(), file=None, given=[f"contexts={'x' * 50_000}"])
    assert len(str(caught.value)) < 400
    with pytest.raises(ValueError, match="settings have"):
        parse_yaml("x" * (LARGEST + 1))


def test_an_onnx_file_of_other_bytes_is_refused(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"\xff\x00\x12")
    with pytest.raises(InputError, match="is no ONNX graph"):
        read_dinov2_onnx(tmp_path / "m.onnx")


def write_resources(path: Path, nodes: bytes, data: bytes = b"") -> Path:
    """Write a Qt resource file of some nodes, all of them named "a"."""
    name = struct.pack(">HI", 1, 0) + "a".encode("utf-16-be")
    head = struct.pack(">4I", 2, 20, 20 + len(nodes), 20 + len(nodes) + len(data))
    path.write_bytes(b"qres" + head + nodes + data + name)
    return path


def test_folders_of_resources_in_one_another_take_no_time(tmp_path):
    node = struct.pack(">IHIIQ", 0, 2, 2, 0, 0)
    began = time.process_time()
    with pytest.raises(InputError, match="contain themselves"):
        ResourceFile(write_resources(tmp_path / "a.rcc", node * 2))
    assert time.process_time() - began < 1


def test_a_packed_resource_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(rcc, "LARGEST", 1000)
    packed = struct.pack(">I", 5) + zlib.compress(bytes(100_000))
    nodes = struct.pack(">IHIIQ", 0, 2, 1, 1, 0) + struct.pack(">IHHHIQ", 0, 1, 0, 0, 0, 0)
    data = struct.pack(">I", len(packed)) + packed
    held = ResourceFile(write_resources(tmp_path / "a.rcc", nodes, data))
    with pytest.raises(InputError, match="to more than 1000 bytes"):
        held.read("a")


def test_a_folder_that_vanishes_while_it_is_listed_is_refused(tmp_path, monkeypatch):
    def vanish(self, pattern):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(Path, "rglob", vanish)
    with pytest.raises(InputError, match="cannot be listed"):
        list_images(tmp_path)


def test_parquet_text_that_is_none_is_refused(tmp_path):
    import pyarrow
    import pyarrow.parquet

    broken = pyarrow.Array.from_buffers(
        pyarrow.string(),
        1,
        [None, pyarrow.py_buffer(np.array([0, 1], "i4")), pyarrow.py_buffer(b"\xff")],
    )
    table = pyarrow.table({"path": broken})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(TableError, match="is not a Parquet file that can be read"):
        read_columns(tmp_path / "t.parquet")


BAD_LISTS = (b"\xff\xfe 1\n", b"x" * 300 + b"/y.jpg 1\n", b"\n\n")


@pytest.mark.parametrize("content", BAD_LISTS)
@pytest.mark.parametrize(
    "name",
    [
        "CUB images.txt", "CUB train_test_split.txt", "CelebA list_attr_celeba.txt",
        "CelebA list_eval_partition.txt", "DTD train1.txt", "Places365 places365_val.txt",
        "CounterAnimal imagenet_names.txt", "ImageNet-S ImageNetS_categories_im50.txt",
    ],
)  # fmt: skip
def test_a_list_of_a_data_set_in_other_bytes_is_refused(name, content, tmp_path):
    reader = {one.name: one for one in lists.list_readers()}[name]
    place = tmp_path / "a" / "b" / "work"
    place.mkdir(parents=True)
    reader.prepare(place)
    with pytest.raises(InputError):
        reader.read(content, place)


@pytest.mark.parametrize(
    "number", ["9" * 5000, "\N{SUPERSCRIPT TWO}", "\N{ARABIC-INDIC DIGIT ONE}"]
)
def test_a_number_of_another_kind_is_no_category(number, tmp_path):
    (tmp_path / "imagenet_names.txt").write_text(f"{number}\tcat\n")
    with pytest.raises(TableError, match=r"row 1: .* is not an index"):
        read_names(tmp_path)


def test_a_class_of_imagenet_s_leads_to_no_other_folder(tmp_path):
    lists.put(tmp_path / "outside" / "a.JPEG")
    for part in ("validation", "validation-segmentation"):
        (tmp_path / "ImageNetS50" / part).mkdir(parents=True)
    names = ["../../outside", *lists.IDS[1:]]
    (tmp_path / "ImageNetS50" / "ImageNetS_categories_im50.txt").write_text("\n".join(names))
    with pytest.raises(TableError, match="has no object that fits"):
        open_imagenet_s(tmp_path, variant="50")


@pytest.mark.parametrize("parent", ["00000003", "00000009"])
def test_hypernyms_in_a_circle_or_out_of_nowhere_are_refused(parent, tmp_path):
    for name, content in lists.WORDNET.items():
        (tmp_path / name).write_bytes(
            content.replace(b"001 @ 00000001", f"001 @ {parent}".encode())
        )
    with pytest.raises(InputError, match=r"data\.noun: its hypernyms are no tree"):
        wordnet.read_wordnet(tmp_path)


def test_a_task_set_that_was_cut_off_is_refused(tmp_path):
    path = tmp_path / "task.json"
    write_sealed_json(path, {"rows": [0], "clusters": [0], "sizes": [1]})
    assert prusc._read_task_set(path).rows.tolist() == [0]
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))
    with pytest.raises(InputError, match=r"task\.json: is damaged"):
        prusc._read_task_set(path)


@pytest.mark.parametrize("scores", [[], None, 3, ["1"], [None], [1e999], [10**400], {"a": 1}])
def test_scores_of_another_kind_are_refused(scores, tmp_path):
    path = tmp_path / "scores.json"
    path.write_bytes(json.dumps({"scores": scores, KEY: "0" * 64}).encode())
    if scores != [1e999]:
        write_sealed_json(path, {"scores": scores})
    with pytest.raises(InputError, match=r"scores\.json: (holds no scores|is damaged)"):
        read_scores(path)


@pytest.mark.parametrize("words", [{"images": "[1"}, {}, None])
def test_a_sealed_shard_of_another_content_is_dropped(words, tmp_path):
    arrays = {"embeddings": np.zeros((2, 3 if words is None else 4), np.float32)}
    content = kept.write_sealed(arrays, {"images": '["a", "b"]'} if words is None else words)
    (tmp_path / "shard-a.safetensors").write_bytes(content)
    assert EmbeddingCache(tmp_path, 4).read(["a", "b"]) == {}
    assert not list(tmp_path.iterdir())


def test_a_sealed_index_of_another_shape_is_drawn_again(tmp_path):
    content = kept.write_sealed({"images": np.full((1, 1, 3), 2)}, {})
    (tmp_path / "a.index.safetensors").write_bytes(content)
    kept._read_store(tmp_path / "a.index.safetensors")


def test_a_sealed_checkpoint_without_its_moments_is_refused(tmp_path):
    arrays = {"weight.a.weight": np.zeros((1, 1), np.float32), "step.a.weight": np.float32(1)}
    arrays["weight.a.bias"] = np.zeros(1, np.float32)
    held = {name: np.asarray(value) for name, value in arrays.items()}
    (tmp_path / CHECKPOINT).write_bytes(kept.write_sealed(held, {"step": "1"}))
    modules = torch.nn.ModuleDict({"a": torch.nn.Linear(1, 1)})
    with pytest.raises(InputError, match="lacks a moment"):
        load_checkpoint(tmp_path, modules, optimizer=torch.optim.AdamW(modules.parameters()))


def test_a_wheel_with_an_offset_before_its_start_is_none(tmp_path, monkeypatch):
    content = bytearray(kept._make_wheel())
    place = content.rindex(b"PK\x05\x06") + 16
    content[place : place + 4] = b"\xff\xff\xff\x7f"
    (tmp_path / "w.bin").write_bytes(b"x" * 40)
    (tmp_path / "w.whl").write_bytes(content)
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path / "cache"))
    with pytest.raises(FetchError, match="is not a wheel"):
        kept._read_wheel(tmp_path / "w.whl")


@pytest.mark.parametrize(
    "config",
    [
        {"vision_cfg": {"layers": 65535}}, {"text_cfg": {"vocab_size": 2**31}},
        {"vision_cfg": {"image_size": [1e9, 1e9]}},
    ],
)  # fmt: skip
def test_sizes_that_no_encoder_has_are_refused_before_they_are_allocated(config, tmp_path):
    path = tmp_path / "open_clip_config.json"
    path.write_text(json.dumps({"model_cfg": {"text_cfg": {}, "vision_cfg": {}, **config}}))
    with pytest.raises(InputError, match=r"says (layers|vocab_size|image_size) = "):
        read_config(path)


def test_a_configuration_that_its_library_cannot_use_is_refused(tmp_path, monkeypatch):
    def fail(path):
        raise AssertionError("Only avg pooling\nis supported.")

    monkeypatch.setattr(load, "_load_sized", fail)
    with pytest.raises(InputError, match=r"no usable model \(AssertionError: Only avg pooling\)"):
        load.load_encoder("local-dir:m")


def test_a_claim_of_numbers_that_json_has_not_is_refused(tmp_path):
    (tmp_path / fine_tune.RECORD).write_text('{"method": NaN}')
    with pytest.raises(InputError, match="this is no JSON"):
        fine_tune._claim_folder(tmp_path, {}, MitigationConfig())


def test_a_packaged_manifest_of_another_kind_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text('{"files": ["a"]}')
    with pytest.raises(ChecksumError, match="has no manifest"):
        packaged._check(tmp_path)


def test_a_bomb_among_the_scenes_of_waterbirds_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(make_bomb())
    with pytest.raises(ImageError, match="pixels that are taken for safe"):
        _read_plain(tmp_path / "a.png")
