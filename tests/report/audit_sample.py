"""A sample of what an audit leaves in OUT: every part of the contract, with tiny drawn pictures.

The figures are made up and hang together only as far as the page needs them to.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

GROUNDS = {"land": ((92, 122, 66), (150, 168, 112)), "water": ((52, 96, 140), (120, 164, 196))}
COATS = {"bird": (196, 92, 60), "mammal": (120, 84, 58)}
OTHER = {"land": "water", "water": "land", "bird": "mammal", "mammal": "bird"}
HOME = {"bird": "land", "mammal": "water"}


def fig(value: float | None, half: float = 0.08, *, count: int = 60) -> dict[str, Any]:
    """A figure with an interval of that half width, cut to [-1, 1]."""
    if value is None:
        return {"value": None, "low": None, "high": None, "count": count}
    ends = [round(min(max(value + sign * half, -1.0), 1.0), 4) for sign in (-1, 1)]
    return {"value": value, "low": ends[0], "high": ends[1], "count": count}


def draw_picture(path: Path, *, label: str, ground: str, seed: int, side: int = 128) -> None:
    """Draw a blob with a head on two bands of ground, with some grain."""
    rng = np.random.default_rng(seed)
    low, high = GROUNDS[ground]
    image = Image.new("RGB", (side, side), high)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, side * 0.45, side, side), fill=low)
    x, y = int(rng.integers(40, side - 60)), int(rng.integers(60, side - 50))
    wide = 46 if label == "mammal" else 30
    pen.ellipse((x - wide // 2, y - 14, x + wide // 2, y + 14), fill=COATS[label])
    pen.ellipse((x + wide // 2 - 8, y - 24, x + wide // 2 + 12, y - 4), fill=COATS[label])
    grain = rng.integers(-9, 10, (side, side, 3))
    noisy = np.clip(np.asarray(image).astype(np.int16) + grain, 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noisy).save(path, "JPEG", quality=82)


def draw_heat(path: Path, *, seed: int, side: int = 128) -> None:
    """Draw a smooth bright spot on dark violet."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    at = rng.uniform(0.2, 0.8, 2)
    heat = np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / 0.05)
    dark, light = np.array((38, 16, 62)), np.array((250, 220, 120))
    colour = dark + heat[..., None] * (light - dark)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colour.astype(np.uint8)).save(path, "JPEG", quality=82)


def build_audit(out: Path, *, encoders: int = 1, images: int = 12) -> Path:
    """Write a full `audit.json` with its pictures and return OUT."""
    values = make_values(encoders=encoders, images=images)
    draw_all(out, values)
    page = out / "parts" / "discover-0" / "report.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("<!doctype html><title>part</title>", encoding="utf-8")
    return write_values(out, values)


def build_bare_audit(out: Path) -> Path:
    """Write an audit of which every optional part was left out and nothing can be told."""
    values = make_values(encoders=1, images=0)
    one = fig(0.7, 0.2, count=20)
    values |= {
        "attributes": [], "heads": ["zero-shot"], "mask_source": "none", "objects": None,
        "images": 20, "images_all": 20, "split": "", "discovery": [], "sources": [], "swaps": None,
        "telling": [], "changes": None, "next": [], "not_tested": [], "parts": [],
        "accuracy": [{"encoder": 0, "head": "zero-shot", "average": one, "worst_group": fig(None),
                      "worst_group_name": None, "groups": [], "classes": []}],
        "findings": [],
        "verdict": [{"encoder": 0, "state": "undecided"}],
        "left_out": [{"part": "swaps", "reason": "no masks", "mend": "give --masks FOLDER"}],
    }  # fmt: skip
    return write_values(out, values)


def write_values(out: Path, values: dict[str, Any]) -> Path:
    """Write `audit.json`."""
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(values, allow_nan=False, indent=1)
    (out / "audit.json").write_text(text, encoding="utf-8")
    return out


def edit_values(out: Path, change: Any) -> Path:
    """Change `audit.json` in place by a function of its values."""
    values = json.loads((out / "audit.json").read_text(encoding="utf-8"))
    change(values)
    return write_values(out, values)


def draw_all(out: Path, values: dict[str, Any]) -> None:
    """Draw every picture that the values name."""
    for seed, one in enumerate(list_pictures(values)):
        path = out / one["src"]
        if "map" in path.name:
            draw_heat(path, seed=seed)
        else:
            _, label, ground, *_ = path.stem.split("-")
            draw_picture(path, label=label, ground=ground, seed=seed)


def list_pictures(value: Any) -> list[dict[str, Any]]:
    """Return every object that has a `src`."""
    if isinstance(value, list):
        return [one for item in value for one in list_pictures(item)]
    if isinstance(value, dict):
        below = [one for item in value.values() for one in list_pictures(item)]
        return [value, *below] if "src" in value else below
    return []


def make_values(*, encoders: int, images: int) -> dict[str, Any]:
    """Return the values of a full audit of birds and mammals on land and water."""
    labels = ["before", "after"][:encoders] if encoders > 1 else ["dinov2-small"]
    heads = ["zero-shot", "linear-probe"]
    each = range(encoders)
    values = {
        "schema": 1,
        "model": "packaged:dinov2-small@98",
        "compare": "runs/bap/encoder" if encoders > 1 else None,
        "encoders": [{"label": label, "uri": f"packaged:{label}", "fingerprint": "ab" * 32}
                     for label in labels],
        "dataset": "stamps", "split": "test", "images": 240, "images_all": 960, "sample": 120,
        "objects": 60,
        "classes": ["bird", "mammal"], "attributes": ["land", "water"], "mask_source": "given",
        "heads": heads,
        "left_out": [{"part": "covar", "reason": "only 1 of 12 pools has scenes enough",
                      "mend": "give --backgrounds FOLDER with 20 photographs"}],
        "accuracy": [make_accuracy(e, head) for head in heads for e in each],
        "accuracy_changes": [make_accuracy_change(head) for head in heads] if encoders > 1 else [],
        "discovery": [make_discovery(e) for e in each],
        "sources": [make_sources(e) for e in each],
        "swaps": make_swaps(encoders, heads),
        "telling": [make_telling(n, encoders) for n in range(images)],
        "findings": [one for e in each for one in make_findings(e)],
        "margin": 0.05, "level": 0.05,
        "verdict": [{"encoder": e, "state": ["relies", "undecided"][e]} for e in each],
        "changes": {"vanished": ["background_gap:zero-shot"], "shrank": [], "stayed": [], "new": [],
                    "undecided": ["group_gap:zero-shot", "region:7"]} if encoders > 1 else None,
        "next": [
            {"title": "take the background out of the embedding",
             "why": "BAP mends an encoder with your own objects on unrelated scenes.",
             "command": "fieldmark bap --model packaged:dinov2-small@98 --foregrounds stamps "
                        "--backgrounds gcompris --out runs/bap"},
            {"title": "look at the pond regions by eye", "why": "RaVL's findings are hints.",
             "command": "fieldmark discover --model packaged:dinov2-small@98 --data stamps "
                        "--out runs/discover"},
            {"title": "label more mammals on water", "why": "56 images are too few to say.",
             "command": ""},
        ],
        "not_tested": ["other prompts than the 40 of the default ensemble",
                       "photographs that are not cut-outs"],
        "parts": [{"title": "Regions", "page": "parts/discover-0/report.html"}],
        "command": "fieldmark audit --model packaged:dinov2-small@98 --data stamps --out out",
        "seconds": 412.5,
    }  # fmt: skip
    return copy.deepcopy(values)


def make_accuracy(encoder: int, head: str) -> dict[str, Any]:
    lift = 0.1 * encoder + (0.04 if head == "linear-probe" else 0.0)
    table = {("bird", "land"): 0.86, ("bird", "water"): 0.48, ("mammal", "land"): 0.55,
             ("mammal", "water"): 0.88}  # fmt: skip
    groups = [
        {"name": f"y:{label}_background:{ground}", "label": label, "attribute": ground,
         "figure": fig(min(round(value + lift, 3), 1.0), 0.1, count=60)}
        for (label, ground), value in table.items()
    ]  # fmt: skip
    return {
        "encoder": encoder, "head": head, "average": fig(round(0.69 + lift, 3), 0.05, count=240),
        "worst_group": fig(round(0.48 + lift, 3), 0.12, count=60),
        "worst_group_name": "y:bird_background:water", "groups": groups,
        "classes": [{"name": "bird", "figure": fig(0.67 + lift, 0.08, count=120)},
                    {"name": "mammal", "figure": fig(0.715 + lift, 0.08, count=120)}],
    }  # fmt: skip


def make_accuracy_change(head: str) -> dict[str, Any]:
    return {
        "head": head, "average": fig(0.1, 0.04, count=240), "p_value": 0.0004,
        "classes": [{"name": name, "figure": fig(0.1, 0.06, count=120), "adjusted_p_value": 0.002}
                    for name in ("bird", "mammal")],
    }  # fmt: skip


def make_discovery(encoder: int) -> dict[str, Any]:
    def region(
        cluster: int, tied: str, gap: float, p_value: float, words: list[str]
    ) -> dict[str, Any]:
        pictures = [{"src": f"pictures/region{encoder}{cluster}{n}-{tied}-{HOME[tied]}.jpg",
                     "alt": f"region {n + 1} of cluster {cluster}"} for n in range(5)]  # fmt: skip
        return {"cluster": cluster, "tied_class": tied, "gap": fig(gap, 0.15, count=112),
                "adjusted_p_value": p_value, "significant": p_value < 0.05,
                "place": "background" if p_value < 0.05 else "mixed", "background_share": 0.91,
                "words": words, "pictures": pictures}  # fmt: skip

    return {
        "encoder": encoder, "images": 240, "clusters": 24, "reason": "",
        "page": f"parts/discover-{encoder}/report.html",
        "findings": [region(7, "mammal", 0.38, 0.004, ["pond", "shore", "reeds"]),
                     region(12, "bird", 0.16, 0.21, ["meadow", "grass"])],
    }  # fmt: skip


def make_sources(encoder: int) -> dict[str, Any]:
    rows = [("background", "background", 0.58, 0.31, 0.39),
            ("foreground", "object", 0.3, 0.42, -0.2),
            ("undecided", "undecided", 0.12, 0.27, None)]  # fmt: skip
    return {
        "encoder": encoder, "rule": "causal", "errors": 74, "images": 240,
        "page": f"parts/diagnose-{encoder}/report.html",
        "shares": [{"source": source, "title": title, "share": fig(share, 0.11, count=74),
                    "null": fig(null, 0.02, count=74), "corrected": fig(corrected, 0.15, count=74)}
                   for source, title, share, null, corrected in rows],
    }  # fmt: skip


def make_swaps(encoders: int, heads: list[str]) -> dict[str, Any]:
    each = range(encoders)
    results = [
        {"encoder": e, "head": head, "same": fig(0.9, 0.05), "other": fig(0.59 + 0.29 * e, 0.09),
         "gap": fig(round(0.31 - 0.29 * e, 3), 0.1 - 0.08 * e), "gap_p_value": [0.0004, 0.21][e],
         "flip_rate": fig(round(0.36 - 0.3 * e, 3), 0.09),
         "by_class": [{"name": "bird", "gap": fig(round(0.4 - 0.36 * e, 3), 0.14, count=30)},
                      {"name": "mammal", "gap": fig(round(0.22 - 0.22 * e, 3), 0.12, count=30)}]}
        for head in heads for e in each
    ]  # fmt: skip
    changes = {"background": 0.29, "scale_2": 0.12, "rotation": 0.08, "crop": 0.05, "h_flip": -0.01}
    drops = [
        {"encoder": e, "head": "zero-shot", "reference": {"accuracy": fig(0.88, 0.06, count=24)},
         "changes": [{"change": change, "accuracy": fig(round(0.88 - fall, 3), 0.09, count=24),
                      "drop": fig(round(fall, 3), 0.1, count=72),
                      "drop_background": None if change == "background"
                      else fig(round(fall - 0.02, 3), 0.1, count=72)}
                     for change, fall in changes.items()]}
        for e in each
    ]  # fmt: skip
    return {
        "objects": 60, "scenes": 80, "composites": 480,
        "scene_source": "own photographs, object painted over",
        "notes": ["2 objects were left out: their masks are empty"], "results": results,
        "sensitivity": [{"encoder": e, "total": 0.74 - 0.5 * e, "per_dimension": 21.0,
                         "defined": 2, "count": 480} for e in each],
        "additivity": [{"encoder": e, "figure": fig(0.86, 0.02, count=60), "parts": 0.31}
                       for e in each],
        "drops": drops,
        "differences": [{"head": head, "gap": fig(-0.29, 0.1), "flip_rate": fig(-0.3, 0.1)}
                        for head in heads] if encoders > 1 else [],
        "pictures": [make_tiles(n, encoders, heads) for n in range(4)],
    }  # fmt: skip


def make_tiles(number: int, encoders: int, heads: list[str]) -> dict[str, Any]:
    label = ("bird", "mammal")[number % 2]
    home, away = HOME[label], OTHER[HOME[label]]
    tiles = []
    for kind, ground in (("original", home), ("same", home), ("other", away)):
        said = [{"encoder": e, "head": head, "right": kind != "other" or e == 1,
                 "predicted": OTHER[label] if kind == "other" and e == 0 else label}
                for e in range(encoders) for head in heads]  # fmt: skip
        tiles.append({"src": f"pictures/swap{number}{kind}-{label}-{ground}.jpg",
                      "alt": f"{label} on {ground}", "kind": kind, "said": said})  # fmt: skip
    return {"object": f"stamps/{label}s/{number:03d}.png", "label": label, "tiles": tiles}


def make_telling(number: int, encoders: int) -> dict[str, Any]:
    label = ("bird", "mammal")[number % 2]
    ground = OTHER[HOME[label]]
    return {
        "id": f"test/{label}-{ground}/{number:04d}.jpg", "label": label, "object_area": 0.12,
        "picture": {"src": f"pictures/image{number}-{label}-{ground}.jpg",
                    "alt": f"{label} on {ground}"},
        "maps": [{"encoder": e, "src": f"pictures/map{number}e{e}.jpg",
                  "alt": f"what spoke for the answer, image {number}"} for e in range(encoders)],
        "said": [{"encoder": e, "predicted": label if e else OTHER[label], "score": 0.61,
                  "right": bool(e), "source": "object" if e else "background"}
                 for e in range(encoders)],
        "why": "wrong with a high score, and right once the background is taken away",
    }  # fmt: skip


def make_findings(encoder: int) -> list[dict[str, Any]]:
    def one(name: str, kind: str, title: str, value: float, half: float, state: str, **more):
        return {"id": name, "kind": kind, "encoder": encoder, "head": "zero-shot", "title": title,
                "figure": fig(value, half), "p_value": 0.002, "adjusted_p_value": 0.006,
                "state": state, "detail": "", **more}  # fmt: skip

    small = encoder == 1
    return [
        one("background_gap:zero-shot", "background_gap",
            "Objects on backgrounds of other classes",
            0.02 if small else 0.31, 0.02 if small else 0.1, "not_found" if small else "found"),
        one("group_gap:zero-shot", "group_gap", "Images on unusual backgrounds",
            0.2, 0.22, "undecided", adjusted_p_value=0.11,
            detail="images as they are, on the usual background of their class and on others"),
        one("region:7", "region", "Regions off the objects",
            0.1 if small else 0.38, 0.15, "undecided" if small else "found", head=None),
        one("background_gap:linear-probe", "background_gap",
            "Objects on backgrounds of other classes", 0.01, 0.03, "not_found",
            head="linear-probe", adjusted_p_value=0.6),
    ]  # fmt: skip
