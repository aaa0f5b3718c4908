"""Words to describe clusters of regions by: fieldmark's own list, or a user's.

The list names what regions of photographs, drawings and scans commonly show: living things, things
made by people, places, materials, textures, colours, shapes and writing. A word outside of it is
never found, so for images of one field the words of that field do better.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fieldmark.core.errors import InputError, UsageError
from fieldmark.discovery.evidence import Vocabulary
from fieldmark.models.embedding_cache import open_embedding_cache
from fieldmark.models.encoder import Encoder
from fieldmark.models.prompts import ensemble_prompts

WORD_TEMPLATES = ("{}", "a photo of {}")
LONGEST = 200


def read_vocabulary(source: Path | None = None) -> tuple[str, ...]:
    r"""Read words or phrases from a UTF-8 text file, one a line.

    Blank lines are passed over, runs of blanks within a line count as one, and of words that are
    equal the first is kept.

    Args:
        source: the file; fieldmark's own list by default.

    Raises:
        InputError: no such file, not text, no word in it, or a line that is no word; file and line
            are named.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "words.txt"
        ...     _ = path.write_text("grass\n\nred  square\ngrass\n")
        ...     read_vocabulary(path)
        ('grass', 'red square')
        >>> "written word" in read_vocabulary()
        True
    """
    if source is None:
        own = resources.files("fieldmark.discovery") / "words.txt"
        return tuple(own.read_text(encoding="utf-8").splitlines())
    try:
        text = source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(
            f"words cannot be read ({reason})", where=source, mend="give a text file"
        ) from error
    words: dict[str, None] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        word = " ".join(line.split())
        if problem := _find_problem(word):
            raise InputError(
                f"is no word ({problem})",
                where=f"{source}, line {number}",
                mend="write one word or phrase a line",
            )
        words |= {word: None} if word else {}
    if not words:
        raise InputError("holds no word", where=source, mend="write one word or phrase a line")
    return tuple(words)


def embed_vocabulary(
    encoder: Encoder,
    words: Sequence[str],
    *,
    templates: Sequence[str] = WORD_TEMPLATES,
    cache: Path | None = None,
) -> Vocabulary:
    """Embed words by the text tower, each as the mean over templates.

    Args:
        encoder: its text tower embeds.
        words: V words, one or more, each once.
        templates: one or more, each with `{}`.
        cache: folder to keep embeddings in, by word, templates and weights.

    Raises:
        UsageError: no word, or no template.
        InputError: the cache is damaged, or an embedding is not finite.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> vocabulary = embed_vocabulary(FakeEncoder(), ("red", "green"))
        >>> vocabulary.words, np.asarray(vocabulary.embeddings)[:, :2].tolist()
        (('red', 'green'), [[1.0, 0.0], [0.0, 1.0]])
    """
    if not words or not templates:
        raise UsageError("a vocabulary needs a word and a template", mend="give one of each")
    keys = [_key(word, templates) for word in words]
    shelf, found = None, dict[str, NDArray[np.float32]]()
    if cache is not None:
        weight = next(encoder.image_tower.parameters())
        name = str(weight.dtype).removeprefix("torch.")
        # A folder beside those of images and of regions.
        shelf = open_embedding_cache(cache / "words", spec=encoder.spec, dtype=name)
        found = shelf.read(keys)
    new = [place for place, key in enumerate(keys) if key not in found]
    if new:
        made = ensemble_prompts(encoder, [words[place] for place in new], tuple(templates))
        vectors = np.asarray(made.float().cpu().numpy(), np.float32)
        _check_finite(vectors, [words[place] for place in new], uri=encoder.spec.uri)
        fresh = {keys[place]: vector for place, vector in zip(new, vectors, strict=True)}
        found |= fresh
        if shelf is not None:
            shelf.write(fresh)
    return Vocabulary(words=tuple(words), embeddings=np.stack([found[key] for key in keys]))


def _check_finite(vectors: NDArray[np.float32], words: Sequence[str], *, uri: str) -> None:
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise InputError(
            f"the word {words[int(np.flatnonzero(bad)[0])]!r} has an embedding that is not finite",
            where=uri,
            mend="try precision fp32, or look at the weights",
        )


def _key(word: str, templates: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([word, *templates]).encode()).hexdigest()


def _find_problem(word: str) -> str:
    if "\0" in word:
        return "it holds a NUL byte"
    if not word.isprintable():
        return "it holds a character that cannot be printed"
    return f"longer than {LONGEST} characters" if len(word) > LONGEST else ""
