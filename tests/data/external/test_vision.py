"""torchvision's data sets: arrays, folders and everything that is no image with a class."""

from __future__ import annotations

import gzip
import inspect
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets, transforms

from fieldmark.core.errors import TableError, UsageError
from fieldmark.data.external import open_external
from fieldmark.data.external.vision import PICKLED, from_torchvision
from tests.data.external.pictures import draw, same


def write_fashion(root: Path, *, label: int | None = None) -> dict[str, np.ndarray]:
    """Write FashionMNIST's four files, small: 6 images to train on, 4 to test on."""
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    kept = {}
    for part, count in (("train", 6), ("t10k", 4)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10 if label is None else [label] * count
        files = {
            "images-idx3": struct.pack(">IIII", 0x803, count, 28, 28) + pixels.tobytes(),
            "labels-idx1": struct.pack(">II", 0x801, count) + bytes(bytearray(labels)),
        }
        for kind, data in files.items():
            (folder / f"{part}-{kind}-ubyte").write_bytes(data)
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(data))
        kept["train" if part == "train" else "test"] = pixels
    return kept


def test_a_data_set_by_name_gives_all_its_splits(tmp_path):
    pixels = write_fashion(tmp_path)
    table = open_external("torchvision:FashionMNIST", root=tmp_path)
    assert table.name == "FashionMNIST"
    assert table.splits == ("train",) * 6 + ("test",) * 4
    assert table.classes[:2] == ("T-shirt/top", "Trouser")
    assert table.labels.tolist() == [*range(6), *range(4)]
    assert table.ids[6] == "test/0000000"
    for split, images in pixels.items():
        part = table.select(split)
        read = np.stack([np.asarray(part.read(i))[..., 0] for i in range(len(part))])
        assert np.array_equal(read, images)
    one = open_external("torchvision:FashionMNIST:test", root=tmp_path)
    assert len(one) == 4
    with pytest.raises(TableError, match="no split 'dev'; choose one of train, test, or leave it"):
        open_external("torchvision:FashionMNIST:dev", root=tmp_path)


def test_a_damaged_split_is_not_left_out_without_a_word(tmp_path):
    write_fashion(tmp_path)
    path = tmp_path / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TableError, match="cannot be opened: train is damaged"):
        open_external("torchvision:FashionMNIST", root=tmp_path)


def test_a_label_beyond_the_classes_is_named(tmp_path):
    write_fashion(tmp_path, label=12)
    with pytest.raises(TableError, match="train, row 0: the label 12 is out of the range 0 to 9"):
        open_external("torchvision:FashionMNIST", root=tmp_path)


def test_a_folder_of_classes_keeps_its_bytes(tmp_path):
    for number, name in enumerate(("wren", "gull")):
        (tmp_path / "birds" / name).mkdir(parents=True)
        draw(number).save(tmp_path / "birds" / name / "a.jpg")
    table = from_torchvision(datasets.ImageFolder(str(tmp_path / "birds")), split="train")
    assert (table.classes, table.splits) == (("gull", "wren"), ("train", "train"))
    assert table.paths[0].read_bytes() == (tmp_path / "birds/gull/a.jpg").read_bytes()


def test_labels_of_torch_and_numpy_are_numbers():
    rows = [(draw(0), torch.tensor(1)), (draw(1), np.int64(0)), (draw(2), "1")]
    table = from_torchvision(rows, name="mine")
    assert (table.classes, table.labels.tolist()) == (("0", "1"), [1, 0, 1])
    assert all(same(table.read(i), draw(i)) for i in range(3))


def test_rows_that_are_no_image_with_a_class_are_named(tmp_path):
    write_fashion(tmp_path)
    turned = datasets.FashionMNIST(str(tmp_path), transform=transforms.ToTensor())
    with pytest.raises(
        TableError, match=r"row 0: the image is a Tensor, not a picture; open .* wit"
    ):
        from_torchvision(turned)
    with pytest.raises(TableError, match="mine, row 0: is no pair of image and label"):
        from_torchvision([(draw(0), 1, 2)], name="mine")
    with pytest.raises(TableError, match="row 0: the label is a Tensor, no whole number"):
        from_torchvision([(draw(0), torch.zeros(4))], name="mine")
    with pytest.raises(TableError, match="row 0: the label is a float"):
        from_torchvision([(draw(0), 0.5)], name="mine")
    with pytest.raises(TableError, match="mine: has no image"):
        from_torchvision([], name="mine")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("torchvision:NoSuchThing", "is no data set of torchvision"),
        ("torchvision:wrap_dataset_for_transforms_v2", "is no data set of torchvision"),
        ("torchvision:VOCDetection", "cannot be opened"),
        ("torchvision:Kinetics", "cannot be opened|needs more than a root"),
        ("torchvision:FakeData", "takes no root; open it yourself"),
        ("torchvision:EMNIST", r"needs more than a root \(split\)"),
        ("torchvision:ImageNet", "cannot be opened"),
        ("torchvision:VisionDataset", r"cannot be read \(NotImplementedError\)"),
        ("torchvision:OxfordIIITPet", r"cannot be opened \(Dataset not found"),
        ("torchvision:FashionMNIST", r"cannot be opened \(Dataset not found"),
    ],
)
def test_what_cannot_be_opened_by_name(tmp_path, data, message):
    with pytest.raises((UsageError, TableError), match=message):
        open_external(data, root=tmp_path)


def test_a_root_is_needed():
    with pytest.raises(UsageError, match="torchvision:FashionMNIST: needs --root"):
        open_external("torchvision:FashionMNIST")


def test_pickled_data_sets_are_never_loaded(tmp_path):
    """What torchvision reads with pickle is what the list refuses, in the version installed."""
    kinds = [getattr(datasets, name) for name in datasets.__all__]
    modules = {kind.__module__ for kind in kinds}
    pickling = {m for m in modules if "pickle.load(" in inspect.getsource(sys.modules[m])}
    users = {
        kind.__name__
        for kind in kinds
        if inspect.isclass(kind) and any(base.__module__ in pickling for base in kind.mro())
    }
    assert {"CIFAR10", "CIFAR100"} <= users
    assert users <= PICKLED
    for name in sorted(users):
        with pytest.raises(UsageError, match="its files are pickles, which are never loaded"):
            open_external(f"torchvision:{name}", root=tmp_path)


class FakePets:
    """A data set in the ways of torchvision's: one split of its own name, eager to download."""

    classes = ("cat", "dog")

    def __init__(self, root, split="trainval", download=True):
        assert not download
        if split not in ("trainval", "test"):
            raise ValueError(f"Unknown value {split!r} for argument split")
        self.root, self.rows = root, {"trainval": 3, "test": 2}[split]

    def __len__(self):
        return self.rows

    def __getitem__(self, index):
        return Image.open(Path(self.root) / "0.png"), index % 2


def test_a_split_of_another_name_is_not_lost_and_nothing_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "OxfordIIITPet", FakePets)
    draw(0).save(tmp_path / "0.png")
    table = open_external("torchvision:OxfordIIITPet", root=tmp_path)
    assert table.splits == ("train",) * 3 + ("test",) * 2
    (tmp_path / "0.png").write_bytes(b"")
    with pytest.raises(TableError, match=r"train, row 0: cannot be read .*; fetch its files again"):
        open_external("torchvision:OxfordIIITPet", root=tmp_path)
    with pytest.raises(TableError, match=r"cannot be opened \(Unknown value 'val'"):
        open_external("torchvision:OxfordIIITPet:val", root=tmp_path)


def test_no_data_set_of_torchvision_downloads_by_itself(tmp_path, monkeypatch):
    """By default SBU and SEMEION would."""

    def refuse(*_, **__):
        raise AssertionError("downloads")

    monkeypatch.setattr(datasets.sbu, "download_and_extract_archive", refuse)
    monkeypatch.setattr(datasets.semeion, "download_url", refuse)
    for name in ("SBU", "SEMEION"):
        with pytest.raises(TableError, match=r"cannot be opened \(Dataset not found"):
            open_external(f"torchvision:{name}", root=tmp_path)
