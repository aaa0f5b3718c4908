"""fieldmark: find, measure and remove what a vision-language model spuriously relies on.

`load_dataset` and its kin are imported when they are first used, so that `import fieldmark` and
`fieldmark --help` load no torch.
"""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import Any

__version__ = "0.1.0"

_PLACES = MappingProxyType(
    {
        "from_hf_dataset": "fieldmark.data.external.hugging_face",
        "from_torchvision": "fieldmark.data.external.vision",
        "from_webdataset": "fieldmark.data.external.web_shards",
        "load_dataset": "fieldmark.benchmarks.sources",
        "load_encoder": "fieldmark.models.load",
        "read_table": "fieldmark.data.tables",
    }
)
__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
