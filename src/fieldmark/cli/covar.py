"""`fieldmark covar`: a benchmark in which one thing changes at a time, and encoders on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fieldmark.cli import options
from fieldmark.cli.covar_evaluate import evaluate
from fieldmark.cli.progress import say, show_progress

if TYPE_CHECKING:
    from fieldmark.data.backgrounds import Backgrounds
    from fieldmark.data.covar import Covar, Origin
    from fieldmark.data.foregrounds import Foregrounds

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Build a benchmark in which one thing about an image changes at a time, and use it.",
)
# The pool of Debian packages, in place of a folder.
STAMPS = "stamps"

Objects = Annotated[
    str,
    typer.Option(
        "--foregrounds",
        help="Objects: cut-outs in a folder a class, a table with masks or boxes, a COCO file, or "
        "stamps: 33 kinds of cut-outs of Tux Paint.",
        show_default=False,
    ),
]
Scenes = Annotated[
    str,
    typer.Option(
        "--backgrounds",
        help="Scenes: a folder, a table, or stamps: 20 wallpapers of Debian.",
        show_default=False,
    ),
]
Subsets = Annotated[
    str,
    typer.Option(
        help="Which, with commas: background, scale_2 and so on, translate, rotation, h_flip, "
        "v_flip, crop, viewpoint_1, viewpoint_2. Default: all ten, and the viewpoints where a "
        "function makes them.",
        show_default=False,
    ),
]
Viewpoint = Annotated[
    str,
    typer.Option(
        help="What makes two other views of an object: function:FILE.py:NAME (executed), from an "
        "RGBA image and the number of the view to an RGBA image.",
        show_default=False,
    ),
]


@app.callback()
def covar() -> None:
    """Take verbs: `fieldmark covar build`, `fieldmark covar evaluate`."""


@app.command()
def build(
    foregrounds: Objects,
    backgrounds: Scenes,
    out: options.Out,
    root: Annotated[
        Path | None, typer.Option(help="Folder that the objects' paths are relative to.")
    ] = None,
    class_: Annotated[
        list[str] | None,
        typer.Option("--class", help="A class to keep; may be repeated.", show_default=False),
    ] = None,
    side: Annotated[int, typer.Option(help="Of the images in pixels.")] = 224,
    subsets: Subsets = "",
    backgrounds_per_object: Annotated[
        int, typer.Option(min=1, help="Scenes that each object is laid on.")
    ] = 20,
    objects_per_class: Annotated[
        int | None, typer.Option(min=1, help="At most. Default: all.", show_default=False)
    ] = None,
    scales: Annotated[
        str, typer.Option(help="Linear factors that objects shrink by.")
    ] = "1.5,2,4,8",
    shift: Annotated[float, typer.Option(help="Largest translation, a share of the side.")] = 0.2,
    patch: Annotated[
        int | None,
        typer.Option(help="Translate by multiples of it, in pixels.", show_default=False),
    ] = None,
    angle: Annotated[float, typer.Option(help="Largest rotation in degrees.")] = 45.0,
    translates: Annotated[
        Literal["scene", "foreground"], typer.Option(help="What a translation moves.")
    ] = "scene",
    rotates: Annotated[
        Literal["scene", "foreground"], typer.Option(help="What a rotation turns.")
    ] = "scene",
    placement: Annotated[
        Literal["keep", "centre"],
        typer.Option(help="Whether an object of a photograph keeps its place and size."),
    ] = "keep",
    object_side: Annotated[
        float, typer.Option(help="Longer side of a centred object, a share of the side.")
    ] = 0.6,
    edge: Annotated[
        Literal["natural", "hard", "feathered"], typer.Option(help="Of the masks.")
    ] = "natural",
    supersample: Annotated[
        int, typer.Option(min=1, max=4, help="How many times finer the canvas is.")
    ] = 2,
    viewpoint: Viewpoint = "",
    seed: options.Seed = 0,
    workers: Annotated[int, typer.Option(min=1, help="Threads.")] = 2,
    skip_unreadable: options.SkipUnreadable = False,
    resume: options.Resume = False,
) -> None:
    """Lay every object on the same scenes and vary one thing at a time, with exact masks.

    Writes OUT/images, OUT/masks, OUT/covar.csv (a table that other verbs take as --data) and
    OUT/info.json.
    """
    from fieldmark.data.covar import CovarSettings, build_covar, open_covar

    settings = CovarSettings(
        side=side,
        subsets=tuple(name.strip() for name in subsets.split(",") if name.strip()),
        backgrounds_per_object=backgrounds_per_object,
        objects_per_class=objects_per_class,
        scales=_parse_scales(scales),
        shift=shift,
        patch=patch,
        angle=angle,
        translates=translates,
        rotates=rotates,
        placement=placement,
        object_side=object_side,
        edge=edge,
        supersample=supersample,
        seed=seed,
    )
    objects = _read_objects(foregrounds, root=root, classes=class_)
    scenes = _read_scenes(backgrounds)
    if skip_unreadable:
        objects, scenes = _skip_unreadable(objects, scenes)
    with show_progress() as report:
        build_covar(
            out,
            foregrounds=objects,
            backgrounds=scenes,
            settings=settings,
            viewpoint=viewpoint,
            origin=_find_origin(foregrounds, backgrounds),
            workers=workers,
            resume=resume,
            on_progress=report,
        )
    _print_counts(open_covar(out))


app.command()(evaluate)


def _parse_scales(text: str) -> tuple[float, ...]:
    from fieldmark.core.errors import UsageError

    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise UsageError(
            f"scales of {text!r} are not numbers", mend="write --scales 1.5,2,4,8"
        ) from error


def _read_objects(source: str, *, root: Path | None, classes: list[str] | None) -> Foregrounds:
    import numpy as np

    from fieldmark.core.registry import look_up
    from fieldmark.data.covar.stamps import open_cutouts
    from fieldmark.data.foregrounds import read_foregrounds

    if source.lower().endswith(".json"):
        return read_foregrounds(Path(source), root=root, classes=classes)
    pool = open_cutouts() if source == STAMPS else read_foregrounds(Path(source), root=root)
    if not classes:
        return pool
    numbers = {name: number for number, name in enumerate(pool.classes)}
    kept = [look_up(numbers, name, kind="class") for name in classes]
    return pool.take(np.flatnonzero(np.isin(pool.labels, kept)))


def _read_scenes(source: str) -> Backgrounds:
    from fieldmark.data.backgrounds import read_backgrounds
    from fieldmark.data.covar.stamps import open_scenes

    return open_scenes() if source == STAMPS else read_backgrounds(Path(source))


def _skip_unreadable(objects: Foregrounds, scenes: Backgrounds) -> tuple[Foregrounds, Backgrounds]:
    from fieldmark.data.tables import find_unreadable

    bad_objects, bad_scenes = find_unreadable(objects), find_unreadable(scenes)
    for found in (*bad_objects, *bad_scenes):
        say(f"left out: {found.reason}")
    left_out = {found.index for found in bad_objects}, {found.index for found in bad_scenes}
    return (
        objects.take([i for i in range(len(objects)) if i not in left_out[0]]),
        scenes.take([i for i in range(len(scenes)) if i not in left_out[1]]),
    )


def _find_origin(foregrounds: str, backgrounds: str) -> Origin:
    """Say where the pools come from, as far as it is known: of folders only what they are."""
    from fieldmark.data.covar import Origin
    from fieldmark.data.covar.stamps import LICENCES, read_sources

    licences: list[str] = []
    sources = []
    for part, source in (("foregrounds", foregrounds), ("backgrounds", backgrounds)):
        if source == STAMPS:
            licences += LICENCES[part]
            sources += read_sources(part)
        else:
            licences.append(f"{part}: as {source} says")
            sources.append({"part": part, "path": str(Path(source).resolve())})
    return Origin(licences=tuple(licences), sources=tuple(sources))


def _print_counts(built: Covar) -> None:
    import numpy as np

    typer.echo(f"{'subset':<14} {'images':>7} {'object area':>12} {'cut off':>8}")
    for subset in built.subsets:
        rows = built.find_rows(subset)
        area = float(np.mean(built.realised_area[rows]))
        cut = int(built.cut_off[rows].sum())
        typer.echo(f"{subset:<14} {len(rows):>7} {area:>12.2%} {cut:>8}")
    classes, objects = len(built.info["classes"]), len(built.info["objects"])
    say(f"{objects} objects of {classes} classes on {len(built.info['scenes'])} scenes")
    say(f"done: {built.root}")
