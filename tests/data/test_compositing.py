import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageFilter

from fieldmark.core.errors import ImageError, InputError, MaskError, UsageError
from fieldmark.data.backgrounds import fit_background, read_backgrounds
from fieldmark.data.compositing import Compositor, blend, composite_reference, find_place
from fieldmark.data.foregrounds import read_foregrounds
from fieldmark.data.sprites import draw_sprite, find_size, spread_scales

SIDE = 48


def paint(seed, size):
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def outline(seed, size):
    random = np.random.default_rng(seed)
    soft = random.normal(size=(9, 9))
    soft[2:7, 2:7] += 3
    mask = np.clip(soft * 127, 0, 255).astype(np.uint8)
    return Image.fromarray(mask).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    """Three photographs with masks, three cut-outs, and five scenes of several shapes."""
    folder = tmp_path_factory.mktemp("pools")
    lines = ["path,label,mask"]
    for index, size in enumerate([(90, 60), (50, 121), (77, 77)]):
        paint(index, size).save(folder / f"{index}.png")
        outline(index, size).save(folder / f"{index}-mask.png")
        cutout = paint(index + 10, size)
        cutout.putalpha(outline(index + 10, size))
        cutout.save(folder / f"{index}-cutout.png")
        lines += [f"{index}.png,bird,{index}-mask.png", f"{index}-cutout.png,fish,"]
    (folder / "foregrounds.csv").write_text("\n".join(lines))
    for index, size in enumerate([(80, 60), (60, 80), (64, 64), (200, 50), (30, 20)]):
        (folder / "scenes" / str(index % 2)).mkdir(parents=True, exist_ok=True)
        paint(index + 20, size).save(folder / "scenes" / str(index % 2) / f"{index}.png")
    return read_foregrounds(folder / "foregrounds.csv"), read_backgrounds(folder / "scenes")


@pytest.fixture(scope="module")
def compositor(pools, tmp_path_factory):
    return Compositor(*pools, side=SIDE, cache=tmp_path_factory.mktemp("cache"))


def every_triple(compositor):
    grid = np.indices((compositor.n_objects, compositor.n_backgrounds, compositor.n_scales))
    return grid.reshape(3, -1)


def test_fast_path_equals_the_reference_bit_for_bit(compositor):
    objects, backgrounds, scales = every_triple(compositor)
    composites = compositor.composite(objects, backgrounds, scales)
    assert composites.image.shape == (len(objects), 3, SIDE, SIDE)
    assert composites.image.dtype == composites.mask.dtype == torch.uint8
    for i, (number, scene, scale) in enumerate(zip(objects, backgrounds, scales, strict=True)):
        reference = composite_reference(
            compositor.foregrounds.read(number),
            compositor.backgrounds.read(scene),
            side=SIDE,
            scale=compositor.scale_values[scale],
        )
        assert np.array_equal(composites.image[i].permute(1, 2, 0), np.asarray(reference))


def test_reference_equals_a_plain_script(pools):
    """The steps of BAP M.3.3 one after another, without a function of fieldmark."""
    foregrounds, backgrounds = pools
    image: Image.Image = Image.open(foregrounds.paths[0])
    mask: Image.Image = Image.open(foregrounds.paths[0].with_stem("0-mask"))
    box = Image.fromarray((np.asarray(mask) > 100).astype(np.uint8)).getbbox()
    image, mask = image.crop(box), mask.crop(box)
    longer = round(0.7 * SIDE)
    ratio = longer / max(image.size)
    size = (round(image.width * ratio), round(image.height * ratio))
    assert max(size) == longer
    image, mask = (part.resize(size, Image.Resampling.LANCZOS) for part in (image, mask))
    mask = mask.point(lambda value: 255 if value > 100 else 0)
    expected = fit_background(Image.open(backgrounds.paths[1]), side=SIDE)
    place = ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2)
    expected.paste(image, place, mask.filter(ImageFilter.GaussianBlur(1)))
    got = composite_reference(foregrounds.read(0), backgrounds.read(1), side=SIDE, scale=0.7)
    assert np.array_equal(np.asarray(got), np.asarray(expected))


def test_pixels_outside_the_mask_are_the_scene(compositor):
    objects, backgrounds, scales = every_triple(compositor)
    composites = compositor.composite(objects, backgrounds, scales)
    scenes = np.stack(
        [
            np.asarray(fit_background(compositor.backgrounds.read(b), side=SIDE)).transpose(2, 0, 1)
            for b in range(compositor.n_backgrounds)
        ]
    )[backgrounds]
    outside = (composites.mask == 0).numpy()[:, None].repeat(3, axis=1)
    assert outside.any()
    assert np.array_equal(composites.image.numpy()[outside], scenes[outside])


def test_masks_and_indices_come_back(compositor):
    composites = compositor.composite([0, 3], [1, 4], [0, 7])
    sprite = draw_sprite(compositor.foregrounds.read(3), side=SIDE, scale=0.8)
    rows, columns = find_place(*sprite.size, side=SIDE)
    assert np.array_equal(composites.mask[1, rows, columns], np.asarray(sprite.getchannel("A")))
    assert int((composites.mask[1] > 0).sum()) == int((np.asarray(sprite)[..., 3] > 0).sum())
    assert composites.objects.tolist() == [0, 3]
    assert composites.backgrounds.tolist() == [1, 4]
    assert composites.scales.tolist() == [0, 7]
    assert compositor.labels[composites.objects].tolist() == [0, 1]


def test_blending_a_whole_batch_gives_the_same_pixels(compositor):
    """The way of another device, taken on this one."""
    triples = every_triple(compositor)
    image, mask = compositor._draw_on(*triples, device=torch.device("cpu"))
    composites = compositor.composite(*triples)
    assert torch.equal(image, composites.image)
    assert torch.equal(mask, composites.mask)


def test_flip_mirrors_image_and_mask(compositor):
    plain = compositor.composite([0, 1, 2], [0, 1, 2], [3, 3, 3])
    flipped = compositor.composite([0, 1, 2], [0, 1, 2], [3, 3, 3], flip=np.array([1, 0, 1], bool))
    assert torch.equal(flipped.image[1], plain.image[1])
    assert torch.equal(flipped.image[[0, 2]], plain.image[[0, 2]].flip(-1))
    assert torch.equal(flipped.mask[[0, 2]], plain.mask[[0, 2]].flip(-1))


def test_no_composites_and_wrong_indices(compositor):
    assert compositor.composite([], [], []).image.shape == (0, 3, SIDE, SIDE)
    for triple in ([6], [0], [0]), ([0], [5], [0]), ([0], [0], [8]), ([-1], [0], [0]):
        with pytest.raises(IndexError, match="in a pool of"):
            compositor.composite(*triple)
    with pytest.raises(IndexError, match="of one length"):
        compositor.composite([0, 1], [0], [0])


IMAGES = arrays(np.uint8, (2, 3, 4, 5))


@settings(deadline=None, max_examples=40)
@given(front=IMAGES, back=IMAGES, alpha=arrays(np.uint8, (2, 1, 4, 5)))
def test_blend_is_pillows_paste(front, back, alpha):
    blended = blend(torch.from_numpy(np.concatenate([front, alpha], 1)), torch.from_numpy(back))
    for i in range(2):
        expected = Image.fromarray(np.ascontiguousarray(back[i].transpose(1, 2, 0)))
        sprite = Image.fromarray(np.ascontiguousarray(front[i].transpose(1, 2, 0)))
        expected.paste(sprite, (0, 0), Image.fromarray(alpha[i, 0]))
        assert np.array_equal(blended[i].permute(1, 2, 0), np.asarray(expected))


def test_blend_is_right_for_every_value():
    """All 2^16 pairs of colour and alpha on black and on white, against exact division."""
    colour, alpha = np.indices((256, 256))
    sprite = np.stack([colour, colour, colour, alpha]).astype(np.uint8)[None]
    for back in (0, 255):
        scene = torch.full((1, 3, 256, 256), back, dtype=torch.uint8)
        exact = np.rint((colour * alpha + back * (255 - alpha)) / 255)
        assert np.array_equal(blend(torch.from_numpy(sprite), scene)[0, 0].numpy(), exact)


@settings(deadline=None, max_examples=20)
@given(front=IMAGES, back=IMAGES)
def test_alpha_0_shows_the_scene_and_255_the_object(front, back):
    clear, solid = np.zeros((2, 1, 4, 5), np.uint8), np.full((2, 1, 4, 5), 255, np.uint8)
    sprite, scene = torch.from_numpy(front), torch.from_numpy(back)
    assert torch.equal(blend(torch.cat([sprite, torch.from_numpy(clear)], 1), scene), scene)
    assert torch.equal(blend(torch.cat([sprite, torch.from_numpy(solid)], 1), scene), sprite)


@settings(deadline=None, max_examples=60)
@given(
    width=st.integers(1, 3000),
    height=st.integers(1, 3000),
    side=st.integers(1, 512),
    scale=st.floats(0.05, 1),
)
def test_objects_have_their_size_and_are_centred(width, height, side, scale):
    size = find_size(width, height, side=side, scale=scale)
    assert max(size) == max(1, round(scale * side))
    ratio = max(size) / max(width, height)
    assert abs(size[0] - width * ratio) <= max(0.5, 1 - width * ratio)
    assert abs(size[1] - height * ratio) <= max(0.5, 1 - height * ratio)
    rows, columns = find_place(*size, side=side)
    for part, length in ((columns, size[0]), (rows, size[1])):
        assert part.stop - part.start == length
        assert 0 <= (side - part.stop) - part.start <= 1


def test_edges_take_no_colour_from_transparent_pixels(tmp_path):
    """A white disc whose transparent pixels are stored black must not get a dark rim."""
    rows, columns = np.mgrid[0:120, 0:120]
    alpha = ((rows - 60) ** 2 + (columns - 60) ** 2 < 50**2) * np.uint8(255)
    pixels = np.repeat(alpha[..., None], 4, axis=2).astype(np.uint8)
    (tmp_path / "disc").mkdir()
    Image.fromarray(pixels).save(tmp_path / "disc" / "a.png")
    cutout = read_foregrounds(tmp_path).read(0)
    grey = Image.new("RGB", (SIDE, SIDE), (128, 128, 128))
    composite = np.asarray(composite_reference(cutout, grey, side=SIDE, scale=0.7))
    assert composite.min() == 128
    assert composite.max() == 255


def test_an_object_that_vanishes_is_named(pools, tmp_path):
    line = Image.new("RGBA", (400, 400), (0, 0, 0, 0))
    for index in range(400):
        line.putpixel((index, index), (9, 9, 9, 255))
    (tmp_path / "thin").mkdir()
    line.save(tmp_path / "thin" / "line.png")
    with pytest.raises(MaskError, match=r"line\.png: nothing of the object is left at .*too thin"):
        Compositor(read_foregrounds(tmp_path), pools[1], side=32, cache=tmp_path / "cache")


def test_scales_are_spread():
    assert spread_scales((0.6, 0.8), steps=1, side=9) == pytest.approx((0.7,))
    assert spread_scales((0.6, 0.8), steps=3, side=9) == pytest.approx((0.6, 0.7, 0.8))
    for scales in ((0, 0.5), (0.8, 0.6), (0.5, 1.1)):
        with pytest.raises(UsageError, match="use 0 < least <= largest <= 1"):
            spread_scales(scales, steps=2, side=9)
    for steps, side in ((0, 9), (2, 0)):
        with pytest.raises(UsageError, match="use at least 1 of each"):
            spread_scales((0.6, 0.8), steps=steps, side=side)


def test_empty_pools_are_refused(pools, tmp_path):
    foregrounds, backgrounds = pools
    with pytest.raises(InputError, match="the background pool is empty"):
        Compositor(foregrounds, backgrounds.take([]), side=32, cache=tmp_path)
    with pytest.raises(InputError, match="the foreground pool is empty"):
        Compositor(foregrounds.take([]), backgrounds, side=32, cache=tmp_path)


def test_preparation_is_done_once_and_keyed_by_content(pools, tmp_path):
    foregrounds, backgrounds = pools
    calls = []
    for _ in range(2):
        Compositor(*pools, side=32, cache=tmp_path, on_progress=lambda *call: calls.append(call))
    assert calls == [("foregrounds", 6, 6), ("backgrounds", 5, 5)]
    before = {path.name for path in tmp_path.glob("*.u8")}
    Compositor(foregrounds, backgrounds, side=32, scale_steps=2, cache=tmp_path)
    Compositor(foregrounds.take([1, 0]), backgrounds, side=32, cache=tmp_path)
    after = {path.name for path in tmp_path.glob("*.u8")}
    assert (len(before), len(after)) == (2, 4)
    assert sum(name.startswith("scenes") for name in after) == 1


def test_a_background_that_cannot_be_read_is_named(pools, tmp_path):
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes" / "bad.jpg").write_text("no image")
    with pytest.raises(ImageError, match=r"bad\.jpg: is not an image"):
        Compositor(
            pools[0], read_backgrounds(tmp_path / "scenes"), side=32, cache=tmp_path / "cache"
        )
