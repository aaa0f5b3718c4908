"""The heads that turn embeddings into classes, by name."""

from __future__ import annotations

from collections.abc import Mapping

from fieldmark.methods import afr, dfr, dial, group_dro, linear_probe, roboshot, zero_shot
from fieldmark.methods.head import HeadKind

HEADS: Mapping[str, HeadKind] = {
    kind.name: kind
    for kind in (
        zero_shot.HEAD,
        linear_probe.HEAD,
        linear_probe.CONVEX_HEAD,
        dfr.HEAD,
        dfr.REST_HEAD,
        afr.HEAD,
        group_dro.HEAD,
        roboshot.HEAD,
        dial.HEAD,
    )
}
