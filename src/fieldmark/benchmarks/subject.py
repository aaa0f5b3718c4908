"""A task with one encoder, and the encoders that recipes make of it, each made once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fieldmark import __version__
from fieldmark.benchmarks.evaluate import embed_concepts
from fieldmark.benchmarks.jobs import NATIVE, Job, Source
from fieldmark.benchmarks.predictions import EvaluatedSplit
from fieldmark.benchmarks.store import Store
from fieldmark.core.atomic import hash_json
from fieldmark.core.errors import MaskError, NotApplicableError, UsageError
from fieldmark.core.fetch import cache_dir
from fieldmark.core.records import ResultRow
from fieldmark.core.registry import look_up
from fieldmark.data.foregrounds import Foregrounds, Outline
from fieldmark.data.leakage import check_leakage
from fieldmark.data.tables import ImageTable
from fieldmark.data.tasks import Task
from fieldmark.methods.bap.config import BapConfig
from fieldmark.methods.bap.pretrain import build_compositor
from fieldmark.methods.head import Concepts
from fieldmark.methods.recipe import Adapted, Material, Recipe, Report
from fieldmark.methods.recipes import RECIPES
from fieldmark.models.embed import embed_images
from fieldmark.models.encoder import Encoder
from fieldmark.models.prompts import PEOPLE_TEMPLATES, TEMPLATES, ensemble_prompts

# Splits whose objects training has seen, by design.
SEEN = ("test_seen",)


@dataclass(frozen=True, eq=False, kw_only=True)
class Bench:
    """One task and one encoder in memory.

    Attributes:
        task: the data.
        encoder: the native encoder, float32, on its device.
        store: keeps what is made.
        batch_size: images in one forward.
        code: what computes: the version of fieldmark and a digest of each plugin.
        report: told about progress.
    """

    task: Task
    encoder: Encoder
    store: Store
    batch_size: int = 64
    code: str = __version__
    report: Report = lambda phase, done, total, note: None
    _last: dict[str, Adapted] = field(default_factory=dict)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of all images of the task with their labels, attributes and splits."""
        return hash_json(_describe_table(self.task.table))

    def key(self, job: Job) -> str:
        """Return the name that a job has in the store: a digest of all that decides its rows."""
        asked = {k: v for k, v in job.to_json().items() if k not in ("task", "settings")}
        made = self.adapted_key(job.recipe, job)
        words = [self.task.class_words, self.task.templates, self.task.reject, self.task.accept]
        values = {**asked, "made": made, "data": self.digest, "words": words, "of": self.code}
        if job.measure not in ("accuracy", "sensitivity"):  # a study may paste objects on scenes
            values["composites"] = [self._describe_objects(job.source), self._scenes]
        return hash_json({**values, "tests": self.task.tests, "name": self.task.name})

    def adapted_key(self, recipe: str, job: Job) -> str:
        """Return the name that an adapted encoder has in the store."""
        if recipe == NATIVE:
            return self.encoder.spec.fingerprint
        found = look_up(RECIPES, recipe, kind="recipe")
        values = {
            "recipe": recipe,
            "encoder": [self.encoder.spec.fingerprint, self.encoder.spec.image_size],
            "config": read_config(found, job.settings).model_dump(mode="json"),
            "bases": [self.adapted_key(name, job) for name in found.starts_from],
            "seed": job.seed,
            "of": self.code,
        }
        if found.uses == "images":
            values["images"] = [_describe_table(part) for part in self._training()]
        if found.uses == "composites":
            values["composites"] = [self._describe_objects(job.source), self._scenes]
        return hash_json(values)

    def _training(self) -> list[ImageTable]:
        names = set(self.task.table.splits or ())
        return [self.task.table.select(name) for name in ("train", "val") if name in names]

    @functools.cached_property
    def _scenes(self) -> str:
        return hash_json(self.task.backgrounds.hashes() if self.task.backgrounds else [])

    def _describe_objects(self, source: Source) -> str:
        try:
            objects = choose_foregrounds(self.task, source)
        except NotApplicableError:  # the job itself will say so
            return ""
        return hash_json([objects.hashes(), objects.labels.tolist(), list(objects.ids)])

    def adapt(self, job: Job) -> Adapted:
        """Return the encoder that a job is about; made now, or read if it was made before.

        Raises:
            NotApplicableError: the encoder or the data do not bear the recipe.
        """
        return self._adapt(job.recipe, job)

    def _adapt(self, recipe: str, job: Job) -> Adapted:
        if recipe == NATIVE:
            return Adapted(encoder=self.encoder)
        key = self.adapted_key(recipe, job)
        if key not in self._last:
            made = self.store.read_adapted(key, native=self.encoder)
            if made is None:
                made = self._make(recipe, job, key=key)
                self.store.write_adapted(key, made)
            # One at a time: the memory of a sweep does not grow with its length.
            self._last.clear()
            self._last[key] = made
        return self._last[key]

    def _make(self, recipe: str, job: Job, *, key: str) -> Adapted:
        found = RECIPES[recipe]
        config = read_config(found, job.settings)
        if found.uses == "composites" and self.task.backgrounds is None:
            raise NotApplicableError(f"{self.task.name} comes without backgrounds to pre-train on")
        base = {name: self._adapt(name, job) for name in found.starts_from}
        parts = {part.splits[0]: part for part in self._training() if part.splits}
        material = Material(
            encoder=self.encoder,
            train=parts.get("train"),
            val=parts.get("val"),
            compositor=functools.partial(self._compose, job, config),
            base=base,
            config=config,
            seed=job.seed,
            folder=self.store.training(key),
            cache=cache_dir(),
            report=lambda phase, *rest: self.report(f"{recipe}: {phase}", *rest),
        )
        return found.adapt(material)

    def _compose(self, job: Job, config: Any) -> Any:
        foregrounds, backgrounds = choose_foregrounds(self.task, job.source), self.task.backgrounds
        assert backgrounds is not None
        for name in self.task.tests:
            part = dataclasses.replace(self.task.table.select(name), name=name)
            check_leakage(backgrounds, part, what="background")
            if name not in SEEN:
                check_leakage(foregrounds, part, what="foreground")
        try:
            return build_compositor(
                foregrounds,
                backgrounds,
                side=self.encoder.spec.image_size,
                config=config if isinstance(config, BapConfig) else BapConfig(),
                seed=job.seed,
                cache=cache_dir() / "composites",
            )
        except MaskError as error:
            raise NotApplicableError(str(error)) from error

    def split_for(self, need: str) -> str:
        """Return the split that serves as `train` or `val`.

        COCO gender has no `val`, but a `calibration` split for this alone (bap.txt M.4.2).

        Raises:
            NotApplicableError: there is none.
        """
        splits = self.task.table.splits or ()
        names = ("val", "calibration") if need == "val" else (need,)
        found = [name for name in names if name in splits]
        if not found:
            raise NotApplicableError(f"{self.task.name} has no split {need}")
        return found[0]

    def embed(self, encoder: Encoder, names: Sequence[str]) -> dict[str, EvaluatedSplit]:
        """Embed splits; every image once, whatever the number of jobs."""
        splits = {}
        for name in names:
            part = self.task.table.select(name)
            found = embed_images(
                encoder,
                part,
                cache=self.store.embeddings,
                batch_size=self.batch_size,
                progress=lambda done, total: self.report("embed", done, total, ""),
            )
            splits[name] = EvaluatedSplit(name=name, table=part, embeddings=found.values)
        return splits

    @functools.cached_property
    def prototypes(self) -> NDArray[np.float32]:
        """Prompt-ensemble embeddings of the classes: (C,D). No recipe changes the text tower."""
        templates = PEOPLE_TEMPLATES if self.task.templates == "people" else TEMPLATES
        with torch.inference_mode():
            made = ensemble_prompts(self.encoder, self.class_words, templates)
        return np.asarray(made.float().cpu().numpy())

    @property
    def class_words(self) -> tuple[str, ...]:
        """What prompts call the classes."""
        return self.task.class_words or self.task.table.classes

    @functools.cached_property
    def concepts(self) -> Concepts:
        """Text embeddings of the concept pairs.

        Raises:
            NotApplicableError: the task names no pair of spurious attributes.
        """
        if not self.task.reject:
            raise NotApplicableError(f"{self.task.name} names no pair of spurious attributes")
        return embed_concepts(self.encoder, reject=self.task.reject, accept=self.task.accept)

    def blank(self, job: Job) -> ResultRow:
        """Return a row that says what was run."""
        return ResultRow(
            suite="",
            dataset=self.task.name,
            encoder=job.model,
            method=job.recipe,
            head=job.head,
            correlation=self.task.correlation,
            seed=job.seed,
            metric="",
        )


def read_config(recipe: Recipe, settings: Mapping[str, Mapping[str, Any]]) -> Any:
    """Return the settings of a recipe with what a job changes of them.

    Raises:
        UsageError: a setting that the recipe does not have, or an impossible value.
    """
    given = settings.get(recipe.name, {})
    try:
        return recipe.config.model_validate(dict(given))
    except ValueError as error:
        known = ", ".join(recipe.config.model_fields)
        raise UsageError(
            f"settings of {recipe.name}: {str(error).splitlines()[2].strip()}",
            mend=f"known: {known}",
        ) from error


def choose_foregrounds(task: Task, source: Source) -> Foregrounds:
    """Return the objects that pre-training pastes.

    Raises:
        NotApplicableError: the task has none.
    """
    if source.foregrounds == "photographs":
        return cut_photographs(task).with_degradation(source.masks)
    if task.foregrounds is None:
        raise NotApplicableError(f"{task.name} comes without foregrounds to pre-train on")
    return task.foregrounds.with_degradation(source.masks)


def cut_photographs(task: Task) -> Foregrounds:
    """Return each training object as its first training image with the mask of that.

    Raises:
        NotApplicableError: the training images have no masks.
    """
    table = task.table.select("train")
    masks = table.masks
    if masks is None or any(mask is None for mask in masks):
        raise NotApplicableError(f"the training images of {task.name} have no masks")
    names = table.objects or table.ids
    rows = [names.index(name) for name in dict.fromkeys(names)]
    return Foregrounds(
        name=f"{task.name} photographs",
        root=table.root,
        ids=tuple(names[row] for row in rows),
        paths=tuple(table.paths[row] for row in rows),
        outlines=tuple(Outline(mask=masks[row]) for row in rows),
        labels=table.labels[rows],
        classes=table.classes,
    )


def _describe_table(table: ImageTable) -> list[Any]:
    attributes = None if table.attributes is None else table.attributes.tolist()
    names = [table.classes, table.attribute_names, table.splits]
    return [table.hashes(), table.labels.tolist(), attributes, *names, table.objects]
