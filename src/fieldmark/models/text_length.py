"""Say which text an encoder would cut off; the libraries' tokenizers cut silently.

Tokens are counted by the library's own tokenizer with truncation off, so what it adds (start, end,
class) counts too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fieldmark.core.errors import InputError
from fieldmark.models.adapter import DualEncoder
from fieldmark.models.encoder import Encoder
from fieldmark.models.open_clip import OpenClipLibrary
from fieldmark.models.transformers import TransformersLibrary

# open_clip's `clips` mode adds a start, an end and a class token by hand.
_CLIPS_EXTRA = 3
_SHOWN = 40


def require_short_texts(encoder: Encoder, texts: Sequence[str]) -> None:
    """Check that no text is empty and that each fits the encoder's context.

    An encoder of neither library, such as a `FakeEncoder`, has no limit that is known.

    Args:
        encoder: whose tokenizer counts.
        texts: any number of them.

    Raises:
        InputError: a text is empty or has more tokens than the encoder reads.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> require_short_texts(FakeEncoder(), ["a red bird", " "])
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.InputError: text 2: the text is empty; write one
    """
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            raise InputError("the text is empty", where=f"text {number}", mend="write one")
    limit = count_context(encoder)
    if limit is None:
        return
    for number, length in enumerate(count_tokens(encoder, texts), start=1):
        if length > limit:
            text = texts[number - 1]
            start = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
            raise InputError(
                f"the text {start!r} has {length} tokens, {encoder.spec.uri} reads {limit}",
                where=f"text {number}",
                mend="write a shorter one",
            )


def count_context(encoder: Encoder) -> int | None:
    """Return how many tokens an encoder reads of a text, None where that is not known.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> count_context(FakeEncoder()) is None
        True
    """
    if not isinstance(encoder, DualEncoder):
        return None
    model: Any = encoder.model
    if isinstance(encoder.library, OpenClipLibrary):
        length = getattr(encoder.library.tokenizer, "context_length", None)
        return None if length is None else int(length)
    if isinstance(encoder.library, TransformersLibrary):
        return int(model.config.text_config.max_position_embeddings)
    return None


def count_tokens(encoder: Encoder, texts: Sequence[str]) -> tuple[int, ...]:
    """Return how many tokens each text has before anything is cut off.

    Args:
        encoder: of open_clip or transformers; of any other each text counts 0.
        texts: as they would be given to `encode_text`.
    """
    library = encoder.library if isinstance(encoder, DualEncoder) else None
    if isinstance(library, OpenClipLibrary):
        count = _count_open_clip(library.tokenizer)
    elif isinstance(library, TransformersLibrary) and isinstance(encoder, DualEncoder):
        model: Any = encoder.model
        is_clip = model.config.model_type == "clip"
        count = _count_transformers(library.processor.tokenizer, lower=not is_clip)
    else:
        return (0,) * len(texts)
    return tuple(count(text) for text in texts)


def _count_open_clip(tokenizer: Any) -> Callable[[str], int]:
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is None:
        # CLIP's own tokenizer, between a start and an end.
        return lambda text: len(tokenizer.encode(text)) + 2
    clean, is_clips = tokenizer.clean_fn, tokenizer.tokenizer_mode == "clips"

    def count(text: str) -> int:
        found = inner(clean(text), add_special_tokens=not is_clips, truncation=False, verbose=False)
        return len(found.input_ids) + (_CLIPS_EXTRA if is_clips else 0)

    return count


def _count_transformers(tokenizer: Any, *, lower: bool) -> Callable[[str], int]:
    def count(text: str) -> int:
        found = tokenizer(text.lower() if lower else text, truncation=False, verbose=False)
        return len(found.input_ids)

    return count
