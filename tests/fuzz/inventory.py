"""Every function of fieldmark that reads a file or parses what may come from one.

A reader that is written later is found by its calls, and must be reached by the fuzzer or named
here with what it reads (`test_readers.py`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import fieldmark

SOURCE = Path(fieldmark.__file__).parent
Place = tuple[str, str]
# By the last part of their name, whatever they are called on.
METHODS = frozenset(
    {
        "read_text", "read_bytes", "safe_open", "load_file", "frombuffer", "fromfile", "loadtxt",
        "genfromtxt", "memmap", "safe_load", "ZipFile", "TarFile", "ParquetFile", "read_csv",
        "from_pretrained", "ParseFromString", "DictReader", "parse_json", "loadmat", "from_file",
        "load_checkpoint", "load_from_disk", "literal_eval", "unpack_from", "decompressobj",
        "fromstring", "unpack_archive",
    }
)  # fmt: skip
CALLS = frozenset(
    {
        "json.load", "json.loads", "csv.reader", "np.load", "numpy.load", "yaml.scan",
        "tomllib.load", "tomllib.loads", "torch.load", "onnx.load", "pyarrow.parquet.read_table",
        "datasets.load_dataset", "ElementTree.parse", "struct.unpack", "zlib.decompress", "load",
        "safetensors.torch.load", "safetensors.numpy.load", "sqlite3.connect",
    }
)  # fmt: skip
WRITES = frozenset("wax")
_PACKAGE = "a file of this package"
_WRITTEN = "what the same function has just written"
_PINNED = "files of a package, whose SHA-256 is checked before they are read"
_SEALED = "weights whose checksum is checked before; they are made again where it does not fit"
_OPENS = "hands on to readers that are fuzzed"
_HUB = "what the hub's own client fetched by a name that the user gave"
# What no reader of the fuzzer reaches: what it reads, and so why that is no gap.
NOT_REACHED: Mapping[Place, str] = MappingProxyType(
    {
        ("attribution/fine_grained.py", "read_labelled_pairs"): _PACKAGE,
        ("benchmarks/controlled/small_encoder.py", "open_small_encoder"): _SEALED,
        ("benchmarks/fine_tuning_curves.py", "_fine_tune.score"): _WRITTEN,
        ("benchmarks/runner.py", "_run_chain"): _OPENS,
        ("benchmarks/store.py", "Store.write"): _WRITTEN,
        ("benchmarks/tracking/tensorboard_runs.py", "TensorBoardTracker.log_artifact"):
            "pictures that a run of ours drew for its page, passed on as bytes",
        ("cli/bench.py", "_show"): "tables of a run, printed as text",
        ("core/sealed.py", "_sort_metadata"): _WRITTEN,
        ("core/sealed.py", "seal"): _WRITTEN,
        ("core/user_files.py", "run_user_file"): "code of the user's own, which is trusted",
        ("data/controlled/objects.py", "open_objects"): _OPENS,
        ("data/covar/build.py", "_describe"): _WRITTEN,
        ("data/covar/stamps.py", "read_list"): _PACKAGE,
        ("data/datasets/__init__.py", "find_recipe"): _PACKAGE,
        ("data/datasets/__init__.py", "open_dataset"): _OPENS,
        ("data/datasets/gcompris.py", "_read"): _PINNED,
        ("data/datasets/gcompris.py", "read_photographs"): _PACKAGE,
        ("data/datasets/stamps.py", "_measure"): _PINNED,
        ("data/datasets/stamps.py", "_read_photograph"): _PINNED,
        ("data/datasets/stamps.py", "read_list"): _PACKAGE,
        ("data/external/hugging_face.py", "_open_hub"): _HUB,
        ("data/external/hugging_face.py", "_read_inside"): "an image as bytes; images are fuzzed",
        ("methods/bap/anchors.py", "make_anchors"): _SEALED,
        ("methods/training.py", "_open_session"): _OPENS,
        ("models/device.py", "_cpu_flags"): "what the kernel says of the processor",
        ("models/grounded_masks.py", "_open"): _HUB,
        ("models/hub_layout.py", "_forget_paths"): _WRITTEN,
        ("models/hub_layout.py", "_name_repository"): _WRITTEN,
        ("models/packaged.py", "_point_home"): "a configuration, compared with ours alone",
        ("models/packaged.py", "_read_efficientnet"): _PINNED,
        ("models/packaged.py", "_read_minilm"): _PINNED,
        ("models/saliency.py", "read_saliency_head"): _PINNED,
        ("models/text_head.py", "read_head"): _PACKAGE,
        ("report/html.py", "_read_asset"): _PACKAGE,
        ("report/published.py", "read_references"): _PACKAGE,
        ("report/published_covar.py", "read_covar_references"): _PACKAGE,
        ("report/published_ravl.py", "read_ravl_references"): _PACKAGE,
        ("testing/fake_encoder.py", "FakeEncoder.load"): "what its own `save` wrote, in tests",
    }
)  # fmt: skip
# What only the long run reaches, and by which reader.
LONG_RUN: Mapping[Place, str] = MappingProxyType(
    {
        ("benchmarks/export/base_model.py", "_read_json"): "run.json of a base model",
        ("benchmarks/export/base_model.py", "read_front_matter"): "model card",
        ("data/external/hugging_face.py", "_attempt"): "Hugging Face plain.parquet",
        ("data/external/hugging_face.py", "_check_names"): "Hugging Face saved/state.json",
        ("data/external/hugging_face.py", "_open_path"): "Hugging Face plain.parquet",
        ("data/external/vision.py", "_read"): "torchvision image folder",
        ("models/open_clip.py", "build_model"):
            "encoder folder of open_clip, open_clip_config.json",
        ("models/transformers.py", "load_transformers"):
            "encoder folder of transformers, config.json",
    }
)  # fmt: skip


def find_readers() -> frozenset[Place]:
    """Return the module and the name of each function with a call that reads or parses."""
    return frozenset(
        (path.relative_to(SOURCE).as_posix(), name)
        for path in sorted(SOURCE.rglob("*.py"))
        for name in _walk(ast.parse(path.read_text(encoding="utf-8")), "")
    )


def _walk(tree: ast.AST, within: str) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _walk(node, f"{within}.{node.name}".lstrip("."))
            continue
        if isinstance(node, ast.Call) and reads(node):
            yield within
        yield from _walk(node, within)


def reads(call: ast.Call) -> bool:
    """Say whether a call reads a file or parses bytes or text."""
    name = _name_of(call.func)
    if name.rpartition(".")[2] == "open":
        words = [*call.args, *(word.value for word in call.keywords)]
        modes = {word.value for word in words if isinstance(word, ast.Constant)}
        return not any(
            isinstance(mode, str) and {*mode} & WRITES and len(mode) < 4 for mode in modes
        )
    return name.rpartition(".")[2] in METHODS or name in CALLS


def _name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return f"{_name_of(node.value) or '?'}.{node.attr}" if isinstance(node, ast.Attribute) else ""
