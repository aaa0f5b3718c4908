"""Read pretrained weights out of foreign files and rename them to what open_clip calls them.

Both towers come in a naming of their own: DINOv2-small as the initialisers of an ONNX graph, where
the weight of a linear layer is an anonymous operand of a MatMul, found by that node's name, and
EfficientNet-Lite0 as a checkpoint of its first PyTorch port. A file that lacks a weight raises, and
nothing of another shape gets through, since open_clip loads strictly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fieldmark.core.errors import InputError, MissingExtraError

_BLOCKS = 12
_MATMUL = re.compile(r"/backbone/encoder/(layer\.\d+/.+)/MatMul")
# Where this export keeps the position embeddings: the CLS row, and 37 x 37 rows of patches.
_POSITION_NODES = {
    "/backbone/embeddings/Concat_6": "embeddings.position.cls",
    "/backbone/embeddings/Reshape_1": "embeddings.position.patch",
}


def read_dinov2_onnx(path: Path) -> dict[str, Tensor]:
    """Read the DINOv2 backbone of an ONNX export of transformers' `Dinov2Model`.

    Args:
        path: the `.onnx` file, checked; it is parsed as data, nothing in it is run.

    Returns:
        Float32 tensors under transformers' names without the leading `backbone.`, linear weights
        as (out, in); the position embedding as `embeddings.position.cls` (1,1,C) and
        `embeddings.position.patch` (1,N,C).

    Raises:
        MissingExtraError: `onnx` is not installed.
        InputError: the file is no ONNX graph, or keeps its weights in other files.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("onnx", extra="offline") from error
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
        # Their paths may lead anywhere, and `to_array` would follow them.
        if any(item.data_location == item.EXTERNAL for item in graph.initializer):
            raise ValueError("its weights are in other files")
        arrays = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
        return _name_weights(graph, arrays)
    except Exception as error:  # onnx raises what protobuf and its C++ happen to raise
        raise InputError(
            f"is no ONNX graph with its weights ({' '.join(str(error).split())[:120]})",
            where=path,
            mend="fetch the file again",
        ) from error


def _name_weights(graph: Any, arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    named = {
        name.removeprefix("backbone."): array
        for name, array in arrays.items()
        if name.startswith("backbone.")
    }
    for node in graph.node:
        operand = next((name for name in node.input if name in arrays), None)
        if operand is None:
            continue
        if found := _MATMUL.fullmatch(node.name):
            named[f"encoder.{found[1].replace('/', '.')}.weight"] = arrays[operand].T
        elif node.name in _POSITION_NODES:
            named[_POSITION_NODES[node.name]] = arrays[operand]
    return {name: torch.tensor(array) for name, array in named.items()}


def rename_dinov2(weights: Mapping[str, Tensor], *, grid: int) -> dict[str, Tensor]:
    """Rename DINOv2 weights to those of open_clip's `VisionTransformer`, without its projection.

    That tower has no bias in its patch embedding, so the bias is added to the position embedding of
    every patch, which is the same sum. The position embedding is resampled as timm does it
    (bicubic, antialiased).

    Args:
        weights: what `read_dinov2_onnx` returns.
        grid: patches along a side of the image that the tower shall take (16 for 224 pixels).

    Raises:
        InputError: a weight is missing.
    """
    from timm.layers import resample_abs_pos_embed

    take = _Taker(weights)
    position = torch.cat(
        [take("embeddings.position.cls"), take("embeddings.position.patch")], dim=1
    )
    position = resample_abs_pos_embed(position, new_size=[grid, grid], num_prefix_tokens=1)[0]
    position[1:] += take("embeddings.patch_embeddings.projection.bias")
    renamed = {
        "class_embedding": take("embeddings.cls_token").reshape(-1),
        "positional_embedding": position,
        "conv1.weight": take("embeddings.patch_embeddings.projection.weight"),
        "ln_post.weight": take("layernorm.weight"),
        "ln_post.bias": take("layernorm.bias"),
    }
    for index in range(_BLOCKS):
        renamed |= _rename_block(take, f"encoder.layer.{index}.", f"transformer.resblocks.{index}.")
    return renamed


def _rename_block(take: _Taker, old: str, new: str) -> dict[str, Tensor]:
    plain = {
        "ln_1": "norm1",
        "ln_2": "norm2",
        "attn.out_proj": "attention.output.dense",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    renamed = {
        f"{new}{ours}.{kind}": take(f"{old}{theirs}.{kind}")
        for ours, theirs in plain.items()
        for kind in ("weight", "bias")
    }
    for kind in ("weight", "bias"):
        parts = [take(f"{old}attention.attention.{part}.{kind}") for part in _QKV]
        renamed[f"{new}attn.in_proj_{kind}"] = torch.cat(parts)
    for number in (1, 2):
        renamed[f"{new}ls_{number}.gamma"] = take(f"{old}layer_scale{number}.lambda1")
    return renamed


_QKV = ("query", "key", "value")
_LITE_BLOCKS = (1, 2, 2, 3, 3, 4, 1)


def rename_efficientnet_lite(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename EfficientNet-Lite0's weights to those of timm's `tf_efficientnet_lite0`.

    Raises:
        InputError: a weight is missing.

    Example:
        >>> rename_efficientnet_lite({})
        Traceback (most recent call last):
        fieldmark.core.errors.InputError: the weight '_conv_stem.weight' is missing...
    """
    take = _Taker(weights)
    layers = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    layers["classifier"] = "_fc"
    flat = 0
    for stage, count in enumerate(_LITE_BLOCKS):
        for block in range(count):
            # The first stage does not widen, so it lacks the first of the three convolutions.
            theirs = ["_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
            ours = ["conv_dw", "bn1", "conv_pw", "bn2"]
            if stage:
                theirs = ["_expand_conv", "_bn0", *theirs]
                ours = ["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"]
            for new, old in zip(ours, theirs, strict=True):
                layers[f"blocks.{stage}.{block}.{new}"] = f"_blocks.{flat}.{old}"
            flat += 1
    renamed: dict[str, Tensor] = {}
    for new, old in layers.items():
        kinds = ["weight"]
        if "bn" in new.rpartition(".")[2]:
            kinds += ["bias", "running_mean", "running_var", "num_batches_tracked"]
        elif new == "classifier":
            kinds += ["bias"]
        renamed |= {f"{new}.{kind}": take(f"{old}.{kind}") for kind in kinds}
    return renamed


class _Taker:
    """Takes weights by name and says which one a file lacks."""

    def __init__(self, weights: Mapping[str, Any]) -> None:
        self.weights = weights

    def __call__(self, name: str) -> Tensor:
        if name not in self.weights:
            raise InputError(f"the weight {name!r} is missing", mend="the file holds another model")
        tensor: Tensor = self.weights[name].clone()
        return tensor
