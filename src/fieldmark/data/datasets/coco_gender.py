"""COCO gender: men and women of COCO in construction sites and kitchens (BAP appendix L, M.4).

`benchmarks.gender` builds it with the paper's labeller; `build_coco_gender` takes any function that
gives margins, or a table of them. The result is laid out as `data.datasets.composites` describes,
with the splits

    train         3,000 of each class, tied to their usual scenes by `correlation`
    calibration   100 of each group out of the balanced test, for DFR alone (M.4.2)
    test          what is left of the test: 400 of each group, people and scenes unseen

Decisions where the paper is silent: 80/20 holds for the scenes of each kind; the object's longer
side is 75 % of the canvas; a photograph with several people may have one in train and another in
test, since the paper divides instances. There is no `val`: where the correlation is 1.0 a part of
train could select nothing (M.4.2).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fieldmark.core.atomic import write_json
from fieldmark.core.errors import InputError, UsageError
from fieldmark.core.seeds import generator
from fieldmark.data.backgrounds import Backgrounds, fit_background
from fieldmark.data.datasets import coco, places365
from fieldmark.data.datasets.built import building, check_built, open_built, write_rows
from fieldmark.data.datasets.info import DatasetInfo
from fieldmark.data.datasets.people import (
    BINS,
    BOUNDS,
    Labeller,
    People,
    choose_people,
    count_margins,
    read_margins,
    shrink_cutout,
    write_margins,
)
from fieldmark.data.foregrounds import Foregrounds
from fieldmark.data.sprites import draw_sprite

Indices = NDArray[np.int64]
Progress = Callable[[int, int], None]

CLASSES, KINDS = ("man", "woman"), ("construction", "kitchen")
# L.5.1, by the kind that goes with each class.
SCENES = {"construction": places365.GENDER_MAN, "kitchen": places365.GENDER_WOMAN}
TEST_SCENES, SCALE = 0.2, 0.75
COLUMNS = ("id", "path", "label", "attribute", "split", "mask", "object", "scene")
DISCLAIMER = (
    "BAP appendix L.6: the labels were assigned by a vision-language model. They 'strictly "
    "represent visual predictions based on the model's learned associations of gender "
    "presentation, rather than true, self-identified demographic data'. They were made from "
    "people alone on grey, and by a larger model than those under test. The data set is 'a "
    "controlled stress-test of a vision encoder's reliance on spurious spatial context and "
    "background correlations, rather than a definitive measure of real-world human demographic "
    "bias'."
)
CITATION = f"BAP, appendix L; {coco.CITATION}; {places365.INFO.citation}"
CALIBRATION_NOTE = (
    "split calibration is a part of the balanced test that DFR alone may see (BAP M.4.2); no "
    "image of it is in test"
)

CARD: Mapping[str, Any] = {
    "name": "coco-gender",
    "task": "man-woman",
    "classes": list(CLASSES),
    "attributes": list(KINDS),
    "class_words": ["male person", "female person"],
    "templates": "people",
    "reject": [["construction site background", "kitchen background"]],
    "accept": [["male person", "female person"]],
    "citation": CITATION,
    "disclaimer": DISCLAIMER,
    "notes": [CALIBRATION_NOTE],
}


class Placed(NamedTuple):
    """Who stands where: indices of a person and a scene, and names of class, kind and split."""

    person: int
    scene: int
    label: str
    kind: str
    split: str


def build_coco_gender(
    out: Path,
    *,
    root: Path,
    places: Backgrounds | Path,
    margins: Labeller | Path,
    seed: int = 0,
    correlation: float = 1.0,
    per_class: int = 4000,
    test_per_class: int = 1000,
    calibration: int = 100,
    bins: int = BINS,
    bounds: tuple[float, float] = BOUNDS,
    size: int = 224,
    per_category: int = 100,
    labeller: Mapping[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Build the data set into `out`.

    Args:
        out: the folder; must not exist or be empty.
        root: COCO 2017, as `data.datasets.coco` finds it; its training part is used.
        places: scenes, or where Places365 lies. All of their categories that are not the four of
            `SCENES` are neutral and serve for pre-training.
        margins: a labeller, or a CSV table of `id` (COCO's annotation) and `margin`.
        seed: of the sample, the splits and the pairs.
        correlation: share of a class's training images on its usual scenes, in [0.5, 1].
        per_class: people of a class, the test's included.
        test_per_class: people of a class in the test, calibration included; even.
        calibration: people of each group that go from the test to `calibration`.
        bins: of the flat sample.
        bounds: of the absolute margin.
        size: side of the composites in pixels.
        per_category: most scenes of a neutral category that are kept.
        labeller: facts about the labeller for the card.
        on_progress: called with how many composites are done and how many there are.

    Raises:
        UsageError: an argument that cannot be.
        RunExistsError: `out` holds files.
        InputError: too few people within the bounds, or too few scenes.
        TableError: COCO, Places365 or a margin is missing or off.
    """
    _check_counts(per_class, test_per_class=test_per_class, calibration=calibration)
    if not 0.5 <= correlation <= 1 or min(size, per_category) < 1:
        told = f"correlation {correlation}, size {size}, per_category {per_category}"
        raise UsageError(told, mend="use a correlation from 0.5 to 1, and counts of 1 or more")
    with building(out) as part:
        label_people = read_margins(margins) if isinstance(margins, Path) else margins
        scenes = open_places(places) if isinstance(places, Path) else places
        near, far = split_scenes(scenes, seed=seed)
        persons = coco.open_coco(root, classes=("person",), min_box=coco.PERSON_BOX)
        found = np.asarray(label_people(People(persons, size=size)), np.float64)
        chosen = choose_people(found, per_class=per_class, bins=bins, bounds=bounds, seed=seed)
        placed = place_people(
            chosen,
            near,
            far,
            test_per_class=test_per_class,
            calibration=calibration,
            correlation=correlation,
            seed=seed,
        )
        rows = list(_write_composites(part, placed, persons, scenes, size, on_progress))
        write_rows(part / "metadata.csv", COLUMNS, rows)
        _write_scenes(part / "backgrounds", scenes, per_category=per_category, size=size, seed=seed)
        write_margins(part / "margins.csv", ids=persons.ids, margins=found)
        card = {**CARD, "correlation": correlation, "seed": seed, "size": size}
        card |= {"counts": _count_groups(placed), "bounds": list(bounds)}
        card |= {"margins": count_margins(found, bins=bins, bounds=bounds)}
        card |= _describe_licences(root, persons.take([one.person for one in placed]))
        write_json(part / "card.json", card | {"labeller": dict(labeller or {})})
    return out


def open_places(places: Path) -> Backgrounds:
    """Read the scenes that COCO gender is made of: its four categories and the neutral ones.

    Raises:
        TableError: Places365 is not there.
    """
    wanted = [*(name for names in SCENES.values() for name in names), *places365.PRETRAINING]
    return places365.open_places365(places, categories=tuple(dict.fromkeys(wanted)))


def split_scenes(pool: Backgrounds, *, seed: int) -> tuple[dict[str, Indices], dict[str, Indices]]:
    """Divide the scenes of each kind 80/20 (L.5.3): kind to indices, for train and for the test.

    Raises:
        InputError: a kind has fewer than two scenes; the categories looked for are named.
    """
    kinds = np.array([places365.flatten_category(name) for name in pool.categories])[
        pool.category_ids
    ]
    near, far = {}, {}
    for kind, names in SCENES.items():
        rows = np.flatnonzero(np.isin(kinds, names))
        if rows.size < 2:
            raise InputError(
                f"has {rows.size} scenes of {' and '.join(names)}, a split needs 2",
                where=pool.name,
                mend="give Places365 with these categories",
            )
        order = rows[generator(seed, "coco gender scenes", kind).permutation(rows.size)]
        count = min(max(1, round(TEST_SCENES * rows.size)), rows.size - 1)
        far[kind], near[kind] = order[:count], order[count:]
    return near, far


def place_people(
    people: Mapping[str, Indices],
    near: Mapping[str, Indices],
    far: Mapping[str, Indices],
    *,
    test_per_class: int,
    calibration: int,
    correlation: float,
    seed: int,
) -> list[Placed]:
    """Divide people into train and test and give each a scene (L.4, L.5, M.4.2).

    Each person stands in one composite. Scenes of a kind are used in turn, so that none comes
    again before all have been used.

    Args:
        people: class to indices.
        near: kind to indices of scenes for train.
        far: kind to indices of scenes for calibration and test.
        test_per_class: of each class, half of them on each kind.
        calibration: of each group, out of the test.
        correlation: share of a class's training people on its usual kind.
        seed: of it all.
    """
    plan: list[tuple[int, str, str, str]] = []
    for label, usual in zip(CLASSES, KINDS, strict=True):
        order = generator(seed, "coco gender people", label).permutation(people[label])
        train, test = order[test_per_class:], order[:test_per_class]
        many = round(correlation * train.size)
        other = KINDS[1 - KINDS.index(usual)]
        plan += [(p, label, usual, "train") for p in train[:many].tolist()]
        plan += [(p, label, other, "train") for p in train[many:].tolist()]
        for number, person in enumerate(test.tolist()):
            split = "calibration" if number // 2 < calibration else "test"
            plan.append((person, label, KINDS[number % 2], split))
    turns = {
        (kind, side): _take_turns(pool, generator(seed, "coco gender pairs", kind, side))
        for side, pools in (("near", near), ("far", far))
        for kind, pool in pools.items()
    }
    return [
        Placed(p, next(turns[kind, "near" if split == "train" else "far"]), label, kind, split)
        for p, label, kind, split in plan
    ]


def _take_turns(pool: Indices, rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from rng.permutation(pool).tolist()


def _check_counts(per_class: int, *, test_per_class: int, calibration: int) -> None:
    if not 0 < test_per_class < per_class or test_per_class % 2:
        raise UsageError(
            f"test_per_class {test_per_class} of {per_class}", mend="use an even part of per_class"
        )
    if not 0 <= calibration < test_per_class // 2:
        raise UsageError(
            f"calibration {calibration} of the {test_per_class // 2} test people of a group",
            mend="leave some for the test",
        )


def _write_composites(
    folder: Path,
    placed: Sequence[Placed],
    persons: Foregrounds,
    scenes: Backgrounds,
    size: int,
    on_progress: Progress | None,
) -> Iterator[tuple[str, ...]]:
    """Write each composite with its mask, and the training people as foregrounds."""
    trained = []
    for number, one in enumerate(placed):
        cutout = persons.read(one.person)
        person = persons.ids[one.person]
        name = f"{one.split}/{one.label}-on-{one.kind}-{person}"
        image, mask = _paste(cutout, scenes.read(one.scene), size=size)
        _save(image, folder / "images" / f"{name}.png")
        _save(mask, folder / "masks" / f"{name}.png")
        if one.split == "train":
            # The border keeps an object that fills its box a cut-out: something is transparent.
            kept = ImageOps.expand(
                shrink_cutout(cutout, size=2 * size), border=1, fill=(0, 0, 0, 0)
            )
            _save(kept, folder / "foregrounds" / f"{person}.png")
            trained.append((f"{person}.png", one.label, person))
        if on_progress is not None:
            on_progress(number + 1, len(placed))
        files = (f"images/{name}.png", f"masks/{name}.png")
        scene = scenes.ids[one.scene]
        yield name, files[0], one.label, one.kind, one.split, files[1], person, scene
    write_rows(folder / "foregrounds" / "foregrounds.csv", ("path", "label", "id"), trained)


def _paste(
    cutout: Image.Image, scene: Image.Image, *, size: int
) -> tuple[Image.Image, Image.Image]:
    # Imported late: it loads torch, which a list of data sets does not need.
    from fieldmark.data.compositing import find_place

    sprite = draw_sprite(cutout, side=size, scale=SCALE)
    rows, columns = find_place(*sprite.size, side=size)
    image, mask = fit_background(scene, side=size), Image.new("L", (size, size))
    image.paste(sprite, (columns.start, rows.start), sprite)
    mask.paste(sprite.getchannel("A"), (columns.start, rows.start))
    return image, mask


def _write_scenes(
    folder: Path, pool: Backgrounds, *, per_category: int, size: int, seed: int
) -> None:
    """Write the neutral scenes: those of no category that the task is biased by (L.5.1)."""
    biased = {name for names in SCENES.values() for name in names}
    rows: list[tuple[str, str, str]] = []
    for number, category in enumerate(pool.categories):
        if places365.flatten_category(category) in biased:
            continue
        inside = np.flatnonzero(pool.category_ids == number)
        drawn = generator(seed, "coco gender neutral", category).permutation(inside)[:per_category]
        for scene in drawn.tolist():
            path = folder / f"{len(rows):05d}.png"
            _save(fit_background(pool.read(scene), side=size), path)
            rows.append((path.name, category, pool.ids[scene]))
    if not rows:
        raise InputError(
            "has no neutral scene to pre-train on",
            where=pool.name,
            mend="give categories beside construction sites and kitchens",
        )
    write_rows(folder / "backgrounds.csv", ("path", "category", "id"), rows)


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, compress_level=1)


def _count_groups(placed: Sequence[Placed]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for one in placed:
        counts.setdefault(one.split, Counter())[f"{one.label} on {one.kind}"] += 1
    return {split: dict(groups) for split, groups in counts.items()}


def _describe_licences(root: Path, used: Foregrounds) -> dict[str, Any]:
    names = [path.relative_to(used.root).as_posix() for path in used.paths]
    given = coco.read_licences(coco.find_annotations(root), files=names)
    counts = Counter(given[name] for name in names)
    return {
        "licences": [
            f"COCO: {coco.LICENCE}",
            *(f"COCO people, {count} of: {name}" for name, count in sorted(counts.items())),
            f"Places365: {places365.INFO.licence}",
        ],
        "sources": ["COCO 2017, train2017", "Places365"],
    }


def check_coco_gender(root: Path) -> list[str]:
    """Return what is missing or off in a built folder, a line each."""
    return check_built(root, name="coco-gender")


INFO = DatasetInfo(
    name="coco-gender",
    summary="men and women of COCO, labelled by a model, in construction sites and kitchens",
    licence=f"of the people: {coco.LICENCE}; of the scenes: {places365.INFO.licence}",
    citation=CITATION,
    layout="""to build it: COCO 2017 as `fieldmark data info coco` shows it, and with
--set places=FOLDER Places365; people are labelled by --set encoder=NAME, the paper's by default,
or by --set margins=TABLE; to open it: what `fieldmark data build` wrote""",
    open=open_built,
    build=build_coco_gender,
    check=check_coco_gender,
    options={
        "places": None,
        "margins": None,
        "seed": 0,
        "correlation": 1.0,
        "per_class": 4000,
        "test_per_class": 1000,
        "calibration": 100,
        "bins": BINS,
        "bounds": BOUNDS,
        "size": 224,
        "per_category": 100,
    },
)
