"""An answer in words and as a piece of HTML: shares of the labels, pictures, and what drove it.

All text is escaped and every picture is inside the page, so nothing is written to a disk.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from fieldmark.attribution.maps import enlarge_maps
from fieldmark.benchmarks.answers import Answer, Cause, Removal, judge_answer
from fieldmark.benchmarks.attribution.explain_pictures import measure_size, scale_to_show
from fieldmark.report.heatmap import Colours, outline_mask, overlay_map

# Labels in the table; the shares of the others are below theirs.
SHOWN = 10
_WAYS = {
    "tokens": "its patches were removed as tokens",
    "grey": "its pixels were painted grey, since this tower bears no removal of tokens",
}


def write_answer(answer: Answer) -> tuple[str, ...]:
    """Say an answer in sentences, each with its number, and no more than the measure bears."""
    said = f"Says {_name(answer, answer.scores)}."
    removal = answer.removal
    if removal is None:
        return said, f"Nothing was taken away: {answer.note}."
    label, place = answer.labels[answer.predicted], answer.predicted
    share = f"{removal.without_background[place]:.2f}"
    if removal.without_background.argmax() == place:
        without = f"Without the background it still says {label}, {share}."
    else:
        other = _name(answer, removal.without_background)
        without = f"Without the background {label} has {share}; it says {other}."
    alone = f"The background alone gives {_name(answer, removal.background_alone)}."
    return said, without, alone, _write_cause(judge_answer(answer), removal)


def _write_cause(cause: Cause, removal: Removal) -> str:
    draws = len(removal.null_background)
    beside = f"than {draws} of {draws} random removals of as many patches did"
    return {
        "background": f"The background drove it: taking it away lowered this answer more {beside}.",
        "leaned": "It leaned on the background: taking that away lowered this answer more than "
        f"taking the object away, and more {beside}.",
        "object": "The object drove it: taking it away lowered this answer more than taking the "
        f"background away, and more {beside}.",
        "both": "It took both: taking the object away and taking the background away each lowered "
        f"this answer more {beside}.",
    }.get(
        cause,
        "What drove it cannot be told from this image: random removals of as many patches move "
        "the answer as far.",
    )


def _name(answer: Answer, scores: NDArray[np.float64]) -> str:
    place = int(scores.argmax())
    return f"{answer.labels[place]} {scores[place]:.2f}"


def render_answer(answer: Answer) -> str:
    """Return an answer as HTML: the words, a table of shares, the pictures.

    Example:
        >>> from fieldmark.benchmarks.answers import answer_image
        >>> from fieldmark.testing import FakeEncoder
        >>> encoder, labels = FakeEncoder(), ("red", "<b>blue")
        >>> found = answer_image(
        ...     encoder, Image.new("RGB", (8, 8), "red"), labels,
        ...     texts=encoder.encode_text(list(labels)))
        >>> "&lt;b&gt;blue" in render_answer(found), "<b>blue" in render_answer(found)
        (True, False)
    """
    first, *rest = write_answer(answer)
    words = Markup("").join(Markup("<p>{}</p>").format(sentence) for sentence in rest)
    return Markup(
        '<section class="answer" aria-label="answer of {name}"><p class="encoder">{name}</p>'
        "<h2>{first}</h2>{words}{table}{pictures}<p class=small>{small}</p></section>"
    ).format(
        name=answer.encoder,
        first=first,
        words=words,
        table=_render_table(answer),
        pictures=_render_pictures(answer),
        small=_write_way(answer),
    )


def _write_way(answer: Answer) -> str:
    shares = "Shares are the softmax of the scaled cosines over these labels alone."
    if answer.removal is None:
        return shares
    return f"{shares} Mask: {answer.note}. Background taken away: {_WAYS[answer.removal.way]}."


def _render_table(answer: Answer) -> Markup:
    columns: list[tuple[str, NDArray[np.float64]]] = [("whole image", answer.scores)]
    if answer.removal is not None:
        columns += [
            ("without the background", answer.removal.without_background),
            ("the background alone", answer.removal.background_alone),
        ]
    order = np.argsort(-np.max([scores for _, scores in columns], axis=0), kind="stable")
    head = Markup("").join(Markup("<th scope=col>{}</th>").format(name) for name, _ in columns)
    rows = Markup("").join(
        _render_row(answer.labels[place], [scores[place] for _, scores in columns])
        for place in order[:SHOWN].tolist()
    )
    more = len(order) - SHOWN
    caption = f"Share of each label; {more} more are lower" if more > 0 else "Share of each label"
    return Markup(
        "<div class=scroll><table><caption>{}</caption><thead><tr><th scope=col>label</th>{}</tr>"
        "</thead><tbody>{}</tbody></table></div>"
    ).format(caption, head, rows)


def _render_row(label: str, shares: Sequence[float]) -> Markup:
    cells = Markup("").join(
        Markup('<td><span class=bar style="width:{}%"></span>{}</td>').format(
            f"{100 * share:.0f}", f"{share:.2f}"
        )
        for share in shares
    )
    return Markup("<tr><th scope=row>{}</th>{}</tr>").format(label, cells)


def _render_pictures(answer: Answer) -> Markup:
    seen = _enlarge(answer.pixels)
    size, removal, label = seen.shape[:2], answer.removal, answer.labels[answer.label]
    values = torch.from_numpy(scale_to_show(answer.values)[0])
    large: NDArray[np.float32] = enlarge_maps(values, size=size).numpy()
    nothing = "" if answer.values.max() > 0 else " (nothing does)"
    shown = [
        ("What the encoder sees", seen if removal is None else _outline(seen, removal)),
        (f"What speaks for {label}{nothing}, by {answer.method}", overlay_map(seen, large)),
    ]
    if removal is not None:
        shown += [
            ("Without the background", _enlarge(removal.object_pixels)),
            ("The background alone", _enlarge(removal.background_pixels)),
        ]
    figures = Markup("").join(
        Markup('<figure><img src="{}" alt="{}"><figcaption>{}</figcaption></figure>').format(
            _embed(pixels), title, title
        )
        for title, pixels in shown
    )
    return Markup("<div class=pictures>{}</div>").format(figures)


def _enlarge(pixels_CHW: NDArray[np.uint8]) -> Colours:
    pixels = pixels_CHW.transpose(1, 2, 0)
    height, width = measure_size(*pixels.shape[:2])
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def _outline(seen: Colours, removal: Removal) -> Colours:
    mask = Image.fromarray((removal.mask >= 0.5).astype(np.uint8) * 255)
    large = mask.resize((seen.shape[1], seen.shape[0]), Image.Resampling.NEAREST)
    return outline_mask(seen, np.asarray(large) > 0)


def _embed(pixels: Colours) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
