"""What the notes of a bench run say beside its figures: refusals and paired tests."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fieldmark.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A method that could not run.

    Attributes:
        method: as `ResultRow.method`.
        head: as `ResultRow.head`.
        reason: why not, a line.
        dataset: on which data set; empty for all.
        correlation: at which correlation, NaN for all.
    """

    method: str
    head: str
    reason: str
    dataset: str = ""
    correlation: float = math.nan


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """Worst-group accuracy of a method minus that of its best rival, on the same test images.

    Attributes:
        dataset: as `ResultRow.dataset`.
        split: as `ResultRow.split`.
        method: as `ResultRow.method`.
        head: as `ResultRow.head`.
        rival_method: of the best rival.
        rival_head: of the best rival.
        difference: in [-1, 1]; positive where the method is better.
        ci_low: lower end of the 95 % interval, or NaN.
        ci_high: upper end, or NaN.
        p_value: two-sided, or NaN.
        correlation: of the training images, or NaN.
    """

    dataset: str
    split: str
    method: str
    head: str
    rival_method: str
    rival_head: str
    difference: float
    ci_low: float = math.nan
    ci_high: float = math.nan
    p_value: float = math.nan
    correlation: float = math.nan


def read_refusal(record: Mapping[str, Any]) -> Refusal:
    """Read a refusal out of the notes of a run; a null correlation is NaN.

    Raises:
        InputError: it has no method, head or reason.

    Example:
        >>> read_refusal({"method": "lp-ft", "head": "dfr", "reason": "no minority"}).dataset
        ''
    """
    return Refusal(**_pick(record, Refusal))


def read_test(record: Mapping[str, Any]) -> PairedTest:
    """Read a paired test out of the notes of a run; null numbers are NaN.

    Raises:
        InputError: one of its fields is missing.
    """
    return PairedTest(**_pick(record, PairedTest))


def _pick(record: Mapping[str, Any], kind: type[Refusal] | type[PairedTest]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        value = record.get(field.name)
        if field.type == "float":
            found[field.name] = math.nan if value is None else float(value)
        elif value is not None:
            found[field.name] = str(value)
        elif field.default is dataclasses.MISSING:
            raise InputError(
                f"a {kind.__name__} without {field.name}: {dict(record)}",
                where="run.json",
                mend="give every field",
            )
    return found
