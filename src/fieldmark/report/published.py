"""What the BAP paper prints in its Tables 1 to 16, to stand beside our figures.

`references/bap.csv` holds one line a figure, as a share of 1 where the paper prints per cent. An
encoder is the URI of the checkpoint that the paper names (M.1, C.2); where it names none and does
not imply LAION-2B (appendix overview), it is the paper's own words, which no URI equals.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from fieldmark.report.reference_lines import read_lines

COLUMNS = (
    "table",
    "encoder",
    "dataset",
    "correlation",
    "split",
    "method",
    "head",
    "metric",
    "setting",
    "value",
    "deviation",
    "runs",
)
# The same weights under other addresses.
ALIASES: Mapping[str, str] = {
    "open_clip:vit-b-16-siglip2/webli": "hf:google/siglip2-base-patch16-224",
    "hf:timm/vit-b-16-siglip2": "hf:google/siglip2-base-patch16-224",
    "hf:laion/clip-vit-b-16-laion2b-s34b-b88k": "open_clip:vit-b-16/laion2b_s34b_b88k",
    "hf:laion/clip-vit-l-14-laion2b-s32b-b82k": "open_clip:vit-l-14/laion2b_s32b_b82k",
    "hf:laion/clip-vit-h-14-laion2b-s32b-b79k": "open_clip:vit-h-14/laion2b_s32b_b79k",
    "hf:openai/clip-vit-base-patch16": "open_clip:vit-b-16/openai",
    "hf:laion/clip-convnext_base_w-laion2b-s13b-b82k": (
        "open_clip:convnext_base_w/laion2b_s13b_b82k"
    ),
}
ROUNDING = 5e-4


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One figure of a paper.

    Attributes:
        table: number of its table.
        encoder: URI of the checkpoint, or the paper's words for it.
        dataset: as `Task.name`; empty where the figure is of none.
        correlation: in the training images, or NaN.
        split: "test", or empty.
        method: as `ResultRow.method`.
        head: as `ResultRow.head`; empty where the figure is of the encoder alone.
        metric: as `ResultRow.metric`.
        setting: what was varied ("K=4", "masks=dilated"); empty for the main setting.
        value: accuracies in [0, 1].
        deviation: standard deviation as printed, over runs; in Table 1 over composites and in
            Table 7 over word pairs; NaN in Table 16, which prints none.
        runs: how many runs; 0 where the paper does not say.
    """

    table: int
    encoder: str
    dataset: str
    correlation: float
    split: str
    method: str
    head: str
    metric: str
    setting: str
    value: float
    deviation: float
    runs: int

    def differs(self, value: float) -> bool:
        """Tell if a figure of ours is more than two standard deviations of the paper away.

        Where the paper's deviation is zero (zero-shot), more than its rounding counts.

        Args:
            value: our figure; NaN differs from nothing.

        Example:
            >>> found = find_reference(
            ...     encoder="open_clip:ViT-B-16/laion2b_s34b_b88k", dataset="waterbirds",
            ...     correlation=0.95, method="bap", head="linear-probe", metric="acc_wg")
            >>> found.value, found.deviation, found.differs(0.90), found.differs(0.89)
            (0.921, 0.012, False, True)
        """
        if math.isnan(self.deviation):
            return False
        return abs(value - self.value) > max(2 * self.deviation, ROUNDING) + 1e-9


@functools.cache
def read_references() -> tuple[Reference, ...]:
    """Return every figure of the paper's Tables 1 to 16, in the order of the tables.

    Example:
        >>> len({reference.table for reference in read_references()})
        16
    """
    source = resources.files("fieldmark.report") / "references" / "bap.csv"
    return parse_references(source.read_text(encoding="utf-8"), where=source.name)


def parse_references(text: str, *, where: str) -> tuple[Reference, ...]:
    """Read references from CSV text with the columns of `COLUMNS`.

    Raises:
        InputError: a column is missing or a number is none; the line is named.

    Example:
        >>> parse_references("table,encoder", where="a.csv")
        Traceback (most recent call last):
        fieldmark.core.errors.InputError: a.csv: lacks the columns dataset, correlation, ...
    """
    lines = read_lines(text, columns=COLUMNS, where=where, parse=_read_line)
    return tuple(one for _, one in lines)


def _read_line(line: Mapping[str, str]) -> Reference:
    return Reference(
        table=int(line["table"]),
        encoder=line["encoder"],
        dataset=line["dataset"],
        correlation=_read_number(line["correlation"]),
        split=line["split"],
        method=line["method"],
        head=line["head"],
        metric=line["metric"],
        setting=line["setting"],
        value=float(line["value"]),
        deviation=_read_number(line["deviation"]),
        runs=int(line["runs"] or 0),
    )


def _read_number(text: str) -> float:
    return float(text) if text else math.nan


def find_reference(
    *,
    encoder: str,
    metric: str,
    dataset: str = "",
    correlation: float = math.nan,
    split: str = "test",
    method: str = "native",
    head: str = "",
    setting: str = "",
    table: int | None = None,
) -> Reference | None:
    """Find what the paper prints for one figure.

    Case, spaces for hyphens, and under which of `ALIASES` the weights go do not matter. A field
    that the paper leaves open (data set of additivity, head of BSI) fits every value asked for.

    Args:
        encoder: URI of the encoder before anything was done to it.
        metric: as `ResultRow.metric`.
        dataset: as `Task.name`.
        correlation: of the training images; NaN for any, where the paper's rows agree.
        split: as `ResultRow.split`.
        method: as `ResultRow.method`.
        head: as `ResultRow.head`.
        setting: what was varied; empty for the main setting.
        table: of which table; by default of the first that has it, so that Table 2 goes before
            the studies that repeat it (Tables 10 and 11).

    Returns:
        The reference, or None where the paper has none, or several that contradict each other
        within one table.
    """
    wanted = {
        "encoder": encoder,
        "dataset": dataset,
        "split": split,
        "method": method,
        "head": head,
        "metric": metric,
    }
    found = [
        reference
        for reference in read_references()
        if all(_fits(getattr(reference, key), value) for key, value in wanted.items())
        and _fits_correlation(reference.correlation, correlation)
        and _plain(reference.setting) == _plain(setting)
        and table in (None, reference.table)
    ]
    first = [reference for reference in found if reference.table == found[0].table]
    return first[0] if len({(r.value, r.deviation) for r in first}) == 1 else None


def _fits(printed: str, asked: str) -> bool:
    return not printed or _plain(printed) == _plain(asked)


def _fits_correlation(printed: float, asked: float) -> bool:
    return math.isnan(printed) or math.isnan(asked) or math.isclose(printed, asked, abs_tol=1e-6)


@functools.cache
def _plain(text: str) -> str:
    lowered = text.lower()
    if lowered.startswith(("open_clip:", "hf:")):
        uri = lowered.replace(",", "/")
        return ALIASES.get(uri, uri)
    return lowered.replace("_", "-").replace(" ", "-")
