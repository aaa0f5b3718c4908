"""What `OUT/audit.json` holds: the contract between an audit and its page, as types.

Undefined figures are null in the file and NaN here. Every text is put on one line, and characters
that turn the direction of writing are shown as what they are not: a replacement mark.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from fieldmark.report.audit_texts import clean, clean_command

State = Literal["found", "not_found", "undecided"]


def _refuse_infinity(value: float) -> float:
    if math.isinf(value):
        raise ValueError("is infinite")
    return value


Text = Annotated[str, AfterValidator(clean)]
MaybeText = Annotated[str, BeforeValidator(lambda text: text or ""), AfterValidator(clean)]
Command = Annotated[str, AfterValidator(clean_command)]
Number = Annotated[
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    AfterValidator(_refuse_infinity),
]
Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    # A later fieldmark may add to the record, so what is unknown is passed over.
    model_config = ConfigDict(frozen=True, extra="ignore")


class Figure(_Part):
    """A share in [0, 1] or a difference in [-1, 1], its 95 % interval and what it rests on."""

    value: Number
    low: Number
    high: Number
    count: Count

    @property
    def is_defined(self) -> bool:
        """Whether there is a value."""
        return not math.isnan(self.value)


UNDEFINED = Figure(value=math.nan, low=math.nan, high=math.nan, count=0)


class Picture(_Part):
    """A picture: its path below OUT, and what it shows."""

    src: str
    alt: Text


class AuditEncoder(_Part):
    """An encoder that was looked at."""

    label: Text
    uri: Text
    fingerprint: Text = ""


class LeftOut(_Part):
    """A part that the input did not allow: why, and what would allow it."""

    part: Text
    reason: Text
    mend: MaybeText = ""


class NamedFigure(_Part):
    """A figure of something that has a name."""

    name: Text
    figure: Figure


class GroupFigure(_Part):
    """Accuracy of one group: a class, and what it stands on where that is known."""

    name: Text
    label: Text
    attribute: MaybeText = ""
    figure: Figure


class AuditAccuracy(_Part):
    """Accuracy of one encoder by one head."""

    encoder: Count
    head: Text
    average: Figure
    worst_group: Figure = UNDEFINED
    worst_group_name: MaybeText = ""
    groups: tuple[GroupFigure, ...] = ()
    classes: tuple[NamedFigure, ...] = ()


class ClassChange(NamedFigure):
    """How accuracy of one class changes, with a p-value corrected for all classes."""

    adjusted_p_value: Number = math.nan


class AccuracyChange(_Part):
    """Accuracy of the second encoder less that of the first by one head, on the same images."""

    head: Text
    average: Figure
    p_value: Number = math.nan
    classes: tuple[ClassChange, ...] = ()


class Region(_Part):
    """A cluster of regions with which accuracy changes."""

    cluster: int
    tied_class: Text
    gap: Figure
    adjusted_p_value: Number
    significant: bool
    place: Literal["background", "object", "mixed", "unknown"] = "unknown"
    background_share: Number = math.nan
    words: tuple[Text, ...] = ()
    pictures: tuple[Picture, ...] = ()


class AuditDiscovery(_Part):
    """What RaVL found for one encoder."""

    encoder: Count
    images: Count
    clusters: Count
    reason: MaybeText = ""
    page: MaybeText = ""
    findings: tuple[Region, ...] = ()


class AuditSourceShare(_Part):
    """The share of errors that one source drove, the share by chance, and what is beyond it."""

    source: Text
    title: Text
    share: Figure
    null: Figure
    corrected: Figure


class AuditSources(_Part):
    """The sources of one encoder's errors by one rule."""

    encoder: Count
    rule: Text
    errors: Count
    images: Count
    page: MaybeText = ""
    shares: tuple[AuditSourceShare, ...] = ()


class ClassGap(_Part):
    """The background gap of one class."""

    name: Text
    gap: Figure


class SwapResult(_Part):
    """What one encoder and head says of the same objects on other backgrounds."""

    encoder: Count
    head: Text
    same: Figure
    other: Figure
    gap: Figure
    gap_p_value: Number
    flip_rate: Figure
    by_class: tuple[ClassGap, ...] = ()


class Sensitivity(_Part):
    """BSI of one encoder (BAP D.1)."""

    encoder: Count
    total: Number
    per_dimension: Number
    defined: Count
    count: Count


class AuditAdditivity(_Part):
    """Additivity S of one encoder (BAP Eq. 1), and the mean cosine of its two parts."""

    encoder: Count
    figure: Figure
    parts: Number = math.nan


class Reference(_Part):
    """The accuracy that a drop is taken from."""

    accuracy: Figure


class Change(_Part):
    """Accuracy under one controlled change, and the drop below the originals.

    `drop_background` is the drop below the same objects on the same scenes, changed no further.
    """

    change: Text
    accuracy: Figure
    drop: Figure
    drop_background: Figure | None = None


class Drops(_Part):
    """The drops of one encoder and head."""

    encoder: Count
    head: Text
    reference: Reference
    changes: tuple[Change, ...] = ()


class SwapDifference(_Part):
    """The second encoder less the first, paired by object."""

    head: Text
    gap: Figure
    flip_rate: Figure


class Answer(_Part):
    """What an encoder said of a tile."""

    encoder: Count
    head: Text
    predicted: Text
    right: bool


class Tile(Picture):
    """An object on one background, and what was said of it."""

    kind: Literal["original", "same", "other"]
    said: tuple[Answer, ...] = ()


class SwapPictures(_Part):
    """The tiles of one object."""

    object: Text
    label: Text
    tiles: tuple[Tile, ...] = ()


class Swaps(_Part):
    """Background swaps of the user's own objects."""

    objects: Count
    scenes: Count
    composites: Count
    scene_source: MaybeText = ""
    notes: tuple[Text, ...] = ()
    results: tuple[SwapResult, ...] = ()
    sensitivity: tuple[Sensitivity, ...] = ()
    additivity: tuple[AuditAdditivity, ...] = ()
    drops: tuple[Drops, ...] = ()
    differences: tuple[SwapDifference, ...] = ()
    pictures: tuple[SwapPictures, ...] = ()


class EncoderMap(Picture):
    """The map of one encoder."""

    encoder: Count


class Prediction(_Part):
    """What an encoder said of an image, and what drove it."""

    encoder: Count
    predicted: Text
    score: Number = math.nan
    right: bool
    source: MaybeText = ""


class TellingImage(_Part):
    """One of the most telling images."""

    id: Text
    label: Text
    object_area: Number = math.nan
    picture: Picture
    maps: tuple[EncoderMap, ...] = ()
    said: tuple[Prediction, ...] = ()
    why: MaybeText = ""


class Finding(_Part):
    """One question that the audit asked, and what the data say to it."""

    id: Text
    kind: Text
    encoder: Count
    head: MaybeText = ""
    title: Text
    figure: Figure
    p_value: Number = math.nan
    adjusted_p_value: Number = math.nan
    state: State
    detail: MaybeText = ""


class Verdict(_Part):
    """What the findings of one encoder bear together."""

    encoder: Count
    state: Literal["relies", "no_sign", "undecided"]


class Changes(_Part):
    """Ids of findings by what became of them from the first encoder to the second."""

    vanished: tuple[Text, ...] = ()
    shrank: tuple[Text, ...] = ()
    stayed: tuple[Text, ...] = ()
    new: tuple[Text, ...] = ()
    undecided: tuple[Text, ...] = ()


class NextStep(_Part):
    """What to do next, and the command that does it."""

    title: Text
    why: MaybeText = ""
    command: Command = ""


class PartPage(_Part):
    """A page of one part of the audit, by its path below OUT."""

    title: Text
    page: Text


class AuditParts(_Part):
    """All that the page, the Markdown and the words speak of; the contract of `audit.json`.

    Attributes:
        folder: OUT, that paths of pictures and pages start from.
        images: how many accuracy was measured on, of `images_all`.
        sample: how many of them were looked at more closely.
        telling: the most telling images, first the one that tells the most.
        margin: an effect below this share is called small. `level` is that of the tests.
    """

    folder: Path
    model: Text
    compare: MaybeText = ""
    encoders: Annotated[tuple[AuditEncoder, ...], Field(min_length=1, max_length=2)]
    dataset: Text
    split: MaybeText = ""
    images: Count
    images_all: Count
    sample: Count | None = None
    objects: Count | None = None
    classes: tuple[Text, ...] = ()
    attributes: tuple[Text, ...] = ()
    mask_source: MaybeText = ""
    heads: tuple[Text, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    accuracy: tuple[AuditAccuracy, ...] = ()
    accuracy_changes: tuple[AccuracyChange, ...] = ()
    discovery: tuple[AuditDiscovery, ...] = ()
    sources: tuple[AuditSources, ...] = ()
    swaps: Swaps | None = None
    telling: tuple[TellingImage, ...] = ()
    findings: tuple[Finding, ...] = ()
    margin: Number
    level: Number
    verdict: tuple[Verdict, ...]
    changes: Changes | None = None
    next: tuple[NextStep, ...] = ()
    not_tested: tuple[Text, ...] = ()
    parts: tuple[PartPage, ...] = ()
    command: Command = ""
    seconds: Number = math.nan
