"""Settings of all attribution methods; defaults follow facts/attribution.md sections 3 and 4."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class AttributionConfig(BaseModel):
    """What an attribution can be told. A method reads only what concerns it.

    Attributes:
        batch_size: image-tower forwards that are in memory at once: images, or variants of images.
        seed: of clusterings, masks, noise and nulls.
        clusters: K of CCI, clamped to the distinct patches of an image.
        cluster_layer: block whose output is clustered, 0 the first; None is the last one.
        cluster_starts: k-means++ starts of which the best is kept.
        mode: CCI takes each cluster out (`removal`) or keeps it alone (`sufficiency`).
        remove: CCI removes `tokens` (or the cells of a conv tower), or replaces `pixels`.
        fill: what removed pixels become: the checkpoint's `mean` colour or the image `blur`red.
        score: what CCI takes the drop of: the `cosine`, the `log-softmax` over all texts given, or
            the `margin` over the best other text (facts section 4, point 8).
        per_area: divide a cluster's drop by its share of the patches.
        game_start: first block that GAME multiplies in; None is the last one alone.
        key_weight: multiply MaskCLIP's map by the likeness of a patch's key to CLS's.
        surgery_blocks: how many of the last blocks CLIP Surgery rebuilds.
        loosened: weigh Grad-ECLIP's patches by lambda, the likeness of query and key.
        single_head: Grad-ECLIP as published, its last attention with one head; not the model's own.
        legrad_blocks: how many of the last blocks LeGrad sums over; None is the later half.
        bottleneck_block: block whose output M2IB squeezes; None is three quarters of the way up.
        bottleneck_steps: of M2IB's optimiser.
        bottleneck_samples: noise samples a step of M2IB.
        bottleneck_beta: weight of M2IB's information term.
        rise_masks: masks of RISE.
        rise_grid: cells along a side of a RISE mask.
        rise_share: chance that a cell of a RISE mask is kept, in (0, 1).
        occlusion_window: side of the occluding square in patches.
        occlusion_stride: its step in patches.
        gradient_steps: of integrated gradients.

    Example:
        >>> AttributionConfig(clusters=4).clusters
        4
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_size: int = Field(default=64, ge=1)
    seed: int = Field(default=0, ge=0)
    clusters: int = Field(default=7, ge=1)
    cluster_layer: int | None = Field(default=None, ge=0)
    cluster_starts: int = Field(default=4, ge=1)
    mode: Literal["removal", "sufficiency"] = "removal"
    remove: Literal["tokens", "pixels"] = "tokens"
    fill: Literal["mean", "blur"] = "mean"
    score: Literal["cosine", "log-softmax", "margin"] = "cosine"
    per_area: bool = False
    game_start: int | None = Field(default=None, ge=0)
    key_weight: bool = False
    surgery_blocks: int = Field(default=6, ge=1)
    loosened: bool = True
    single_head: bool = False
    legrad_blocks: int | None = Field(default=None, ge=1)
    bottleneck_block: int | None = Field(default=None, ge=0)
    bottleneck_steps: int = Field(default=10, ge=1)
    bottleneck_samples: int = Field(default=10, ge=1)
    bottleneck_beta: float = Field(default=0.1, gt=0)
    rise_masks: int = Field(default=2000, ge=1)
    rise_grid: int = Field(default=8, ge=1)
    rise_share: float = Field(default=0.5, gt=0, lt=1)
    occlusion_window: int = Field(default=1, ge=1)
    occlusion_stride: int = Field(default=1, ge=1)
    gradient_steps: int = Field(default=32, ge=1)
