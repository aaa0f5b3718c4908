"""PruSC: cut the part of a fine-tuned tower that clusters images by what is spurious.

Le et al., "Out of Spuriousity" (arXiv 2407.14974), with the settings of bap.txt M.2. Written from
the paper: in the published code no gradient of the contrastive loss reaches the masks (facts 3.7).

1. A dense tower: the outcome of `lp-ft`.
2. Its unit embeddings of the training images are clustered (k-means, k = 8). What a cluster shares
   beyond the class is taken to be spurious.
3. A task set of a tenth of the images, even over the classes and over the clusters in each.
4. Every weight of a linear or convolution layer gets a gate. With weights and head frozen, the
   gates learn on the task set from cross-entropy, a contrastive loss that pulls images of one class
   and different clusters together and pushes images of one cluster and different classes apart, and
   a penalty on the number of weights kept.
5. The masks become binary and stay; what is left is fine-tuned.

Ours where the paper is open: the contrastive loss is averaged over the anchors of a batch, with
temperature 0.07 as in the code; an anchor without a positive has none. The penalty is the sum of
sigmoid(g), the expected number of weights kept, which unlike the code's sum of g is bounded. Gates
start at 1.5 and a task batch has 32 images, so that at Adam's 1e-2 a gate can cross 0 within the 15
epochs of Waterbirds (225 steps). The last stage sees the task set, which is balanced;
`tune_on = "train"` gives it all training images.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn import functional

from fieldmark.core.errors import InputError
from fieldmark.core.sealed import read_sealed_json, write_sealed_json
from fieldmark.core.seeds import derive_seed, generator
from fieldmark.methods.classifier import open_head
from fieldmark.methods.fine_tuning import (
    FineTuning,
    open_material,
    report_training,
    require_head,
    tune,
)
from fieldmark.methods.fine_tuning_config import FineTuningConfig
from fieldmark.methods.images import ImageBatches, embed_task_images
from fieldmark.methods.linear_probe import LinearProbe
from fieldmark.methods.masked_layers import MaskedTower, Masks, measure_sparsity, prune
from fieldmark.methods.recipe import Adapted, Material, Recipe
from fieldmark.methods.training import Loss, Trained, average_epochs, train
from fieldmark.methods.training_config import TrainingConfig

Indices = NDArray[np.int64]


class PruscConfig(FineTuningConfig):
    """Settings of PruSC; those of `FineTuningConfig` are for the last stage.

    Attributes:
        clusters: k of k-means.
        task_ratio: size of the task set as a share of the training images.
        mask_epochs: epochs of the gates.
        mask_batch_size: images of one step of the gates.
        mask_learning_rate: of Adam for the gates.
        contrast: weight of the contrastive loss (beta).
        contrast_temperature: of its similarities.
        sparsity: weight of the number of weights kept (alpha).
        gate_start: value of every gate at first.
        gate_temperature: of the Gumbel-sigmoid.
        tune_on: fine-tune what is left on the `task` set or on all of `train`.

    Example:
        >>> PruscConfig().mask_epochs, PruscConfig().epochs
        (15, 30)
    """

    clusters: int = Field(default=8, ge=2)
    task_ratio: float = Field(default=0.1, gt=0, le=1)
    mask_epochs: int = Field(default=15, ge=1)
    mask_batch_size: int = Field(default=32, ge=2)
    mask_learning_rate: float = Field(default=1e-2, gt=0)
    contrast: float = Field(default=1.0, ge=0)
    contrast_temperature: float = Field(default=0.07, gt=0)
    sparsity: float = Field(default=1e-4, ge=0)
    gate_start: float = 1.5
    gate_temperature: float = Field(default=1.0, gt=0)
    tune_on: Literal["task", "train"] = "task"


def compute_cluster_contrast(
    embedding_BD: Tensor, label_B: Tensor, cluster_B: Tensor, *, temperature: float
) -> Tensor:
    """Return the contrastive loss of each image of a batch as an anchor (PruSC, L_task).

    With P(i) the images of the class of i in other clusters, N(i) those of other classes in its
    cluster, and s the cosine over the temperature, it is the mean over p in P(i) of
    - log(exp s_ip / sum over P(i) and N(i) of exp s_ij); 0 where P(i) is empty.

    Args:
        embedding_BD: (B,D) unit vectors.
        label_B: (B,) classes.
        cluster_B: (B,) clusters.
        temperature: above 0.

    Returns:
        (B,).

    Example:
        >>> z = torch.eye(2)[[0, 0, 1]]
        >>> label, cluster = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0])
        >>> compute_cluster_contrast(z, label, cluster, temperature=1.0).round(decimals=3).tolist()
        [0.31..., 0.0, 0.0]
    """
    similarity = embedding_BD @ embedding_BD.T / temperature
    same_label = label_B[:, None] == label_B
    same_cluster = cluster_B[:, None] == cluster_B
    positive, negative = same_label & ~same_cluster, ~same_label & same_cluster
    # A finite stand-in for minus infinity: a row without any pair has no NaN in its gradient.
    pairs = similarity.masked_fill(~(positive | negative), -1e9)
    surprise = torch.logsumexp(pairs, dim=1, keepdim=True) - similarity
    summed = surprise.masked_fill(~positive, 0.0).sum(1)
    return summed / positive.sum(1).clamp(min=1)


def cluster_embeddings(values: NDArray[np.float32], *, clusters: int, seed: int) -> Indices:
    """Return the cluster (n,) of each embedding (n,D) by k-means, the best of ten starts.

    Example:
        >>> found = cluster_embeddings(np.eye(2, dtype=np.float32)[[0, 0, 1]], clusters=2, seed=0)
        >>> bool(found[0] == found[1] != found[2])
        True
    """
    count = min(clusters, len(np.unique(values, axis=0)))
    state = derive_seed(seed, "k-means") % 2**32
    found = KMeans(n_clusters=count, n_init=10, random_state=state).fit_predict(values)
    return np.asarray(found, np.int64)


def sample_task_rows(codes: Indices, clusters: Indices, *, ratio: float, seed: int) -> Indices:
    """Draw the task set: as many rows of each class, as evenly over its clusters as they reach.

    A class with fewer rows than its share gives them all.

    Args:
        codes: (n,) class of each row.
        clusters: (n,) its cluster.
        ratio: size of the set as a share of n; each class gives 2 rows at the least.
        seed: seed of the run.

    Returns:
        Rows, ascending.

    Example:
        >>> codes, clusters = np.array([0] * 8 + [1] * 2), np.array([0] * 7 + [1] + [0, 1])
        >>> rows = sample_task_rows(codes, clusters, ratio=0.4, seed=0)
        >>> codes[rows].tolist(), clusters[rows].tolist()
        ([0, 0, 1, 1], [0, 1, 0, 1])
    """
    order = generator(seed, "task set").permutation(len(codes))
    rank = np.empty(len(codes), np.int64)
    for cell in np.unique(np.stack([codes, clusters]), axis=1).T:
        members = order[(codes[order] == cell[0]) & (clusters[order] == cell[1])]
        rank[members] = np.arange(len(members))
    order = order[np.argsort(rank[order], kind="stable")]
    classes = np.unique(codes)
    share = max(round(ratio * len(codes) / len(classes)), 2)
    chosen = [order[codes[order] == code][:share] for code in classes]
    return np.sort(np.concatenate(chosen))


def learn_masks(
    run: FineTuning, *, head: LinearProbe, clusters: Indices
) -> tuple[dict[str, Tensor], Trained]:
    """Learn which weights to keep (stage 4).

    Args:
        run: the dense encoder, the task set and `PruscConfig`.
        head: the dense tower's head, which is frozen.
        clusters: (n,) cluster of each image of the task set.

    Returns:
        For each masked parameter where it is kept, and how training went.
    """
    config = run.config
    assert isinstance(config, PruscConfig)
    dense = copy.deepcopy(run.encoder.image_tower).float()
    tower = MaskedTower(dense, start=config.gate_start, temperature=config.gate_temperature)
    target = torch.from_numpy(np.stack([run.images.codes, clusters], axis=1))
    batches = ImageBatches(
        run.images, target, batch_size=config.mask_batch_size, flip=config.flip, seed=run.seed
    )
    rate = config.mask_learning_rate
    trained = train(
        tower,
        batches,
        spec=run.encoder.spec,
        loss=make_mask_loss(tower, head, config=config),
        config=TrainingConfig(
            epochs=config.mask_epochs,
            batch_size=config.mask_batch_size,
            learning_rate=rate,
            weight_decay=0.0,  # AdamW without decay is Adam
            precision=config.precision,
            checkpoint_seconds=config.checkpoint_seconds,
        ),
        schedule=lambda step, total, peak: peak,
        seed=run.seed,
        folder=run.folder / "masks",
        progress=functools.partial(report_training, run.report, "masks"),
    )
    return tower.binarise(), trained


def make_mask_loss(tower: MaskedTower, head: LinearProbe, *, config: PruscConfig) -> Loss:
    """Return cross-entropy + beta contrast + alpha weights kept; targets are (class, cluster)."""
    device = next(tower.parameters()).device
    frozen = open_head(head).to(device).requires_grad_(False)

    def loss(embedding_BD: Tensor, target_B2: Tensor) -> Tensor:
        label, cluster = target_B2.unbind(1)
        task = compute_cluster_contrast(
            embedding_BD, label, cluster, temperature=config.contrast_temperature
        )
        error = functional.cross_entropy(frozen(embedding_BD), label, reduction="none")
        return error + config.contrast * task + config.sparsity * tower.count_kept()

    return loss


@dataclass(frozen=True, eq=False, kw_only=True)
class TaskSet:
    """The images that the gates learn from.

    Attributes:
        rows: (m,) index into the training images.
        clusters: (m,) cluster of each.
        sizes: images of each cluster in all training images.
    """

    rows: Indices
    clusters: Indices
    sizes: list[int]


def choose_task_set(run: FineTuning) -> TaskSet:
    """Cluster the training images and draw the task set, once (stages 2 and 3)."""
    config = run.config
    assert isinstance(config, PruscConfig)
    path = run.folder / "task.json"
    if not path.is_file():
        values = embed_task_images(run.encoder, run.images)
        clusters = cluster_embeddings(values, clusters=config.clusters, seed=run.seed)
        rows = sample_task_rows(run.images.codes, clusters, ratio=config.task_ratio, seed=run.seed)
        sizes = np.bincount(clusters).tolist()
        found = {"rows": rows.tolist(), "clusters": clusters[rows].tolist(), "sizes": sizes}
        write_sealed_json(path, found)
    return _read_task_set(path)


def _read_task_set(path: Path) -> TaskSet:
    """Read the task set that was drawn; its seal tells whether it is that."""
    mend = "delete its folder, and --resume draws it again"
    try:
        kept = read_sealed_json(path)
        rows, clusters = (np.array(kept[name], np.int64) for name in ("rows", "clusters"))
        sizes = [int(size) for size in kept["sizes"]]
    except (InputError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError("is damaged", where=path, mend=mend) from error
    if rows.ndim != 1 or rows.shape != clusters.shape:
        raise InputError("is damaged", where=path, mend=mend)
    return TaskSet(rows=rows, clusters=clusters, sizes=sizes)


def _adapt(material: Material) -> Adapted:
    config: PruscConfig = material.config
    base = material.base["lp-ft"]
    head = require_head(base, name="lp-ft")
    run = replace(open_material(material), encoder=base.encoder)
    chosen = choose_task_set(run)
    task = run.images.take(chosen.rows)
    masks, trained = learn_masks(replace(run, images=task), head=head, clusters=chosen.clusters)
    last = replace(run, images=task if config.tune_on == "task" else run.images)
    tuned = tune(last, head=head, phase="subnetwork", prepare=functools.partial(_prune, masks))
    notes = {
        **tuned.notes,
        "cluster_sizes": chosen.sizes,
        "task_images": len(task),
        "mask_loss_by_epoch": average_epochs(trained.losses),
        "sparsity": measure_sparsity(masks),
    }
    return replace(tuned, notes=notes)


def _prune(masks: Masks, tower: torch.nn.Module) -> None:
    prune(tower, masks)


RECIPE = Recipe(
    name="prusc",
    adapt=_adapt,
    config=PruscConfig,
    uses="images",
    starts_from=("lp-ft",),
    source="bap.txt M.2; Le et al., Out of Spuriousity, arXiv 2407.14974",
)
