"""Name a way to cut images into regions by one word, as a command line does, and cut by it.

- `quadrants`: the four quarters of every image.
- `grid:3x4`: three rows of four boxes.
- `scales:1,2,3`: grids of 1 x 1, 2 x 2 and 3 x 3 boxes together.
- `boxes:FILE`: boxes from a CSV, TSV or Parquet table (`region_files.read_region_table`).
- `coco:FILE`: boxes from a COCO instances file.
- `detector:NAME` or `detector:NAME:WEIGHTS`: what one of torchvision's detectors proposes, with
  torchvision's own weights or those of a file.
- `function:FILE.py:NAME`: what a function of the user's proposes for an image. The file is
  executed, so it must be one that the user trusts.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor, nn

from fieldmark.core.atomic import hash_file
from fieldmark.core.errors import (
    ChecksumError,
    FetchError,
    FieldmarkError,
    InputError,
    UnknownNameError,
    UsageError,
)
from fieldmark.core.fetch import cache_dir
from fieldmark.core.user_files import run_user_file
from fieldmark.data.tables import ImageTable
from fieldmark.discovery.detectors import propose_by_detector
from fieldmark.discovery.region_files import read_coco_regions, read_region_table
from fieldmark.discovery.regions import (
    Propose,
    Regions,
    cut_grid,
    cut_quadrants,
    cut_scales,
    place_image,
    propose_regions,
)
from fieldmark.models.embed import Images
from fieldmark.models.encoder import EncoderSpec

# The words, as a message or a help text shows them.
REGION_SOURCES = (
    "quadrants",
    "grid:RxC",
    "scales:1,2,3",
    "boxes:FILE",
    "coco:FILE",
    "detector:NAME",
    "function:FILE.py:NAME",
)
# torchvision builds these with an epsilon of 0 in their batch norms when it loads its own weights.
_WITHOUT_EPSILON = frozenset(
    f"{kind}_resnet50_fpn" for kind in ("fasterrcnn", "maskrcnn", "keypointrcnn", "retinanet")
)


@dataclass(frozen=True, kw_only=True)
class RegionSource:
    """A way to cut images into regions; `parse_region_source` makes it.

    Attributes:
        kind: the word in front of the colon.
        sizes: rows and columns of a grid, or the scales.
        path: the file of `boxes`, `coco` and `function`, or a detector's weights.
        name: of the detector or of the function.
    """

    kind: str
    sizes: tuple[int, ...] = ()
    path: Path | None = None
    name: str = ""

    def to_text(self) -> str:
        """Return the words that `parse_region_source` reads as this source.

        Example:
            >>> parse_region_source(" grid:2x3 ").to_text()
            'grid:2x3'
        """
        if self.kind == "detector":
            parts = [self.name, str(self.path) if self.path else ""]
        elif self.kind == "grid":
            parts = ["x".join(str(size) for size in self.sizes)]
        else:
            sizes = ",".join(str(size) for size in self.sizes)
            parts = [sizes, str(self.path) if self.path else "", self.name]
        return ":".join([self.kind, *(part for part in parts if part)])


def parse_region_source(text: str) -> RegionSource:
    """Read the words of a source of regions; a file that it names must be there.

    Args:
        text: one of `REGION_SOURCES`.

    Raises:
        UnknownNameError: the word, or the detector, is none of the known ones.
        UsageError: what follows the word is not of its form.
        InputError: there is no such file.

    Example:
        >>> parse_region_source("scales:1,2").sizes
        (1, 2)
        >>> parse_region_source("squares")
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.UnknownNameError: unknown source of regions 'squares'; ...
    """
    kind, _, rest = text.strip().partition(":")
    if kind not in _READERS:
        raise UnknownNameError("source of regions", text, REGION_SOURCES)
    return _READERS[kind](rest)


def make_regions(
    source: RegionSource, images: Images, *, spec: EncoderSpec, table: ImageTable | None = None
) -> Regions:
    """Cut images into regions.

    Args:
        source: how.
        images: n images. Grids need only their number; a detector and a function see each once.
        spec: of the encoder that the regions are for.
        table: the same images by id and path, which `boxes` and `coco` are matched by; by default
            `images` where that is one.

    Raises:
        InputError: no region, a box without area or outside of its image, other images in the
            table, or a file or a function that cannot be used.
        FetchError: a detector's weights cannot be had.
        ImageError: an image cannot be read.
        UnsupportedEncoderError: the encoder takes images of many shapes (NaFlex).
        UsageError: the source needs a table.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> class Pictures:
        ...     def __len__(self): return 2
        ...     def read(self, index, /): return Image.new("RGB", (8, 8))
        ...     def hashes(self): return ("a", "b")
        >>> source = parse_region_source("quadrants")
        >>> len(make_regions(source, Pictures(), spec=FakeEncoder().spec))
        8
    """
    # Refuses an encoder without one frame before any image is read.
    place_image((1, 1), spec=spec)
    side, count = spec.image_size, len(images)
    if source.kind == "quadrants":
        return cut_quadrants(count, side=side)
    if source.kind == "grid":
        rows, columns = source.sizes
        return cut_grid(count, side=side, rows=rows, columns=columns)
    if source.kind == "scales":
        return cut_scales(count, side=side, scales=source.sizes)
    if source.kind in ("boxes", "coco"):
        return _read_file(source, _need_table(source, images, table), spec=spec)
    if source.kind == "detector":
        propose: Propose = propose_by_detector(load_detector(source.name, weights=source.path))
        return propose_regions(images, propose, spec=spec, source=source.to_text())
    assert source.path is not None
    function, digest = load_function(source.path, source.name)
    name = f"{source.to_text()} (sha256 {digest[:12]})"
    return propose_regions(images, function, spec=spec, source=name)


def load_detector(name: str, *, weights: Path | None = None) -> nn.Module:
    """Build one of torchvision's detectors in evaluation mode, on the CPU.

    Args:
        name: as torchvision names its builder, such as `fasterrcnn_resnet50_fpn`.
        weights: a state dict of this detector; torchvision's own by default, which are fetched into
            the cache folder once. No pickled code is run.

    Raises:
        FetchError: the weights cannot be fetched, or are not what torchvision's checksum says.
        InputError: the file of weights is none, or of another model.
        UnknownNameError: torchvision has no such detector.
    """
    from torchvision.models import get_model, get_model_weights

    official = get_model_weights(_check_detector(name)).DEFAULT
    facts = official.meta
    options = {"num_keypoints": len(facts["keypoint_names"])} if "keypoint_names" in facts else {}
    detector: nn.Module = get_model(
        name, weights=None, weights_backbone=None, num_classes=len(facts["categories"]), **options
    )
    state = _fetch_weights(official) if weights is None else _read_weights(weights)
    try:
        detector.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise InputError(
            f"does not hold the weights of {name}",
            where=weights or official.url,
            mend="save the state dict of a detector that torchvision built with its own classes",
        ) from error
    if name in _WITHOUT_EPSILON:
        for module in detector.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 0.0
    return detector.eval()


def load_function(path: Path, name: str) -> tuple[Propose, str]:
    """Execute a user's file and return its function and the SHA-256 of the file.

    Args:
        path: a Python file that the user trusts.
        name: of a function in it, from an upright RGB image to (r,4) x0 y0 x1 y1 in its pixels.

    Returns:
        The function, whose failures are one line, and 64 hexadecimal digits.

    Raises:
        InputError: the file cannot be read or fails, or holds no such function.
    """
    held, digest = run_user_file(path)
    function = held.get(name)
    if not callable(function):
        found = [key for key, value in held.items() if callable(value) and key[0] != "_"]
        raise InputError(
            f"holds no function {name!r}",
            where=path,
            mend=f"it holds {', '.join(found)}" if found else "define it at the top level",
        )
    return _guard(cast("Propose", function), where=f"{path}:{name}"), digest


def _guard(function: Propose, *, where: str) -> Propose:
    def propose(image: Image.Image) -> ArrayLike:
        try:
            return function(image)
        except FieldmarkError:
            raise
        except Exception as error:  # a user's function too may fail in any way
            problem = f"fails on an image ({type(error).__name__}: {error})"
            raise InputError(problem, where=where, mend="mend the function") from error

    return propose


def _need_table(source: RegionSource, images: Images, table: ImageTable | None) -> ImageTable:
    found = images if table is None and isinstance(images, ImageTable) else table
    if found is None:
        raise UsageError(
            f"{source.kind} are matched to images by id or path, which these images have not",
            where=source.to_text(),
            mend="give a table of images, or cut a grid",
        )
    if len(found) != len(images):
        raise UsageError(
            f"a table of {len(found)} images does not fit {len(images)} images",
            where=source.to_text(),
        )
    return found


def _read_file(source: RegionSource, table: ImageTable, *, spec: EncoderSpec) -> Regions:
    assert source.path is not None
    read = read_coco_regions if source.kind == "coco" else read_region_table
    return read(source.path, table, spec=spec)


def _check_detector(name: str) -> str:
    from torchvision.models import detection, list_models

    known = list_models(module=detection)
    if name not in known:
        raise UnknownNameError("detector of torchvision", name, known)
    return name


def _fetch_weights(official: Any) -> dict[str, Tensor]:
    folder = cache_dir() / "detectors"
    kept = folder / str(official.url).rpartition("/")[2]
    # torchvision checks what it downloads, not what it finds; the name ends in the SHA-256's start.
    stated = kept.stem.rpartition("-")[2]
    if kept.is_file() and not hash_file(kept).startswith(stated):
        raise ChecksumError("is damaged", where=kept, mend="delete it to have it fetched again")
    try:
        state: dict[str, Tensor] = official.get_state_dict(
            model_dir=str(folder), progress=False, check_hash=True, weights_only=True
        )
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or error
        raise FetchError(
            f"the detector's weights cannot be fetched ({reason})",
            where=official.url,
            mend=f"put the file into {folder}, or write detector:NAME:FILE",
        ) from error
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise ChecksumError(
            "the detector's weights are not what they should be",
            where=official.url,
            mend=f"delete the file in {folder} and try again",
        ) from error
    return state


def _read_weights(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its zip reader and unpickler happen to raise
        raise InputError(
            "is not a file of weights", where=path, mend="save a state dict with torch.save"
        ) from error


def _parse_quadrants(rest: str) -> RegionSource:
    if rest:
        raise UsageError(f"quadrants take no {rest!r}", mend="write quadrants, or grid:RxC")
    return RegionSource(kind="quadrants")


def _parse_grid(rest: str) -> RegionSource:
    match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", rest)
    if match is None:
        raise UsageError(
            f"a grid of {rest!r} is not rows x columns", mend="write grid:3x4 for 3 rows of 4"
        )
    return RegionSource(kind="grid", sizes=(int(match[1]), int(match[2])))


def _parse_scales(rest: str) -> RegionSource:
    if re.fullmatch(r"[1-9]\d{0,3}(,[1-9]\d{0,3})*", rest) is None:
        raise UsageError(f"scales of {rest!r} are not whole numbers", mend="write scales:1,2,3")
    sizes = tuple(int(part) for part in rest.split(","))
    if len(set(sizes)) < len(sizes):
        raise UsageError(f"scales of {rest!r} name one twice", mend="name each once")
    return RegionSource(kind="scales", sizes=sizes)


def _parse_file(kind: str) -> Callable[[str], RegionSource]:
    def parse(rest: str) -> RegionSource:
        return RegionSource(kind=kind, path=_find_file(rest, form=f"{kind}:FILE"))

    return parse


def _parse_detector(rest: str) -> RegionSource:
    name, _, weights = rest.partition(":")
    path = _find_file(weights, form="detector:NAME:FILE") if weights else None
    return RegionSource(kind="detector", name=_check_detector(name), path=path)


def _parse_function(rest: str) -> RegionSource:
    path, _, name = rest.rpartition(":")
    if not name.isidentifier():
        raise UsageError(
            f"function:{rest} names no function in a file", mend="write function:FILE.py:NAME"
        )
    return RegionSource(
        kind="function", name=name, path=_find_file(path, form="function:FILE.py:NAME")
    )


def _find_file(text: str, *, form: str) -> Path:
    if not text or "\0" in text:
        raise UsageError("names no file", where=form, mend=f"write {form}")
    try:
        path = Path(text).expanduser()
        found = path.is_file()
    except (OSError, RuntimeError):
        # A name that no file system takes, or the home of nobody.
        path, found = Path(text[:200]), False
    if not found:
        raise InputError("no such file", where=path, mend="mend the path")
    return path


_READERS: dict[str, Callable[[str], RegionSource]] = {
    "quadrants": _parse_quadrants,
    "grid": _parse_grid,
    "scales": _parse_scales,
    "boxes": _parse_file("boxes"),
    "coco": _parse_file("coco"),
    "detector": _parse_detector,
    "function": _parse_function,
}
