"""What SECURITY.md promises: nothing is unpickled or executed, no path leaves its root."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

import fieldmark
from fieldmark.cli.settings import parse_yaml
from fieldmark.core import fetch
from fieldmark.core.errors import FetchError, FieldmarkError, InputError, TableError
from fieldmark.data.backgrounds import read_backgrounds
from fieldmark.data.foregrounds import read_foregrounds
from fieldmark.data.tables import read_table
from fieldmark.models.checkpoint import find_weights
from fieldmark.models.onnx_weights import read_dinov2_onnx
from fieldmark.report.parts import read_parts

SOURCE = Path(fieldmark.__file__).parent
# What turns data into code, and where it may stand: the one module that runs a file of the user's.
CODE = frozenset({"eval", "exec", "compile", "__import__"})
LOADERS = frozenset(
    {
        "pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads",
        "dill.load", "dill.loads", "joblib.load", "marshal.load", "marshal.loads", "shelve.open",
        "yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "os.system", "os.popen",
        "torch.hub.load", "torch.jit.load", "pandas.read_pickle", "numpy.loads", "runpy.run_module",
        "runpy.run_path", "tempfile.mktemp",
    }
)  # fmt: skip
RUNNERS = {"core/user_files.py": frozenset({"runpy.run_path"})}
# Keywords that a call must have, and those that none may have but with False.
MUST = {
    "torch.load": ("weights_only", True),
    "open_clip.load_checkpoint": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
}
PICKLERS = frozenset({"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"})
FOREIGN = PICKLERS | {"torch", "numpy", "yaml", "open_clip", "pandas", "runpy"}
NEVER = ("shell", "trust_remote_code", "allow_pickle")
NAMES = {"np": "numpy", "pd": "pandas"}


def name_of(node: ast.expr) -> str:
    """Return the dotted name that is called, with a question mark for what is no name."""
    if isinstance(node, ast.Name):
        return NAMES.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value) or '?'}.{node.attr}"
    return ""


def value_of(call: ast.Call, keyword: str) -> object:
    """Return the constant that a keyword of a call has, None where it has none."""
    found = next((word.value for word in call.keywords if word.arg == keyword), None)
    return found.value if isinstance(found, ast.Constant) else None


def find_dangers(source: str, *, file: str) -> Iterator[str]:
    """Yield the calls in a module that could run what was read."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    for call in calls:
        if problem := find_problem(call, allowed=RUNNERS.get(file, frozenset())):
            yield f"{file}:{call.lineno}: {problem}"


def find_hidden(source: str, *, file: str) -> Iterator[str]:
    """Yield the imports and uses by which a loader would come in under another name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in FOREIGN:
            names = {alias.name for alias in node.names if node.module != "safetensors.torch"}
            if node.module in PICKLERS or names & {"load", "loads", "full_load", "unsafe_load"}:
                yield f"{file}:{node.lineno}: imports from {node.module}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                usual = alias.asname is None or NAMES.get(alias.asname) == alias.name
                if alias.name in PICKLERS - {"pickle"} or (alias.name in FOREIGN and not usual):
                    yield f"{file}:{node.lineno}: imports {alias.name}"
        if isinstance(node, ast.Attribute):
            name = name_of(node)
            if name.startswith("pickle.") and name != "pickle.UnpicklingError":
                yield f"{file}:{node.lineno}: uses {name}"


def find_problem(call: ast.Call, *, allowed: frozenset[str]) -> str:
    """Say what is dangerous about a call, nothing where it is not."""
    name = name_of(call.func)
    if name in CODE | LOADERS - allowed or name.endswith((".extractall", ".extract")):
        return f"calls {name}"
    wanted = MUST.get(name)
    if wanted is not None and value_of(call, wanted[0]) is not wanted[1]:
        return f"calls {name} without {wanted[0]}={wanted[1]}"
    passed = {word.arg for word in call.keywords if word.arg in NEVER}
    return next((f"passes {word}" for word in passed if value_of(call, word) is not False), "")


def test_no_module_unpickles_executes_or_unpacks_what_it_reads():
    modules = sorted(SOURCE.rglob("*.py"))
    assert len(modules) > 300
    found = [
        line
        for path in modules
        for line in find_dangers(path.read_text(), file=path.relative_to(SOURCE).as_posix())
    ]
    assert not found, "\n".join(found)


def test_no_loader_comes_in_under_another_name():
    found = [
        line
        for path in sorted(SOURCE.rglob("*.py"))
        for line in find_hidden(path.read_text(), file=path.relative_to(SOURCE).as_posix())
        if not (path.name == "user_files.py" and line.endswith("runpy"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "from pickle import loads", "import pickle as p", "import torch as t", "import dill",
        "from torch import load", "from yaml import full_load", "read = pickle.loads",
        "from numpy import load",
    ],
)  # fmt: skip
def test_the_search_for_hidden_loaders_sees_each(line):
    assert list(find_hidden(line, file="data/x.py"))


@pytest.mark.parametrize(
    "line",
    [
        "import numpy as np",
        "import torch",
        "from torch import nn",
        "except_ = pickle.UnpicklingError",
    ],
)
def test_the_search_for_hidden_loaders_passes_over_the_usual(line):
    assert not list(find_hidden(line, file="data/x.py"))


@pytest.mark.parametrize(
    "line",
    [
        "pickle.load(f)",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "np.load(p, allow_pickle=True)",
        "np.load(p)",
        "yaml.load(t, Loader=L)",
        "subprocess.run(c, shell=True)",
        "eval(t)",
        "AutoModel.from_pretrained(n, trust_remote_code=True)",
        "archive.extractall(p)",
        "runpy.run_path(p)",
    ],
)
def test_the_search_for_dangers_sees_each(line):
    assert list(find_dangers(line, file="data/x.py"))


class Trap:
    """Something whose unpickling would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_weights_that_are_a_pickle_run_nothing(tmp_path):
    from fieldmark.discovery import region_sources

    trap = tmp_path / "sprung"
    for name, content in (("a.pt", pickle.dumps(Trap(trap))), ("b.pt", None)):
        path = tmp_path / name
        if content is None:
            torch.save({"weights": Trap(trap)}, path)
        else:
            path.write_bytes(content)
        with pytest.raises(InputError, match="is not a file of weights"):
            region_sources._read_weights(path)
        with pytest.raises(InputError, match="pickle, which can run code"):
            find_weights(tmp_path, names=("model.safetensors",))
    assert not trap.exists()


@pytest.mark.parametrize(
    "text",
    ["!!python/object/apply:os.mkdir [sprung]", "!!python/name:os.system", "a: !!python/tuple [1]"],
)
def test_settings_in_yaml_make_no_objects(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="could not determine a constructor"):
        parse_yaml(text)
    assert not (tmp_path / "sprung").exists()


def test_a_few_lines_of_yaml_do_not_become_a_billion_values():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    with pytest.raises(ValueError, match="it holds the alias"):
        parse_yaml("\n".join(lines))


@pytest.fixture
def outside(tmp_path):
    """Return a root with images in it, and beside it an image that is none of its business."""
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    for path in (root / "a.png", root / "sub" / "b.png", tmp_path / "secret.png"):
        Image.new("RGBA", (8, 8), (9, 9, 9, 200)).save(path)
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "folder").symlink_to(tmp_path)
    (root / "sound.png").symlink_to(root / "a.png")
    return root


WAYS_OUT = (
    "../secret.png", "sub/../../secret.png", "link.png", "folder/secret.png", "./../secret.png",
    "sub/./../../root/../secret.png", "{parent}/secret.png", "/etc/hostname",
    "folder/root/link.png",
)  # fmt: skip


@pytest.mark.parametrize("way", WAYS_OUT)
@pytest.mark.parametrize("column", ["path", "mask"])
def test_no_table_names_a_file_outside_of_its_root(way, column, outside):
    way = way.format(parent=outside.parent)
    row = {"path": "a.png", "label": "bird", "mask": "a.png", column: way}
    (outside / "t.csv").write_text("path,label,mask\n" + ",".join(row.values()) + "\n")
    for read in (read_table, read_foregrounds):
        with pytest.raises(TableError, match=r"leads outside|no such file"):
            read(outside / "t.csv")
    if column == "path":
        with pytest.raises(TableError, match=r"leads outside|no such file"):
            read_backgrounds(outside / "t.csv")


def test_a_link_that_stays_inside_is_followed(outside):
    (outside / "t.csv").write_text("path,label\nsound.png,bird\nsub/../a.png,cat\n")
    assert len(read_table(outside / "t.csv")) == 2


@pytest.mark.parametrize("way", WAYS_OUT)
def test_no_coco_file_names_an_image_outside_of_its_folder(way, outside):
    image = {"id": 1, "file_name": way.format(parent=outside.parent), "width": 8, "height": 8}
    object_ = {
        "id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4],
        "segmentation": [[0, 0, 4, 0, 4, 4]],
    }  # fmt: skip
    content = {"images": [image], "annotations": [object_], "categories": [{"id": 1, "name": "b"}]}
    (outside / "c.json").write_text(json.dumps(content))
    with pytest.raises(TableError, match=r"leads outside|no such file"):
        read_foregrounds(outside / "c.json")


@pytest.mark.parametrize("way", ["../../secret.png", "/etc/hostname", "a/../../../secret.png"])
def test_no_part_of_a_page_shows_a_picture_outside_of_the_run(way, tmp_path):
    (tmp_path / "page").mkdir()
    query = [{"query": {"image": way, "label": "x"}}]
    (tmp_path / "page" / "neighbours.json").write_text(json.dumps(query))
    with pytest.raises(InputError, match="lies outside"):
        read_parts(tmp_path / "page")


@pytest.mark.parametrize("member", ["../out.bin", "/out.bin", "a/../../out.bin", "..\\out.bin", ""])
def test_no_member_of_a_wheel_is_unpacked_outside_of_the_cache(member, tmp_path, monkeypatch):
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "_download_wheel", lambda *words: make_wheel(tmp_path, member))
    with pytest.raises(FetchError, match="climbs out of its folder"):
        fetch.fetch_wheel("some-package==1.0", {member: "0" * 64})
    assert not list(tmp_path.rglob("out.bin"))


def make_wheel(folder: Path, member: str) -> Path:
    """Write a wheel whose member climbs out."""
    with zipfile.ZipFile(folder / "w.whl", "w") as archive:
        archive.writestr(member or "x", b"harm")
    return folder / "w.whl"


@pytest.mark.parametrize("name", ["../x", "-oAPT::x", "a b", "a;touch x", "", "A", "a/../../b"])
def test_only_a_name_of_a_debian_package_reaches_apt(name):
    with pytest.raises(FetchError, match="is not the name of a Debian package"):
        fetch.fetch_debian(name)


def test_no_member_of_a_tar_shard_is_written_or_followed(tmp_path):
    from fieldmark.data.external.tar_members import read_members

    (tmp_path / "secret.jpg").write_text("secret")
    inside = tmp_path / "shards"
    inside.mkdir()
    for number, name in enumerate(("../out.jpg", "/out.jpg", "link.jpg", "hard.jpg")):
        shard = inside / f"{number}.tar"
        with tarfile.open(shard, "w") as archive:
            info = tarfile.TarInfo(name)
            if name in ("link.jpg", "hard.jpg"):
                info.type = tarfile.SYMTYPE if name == "link.jpg" else tarfile.LNKTYPE
                info.linkname = "../secret.jpg"
                archive.addfile(info)
            else:
                info.size = 4
                archive.addfile(info, io.BytesIO(b"harm"))
        with contextlib.suppress(FieldmarkError):
            assert (
                b"secret" not in repr(list(read_members(shard, wanted=frozenset({"jpg"})))).encode()
            )
    assert not list(tmp_path.rglob("out.jpg"))


def test_an_onnx_graph_reads_no_other_file(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    (tmp_path / "secret").write_bytes(struct.pack("<2f", 1.0, 2.0))
    tensor = helper.make_tensor("backbone.w", TensorProto.FLOAT, [2], [0.0, 0.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "secret"
    model = helper.make_model(helper.make_graph([], "g", [], [], initializer=[tensor]))
    onnx.save(model, str(tmp_path / "m.onnx"))
    with pytest.raises(InputError, match="is no ONNX graph with its weights"):
        read_dinov2_onnx(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    "hostile", ["a\x1b[2Jb", "a\rb", "a\x07", "\u202eabc", "a\x9b31m", "x\ud800"]
)
def test_no_control_of_a_hostile_name_reaches_the_terminal(hostile):
    text = str(FieldmarkError(f"has no column {hostile}", where=hostile, mend=hostile))
    assert text.isprintable()
    assert text.encode()


def test_every_data_set_of_torchvision_that_unpickles_is_refused():
    from fieldmark.data.external.vision import PICKLED

    spec = importlib.util.find_spec("torchvision")
    assert spec is not None
    assert spec.origin is not None
    unpickle = {
        one.name
        for path in (Path(spec.origin).parent / "datasets").glob("*.py")
        for one in ast.parse(path.read_text()).body
        if isinstance(one, ast.ClassDef) and "pickle.load" in ast.unparse(one)
    }
    assert "CIFAR10" in unpickle
    assert {name for name in unpickle if not name.startswith("_")} <= PICKLED
