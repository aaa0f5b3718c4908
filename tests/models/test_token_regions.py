from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from fieldmark.core.errors import InputError, UnsupportedEncoderError
from fieldmark.models.load import load_encoder
from fieldmark.models.token_regions import choose_cells, encode_box_tokens, pool_box_tokens
from fieldmark.testing import FakeEncoder
from tests.models import tiny

# Left half, one row of patches and a half, inside of one patch, the lower right corner.
SHARES = torch.tensor(
    [[0, 0, 0.5, 1], [0, 0.25, 1, 0.6], [0.3, 0.3, 0.35, 0.35], [0.75, 0.75, 1, 1]]
)


@pytest.fixture
def loaded(open_clip_folder, transformers_folder):
    """Return a function from a family to its encoder."""

    def load(family):
        if family.startswith("hf-"):
            return load_encoder(f"hf:{transformers_folder(family[3:])}", device="cpu")
        return load_encoder(f"local-dir:{open_clip_folder(family)}", device="cpu")

    return load


def _whole(side):
    return torch.tensor([[0.0, 0.0, side, side]])


def _by_loops(box, grid, size):
    """Return the cells of a box, cell by cell: those with their centre in it."""
    (rows, columns), (height, width) = grid, size
    x0, y0, x1, y1 = (float(value) for value in box)
    across = [c for c in range(columns) if x0 <= (c + 0.5) * width / columns < x1]
    down = [r for r in range(rows) if y0 <= (r + 0.5) * height / rows < y1]
    across = across or [min(columns - 1, int((x0 + x1) / 2 * columns / width))]
    down = down or [min(rows - 1, int((y0 + y1) / 2 * rows / height))]
    return [r * columns + c for r in down for c in across]


@settings(deadline=None, max_examples=60)
@given(
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    corners=st.tuples(*[st.floats(0, 20)] * 4),
)
def test_cells_of_a_box_are_those_with_their_centre_in_it(grid, corners):
    (x0, x1), (y0, y1) = sorted(corners[:2]), sorted(corners[2:])
    size = (int(y1) + 2, int(x1) + 2)
    boxes = torch.tensor([[x0, y0, x1 + 0.5, y1 + 0.5]], dtype=torch.float64)
    [cells] = choose_cells(boxes, grid=grid, size=size)
    assert cells.tolist() == _by_loops(boxes[0], grid, size)
    assert len(cells) > 0


@settings(deadline=None, max_examples=30)
@given(side=st.integers(1, 7), rows=st.integers(1, 3), columns=st.integers(1, 3))
def test_boxes_that_tile_an_image_share_its_cells_out(side, rows, columns):
    ys, xs = torch.linspace(0, 60, rows + 1), torch.linspace(0, 60, columns + 1)
    boxes = torch.stack(
        [torch.stack([x0, y0, x1, y1]) for y0, y1 in pairwise(ys) for x0, x1 in pairwise(xs)]
    )
    cells = torch.cat(choose_cells(boxes, grid=(side, side), size=(60, 60)))
    if side >= max(rows, columns):
        assert sorted(cells.tolist()) == list(range(side * side))


@pytest.mark.parametrize("family", [*tiny.VITS, "convnext", "hf-clip", "hf-siglip"])
@torch.no_grad()
def test_all_tokens_give_the_images_own_embedding(loaded, family):
    encoder = loaded(family)
    side = encoder.spec.image_size
    image = tiny.images(side, count=2)
    half = _whole(side) * 0.5
    found = encode_box_tokens(encoder, image, [torch.cat([half, _whole(side)]), half[:0]])
    assert [tuple(rows.shape) for rows in found] == [(2, encoder.spec.dim), (0, encoder.spec.dim)]
    embedded = encoder.encode_image(image)[0]
    assert tiny.largest([found[0][1] - embedded]) < 1e-5
    assert tiny.largest([found[0][0] - embedded]) > 1e-3


@pytest.mark.parametrize("family", ["clip", "siglip"])
@torch.no_grad()
def test_removed_tokens_are_those_that_a_mask_keeps_all_others_from_seeing(loaded, family):
    """The same blocks over all tokens, with -inf in every score of a patch outside of the box."""
    encoder = loaded(family)
    side, visual = encoder.spec.image_size, encoder.image_tower
    image = torch.randn(1, 3, side, side)
    tokens = encoder.tokens(image)
    boxes = SHARES * side
    found = encode_box_tokens(encoder, image, [boxes])[0]
    for box, region in zip(boxes, found, strict=True):
        kept = [cell + tokens.prefix for cell in _by_loops(box, tokens.grid, (side, side))]
        mask = torch.full((tokens.values.shape[1],) * 2, -torch.inf)
        mask[:, [*range(tokens.prefix), *kept]] = 0
        if family == "clip":
            last = visual.transformer(tokens.values, attn_mask=mask)
            expected = visual.ln_post(last[:, 0]) @ visual.proj
        else:
            last = tokens.values
            for block in visual.trunk.blocks:
                last = block(last, attn_mask=mask)
            expected = visual.trunk.attn_pool(visual.trunk.norm(last)[:, kept])
        expected = functional.normalize(expected, dim=-1)
        assert tiny.largest([region - expected[0]]) < 1e-5


@torch.no_grad()
def test_what_lies_outside_of_the_box_does_not_count_unless_tokens_are_only_pooled(loaded):
    encoder = loaded("clip")
    image = torch.randn(1, 3, 32, 32)
    other = image.clone()
    other[..., 16:] = torch.randn(1, 3, 32, 16)
    box = [torch.tensor([[0, 0, 16, 32]])]
    apart = [encode_box_tokens(encoder, pixels, box)[0] for pixels in (image, other)]
    assert tiny.largest([apart[0] - apart[1]]) < 1e-6
    pooled = [pool_box_tokens(encoder, pixels, box)[0] for pixels in (image, other)]
    assert tiny.largest([pooled[0] - pooled[1]]) > 1e-3


@pytest.mark.parametrize(
    "family",
    [
        *("clip-mean", "clip-attention", "siglip", "siglip-registers", "vit-mean", "convnext"),
        *("efficientnet", "resnet", "hf-siglip"),
    ],
)
@torch.no_grad()
def test_pooling_all_patches_is_the_towers_own_pooling(loaded, family):
    """A tower whose head attends to CLS too loses that one, so its image is pooled without it."""
    encoder = loaded(family)
    side = encoder.spec.image_size
    image = tiny.images(side, count=2)
    found = pool_box_tokens(encoder, image, [_whole(side), _whole(side) * 0.5])
    expected = encoder.encode_image(image)
    if family in ("clip-attention", "siglip-registers"):
        last = encoder.run(encoder.tokens(image))
        expected = encoder.pool(last._replace(values=last.values[:, 1:]))
    assert tiny.largest([found[0] - expected[:1]]) < 1e-5
    assert tiny.largest([found[1] - expected[1:]]) > 1e-4


@pytest.mark.parametrize("family", ["clip", "dinov2", "siglip", "hf-clip"])
@torch.no_grad()
def test_pooled_patches_are_those_worked_out_by_hand(loaded, family):
    encoder = loaded(family)
    side, visual = encoder.spec.image_size, encoder.image_tower
    image = torch.randn(1, 3, side, side)
    boxes = SHARES * side
    tokens = encoder.tokens(image)
    last = encoder.run(tokens).values[0]
    found = pool_box_tokens(encoder, image, [boxes])[0]
    for box, region in zip(boxes, found, strict=True):
        cells = [cell + tokens.prefix for cell in _by_loops(box, tokens.grid, (side, side))]
        mean = last[cells].mean(dim=0)
        if family == "clip":
            expected = visual.ln_post(mean) @ visual.proj
        elif family == "dinov2":
            expected = visual.head(visual.trunk.fc_norm(visual.trunk.norm(mean)))
        elif family == "hf-clip":
            expected = visual.visual_projection(visual.vision_model.post_layernorm(mean))
        else:
            expected = visual.trunk.attn_pool(visual.trunk.norm(last[cells])[None])[0]
        assert tiny.largest([region - functional.normalize(expected, dim=-1)]) < 1e-5


@torch.no_grad()
def test_pooling_runs_an_image_once_and_removal_runs_boxes_of_one_size_together(loaded):
    encoder = loaded("clip")
    runs: list[tuple[int, int]] = []
    first = encoder.image_tower.transformer.resblocks[0]
    first.register_forward_hook(lambda _, inputs, __: runs.append(tuple(inputs[0].shape[:2])))
    images = torch.randn(3, 3, 32, 32)
    quadrants = torch.tensor([[0, 0, 16, 16], [16, 0, 32, 16], [0, 16, 16, 32], [0, 0, 32, 16]])
    pool_box_tokens(encoder, images, [quadrants] * 3)
    assert runs == [(3, 17)]
    runs.clear()
    # Nine quadrants of 4 patches and three halves of 8, each with CLS.
    encode_box_tokens(encoder, images, [quadrants] * 3)
    assert runs == [(9, 5), (3, 9)]


@pytest.mark.parametrize("embed", [encode_box_tokens, pool_box_tokens])
def test_a_gradient_reaches_the_pixels_of_the_box(loaded, embed):
    encoder = loaded("clip")
    image = torch.randn(1, 3, 32, 32, requires_grad=True)
    embed(encoder, image, [torch.tensor([[0, 0, 16, 32]])])[0][:, 0].sum().backward()
    assert image.grad is not None
    inside, outside = image.grad[..., :16].abs().sum(), image.grad[..., 16:].abs().sum()
    assert inside > 0
    assert (outside > 0) == (embed is pool_box_tokens)


@pytest.mark.parametrize("family", ["resnet", "efficientnet"])
def test_a_tower_that_mixes_first_cannot_remove_tokens(loaded, family):
    encoder = loaded(family)
    side = encoder.spec.image_size
    with pytest.raises(UnsupportedEncoderError, match=r"mix all cells .*crop the regions or pool"):
        encode_box_tokens(encoder, tiny.images(side, count=1), [_whole(side)])


@pytest.mark.parametrize("embed", [encode_box_tokens, pool_box_tokens])
def test_boxes_are_checked_and_none_give_none(embed):
    encoder, image = FakeEncoder(), torch.ones(2, 3, 8, 8)
    none = [torch.zeros(0, 4)] * 2
    assert [tuple(rows.shape) for rows in embed(encoder, image, none)] == [(0, 6)] * 2
    with pytest.raises(InputError, match=r"image 1: box 0 .* is empty or not inside 8 x 8"):
        embed(encoder, image, [torch.zeros(0, 4), torch.tensor([[4, 4, 4, 8]])])
