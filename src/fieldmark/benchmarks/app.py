"""The window of `fieldmark app`: one image and some labels in, the answer of each encoder out.

Nothing leaves the machine: no analytics, no fonts, scripts or pictures from elsewhere, and what is
uploaded lies in a folder that goes when the window does.
"""

from __future__ import annotations

import functools
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import escape
from PIL import Image
from torch import Tensor

from fieldmark.attribution.methods import METHODS, list_supported
from fieldmark.benchmarks.answer_page import render_answer
from fieldmark.benchmarks.answers import answer_image, has_saliency, read_labels
from fieldmark.core.errors import (
    FieldmarkError,
    ImageError,
    MaskError,
    MissingExtraError,
    UsageError,
)
from fieldmark.data.images import read_grey, read_image
from fieldmark.models.encoder import Encoder
from fieldmark.models.prompts import TEMPLATES, ensemble_prompts

# What needs thousands of forwards, an optimiser, or no model at all is for `explain`.
_LEFT_OUT = frozenset({"rise", "m2ib", "integrated-gradients", "random", "centre"})
# People who wait for an answer, and the largest file.
_QUEUE, _LARGEST = 8, "50mb"
# The canvas to draw on; a photograph is shown smaller there.
_CANVAS = 640
# How far the sides of a drawing may differ from the image's, by rounding.
_SLACK = 0.02
# Two answers beside each other, and a phone, leave a table about 270 pixels.
_LOOKS = """
.answer h2 {margin: 0.2em 0; font-size: 1.4em}
.answer .encoder, .answer .small {opacity: 0.75; font-size: 0.9em; overflow-wrap: anywhere}
.answer .scroll {overflow-x: auto}
.answer table {border-collapse: collapse; border: 0 !important; width: 100%; font-size: 0.8em;
  font-variant-numeric: tabular-nums}
.answer caption {text-align: left; opacity: 0.75}
.answer .scroll th, .answer .scroll td {padding: 0.3em 0.25em; text-align: left;
  vertical-align: top; border: 0 !important; word-break: normal; overflow-wrap: normal;
  border-bottom: 1px solid var(--border-color-primary) !important}
.answer th[scope=row] {min-width: 6em; overflow-wrap: anywhere !important}
.answer .bar {display: block; height: 0.4em; background: var(--color-accent); min-width: 1px}
.answer .pictures {display: grid; gap: 0.8em; margin: 0.8em 0;
  grid-template-columns: repeat(auto-fit, minmax(9em, 1fr))}
.answer figure {margin: 0}
.answer img {width: 100%; max-width: 20em; border-radius: 4px}
"""
_HEAD = (
    "# fieldmark\n\nDrop an image and name what it may be. See what the encoder answers, which "
    "part of the image speaks for that, and what it answers with the background taken away."
)


@contextmanager
def keeping_uploads() -> Iterator[Path]:
    """Let gradio keep what is uploaded in a folder that goes with the block, and call nobody."""
    names = ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY")
    before = {name: os.environ.get(name) for name in names}
    with tempfile.TemporaryDirectory(prefix="fieldmark-app-", ignore_cleanup_errors=True) as folder:
        os.environ.update(dict(zip(names, (folder, "False", "1"), strict=True)))
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def build_app(encoders: Sequence[Encoder], *, templates: Sequence[str] = TEMPLATES) -> Any:
    """Build the window: a `gradio.Blocks`, for one encoder or for several side by side.

    Build and launch it inside `keeping_uploads`.

    Args:
        encoders: one at least; all answer every question.
        templates: prompts that a label is put into, each with `{}`.

    Raises:
        MissingExtraError: gradio is not installed.
    """
    gradio = _import_gradio()
    answer = make_answerer(encoders, templates=templates)
    with gradio.Blocks(title="fieldmark", analytics_enabled=False, delete_cache=(600, 3600)) as app:
        gradio.Markdown(_HEAD)
        with gradio.Row():
            with gradio.Column(scale=1, min_width=300):
                asked = _add_inputs(gradio, encoders)
                button = gradio.Button("Answer", variant="primary")
            with gradio.Column(scale=2, min_width=300), gradio.Row():
                shown = [_add_output(gradio, encoder) for encoder in encoders]
        image, drawing = asked[0], asked[-1]
        image.change(_tell(gradio, show_canvas), image, drawing, api_name=False)
        told = _tell(gradio, answer if len(shown) > 1 else lambda *words: answer(*words)[0])
        button.click(told, asked, shown, api_name="answer", concurrency_limit=1)
    app.queue(max_size=_QUEUE)
    return app


def check_address(host: str, port: int) -> None:
    """Say at once whether a window can listen there, before encoders are loaded for it.

    Args:
        host: name or address.
        port: to listen on.

    Raises:
        UsageError: the port is taken, or the host is not this machine's.

    Example:
        >>> check_address("host.invalid", 7860)
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.UsageError: host.invalid:7860: cannot be listened on (...); choose ...
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise UsageError(
            f"cannot be listened on ({str(error.strerror).partition(' (')[0].lower()})",
            where=f"{host}:{port}",
            mend="choose another --port, or --host",
        ) from error


def launch_app(app: Any, *, host: str = "127.0.0.1", port: int = 7860, share: bool = False) -> str:
    """Serve the window from a thread, and return its address.

    Args:
        app: from `build_app`.
        host: this machine alone by default.
        port: to listen on.
        share: whether to open a tunnel through gradio's servers, for anybody who has the address.
    """
    gradio = _import_gradio()
    plain = ["system-ui", "sans-serif"]
    # Names of fonts alone: gradio's own themes fetch theirs from Google.
    theme = gradio.themes.Base(font=plain, font_mono=["ui-monospace", "monospace"])
    _, local, public = app.launch(
        server_name=host,
        server_port=port,
        share=share,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=_LARGEST,
        footer_links=[],
        ssr_mode=False,
        theme=theme,
        css=_LOOKS,
    )
    return str(public or local)


def make_answerer(
    encoders: Sequence[Encoder], *, templates: Sequence[str] = TEMPLATES
) -> Callable[[str | None, str, str, bool, str | None, Any], list[str]]:
    """Return what the button calls: path, labels, method, automatic, mask, drawing to HTML.

    The mask is the uploaded one, else the drawn one, else img-focus's where that was fetched.
    """

    @functools.lru_cache(maxsize=1024)
    def embed(place: int, label: str) -> Tensor:
        return ensemble_prompts(encoders[place], [label], templates)[0]

    def answer(
        path: str | None, text: str, method: str, automatic: bool, mask: str | None, drawing: Any
    ) -> list[str]:
        if not path:
            raise ImageError("there is no image", mend="drop one")
        labels = read_labels(text)
        image = read_image(Path(path))
        chosen, note = choose_mask(image, mask=mask, drawing=drawing, automatic=automatic)
        found = []
        for place, encoder in enumerate(encoders):
            texts = torch.stack([embed(place, label) for label in labels])
            found.append(answer_image(encoder, image, labels, texts=texts, mask=chosen, note=note,
                                      method=method))  # fmt: skip
        return [render_answer(one) for one in found]

    return answer


def choose_mask(
    image: Image.Image, *, mask: str | None, drawing: Any, automatic: bool
) -> tuple[Image.Image | None, str]:
    """Return the mask of the object, or None, and where it is from or why there is none.

    Args:
        image: that it is for.
        mask: path of an uploaded mask.
        drawing: `layers` of RGBA images, as gradio's editor gives them.
        automatic: whether img-focus may find the object.

    Raises:
        MaskError: the mask is of another size or empty.
        ImageError: it cannot be read.

    Example:
        >>> image, layer = Image.new("RGB", (4, 4)), Image.new("RGBA", (2, 2))
        >>> layer.paste((255, 0, 0, 255), (0, 0, 1, 1))
        >>> mask, note = choose_mask(
        ...     image, mask=None, drawing={"layers": [layer]}, automatic=False)
        >>> note, [mask.getpixel(place) for place in ((0, 0), (1, 1), (2, 2))]
        ('drawn by hand', [255, 255, 0])
    """
    if mask:
        return read_grey(Path(mask)), "uploaded"
    drawn = _join_layers(drawing)
    if drawn is not None:
        across, down = (image.width / drawn.width, image.height / drawn.height)
        if abs(across / down - 1) > _SLACK:
            raise MaskError(
                f"the drawing is {drawn.width} x {drawn.height}, the image {image.width} x "
                f"{image.height}",
                mend="draw on the image that is asked about",
            )
        return drawn.resize(image.size, Image.Resampling.NEAREST), "drawn by hand"
    if not automatic:
        return None, "no mask was drawn or uploaded"
    if not has_saliency():
        return None, "no mask was drawn or uploaded, and img-focus was not fetched to find one"
    return _find_object(image)


def show_canvas(path: str | None) -> dict[str, Any] | None:
    """Return an image to draw on, at most 640 pixels wide or high."""
    if not path:
        return None
    image = read_image(Path(path))
    image.thumbnail((_CANVAS, _CANVAS))
    return {"background": image, "layers": [], "composite": image}


def _find_object(image: Image.Image) -> tuple[Image.Image | None, str]:
    from fieldmark.models.saliency import mask_salient

    try:
        found = mask_salient([image])[0]
    except MissingExtraError as error:
        return None, str(error)
    if found.note:
        return None, f"img-focus: {found.note}"
    return Image.fromarray(found.mask), "made by img-focus: what stands out, whatever it is"


def _join_layers(drawing: Any) -> Image.Image | None:
    layers = [layer for layer in (drawing or {}).get("layers") or () if layer is not None]
    if not layers:
        return None
    alphas = [np.asarray(layer.convert("RGBA").getchannel("A")) for layer in layers]
    joined = np.max(alphas, axis=0)
    # A click that left nothing is no drawing.
    return Image.fromarray(np.asarray(joined, np.uint8)) if joined.any() else None


def _add_inputs(gradio: Any, encoders: Sequence[Encoder]) -> list[Any]:
    borne = set.intersection(*({*list_supported(encoder)} for encoder in encoders))
    methods = [name for name in METHODS if name in borne and name not in _LEFT_OUT]
    image = gradio.File(label="Image", file_types=["image"], type="filepath", height=160)
    labels = gradio.Textbox(label="Labels, one a line", lines=4, value="bird\nmammal")
    method = gradio.Dropdown(methods, value=methods[0], label="Map by")
    automatic = gradio.Checkbox(
        has_saliency(),
        label="Find the object by img-focus",
        info="unless a mask is uploaded or drawn",
        interactive=has_saliency(),
    )
    with gradio.Accordion("Mask of the object", open=False):
        mask = gradio.File(label="Mask, bright on the object", file_types=["image"], height=160)
        drawing = gradio.ImageEditor(
            label="or draw over the object",
            type="pil",
            sources=(),
            transforms=(),
            layers=False,
            brush=gradio.Brush(default_size=24, colors=["#ff00ff"], color_mode="fixed"),
            canvas_size=(_CANVAS, _CANVAS),
        )
    return [image, labels, method, automatic, mask, drawing]


def _add_output(gradio: Any, encoder: Encoder) -> Any:
    # On a phone the answers come one below the other.
    with gradio.Column(min_width=280):
        return gradio.HTML(label=encoder.spec.uri)


def _tell(gradio: Any, work: Callable[..., Any]) -> Callable[..., Any]:
    """Turn our errors into one line in the window, without the path of an upload or markup."""

    def told(*words: Any) -> Any:
        try:
            return work(*words)
        except FieldmarkError as error:
            where = Path(error.where).name if isinstance(error.where, Path) else error.where
            line = str(FieldmarkError(error.problem, where=where, mend=error.mend))
            raise gradio.Error(str(escape(line)), print_exception=False) from None

    return told


def _import_gradio() -> Any:
    try:
        import gradio
    except ImportError as error:
        raise MissingExtraError("gradio", extra="app") from error
    return gradio
