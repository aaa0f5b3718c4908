"""How an audit was made, for the page and for Markdown alike."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from fieldmark.report.audit_contract import AuditParts
from fieldmark.report.audit_figures import name_encoder, name_head, write_count
from fieldmark.report.names import DASH

PAPERS = (
    "Background swaps: Xiao, Engstrom, Ilyas and Madry, Noise or Signal (2020).",
    "Regions: Varma, Delbrouck, Chen, Chaudhari and Langlotz, RaVL (2024).",
    "Controlled changes (COVAR): Concept Regions Matter (2025).",
    "BSI and additivity: Zaazou and Thomas (2026).",
)


def list_pages(parts: AuditParts) -> Iterator[tuple[str, str]]:
    """Yield the pages of parts that are there: title and a relative address."""
    encoders = {one.page: one.encoder for one in parts.discovery}
    encoders |= {one.page: one.encoder for one in parts.sources}
    for one in parts.parts:
        if (parts.folder / one.page).is_file():
            label = name_encoder(parts, encoders[one.page]) if one.page in encoders else ""
            yield ", ".join(filter(None, (one.title, label))), f"./{quote(one.page)}"


def describe_audit(parts: AuditParts) -> dict[str, Any]:
    """Return what was audited and how, by name, to be listed as facts."""
    encoders = {
        f"encoder, {one.label}" if len(parts.encoders) > 1 else "encoder": {
            "model": one.uri,
            "fingerprint": one.fingerprint or DASH,
        }
        for one in parts.encoders
    }
    images = write_count(parts.images, "images")
    if parts.images_all > parts.images:
        images += f" of {parts.images_all:,}"
    return {
        **encoders,
        "data set": parts.dataset,
        "split": parts.split or DASH,
        "images": images,
        "looked at closely": DASH if parts.sample is None else parts.sample,
        "objects": DASH if parts.objects is None else parts.objects,
        "classes": list(parts.classes),
        "stand on": list(parts.attributes),
        "masks": parts.mask_source or DASH,
        "heads": [name_head(one) for one in parts.heads],
        "effect that matters": f"{100 * parts.margin:g} points",
        "level of the tests": parts.level,
        "seconds": DASH if math.isnan(parts.seconds) else round(parts.seconds, 1),
        "command": parts.command or DASH,
    }
