"""COVAR: a benchmark in which one thing about an image changes at a time, the masks exact."""

from __future__ import annotations

from fieldmark.data.covar.build import Origin, build_covar
from fieldmark.data.covar.manifest import Covar, check_covar, open_covar
from fieldmark.data.covar.settings import CovarSettings

__all__ = ["Covar", "CovarSettings", "Origin", "build_covar", "check_covar", "open_covar"]
