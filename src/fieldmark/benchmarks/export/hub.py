"""Export a model for the hub: the layout of its library, its card, and on demand the upload."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fieldmark.benchmarks.export.base_model import UNKNOWN, BaseModel, find_base_model
from fieldmark.core.errors import UnsupportedEncoderError
from fieldmark.core.records import RESULTS, RUN, read_rows, read_run
from fieldmark.models.encoder import Encoder
from fieldmark.models.hub_export import push_folder
from fieldmark.models.hub_layout import check_repository, write_hub_folder
from fieldmark.models.load import load_encoder, name_library
from fieldmark.report.card_evidence import Evidence, read_evidence
from fieldmark.report.model_card import CardModel, build_model_card
from fieldmark.report.stored import load_object

Library = Literal["open_clip", "hf"]


@dataclass(frozen=True, kw_only=True)
class HubExport:
    """What was written, and where it went.

    Attributes:
        folder: the repository's files.
        library: whose layout they are in.
        licence: of the card; "unknown" where it could not be read.
        address: of the repository; "" where nothing was uploaded.
    """

    folder: Path
    library: str
    licence: str
    address: str = ""


def export_to_hub(
    model: str,
    *,
    repo: str,
    out: Path,
    library: Library | None = None,
    figures: Sequence[Path] = (),
    licence: str | None = None,
    push: bool = False,
    private: bool = False,
) -> HubExport:
    """Write a model as a hub repository with its card, and upload it only if asked to.

    Args:
        model: a run directory, or any name that `--model` takes.
        repo: `ORG/NAME`.
        out: the new folder.
        library: whose layout is wanted; the encoder's own where none is named.
        figures: runs of `evaluate` and audits of these very weights, for the card; a run's own
            figures of accuracy are taken as they are.
        licence: for the card; that of the base model by default.
        push: upload the folder.
        private: whether a new repository is private.

    Raises:
        UsageError: `repo` is no name, or a run in `figures` measured other weights.
        UnsupportedEncoderError: the encoder is of another library.
        FetchError: the upload failed; the folder is whole.
    """
    check_repository(repo)
    encoder = load_encoder(model, device="cpu")
    ours = check_library(encoder, library, model=model)
    base = find_base_model(model)
    licence = licence or base.licence
    fingerprint = encoder.spec.fingerprint
    card = build_model_card(
        CardModel(
            name=repo,
            library=ours,
            base=base.uri,
            base_repo=base.repo,
            licence=licence,
            fingerprint=fingerprint,
        ),
        evidence=tuple(_read_figures(model, figures, fingerprint=fingerprint)),
        training=_read_training(model, base),
    )
    write_hub_folder(encoder, out, repo=repo, card=card)
    address = push_folder(out, repo=repo, private=private) if push else ""
    return HubExport(folder=out, library=ours, licence=licence or UNKNOWN, address=address)


def check_library(encoder: Encoder, wanted: str | None, *, model: str) -> str:
    """Return whose layout the encoder is written in.

    Raises:
        UnsupportedEncoderError: it is another than the one that is wanted, or none.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> check_library(FakeEncoder(), "hf", model="a fake")
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.UnsupportedEncoderError: a fake: comes from FakeEncoder and is not ...
    """
    library = name_library(encoder)
    wanted = wanted or library
    if library != wanted or library not in ("open_clip", "hf"):
        known = library in ("open_clip", "hf")
        raise UnsupportedEncoderError(
            f"comes from {library} and is not rewritten for {wanted if known else 'the hub'}",
            where=model,
            mend=f"use {library}" if known else "give an encoder of open_clip or transformers",
        )
    return library


def _read_figures(model: str, figures: Sequence[Path], *, fingerprint: str) -> Iterator[Evidence]:
    own = Path(model)
    if _has_accuracy(own):
        yield read_evidence(own, fingerprint=fingerprint, card=read_data_card(own))
    for folder in figures:
        yield read_evidence(folder, fingerprint=fingerprint, card=read_data_card(folder))


def _has_accuracy(folder: Path) -> bool:
    if not ((folder / RUN).is_file() and (folder / RESULTS).is_file()):
        return False
    return any(row.metric.startswith("acc_") for row in read_rows(folder))


def read_data_card(run: Path) -> dict[str, Any]:
    """Return the card of the data that a run used: its own copy, or that of a built folder.

    Example:
        >>> read_data_card(Path("nowhere"))
        {}
    """
    places = [run / "page" / "card.json"]
    if (run / RUN).is_file():
        data = read_run(run).get("arguments", {}).get("data")
        places += [Path(data) / "card.json"] if isinstance(data, str) else []
    for path in places:
        if path.is_file():
            return load_object(path, mend="build the data set again")
    return {}


def _read_training(model: str, base: BaseModel) -> dict[str, Any] | None:
    """Return the record of the run that a model comes from; None for a model as it was found."""
    return read_run(Path(model)) if base.steps else None
