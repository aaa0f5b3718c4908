"""Data sets of other libraries: Hugging Face `datasets`, torchvision, webdataset shards.

Everything in fieldmark reads files, so images that live in Arrow, in arrays or in tar files are
written once into the cache, by content, and come back as an `ImageTable`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from fieldmark.core.errors import UsageError
from fieldmark.data.external.hugging_face import open_hf_dataset
from fieldmark.data.external.vision import open_torchvision
from fieldmark.data.external.web_shards import open_webdataset
from fieldmark.data.tables import ImageTable


def _open_webdataset(source: str, *, root: Path | None) -> ImageTable:
    return open_webdataset(source, root=root)


OPENERS: Mapping[str, Callable[..., ImageTable]] = MappingProxyType(
    {"hf-dataset": open_hf_dataset, "torchvision": open_torchvision, "wds": _open_webdataset}
)


def is_external(data: str) -> bool:
    """Return whether `--data` names a data set of another library.

    Example:
        >>> is_external("wds:shards/{000..003}.tar"), is_external("birds.csv")
        (True, False)
    """
    return data.partition(":")[0] in OPENERS and ":" in data


def open_external(data: str, *, root: Path | None = None) -> ImageTable:
    """Read a data set of another library.

    Args:
        data: `hf-dataset:PATH_OR_NAME[:SPLIT]`, `torchvision:CLASS` or `wds:PATTERN`.
        root: folder that torchvision's files lie in, or that a pattern or path starts from.

    Raises:
        UsageError: no source is named after the colon.
        TableError: what is missing or off.
        MissingExtraError: the library is not installed.

    Example:
        >>> open_external("wds:")
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.UsageError: wds:: names no data; write wds:... after the colon
    """
    kind, _, source = data.partition(":")
    if not source.strip():
        raise UsageError("names no data", where=data, mend=f"write {kind}:... after the colon")
    return OPENERS[kind](source, root=root)
