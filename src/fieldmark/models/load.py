"""From a name to an encoder.

open_clip:ViT-B-16/laion2b_s34b_b88k    a built-in architecture and a tag of weights; `,` for `/`
                                        works too, and `open_clip:` may be left out
hf-hub:org/repo                         a hub repository in open_clip's layout
local-dir:PATH                          the same in a folder
hf:org/repo, hf:PATH                    a transformers model (CLIP, SigLIP, SigLIP 2 NaFlex)
packaged:dinov2-small                   an encoder that travels in a package; no network after
PATH                                    a run directory (run.json and encoder/) or a model's folder

NAME@SIDE                               any of open_clip's with another input size, in pixels
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from fieldmark.core.errors import FieldmarkError, InputError, UnknownNameError
from fieldmark.core.records import read_run
from fieldmark.models.device import pick_device, pick_dtype
from fieldmark.models.encoder import Encoder
from fieldmark.models.hub import first_line, is_folder

SCHEMES = ("open_clip", "hf-hub", "local-dir", "hf", "packaged")


def load_encoder(
    uri: str, *, device: torch.device | str = "auto", precision: str = "fp32"
) -> Encoder:
    """Load an encoder by its name.

    Args:
        uri: see the head of this file.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: of the weights: `fp32`, `bf16`, `fp16`, or `auto` for bf16 where it is fast.

    Raises:
        UnknownNameError: the name is none; the message lists what is known.
        FetchError: weights cannot be had.
        InputError: a folder that holds no usable model.

    Example:
        >>> load_encoder("clip:ViT-B-16")
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.UnknownNameError: unknown kind of model name 'clip'; known: hf-...
    """
    chosen = pick_device(device)
    dtype = pick_dtype(precision, device=chosen)
    try:
        encoder = _load_sized(uri.strip())
    except (FieldmarkError, ImportError):
        raise
    except Exception as error:  # a library raises anything at a configuration that it cannot use
        raise InputError(
            f"holds no usable model ({type(error).__name__}: {first_line(error)})",
            where=uri[:200],
            mend="check its configuration and its tokenizer, or copy it again",
        ) from error
    if chosen.type == "cpu" and dtype == torch.float32:
        return encoder
    return encoder.place(device=chosen, dtype=None if dtype == torch.float32 else dtype)


def _load_sized(uri: str) -> Encoder:
    name, at, side = uri.rpartition("@")
    if not (at and side.isascii() and side.isdigit() and len(side) < 6):
        return _load(uri)
    from fieldmark.models.adapter import DualEncoder
    from fieldmark.models.input_size import resize_input

    encoder = _load(name)
    assert isinstance(encoder, DualEncoder)
    return resize_input(encoder, int(side))


def _load(uri: str) -> Encoder:
    scheme, colon, rest = uri.partition(":")
    loaders: dict[str, Callable[[str], Encoder]] = {
        "open_clip": _load_open_clip,
        "hf-hub": _load_hub,
        "local-dir": _load_local_dir,
        "hf": _load_transformers,
        "packaged": _load_packaged,
    }
    if colon and scheme in loaders:
        return loaders[scheme](rest)
    if is_folder(Path(uri)):
        return _load_folder(Path(uri))
    if colon:
        raise UnknownNameError("kind of model name", scheme, [f"{name}:..." for name in SCHEMES])
    return _load_open_clip(uri)


def _load_open_clip(rest: str) -> Encoder:
    from fieldmark.models import open_clip

    if rest.startswith(("hf-hub:", "local-dir:")):
        return _load(rest)
    name, _, tag = rest.replace(",", "/").rpartition("/")
    if not name:
        name, tag = tag, ""
    return open_clip.load_tag(name, tag)


def _load_hub(repo: str) -> Encoder:
    from fieldmark.models import open_clip

    return open_clip.load_hub(repo)


def _load_local_dir(path: str) -> Encoder:
    from fieldmark.models import open_clip

    return open_clip.load_folder(_existing(path))


def _load_transformers(name: str) -> Encoder:
    from fieldmark.models import transformers

    return transformers.load_transformers(name)


def _load_packaged(name: str) -> Encoder:
    from fieldmark.models import open_clip, packaged

    return open_clip.load_folder(packaged.prepare(name), uri=f"packaged:{name}")


def _load_folder(folder: Path) -> Encoder:
    """Load a run directory, or a folder in the layout of open_clip or of transformers."""
    if (folder / "run.json").is_file() and (folder / "encoder").is_dir():
        return _load_run(folder)
    if (folder / "open_clip_config.json").is_file():
        return _load_local_dir(str(folder))
    if (folder / "config.json").is_file():
        return _load_transformers(str(folder))
    raise InputError(
        "holds neither a run with an encoder nor a model",
        where=folder,
        mend="give a run directory, or a folder with open_clip_config.json or config.json",
    )


def _load_run(folder: Path) -> Encoder:
    """Load the encoder of a run, whose record names the fingerprint that it must have."""
    stated = read_run(folder).get("weights", {}).get("after")
    encoder = _load_folder(folder / "encoder")
    if stated is not None and stated != encoder.spec.fingerprint:
        raise InputError(
            "these weights are not those that the run wrote (their fingerprint differs)",
            where=folder / "encoder",
            mend="run again, or copy the folder again from where it is whole",
        )
    return encoder


def _existing(path: str) -> Path:
    try:
        folder = Path(path).expanduser()
    except RuntimeError as error:
        raise InputError("is no folder", where=path[:200], mend="check the path") from error
    if not is_folder(folder):
        raise InputError("is no folder", where=folder, mend="check the path")
    return folder


def name_library(encoder: Encoder) -> str:
    """Return whose layout `encoder.save` writes: `open_clip`, `hf`, or the encoder's own class.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> name_library(FakeEncoder())
        'FakeEncoder'
    """
    from fieldmark.models.open_clip import OpenClipLibrary
    from fieldmark.models.transformers import TransformersLibrary

    library = getattr(encoder, "library", encoder)
    known: dict[type, str] = {OpenClipLibrary: "open_clip", TransformersLibrary: "hf"}
    return known.get(type(library), type(library).__name__)
