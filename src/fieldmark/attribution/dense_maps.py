"""Maps of how like the text each patch is by itself: MaskCLIP and CLIP Surgery.

Formulas: facts/attribution.md section 3. Embeddings of patches and of texts are of unit norm over
their channels (a published variant divides by the norm over patches, facts section 0). Shape
letters as in maps.py, and L blocks, N tokens, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fieldmark.attribution.maps import Maps, Subject
from fieldmark.attribution.methods import find_method, require_support
from fieldmark.core.errors import NotApplicableError, UnsupportedEncoderError
from fieldmark.models.adapter import take_apart, unit
from fieldmark.models.blocks import Block, Pooler, join_heads, run_block
from fieldmark.models.encoder import Attention, Encoder, Tokens
from fieldmark.models.towers import Tower

# Sharpness of the softmax by which feature surgery weighs the texts.
SURGERY_SCALE = 2.0
# Share of a block's cost that the value-value attention adds at most: 4 of its 12 C*C products.
ATTENTION_SHARE = 1 / 3


def explain_by_maskclip(subject: Subject) -> Maps:
    """Map the cosine of each patch to the text, the last attention not mixing.

    Each patch goes through the last block on its own value, residual and MLP kept, and through the
    norm and the projection behind it. Of an attention-pooling head, a ResNet's too, each patch's
    value goes through the head's output projection and MLP. With `config.key_weight` the map is
    multiplied by the cosine of the patch's key to the key of CLS, heads side by side and before
    the output projection; that is no part of MaskCLIP.

    Returns:
        Maps in [-1, 1]. One forward and one block more; a pooling head costs one forward.

    Raises:
        UnsupportedEncoderError: the tower has no attention that forms its embedding, or cannot be
            taken apart; or keys are to be weighed and it has no CLS.

    Example:
        >>> from fieldmark.attribution.config import AttributionConfig
        >>> from fieldmark.testing import FakeEncoder
        >>> images, texts = torch.zeros(1, 3, 8, 8), torch.eye(6)[:1]
        >>> subject = Subject(
        ...     encoder=FakeEncoder(), images=images, texts=texts, config=AttributionConfig(),
        ...     ids=("a",),
        ... )
        >>> explain_by_maskclip(subject)
        Traceback (most recent call last):
        fieldmark.core.errors.UnsupportedEncoderError: ... maskclip needs a tower that can be...
    """
    encoder = subject.encoder
    require_support(encoder, find_method("maskclip"))
    tower = take_apart(encoder)
    if subject.config.key_weight:
        _require_class_token(tower, encoder=encoder)
    with torch.no_grad():
        tokens = encoder.tokens(subject.images)
        if tower.pooler is not None:
            tokens, cost = encoder.run(tokens), 1.0
            attention = tower.pooler.attend(tokens.values)
            patches = embed_values(tower.pooler, attention)
            whole = unit(tower.pooler.finish(attention.output))
        else:
            values, cost = tokens.values, 1 + 1 / len(tower.blocks)
            for block in tower.blocks[:-1]:
                values, _ = run_block(block, values)
            last = tower.blocks[-1]
            attention = last.attend(last.normalise(values))
            own = last.add(values, last.project(join_heads(attention.value)))
            patches = embed_each(encoder, tokens._replace(values=own))
            whole = encoder.pool(tokens._replace(values=last.add(values, attention.output)))
        texts = subject.texts.to(whole.device)
        likeness = patches @ texts.T
        if subject.config.key_weight:
            likeness = likeness * compare_keys(attention.key, patches=patches.shape[1])[..., None]
    return Maps(
        values=likeness.mT.unflatten(-1, tokens.grid), similarity=whole @ texts.T, forwards=cost
    )


def explain_by_surgery(subject: Subject) -> Maps:
    """Map the likeness of patches to texts after value-value attention, less what texts share.

    The last `config.surgery_blocks` blocks (all, if there are fewer) run twice: as they are, and on
    a second path that adds up only the outputs of an attention of the values to themselves, without
    MLPs. The embedding of the image comes from the first path, those of the patches from the second
    (`operate_on_features`).

    The map depends on the whole set of texts: another label beside it changes it. A single text is
    compared with `subject.empty_text`.

    Towers that average are read like those with CLS: a patch's embedding is what the tower would
    give if it were all that is averaged. On attention-pooled towers the method is experimental and
    not canonical: the pooling head does not mix either, each patch of the second path goes through
    the head by its own value, as in MaskCLIP.

    Returns:
        Signed maps, not brought to [0, 1]. One forward and a third of one for each block operated
        on.

    Raises:
        NotApplicableError: there is one text and no empty text to compare it with.
        UnsupportedEncoderError: the tower has no blocks, or cannot be taken apart.

    Example:
        >>> from fieldmark.attribution.config import AttributionConfig
        >>> from fieldmark.testing import FakeEncoder
        >>> images, texts = torch.zeros(1, 3, 8, 8), torch.eye(6)[:2]
        >>> subject = Subject(
        ...     encoder=FakeEncoder(), images=images, texts=texts, config=AttributionConfig(),
        ...     ids=("a",),
        ... )
        >>> explain_by_surgery(subject)
        Traceback (most recent call last):
        fieldmark.core.errors.UnsupportedEncoderError: ... clip-surgery needs a tower that can...
    """
    encoder = subject.encoder
    require_support(encoder, find_method("clip-surgery"))
    if len(subject.texts) == 1 and subject.empty_text is None:
        raise NotApplicableError(
            "clip-surgery of a single text compares it with an empty text, which is not given",
            where=encoder.spec.uri,
            mend="give the text in words, or two texts or more",
        )
    tower = take_apart(encoder)
    count = min(subject.config.surgery_blocks, len(tower.blocks))
    with torch.no_grad():
        tokens = encoder.tokens(subject.images)
        values, second = run_two_paths(tower.blocks, tokens.values, operated=count)
        operated = tokens._replace(values=second)
        whole = encoder.pool(tokens._replace(values=values))
        if tower.pooler is not None:
            patches = embed_values(tower.pooler, tower.pooler.attend(second))
        else:
            patches = embed_each(encoder, operated)
        texts = subject.texts.to(whole.device)
        if len(texts) == 1 and subject.empty_text is not None:
            maps = patches @ (texts[0] - subject.empty_text.to(whole.device))[:, None]
        else:
            maps = operate_on_features(whole, patches=patches, texts=texts)
    return Maps(
        values=maps.mT.unflatten(-1, tokens.grid),
        similarity=whole @ texts.T,
        forwards=1 + ATTENTION_SHARE * count / len(tower.blocks),
    )


def run_two_paths(
    blocks: tuple[Block, ...], values: Tensor, *, operated: int
) -> tuple[Tensor, Tensor]:
    """Run blocks as they are, and beside the last ones the path of CLIP Surgery.

    Args:
        blocks: L of them.
        values: (B,N,C), what enters the first.
        operated: how many of the last ones the second path goes beside, 1 to L.

    Returns:
        Both paths behind the last block, each (B,N,C).
    """
    for block in blocks[:-operated]:
        values, _ = run_block(block, values)
    second = values
    for block in blocks[-operated:]:
        values, attention = run_block(block, values)
        second = second + _scale(block, block.project(mix_values(attention.value)))
    return values, second


def mix_values(value: Tensor) -> Tensor:
    """Let values attend to themselves: (B,heads,N,d) to (B,N,heads*d).

    Example:
        >>> mix_values(torch.tensor([[[[0.0], [0.0], [3.0]]]]))[0, :, 0].tolist()
        [1.0, 1.0, 2.99...]
    """
    weight = (value @ value.mT * value.shape[-1] ** -0.5).softmax(-1)
    return join_heads(weight @ value)


def operate_on_features(whole: Tensor, *, patches: Tensor, texts: Tensor) -> Tensor:
    """Take off what all texts have in common, weighed by how likely each text is.

    Texts are weighed by the softmax of twice their cosines to the image, divided by its mean; the
    mean of the weighed cosines over all texts is taken off.

    Args:
        whole: (B,D) embeddings of the images, of unit norm.
        patches: (B,N,D) embeddings of patches, of unit norm.
        texts: (T,D) of unit norm.

    Returns:
        (B,N,T), signed; they add up to 0 over the texts.

    Example:
        >>> whole, patches = torch.tensor([[0.6, 0.8]]), torch.eye(2)[None]
        >>> operate_on_features(whole, patches=patches, texts=torch.eye(2)).tolist()
        [[[0.40..., -0.40...], [-0.59..., 0.59...]]]
    """
    likely = (SURGERY_SCALE * whole @ texts.T).softmax(-1)
    weighed = patches @ texts.T * (likely / likely.mean(-1, keepdim=True))[:, None]
    return weighed - weighed.mean(-1, keepdim=True)


def embed_each(encoder: Encoder, tokens: Tokens) -> Tensor:
    """Embed each patch behind the last block as if it were all that there is to pool.

    Args:
        encoder: whose tower takes CLS or averages.
        tokens: (B,N,C) behind the last block.

    Returns:
        (B,patches,D) of unit norm.
    """
    patches = tokens.values[:, tokens.prefix :]
    # With copies in place of CLS and registers, CLS and mean of them all are the patch itself.
    alone = patches.flatten(0, 1)[:, None].expand(-1, tokens.prefix + 1, -1)
    embedded = encoder.pool(tokens._replace(values=alone))
    return embedded.view(*patches.shape[:2], -1)


def embed_values(pooler: Pooler, attention: Attention) -> Tensor:
    """Embed each patch by its own value in a pooling head: (B,patches,D) of unit norm."""
    projected = pooler.project(join_heads(attention.value)[:, pooler.prefix :])
    # The embedding is made of the first query or of the mean of others: two copies serve both.
    copies = min(attention.output.shape[1], 2)
    alone = projected.flatten(0, 1)[:, None].expand(-1, copies, -1)
    return unit(pooler.finish(alone)).view(*projected.shape[:2], -1)


def compare_keys(key: Tensor, *, patches: int) -> Tensor:
    """Return the cosine of the first key to those of the patches, which are the last: (B,patches).

    Example:
        >>> key = torch.tensor([[[[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]]])
        >>> compare_keys(key, patches=2).tolist()
        [[1.0, 0.0]]
    """
    joined = join_heads(key).float()
    return functional.cosine_similarity(joined[:, :1], joined[:, -patches:], dim=-1)


def _scale(block: Block, output: Tensor) -> Tensor:
    """Apply the block's layer scale, where it has one, as its own residual does."""
    layer = getattr(block, "layer", None)
    scale = getattr(layer, "ls_1", None) or getattr(layer, "ls1", None) or nn.Identity()
    scaled: Tensor = scale(output)
    return scaled


def _require_class_token(tower: Tower, *, encoder: Encoder) -> None:
    # The mean that a ResNet's attention pool asks with is among its keys, as CLS is.
    if tower.pooling not in ("cls", "conv"):
        raise UnsupportedEncoderError(
            "maskclip's `key_weight` needs the key of a CLS token, which this tower does not pool",
            where=encoder.spec.uri,
            mend="leave `key_weight` off",
        )
