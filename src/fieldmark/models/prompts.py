"""Prompt templates, and class prototypes that are the mean of many prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from fieldmark.core.errors import InputError, UsageError
from fieldmark.models.encoder import Encoder

# bap.txt M.3.1 uses 40 templates and lists two; these are in our own words.
TEMPLATES: tuple[str, ...] = (
    "a photo of a {}.",
    "a picture showing a {}.",
    "an ordinary snapshot of a {}.",
    "a photograph in which a {} can be seen.",
    "a {} in the middle of the frame.",
    "a {} at the edge of the frame.",
    "a single {} seen from nearby.",
    "a {} seen from far off.",
    "a tiny {} in a wide view.",
    "a {} filling the whole picture.",
    "a {} partly hidden behind something.",
    "a {} cut off by the border of the image.",
    "a {} seen from the left.",
    "a {} seen from the front.",
    "a {} seen from behind.",
    "a {} photographed from above.",
    "a {} photographed from below.",
    "a sharp, detailed photo of a {}.",
    "an out-of-focus photo of a {}.",
    "a grainy photo of a {}.",
    "a poorly lit photo of a {}.",
    "an overexposed photo of a {}.",
    "a {} in bright sunlight.",
    "a {} in the shade.",
    "a {} at dusk.",
    "a {} on a foggy day.",
    "a {} after rain.",
    "a monochrome print of a {}.",
    "a faded colour print of a {}.",
    "a low-resolution thumbnail of a {}.",
    "a heavily compressed image of a {}.",
    "an amateur's photo of a {}.",
    "a magazine photo of a {}.",
    "a photo of a {} from a field guide.",
    "an encyclopedia's illustration of a {}.",
    "a cut-out of a {} on a plain background.",
    "a {} against a busy background.",
    "a {} in an unusual place.",
    "one more photo of the same {}.",
    "this is a {}.",
)

# bap.txt M.4.2; the class names there are "male person" and "female person".
PEOPLE_TEMPLATES: tuple[str, ...] = (
    "a photo of a {}.",
    "an image of a {}.",
    "a picture of a {}.",
)


def read_templates(path: Path) -> tuple[str, ...]:
    r"""Read templates from a UTF-8 text file, one a line, each with one `{}`.

    Raises:
        InputError: no such file, no template in it, or a line without exactly one `{}`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "templates.txt"
        ...     _ = path.write_text("a scan of a {}.\n\nan x-ray of a {}.\n")
        ...     read_templates(path)
        ('a scan of a {}.', 'an x-ray of a {}.')
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(
            f"templates cannot be read ({reason})", where=path, mend="give a text file"
        ) from error
    for number, line in enumerate(lines, start=1):
        if line.strip() and line.count("{}") != 1:
            raise InputError(
                f"template {line.strip()!r} has no {{}} for the class, or several",
                where=f"{path}, line {number}",
                mend="write it with one {}",
            )
    templates = tuple(line.strip() for line in lines if line.strip())
    if not templates:
        raise InputError("holds no template", where=path, mend="write one a line, each with {}")
    return templates


@torch.no_grad()
def ensemble_prompts(
    encoder: Encoder,
    class_names: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
    *,
    batch_size: int = 256,
) -> Tensor:
    """Return one text prototype for each class: float32 (C,D) of unit norm.

    The embeddings of a class's prompts are made unit vectors, averaged, and made a unit vector
    again (bap.txt M.3.1).

    Args:
        encoder: embeds the prompts.
        class_names: C names, put into each template's `{}`.
        templates: one or more, each with `{}`.
        batch_size: prompts embedded at once.

    Raises:
        UsageError: no class or no template.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> prototypes = ensemble_prompts(FakeEncoder(), ["red", "green"])
        >>> prototypes[:, :2].tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    if not class_names or not templates:
        raise UsageError(
            "a prompt ensemble needs a class and a template", mend="give one of each at least"
        )
    texts = [template.replace("{}", name) for name in class_names for template in templates]
    starts = range(0, len(texts), batch_size)
    parts = [encoder.encode_text(texts[start : start + batch_size]) for start in starts]
    embeddings = functional.normalize(torch.cat(parts).float(), dim=-1)
    means = embeddings.view(len(class_names), len(templates), -1).mean(dim=1)
    return functional.normalize(means, dim=-1)
