"""Torch data sets with the names of WILDS, against what its Waterbirds class gives by hand."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import functional

from fieldmark.core.errors import ImageError, TableError, UsageError
from fieldmark.data.group_dataset import GroupDataset
from fieldmark.data.tables import read_table

# img_id, y, split (0 train, 1 val, 2 test), place (0 land, 1 water), as in Waterbirds.
ROWS = ((1, 0, 0, 0), (2, 0, 0, 0), (3, 0, 0, 1), (4, 1, 0, 1), (5, 1, 1, 0), (6, 0, 2, 1),
        (7, 1, 2, 1), (8, 1, 2, 0), (9, 1, 2, 1))  # fmt: skip


@pytest.fixture
def table(tmp_path):
    lines = ["img_id,img_filename,y,split,place,place_filename"]
    for number, y, split, place in ROWS:
        Image.new("RGB", (6, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
        lines.append(f"{number},{number}.png,{y},{split},{place},/o/ocean/{number}.jpg")
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n")
    return read_table(tmp_path)


def test_what_wilds_gives_for_waterbirds(table):
    dataset = GroupDataset(table)
    assert dataset.metadata_fields == ["background", "y"]
    assert dataset.metadata_array.tolist() == [[place, y] for _, y, _, place in ROWS]
    assert dataset.metadata_array.dtype == dataset.y_array.dtype == torch.int64
    assert dataset.y_array.tolist() == [y for _, y, _, _ in ROWS]
    assert dataset.split_array.tolist() == [split for _, _, split, _ in ROWS]
    assert dataset.split_dict == {"train": 0, "val": 1, "test": 2}
    assert dataset.split_names == {"train": "Train", "val": "Validation", "test": "Test"}
    assert dataset.metadata_map == {"background": ["0", "1"], "y": ["0", "1"]}
    assert (dataset.n_classes, dataset.y_size, dataset.is_classification) == (2, 1, True)
    assert dataset.data_dir == str(table.root)
    image, y, metadata = dataset[2]
    assert image.getpixel((0, 0)) == (3, 0, 0)
    assert (int(y), metadata.tolist()) == (0, [1, 0])
    assert dataset.group_array.tolist() == table.group_ids().tolist()
    assert dataset.group_names == table.group_names()


def test_what_torchvision_gives(table):
    dataset = GroupDataset(table, transform=functional.pil_to_tensor, target_transform=str)
    assert (dataset.classes, dataset.class_to_idx) == (["0", "1"], {"0": 0, "1": 1})
    assert dataset.targets == [y for _, y, _, _ in ROWS]
    image, y, _ = dataset[3]
    assert (image.shape, y, len(dataset)) == ((3, 4, 6), "1", 9)
    assert "9 images" in repr(dataset)


def test_a_loader_with_workers_gives_every_row_once(table):
    dataset = GroupDataset(table, transform=functional.pil_to_tensor)
    loader = DataLoader(dataset, batch_size=4, num_workers=2, multiprocessing_context="fork")
    batches = list(loader)
    assert [len(y) for _, y, _ in batches] == [4, 4, 1]
    images, y, metadata = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert images[:, 0, 0, 0].tolist() == [number for number, *_ in ROWS]
    assert torch.equal(y, dataset.y_array)
    assert torch.equal(metadata, dataset.metadata_array)


def test_it_can_be_sent_to_another_process(table):
    dataset = pickle.loads(pickle.dumps(GroupDataset(table)))
    assert dataset[0][0].getpixel((0, 0)) == (1, 0, 0)


def test_a_subset_keeps_the_fields_of_the_whole(table):
    dataset = GroupDataset(table, transform=functional.pil_to_tensor)
    test = dataset.get_subset("test")
    assert test.indices.tolist() == [5, 6, 7, 8]
    assert test.metadata_array.tolist() == dataset.metadata_array[5:].tolist()
    assert (test.metadata_map, test.split_dict) == (dataset.metadata_map, dataset.split_dict)
    assert test[0][0][0, 0, 0] == 6
    assert isinstance(dataset.get_subset("val", transform=lambda image: "x")[0][0], str)
    assert test.get_subset("test").indices.tolist() == [5, 6, 7, 8]


def test_a_share_of_a_split_is_drawn_with_a_seed(table):
    dataset = GroupDataset(table)
    draws = [dataset.get_subset("test", 0.5, seed=seed).indices.tolist() for seed in range(8)]
    assert draws == [dataset.get_subset("test", 0.5, seed=s).indices.tolist() for s in range(8)]
    assert len({tuple(draw) for draw in draws}) > 1
    assert all(len(draw) == 2 and sorted(draw) == draw and set(draw) < {5, 6, 7, 8}
               for draw in draws)  # fmt: skip
    assert len(dataset.get_subset("test", 0.01)) == 1
    with pytest.raises(UsageError, match=r"frac is 0, not in \(0, 1\]"):
        dataset.get_subset("test", 0)


def test_measures_by_hand(table):
    """Two of four right: group (1, land) wrong, (0, water) right, (1, water) one of two."""
    dataset = GroupDataset(table)
    test = dataset.get_subset("test")
    y_pred = torch.tensor([0, 1, 0, 0])
    results, words = dataset.eval(y_pred, test.y_array, test.metadata_array)
    assert results["acc_avg"] == 0.5
    assert results["acc_wg"] == 0
    assert results["acc_y:0_background:1"] == 1
    assert results["acc_y:1_background:1"] == 0.5
    assert results["count_y:1_background:1"] == 2
    assert math.isnan(results["acc_y:0_background:0"])
    assert math.isnan(results["adj_acc_avg"])
    assert "Average acc: 0.500" in words
    assert "y:0_background:0" not in words
    scores = torch.nn.functional.one_hot(y_pred)
    again, _ = test.eval(scores, test.y_array, test.metadata_array, lambda s: s.argmax(-1))
    assert again["acc_avg"] == 0.5


def test_the_adjusted_average_is_weighted_by_training(table):
    dataset = GroupDataset(table)
    wrong_on_water = torch.where(dataset.metadata_array[:, 0] == 1, 1 - dataset.y_array,
                                 dataset.y_array)  # fmt: skip
    results, _ = dataset.eval(wrong_on_water, dataset.y_array, dataset.metadata_array)
    # Of the four training images two are of landbirds on land; no waterbird on land is trained on.
    assert results["adj_acc_avg"] == 0.5


def test_backgrounds_that_are_not_known(table, tmp_path):
    lines = (tmp_path / "metadata.csv").read_text().splitlines()
    lines[1] = lines[1].replace(",0,0,0,", ",0,0,,")
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n")
    dataset = GroupDataset(read_table(tmp_path))
    assert dataset.metadata_array[0].tolist() == [-1, 0]
    assert dataset.group_array[0] == -1
    y = dataset.y_array
    results, _ = dataset.eval(1 - y, y, dataset.metadata_array)
    assert (results["acc_avg"], results["count_y:0_background:0"]) == (0, 1)


def test_a_folder_has_neither_backgrounds_nor_splits(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "f" / name).mkdir(parents=True)
        Image.new("RGB", (2, 2)).save(tmp_path / "f" / name / "x.png")
    dataset = GroupDataset(read_table(tmp_path / "f"))
    assert (dataset.metadata_fields, dataset.metadata_array.tolist()) == (["y"], [[0], [1]])
    assert dataset.split_array.tolist() == [-1, -1]
    assert dataset.group_names == {0: "y:a", 1: "y:b"}
    with pytest.raises(TableError, match="has no split 'train'; its splits are: none"):
        dataset.get_subset("train")
    results, _ = dataset.eval(torch.tensor([0, 0]), dataset.y_array, dataset.metadata_array)
    assert (results["acc_wg"], results["acc_y:a"]) == (0, 1)


def test_other_splits_are_numbered_on(tmp_path):
    lines = ["path,label,split"]
    for number, split in enumerate(["natural", "test", "extra", ""]):
        Image.new("RGB", (2, 2)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,a,{split}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    dataset = GroupDataset(read_table(tmp_path / "t.csv"))
    assert dataset.split_dict == {"train": 0, "val": 1, "test": 2, "extra": 3, "natural": 4}
    assert dataset.split_array.tolist() == [4, 2, 3, -1]
    assert dataset.get_subset("natural").indices.tolist() == [0]
    with pytest.raises(TableError, match="its splits are: test, extra, natural"):
        dataset.get_subset("train")


def test_rows_that_are_not_there(table, tmp_path):
    dataset = GroupDataset(table)
    assert dataset[-1][0].getpixel((0, 0)) == (9, 0, 0)
    with pytest.raises(IndexError):
        dataset[9]
    (tmp_path / "1.png").unlink()
    with pytest.raises(ImageError, match=r"1\.png: no such file"):
        dataset[0]
    assert np.array_equal(dataset.indices, np.arange(9))
