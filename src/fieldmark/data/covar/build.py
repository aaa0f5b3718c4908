"""Build a COVAR: every object on every scene, in every variant, as files with exact masks.

An object and a scene are decoded once. A thread renders all variants of one object on one scene;
Pillow and numpy let go of the interpreter while they work. An image is whole or not there, and a
journal says what is done, so that a build that was killed goes on where it was.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fieldmark.core.atomic import drop_parts, hash_file, hash_json, write_json
from fieldmark.core.errors import RunExistsError, UsageError
from fieldmark.core.sealed import write_sealed_json
from fieldmark.data.backgrounds import Backgrounds
from fieldmark.data.covar.layers import Rendered
from fieldmark.data.covar.manifest import (
    INFO,
    JOURNAL,
    KIND,
    PENDING,
    TABLE,
    Row,
    read_info,
    read_journal,
    read_pending,
    write_table,
)
from fieldmark.data.covar.objects import ShowView, load_views, open_actor
from fieldmark.data.covar.pools import choose_objects, choose_scenes
from fieldmark.data.covar.settings import ORIGINAL, CovarSettings
from fieldmark.data.covar.variants import Actor, Stage, draw_variant, open_stage, render_variant
from fieldmark.data.foregrounds import Foregrounds

# Raised when the same settings give other pixels or other files.
FORMAT = 1
GREY = (128, 128, 128)
GREY_CARD = "grey card"
# Objects and scenes that are held decoded at a time.
ACTORS, STAGES = 8, 64
# Below this share of itself an object is called cut off by the border.
WHOLE = 0.999


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where objects and scenes come from, for the record.

    Attributes:
        licences: in words.
        sources: manifests of what was fetched.
    """

    licences: tuple[str, ...] = ()
    sources: tuple[Mapping[str, Any], ...] = ()


class _Task(NamedTuple):
    """The variants of an object on a scene; without a scene its original."""

    item: int
    scene: int | None


@dataclass(frozen=True, eq=False, kw_only=True)
class _Plan:
    out: Path
    foregrounds: Foregrounds
    backgrounds: Backgrounds
    settings: CovarSettings
    subsets: tuple[str, ...]
    done: Mapping[str, Row]
    find_actor: Callable[[int], Actor]
    find_stage: Callable[[int], Stage]


def build_covar(
    out: Path,
    *,
    foregrounds: Foregrounds,
    backgrounds: Backgrounds,
    settings: CovarSettings,
    viewpoint: str = "",
    origin: Origin | None = None,
    workers: int = 2,
    resume: bool = False,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Build a COVAR into `out` (CCI and COVAR, section 4).

    Every object is laid on the same scenes, so that objects and scenes are crossed. The bytes are
    the same for any number of workers and after any number of interruptions.

    Args:
        out: the folder; must not exist or be empty, unless `resume`.
        foregrounds: the objects.
        backgrounds: the scenes.
        settings: what to build.
        viewpoint: function:FILE.py:NAME that makes other views of an object; executed.
        origin: licences and sources, for info.json.
        workers: threads.
        resume: go on with the same build in `out`.
        on_progress: called with "covar", how many images are done and how many there are.

    Returns:
        `out`.

    Raises:
        UsageError: settings that cannot be, or fewer than one worker.
        InputError: too few scenes, an image or a mask that cannot be used.
        RunExistsError: `out` holds something else.
    """
    if workers < 1:
        raise UsageError(f"{workers} workers cannot work", mend="give 1 or more")
    views, digest = load_views(viewpoint) if viewpoint else (None, "")
    subsets = settings.find_subsets(viewpoints=views is not None)
    objects = choose_objects(foregrounds, settings=settings)
    scenes = choose_scenes(backgrounds, settings=settings)
    find_stage = _remember_stages(scenes, settings=settings)
    record = _describe(objects, scenes, settings=settings, viewpoint=digest)
    if _is_finished(out, hash_json(record), resume=resume):
        return out
    _decode_all(objects, scenes, find_stage=find_stage, workers=workers)
    write_json(out / PENDING, {"kind": KIND, "key": hash_json(record)})
    plan = _Plan(
        out=out,
        foregrounds=objects,
        backgrounds=scenes,
        settings=settings,
        subsets=subsets,
        done=read_journal(out),
        find_actor=_remember_actors(objects, settings=settings, views=views),
        find_stage=find_stage,
    )
    rows = _render_all(plan, workers=workers, on_progress=on_progress)
    write_table(out, rows)
    write_sealed_json(out / INFO, _write_info(plan, record, rows=rows, origin=origin or Origin()))
    for name in (JOURNAL, PENDING):
        (out / name).unlink(missing_ok=True)
    return out


def name_file(text: str) -> str:
    """Return a file name for an id; where letters had to go, a digest keeps it apart.

    Example:
        >>> name_file("lake-1"), name_file("a/b c")
        ('lake-1', 'a-b-c-900cef')
    """
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip(".")[-60:]
    return plain if plain == text else f"{plain}-{hash_json(text)[:6]}"


def _describe(
    objects: Foregrounds, scenes: Backgrounds, *, settings: CovarSettings, viewpoint: str
) -> dict[str, Any]:
    """Return what fixes every byte of the build."""
    labels = [objects.classes[label] for label in objects.labels]
    kinds = [scenes.categories[kind] for kind in scenes.category_ids]
    return {
        "format": FORMAT,
        "settings": json.loads(json.dumps(asdict(settings))),
        "viewpoint": viewpoint,
        "objects": [
            {"id": name, "label": label, "sha256": digest}
            for name, label, digest in zip(objects.ids, labels, objects.hashes(), strict=True)
        ],
        "scenes": [
            {"id": name, "category": kind, "sha256": digest}
            for name, kind, digest in zip(scenes.ids, kinds, scenes.hashes(), strict=True)
        ],
    }


def _is_finished(out: Path, key: str, *, resume: bool) -> bool:
    """Return whether a folder holds this very build, finished; refuse what holds anything else."""
    # A build that was killed while it first named itself left nothing but part of that name.
    names = [path.name for path in out.iterdir()] if out.is_dir() else []
    if resume or all(name.startswith(".part-") for name in names):
        drop_parts(out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    finished = out.is_dir() and (out / INFO).is_file()
    held = read_info(out) if finished else read_pending(out) if out.is_dir() else {}
    if held.get("key") is None:
        raise RunExistsError("holds other files", where=out, mend="choose an empty --out")
    if held["key"] != key:
        raise RunExistsError(
            "holds a COVAR of other objects, scenes or settings",
            where=out,
            mend="choose another --out, or the settings that it was begun with",
        )
    if not resume:
        state = "a finished COVAR" if finished else "an unfinished COVAR"
        raise RunExistsError(f"holds {state}", where=out, mend="add --resume to go on with it")
    return finished


def _decode_all(
    objects: Foregrounds, scenes: Backgrounds, *, find_stage: Callable[[int], Stage], workers: int
) -> None:
    """Read every file once, so that one that cannot be used is found before anything is written.

    Scenes are kept, as many as fit; objects are small beside the images that they give.
    """
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(objects.read, range(len(objects))):
            pass
        for _ in pool.map(find_stage, range(len(scenes))):
            pass


def _remember_actors(
    objects: Foregrounds, *, settings: CovarSettings, views: ShowView | None
) -> Callable[[int], Actor]:
    @functools.lru_cache(maxsize=ACTORS)
    def find(index: int) -> Actor:
        return open_actor(objects, index, settings=settings, show_view=views)

    return find


def _remember_stages(scenes: Backgrounds, *, settings: CovarSettings) -> Callable[[int], Stage]:
    @functools.lru_cache(maxsize=STAGES)
    def find(index: int) -> Stage:
        return open_stage(scenes.read(index), settings=settings)

    return find


def _render_all(
    plan: _Plan, *, workers: int, on_progress: Callable[[str, int, int], None] | None
) -> list[Row]:
    """Render what is not done and return all rows, in order."""
    tasks = _list_tasks(plan)
    total = sum(1 if task.scene is None else len(plan.subsets) for task in tasks)
    rows: list[Row] = []
    with (
        ThreadPoolExecutor(workers) as pool,
        (plan.out / JOURNAL).open("a", encoding="utf-8") as journal,
    ):
        # A line torn by a kill must not spoil the next one.
        journal.write("\n")
        for found in _run_in_order(pool, plan, tasks, ahead=4 * workers):
            fresh = [row for row in found if row.id not in plan.done]
            journal.writelines(json.dumps(row) + "\n" for row in fresh)
            journal.flush()
            rows += found
            if on_progress is not None:
                on_progress("covar", len(rows), total)
    order = {name: number for number, name in enumerate((ORIGINAL, *plan.subsets))}
    return sorted(rows, key=lambda row: order[row.subset])


def _list_tasks(plan: _Plan) -> list[_Task]:
    """Return all tasks, an object's together, in blocks of as many scenes as are held decoded."""
    tasks = []
    for start in range(0, len(plan.backgrounds), STAGES):
        scenes = range(start, min(start + STAGES, len(plan.backgrounds)))
        for item in range(len(plan.foregrounds)):
            tasks += [_Task(item, None)] if start == 0 else []
            tasks += [_Task(item, scene) for scene in scenes]
    return tasks


def _run_in_order(
    pool: ThreadPoolExecutor, plan: _Plan, tasks: Sequence[_Task], *, ahead: int
) -> Iterator[list[Row]]:
    """Yield what each task gives, in order, with a bounded number of them under way."""
    waiting = iter(tasks)
    running: list[Future[list[Row]]] = [
        pool.submit(_render_task, plan, task) for task in itertools.islice(waiting, ahead)
    ]
    try:
        while running:
            yield running.pop(0).result()
            running += [
                pool.submit(_render_task, plan, task) for task in itertools.islice(waiting, 1)
            ]
    finally:
        for future in running:
            future.cancel()


def _render_task(plan: _Plan, task: _Task) -> list[Row]:
    subsets = (ORIGINAL,) if task.scene is None else plan.subsets
    rows = []
    for subset in subsets:
        row = _name_row(plan, task, subset)
        rows.append(plan.done.get(row.id) or _render_row(plan, task, row))
    return rows


def _name_row(plan: _Plan, task: _Task, subset: str) -> Row:
    """Return the row of an image, all but what is measured on it."""
    item = plan.foregrounds.ids[task.item]
    scene, kind = "", ""
    if task.scene is not None:
        scene = plan.backgrounds.ids[task.scene]
        kind = plan.backgrounds.categories[plan.backgrounds.category_ids[task.scene]]
    stem = f"{subset}/{name_file(item)}/{name_file(scene) if scene else ORIGINAL}"
    variant = draw_variant(subset, settings=plan.settings, item=item, scene=scene)
    return Row(
        id=stem,
        path=f"images/{stem}.png",
        label=plan.foregrounds.classes[plan.foregrounds.labels[task.item]],
        attribute=kind,
        mask=f"masks/{stem}.png",
        object=item,
        scene=scene,
        subset=subset,
        realised_area="",
        visible="",
        cut_off="",
        parameters=variant.to_json(),
    )


def _render_row(plan: _Plan, task: _Task, row: Row) -> Row:
    actor = plan.find_actor(task.item)
    variant = draw_variant(row.subset, settings=plan.settings, item=row.object, scene=row.scene)
    if task.scene is not None:
        stage, scene = plan.find_stage(task.scene), row.scene
    elif actor.own is not None:
        stage, scene = actor.own, row.object
    else:
        side = plan.settings.canvas_side
        card = Image.new("RGB", (side, side), GREY)
        stage, scene = Stage(canvas=card, supersample=plan.settings.supersample), GREY_CARD
    rendered = render_variant(variant, actor, stage, settings=plan.settings)
    _write_png(plan.out / row.path, rendered.image)
    _write_png(plan.out / row.mask, rendered.mask)
    return row._replace(scene=scene, **_measure(rendered))


def _measure(rendered: Rendered) -> dict[str, str]:
    area = float(np.asarray(rendered.mask).mean(dtype=np.float64)) / 255
    visible = rendered.visible
    return {
        "realised_area": f"{area:.6f}",
        "visible": "" if visible != visible else f"{visible:.6f}",
        "cut_off": str(int(visible < WHOLE)),
    }


def _write_png(path: Path, image: Image.Image) -> None:
    """Write a file whole or not at all as far as a kill goes; a power cut is found on reading."""
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    part = path.with_name(f".part-{path.name}")
    try:
        part.write_bytes(stream.getbuffer())
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(stream.getbuffer())
    os.replace(part, path)  # noqa: PTH105  # a fifth of the time of Path.replace


def _write_info(
    plan: _Plan, record: Mapping[str, Any], *, rows: Sequence[Row], origin: Origin
) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.subset] = counts.get(row.subset, 0) + 1
    held = {plan.foregrounds.classes[label] for label in plan.foregrounds.labels}
    own = any(row.scene == row.object for row in rows if row.subset == ORIGINAL)
    return {
        "kind": KIND,
        "key": hash_json(record),
        "table_sha256": hash_file(plan.out / TABLE),
        **record,
        "classes": sorted(held),
        "subsets": list(plan.subsets),
        "counts": counts,
        "cut_off": sum(row.cut_off == "1" for row in rows),
        "originals": "on their own photographs" if own else f"on a {GREY_CARD} {GREY}",
        "foregrounds": plan.foregrounds.name,
        "backgrounds": plan.backgrounds.name,
        "licences": list(origin.licences),
        "sources": [dict(source) for source in origin.sources],
        "notes": [
            "an object has the light of its cut-out, casts no shadow and touches no ground",
            "images of one object are not independent: resample objects, not images",
        ],
    }
