"""Hugging Face `datasets`: pixels and names back from memory, disk, Parquet and folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from fieldmark import load_dataset
from fieldmark.core.errors import FetchError, MissingExtraError, TableError, UsageError
from fieldmark.data.external import hugging_face, open_external
from fieldmark.data.external.hugging_face import from_hf_dataset
from tests.data.external.pictures import draw, pack, same


def make(count: int = 3, *, start: int = 0, **columns):
    """Make a data set of noise; classes are not in the order of the alphabet."""
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["wren", "gull"])}
    values: dict[str, list[Any]] = {
        "image": [draw(start + i) for i in range(count)],
        "label": [i % 2 for i in range(count)],
    }
    for name, (kind, column) in columns.items():
        features[name], values[name] = kind, column
    return datasets.Dataset.from_dict(values, features=datasets.Features(features))


def check(table, count: int = 3, *, start: int = 0) -> None:
    assert table.classes == ("wren", "gull")
    assert table.labels.tolist() == [i % 2 for i in range(count)]
    assert all(same(table.read(i), draw(start + i)) for i in range(count))


def test_a_data_set_in_memory():
    table = from_hf_dataset(make())
    check(table)
    assert table.ids == ("0000000", "0000001", "0000002")
    assert (table.name, table.splits) == ("hf-dataset", None)


def test_every_role_has_its_column():
    place = datasets.ClassLabel(names=["sea", "land"])
    text = datasets.Value("string")
    table = from_hf_dataset(
        make(
            background=(place, [0, 1, -1]),
            object=(text, ["o", "p", None]),
            scene=(text, ["s", None, "t"]),
            split=(text, ["train", "test", "test"]),
            mask=(datasets.Image(), [draw(9), None, draw(8)]),
            id=(datasets.Value("int64"), [7, 8, 9]),
            unrelated=(text, ["x", "y", "z"]),
        ),
        name="birds",
    )
    check(table)
    assert table.ids == ("7", "8", "9")
    assert table.attribute_names == ("land", "sea")
    assert table.attributes is not None
    assert table.attributes.tolist() == [1, 0, -1]
    assert table.splits == ("train", "test", "test")
    assert (table.objects, table.scenes) == (("o", "p", ""), ("s", "", "t"))
    assert table.masks is not None
    assert [mask is None for mask in table.masks] == [False, True, False]


def test_labels_that_are_strings_or_numbers():
    data = make().remove_columns("label").add_column("y", ["b", "a", "b"])
    assert from_hf_dataset(data).classes == ("a", "b")
    data = make().remove_columns("label").add_column("y", [10, 9, 10])
    assert from_hf_dataset(data).classes == ("9", "10")


def test_a_transform_of_the_users_changes_nothing():
    data = make()
    data.set_transform(lambda rows: {"image": [None], "label": [5]})
    check(from_hf_dataset(data))


def test_a_folder_that_was_saved(tmp_path):
    make().save_to_disk(tmp_path / "birds")
    table = open_external("hf-dataset:birds", root=tmp_path)
    check(table)
    assert table.name == "birds"


def test_splits_of_a_saved_folder(tmp_path):
    both = datasets.DatasetDict({"train": make(), "test": make(2, start=5)})
    both.save_to_disk(str(tmp_path / "birds"))
    table = open_external(f"hf-dataset:{tmp_path / 'birds'}")
    assert table.splits == ("train",) * 3 + ("test",) * 2
    assert table.ids == (*(f"train/{i:07d}" for i in range(3)), "test/0000000", "test/0000001")
    check(table.select("test"), 2, start=5)
    check(open_external(f"hf-dataset:{tmp_path / 'birds'}:test"), 2, start=5)
    with pytest.raises(TableError, match="has no split 'dev'; its splits are: train, test"):
        open_external(f"hf-dataset:{tmp_path / 'birds'}:dev")


def test_one_data_set_may_have_the_name_of_a_split(tmp_path):
    named = datasets.Dataset.from_dict(
        {"image": [pack(draw(0))], "label": ["x"]}, split="validation"
    )
    named.save_to_disk(str(tmp_path / "named"))
    table = open_external("hf-dataset:named:validation", root=tmp_path)
    # The hub's word for what heads select on.
    assert table.splits == ("val",)
    assert len(load_dataset(f"hf-dataset:{tmp_path / 'named'}", split="val")) == 1
    make().save_to_disk(tmp_path / "birds")
    with pytest.raises(TableError, match="birds:train: has no split 'train'; leave it out"):
        open_external("hf-dataset:birds:train", root=tmp_path)


def test_parquet(tmp_path):
    make().to_parquet(tmp_path / "birds.parquet")
    check(open_external(f"hf-dataset:{tmp_path / 'birds.parquet'}"))
    folder = tmp_path / "hub" / "data"
    folder.mkdir(parents=True)
    make().to_parquet(folder / "train-00000-of-00001.parquet")
    make(2, start=5).to_parquet(folder / "test-00000-of-00001.parquet")
    table = open_external(f"hf-dataset:{tmp_path / 'hub'}")
    check(table.select("train"))
    check(table.select("test"), 2, start=5)


def test_a_folder_of_images(tmp_path):
    for split, seed in (("train", 0), ("test", 1)):
        for name in ("gull", "wren"):
            (tmp_path / "birds" / split / name).mkdir(parents=True)
            draw(seed).save(tmp_path / "birds" / split / name / "a.png")
    table = open_external(f"hf-dataset:{tmp_path / 'birds'}")
    assert table.classes == ("gull", "wren")
    assert table.labels.tolist() == [0, 1] * 2
    assert sorted(table.splits or ()) == ["test"] * 2 + ["train"] * 2
    assert same(table.select("test").read(0), draw(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.remove_columns("image"), "has no column 'image'; its columns are label"),
        (lambda d: d.remove_columns("label"), "has no column 'label'; its columns are image"),
        (lambda d: d.rename_column("label", "kind"), "rename one with rename_column"),
    ],
)
def test_columns_that_are_missing_are_named(change, message):
    with pytest.raises(TableError, match=message):
        from_hf_dataset(change(make()))


def test_rows_that_are_off_are_named():
    # The hub's test splits have the label -1; the library itself lets no other number in.
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    data = datasets.Dataset.from_dict({"image": [draw(0)], "label": [-1]}, features=features)
    with pytest.raises(TableError, match="row 0: the label -1 is out of the range 0 to 1"):
        from_hf_dataset(data)
    data = datasets.Dataset.from_dict({"image": [draw(0)], "label": [None]}, features=features)
    with pytest.raises(TableError, match="row 0: the label is blank"):
        from_hf_dataset(data)
    data = datasets.Dataset.from_dict(
        {"image": [draw(0), None], "label": [0, 1]}, features=features
    )
    with pytest.raises(TableError, match="row 1: the image is missing or no image"):
        from_hf_dataset(data)
    data = make().remove_columns("label").add_column("label", [0.5, 1.0, 1.0])
    with pytest.raises(TableError, match="row 0: the label is a float"):
        from_hf_dataset(data)
    data = make(2, id=(datasets.Value("string"), ["a", "a"]))
    with pytest.raises(TableError, match="row 1: the id 'a' occurs twice"):
        from_hf_dataset(data)
    with pytest.raises(TableError, match="is no data set of the library"):
        from_hf_dataset([1, 2])


def test_a_label_beyond_its_names_is_named():
    """The library refuses to write one, so a stand-in plays a file from elsewhere."""

    class FakePart:
        features = make().features
        split = None

        def with_format(self, kind):
            return self

        def select_columns(self, names):
            return self

        def cast_column(self, name, kind):
            return self

        def __iter__(self):
            yield {"image": draw(0), "label": 2}

    with pytest.raises(TableError, match="row 0: the label 2 is out of the range 0 to 1"):
        from_hf_dataset(FakePart())


def test_a_row_may_name_no_file_outside(tmp_path):
    secret = tmp_path / "secret.png"
    draw(0).save(secret)
    inside = tmp_path / "data"
    inside.mkdir()
    draw(1).save(inside / "a.png")
    (inside / "link.png").symlink_to(secret)

    def name(path: Path, *, as_words: bool = False):
        data = datasets.Dataset.from_dict({"image": [str(path)], "label": ["x"]})
        return data if as_words else data.cast_column("image", datasets.Image())

    for as_words in (True, False):
        for path in (inside / "a.png", Path("a.png")):
            read = from_hf_dataset(name(path, as_words=as_words), root=inside)
            assert same(read.read(0), draw(1))
        with pytest.raises(TableError, match=r"the image is the file .* outside"):
            from_hf_dataset(name(Path("../secret.png"), as_words=as_words), root=inside)
    assert same(from_hf_dataset(name(inside / "a.png"), root=inside).read(0), draw(1))
    for path in (secret, inside / "link.png", inside / ".." / "secret.png"):
        with pytest.raises(TableError, match=r"row 0: the image is the file .* outside"):
            from_hf_dataset(name(path), root=inside)
    with pytest.raises(TableError, match="outside a given root"):
        from_hf_dataset(name(inside / "a.png"))
    with pytest.raises(TableError, match="row 0: no such file"):
        from_hf_dataset(name(inside / "b.png"), root=inside)


def test_a_saved_folder_may_name_no_file_outside(tmp_path):
    make().save_to_disk(tmp_path / "other")
    make().save_to_disk(tmp_path / "birds")
    state = tmp_path / "birds" / "state.json"
    state.write_text(state.read_text().replace('"data-', '"../other/data-'))
    with pytest.raises(TableError, match=r"state\.json: the file .* leads outside"):
        open_external("hf-dataset:birds", root=tmp_path)
    state.write_text("{}")
    with pytest.raises(TableError, match=r"state\.json: names no files"):
        open_external("hf-dataset:birds", root=tmp_path)


def test_a_file_that_is_no_data_set_is_one_line(tmp_path, capfd):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(TableError, match=r"a\.parquet: cannot be read as a data set"):
        open_external(f"hf-dataset:{tmp_path / 'a.parquet'}")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(TableError, match="is no Parquet file"):
        open_external(f"hf-dataset:{tmp_path / 'a.txt'}")
    with pytest.raises(TableError, match="no such file or folder"):
        open_external("hf-dataset:./nowhere")
    with pytest.raises(TableError, match=r"birdz: no such file .* a name on the hub is ORG/NAME"):
        open_external("hf-dataset:birdz")
    (tmp_path / "birds").mkdir()
    with pytest.raises(TableError, match="birds/trian: no such file or folder; mend the path"):
        open_external("hf-dataset:birds/trian", root=tmp_path)
    with pytest.raises(UsageError, match="names no data"):
        open_external("hf-dataset:")
    assert capfd.readouterr().err == ""


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FetchError, match=r"hf-dataset:nobody/birds: is no path, .*save_to_disk"):
        open_external("hf-dataset:nobody/birds")


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"fieldmark\[datasets\]"):
        open_external("hf-dataset:birds")


def test_nothing_is_left_changed(tmp_path):
    """Progress bars and log levels of the user's stay as they were."""
    import logging

    make().save_to_disk(tmp_path / "birds")
    before = logging.getLogger("datasets").level
    open_external(f"hf-dataset:{tmp_path / 'birds'}")
    assert datasets.utils.logging.is_progress_bar_enabled()
    assert logging.getLogger("datasets").level == before
    assert hugging_face.ROLES["image"][0] == "image"
