"""Parsers of short texts: run lengths, names of encoders, of data, of sources of regions."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from fieldmark.benchmarks.sources import open_table
from fieldmark.core.errors import FieldmarkError
from fieldmark.data.coco import decode_runs, encode_runs, parse_runs
from fieldmark.discovery.region_sources import parse_region_source
from fieldmark.models.load import load_encoder
from tests.fuzz.mutate import Damage, damage_json, damage_text
from tests.fuzz.run import Reader
from tests.fuzz.tables import prepare_images

RUNS = ("8`0`1", "X2", "0X2")
REGIONS = (
    "quadrants", "grid:3x4", "scales:1,2,3", "boxes:images.csv", "coco:images.csv",
    "detector:fasterrcnn_resnet50_fpn", "detector:ssd300_vgg16:m.png", "function:a.py:f",
)  # fmt: skip
# None of them names something that is here, so that no weight is read.
ENCODERS = (
    "open_clip:ViT-B-16/nowhere", "ViT-B-16,nowhere", "hf-hub:org/repo", "local-dir:nowhere",
    "hf:org/repo", "packaged:nothing", "nowhere@224", "local-dir:.", "./sub",
)  # fmt: skip
DATA = ("images.csv", ".", "sub", "stamps", "waterbirds", "nowhere.csv")


def _read_runs(content: bytes, folder: Path) -> None:
    counts = parse_runs(content.decode("latin-1"))
    mask = decode_runs(counts, size=(8, 9))
    # A run of no pixels at the end or in between is a way of its own to write the same mask.
    if len(counts) == 1 or all(count > 0 for count in counts[1:]):
        assert encode_runs(mask) == counts


def _read_counts(content: bytes, folder: Path) -> None:
    try:
        counts = json.loads(content)
    except (ValueError, RecursionError):
        return
    decode_runs(counts, size=(8, 9))


def _inside(read: Callable[[str], object]) -> Callable[[bytes, Path], object]:
    def run(content: bytes, folder: Path) -> object:
        before = Path.cwd()
        os.chdir(folder)
        try:
            return read(content.decode("utf-8", "surrogateescape"))
        finally:
            os.chdir(before)

    return run


def _read_encoder(text: str) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    if text.startswith("packaged:") and text.removeprefix("packaged:").partition("@")[0] in (
        "dinov2-small",
        "efficientnet-lite0",
    ):
        raise FieldmarkError("would read weights")
    load_encoder(text)


def _read_data(text: str) -> None:
    # A folder above ours may hold millions of files, which takes time and is no fault.
    if text.startswith("/"):
        raise FieldmarkError("is not ours")
    if not os.path.normpath(f"{Path.cwd()}/{text}").startswith(str(Path.cwd().parent)):
        raise FieldmarkError("is not ours")
    open_table(text)


def list_readers() -> list[Reader]:
    """Return the parsers of words."""
    counts = ("[8, 16, 48]", "[72]", "[0, 72]")
    return [
        _make("run-length string", RUNS, _read_runs, share=3),
        _make("run-length counts", counts, _read_counts, damage=damage_json, share=2),
        _make("source of regions", REGIONS, _inside(parse_region_source)),
        _make("name of data", DATA, _inside(_read_data)),
    ]


def list_long_readers() -> list[Reader]:
    """Return the parser of an encoder's name, which loads every library of encoders."""
    return [_make("name of an encoder", ENCODERS, _inside(_read_encoder), share=0.3)]


def _make(
    name: str,
    seeds: tuple[str, ...],
    read: Callable[[bytes, Path], object],
    *,
    damage: Damage = damage_text,
    share: float = 1.0,
) -> Reader:
    return Reader(
        name=name,
        seeds=[text.encode() for text in seeds],
        read=read,
        damage=damage,
        prepare=prepare_images,
        share=share,
    )
