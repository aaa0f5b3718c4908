"""What the CCI and COVAR paper prints in its Tables 3 and 4, to stand beside our figures.

`references/covar.csv` holds one line a figure, as a share of 1 where the paper prints per cent. The
numbers are those of the paper's own pool (ImageNet objects, generated scenes, 1,000 candidates), so
they stand beside figures of another pool for orientation, never as a target. The paper does not
agree with itself: its text gives 57.4 and 30.1 under rotation for two encoders whose Table 3 says
61.7 and 44.6 (facts/attribution.md section 4). The tables are kept as printed. One cell of Table 4
cannot be read (BG-Er of ViT-L/14 LAION-2B on varied backgrounds) and is left out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from fieldmark.core.errors import InputError
from fieldmark.report.reference_lines import read_lines

COLUMNS = ("table", "encoder", "name", "subset", "metric", "value")
# Other names of the same weights.
ALIASES: Mapping[str, str] = {
    "ViT-B-16-quickgelu/openai": "ViT-B-16/openai",
    "ViT-B-32-quickgelu/openai": "ViT-B-32/openai",
    "ViT-L-14-quickgelu/openai": "ViT-L-14/openai",
    "ViT-L-14-336-quickgelu/openai": "ViT-L-14-336/openai",
    "ViT-L-14-quickgelu/dfn2b": "ViT-L-14/dfn2b",
    "ViT-H-14/dfn5b": "ViT-H-14-quickgelu/dfn5b",
    "ViT-H-14-378/dfn5b": "ViT-H-14-378-quickgelu/dfn5b",
}
_HUB: Mapping[str, str] = {
    "hf:openai/clip-vit-base-patch16": "ViT-B-16/openai",
    "hf:openai/clip-vit-base-patch32": "ViT-B-32/openai",
    "hf:openai/clip-vit-large-patch14": "ViT-L-14/openai",
    "hf:openai/clip-vit-large-patch14-336": "ViT-L-14-336/openai",
    "hf:google/siglip2-so400m-patch14-224": "ViT-SO400M-14-SigLIP2/webli",
    "hf:google/siglip2-base-patch16-384": "ViT-B-16-SigLIP2-384/webli",
    "hf:google/siglip2-base-patch16-512": "ViT-B-16-SigLIP2-512/webli",
    "hf:google/siglip2-base-patch32-256": "ViT-B-32-SigLIP2-256/webli",
    "hf:google/siglip-base-patch16-256": "ViT-B-16-SigLIP-256/webli",
}


@dataclass(frozen=True, kw_only=True)
class CovarReference:
    """One figure of the paper.

    Attributes:
        table: 3 or 4.
        encoder: URI of the encoder.
        name: as the paper calls it, with the size of its input and its training data.
        subset: a column: `background`, `h_flip`, `translate`, `crop`, `v_flip`, `rotation`,
            `viewpoint`, `scale`, or `average` over these eight.
        metric: `accuracy`, or `background_errors` and `fine_grained_errors` as shares of the
            errors.
        value: a share of 1.
    """

    table: int
    encoder: str
    name: str
    subset: str
    metric: str
    value: float


@functools.cache
def read_covar_references() -> tuple[CovarReference, ...]:
    """Return every figure of the paper's Tables 3 and 4, in the order of the tables.

    Example:
        >>> len({reference.encoder for reference in read_covar_references()})
        18
    """
    source = resources.files("fieldmark.report") / "references" / "covar.csv"
    return parse_covar_references(source.read_text(encoding="utf-8"), where=source.name)


def parse_covar_references(text: str, *, where: str) -> tuple[CovarReference, ...]:
    """Read figures from CSV text with the columns of `COLUMNS`.

    Args:
        text: the table, its heads in the first line.
        where: the file, for messages.

    Raises:
        InputError: a column is missing, a number is no share, or a figure is there twice; the line
            is named.

    Example:
        >>> parse_covar_references("table,subset", where="a.csv")
        Traceback (most recent call last):
        fieldmark.core.errors.InputError: a.csv: lacks the columns encoder, name, metric, value...
    """
    found: dict[tuple[object, ...], CovarReference] = {}
    for place, one in read_lines(text, columns=COLUMNS, where=where, parse=_parse):
        key = (one.encoder, one.subset, one.metric)
        if key in found or not 0 <= one.value <= 1:
            what = "repeats" if key in found else "gives no share of 1 for"
            raise InputError(
                f"{what} {one.metric} of {one.encoder} on {one.subset}",
                where=place,
                mend="keep one line, with a share of 1",
            )
        found[key] = one
    return tuple(found.values())


def _parse(line: Mapping[str, str]) -> CovarReference:
    words = {key: line[key].strip() for key in ("encoder", "name", "subset", "metric")}
    return CovarReference(table=int(line["table"]), value=float(line["value"]), **words)


@functools.cache
def _index() -> Mapping[tuple[str, str, str], float]:
    return {(one.encoder, one.subset, one.metric): one.value for one in read_covar_references()}


def find_covar_encoder(uri: str) -> str | None:
    """Return the paper's encoder that a URI names, by the paper's own URI, or None.

    Example:
        >>> find_covar_encoder("hf:openai/clip-vit-base-patch16")
        'open_clip:ViT-B-16/openai'
        >>> find_covar_encoder("packaged:dinov2-small@98") is None
        True
    """
    bare = uri.strip().removeprefix("open_clip:").replace(",", "/")
    bare = _HUB.get(uri.strip(), ALIASES.get(bare, bare))
    known = {one.encoder for one in read_covar_references()}
    return f"open_clip:{bare}" if f"open_clip:{bare}" in known else None


def find_covar_reference(uri: str, *, subset: str, metric: str = "accuracy") -> float:
    """Find one figure that the paper prints.

    Args:
        uri: of the encoder, any of its names.
        subset: as `CovarReference.subset`.
        metric: as `CovarReference.metric`.

    Returns:
        The figure, or NaN where the paper has none.

    Example:
        >>> find_covar_reference("ViT-L-14/openai", subset="scale")
        0.283
        >>> find_covar_reference("open_clip:ViT-L-14,openai", subset="scale",
        ...     metric="background_errors")
        0.301
    """
    encoder = find_covar_encoder(uri)
    return math.nan if encoder is None else _index().get((encoder, subset, metric), math.nan)
