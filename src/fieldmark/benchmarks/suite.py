"""What a suite is: a function from a request to jobs, and one from what they found to exhibits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fieldmark.benchmarks.budgets import Budget
from fieldmark.benchmarks.jobs import Job, TaskRef
from fieldmark.benchmarks.runner import Outcome
from fieldmark.benchmarks.store import Measured
from fieldmark.data.datasets import DATASETS
from fieldmark.report.tables import Table

Found = tuple[Job, Measured]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a suite is asked to plan.

    Attributes:
        suite: its name.
        models: URIs of encoders; most suites take the first.
        datasets: names of data sets, or paths.
        root: folder of the published data sets, or None.
        options: of the data sets, over those of the budget.
        correlations: of class and background in training; none takes each data set as it is.
        methods: keys of `benchmarks.methods.METHODS`.
        seeds: seeds.
        budget: how much of everything.
        variants: options that a data set is taken with in turn ("pair"), where it has them.
        published: settings of recipes that the paper has for these data, under the budget's.
        head_settings: settings of heads that the paper has for these data.
    """

    suite: str
    models: tuple[str, ...]
    datasets: tuple[str, ...]
    root: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    correlations: tuple[float, ...] = ()
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    budget: Budget
    variants: tuple[Mapping[str, Any], ...] = ({},)
    published: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    head_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def refs(self, *, seed: int) -> list[TaskRef]:
        """Return every data set in every variant at every correlation, as one seed has it."""
        found = [
            self._ref(name, variant=variant, correlation=correlation, seed=seed)
            for name in self.datasets
            for variant in self.variants
            for correlation in (self.correlations or (None,))
        ]
        return list({str(ref.to_json()): ref for ref in found}.values())

    def _ref(
        self, name: str, *, variant: Mapping[str, Any], correlation: float | None, seed: int
    ) -> TaskRef:
        known = DATASETS[name].options if name in DATASETS else {}
        drawn = name in self.budget.data
        varied = {key: value for key, value in variant.items() if key in known}
        options = {**self.budget.data.get(name, {}), **varied, **self.options}
        if correlation is not None and "correlation" in known:
            options["correlation"] = correlation
        if "seed" in known:
            options["seed"] = seed
        return TaskRef(dataset=name, root=None if drawn else self.root, options=options)

    def settings(self, recipe: str) -> dict[str, dict[str, Any]]:
        """Return the settings of a recipe and of those that it starts from."""
        return self.budget.settings_of(recipe, published=self.published)


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """A table or a figure of a suite.

    Attributes:
        name: stem of its files.
        title: what it shows, in a line.
        table: a table, or None.
        svg: a figure as SVG, or nothing.
        note: what to know when reading it.
    """

    name: str
    title: str
    table: Table | None = None
    svg: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A benchmark or a study.

    Attributes:
        name: of `fieldmark bench NAME`.
        summary: what it is, in a line, with the paper's tables or figures.
        plan: from a request to jobs.
        draw: from what the jobs found to exhibits, besides the comparison table.
        datasets: what it runs on where `--root` says that published data are there.
        correlations: what it runs at by default.
        methods: what it compares by default, or nothing if methods are not its subject.
        variants: options that its data sets are taken with in turn ("pair").
        settings: settings of recipes that the paper has for its data, where no budget says else.
        head_settings: settings of heads that the paper has for its data.
        many_encoders: whether it compares encoders, and has a list of its own of them.
        run: what runs its jobs, where `runner.run_jobs` does not.
        model: the encoder that it takes by default, or nothing for that of all suites.
        packaged: whether packages carry all its data sets, so that none has to stand in.
    """

    name: str
    summary: str
    plan: Callable[[Request], list[Job]]
    draw: Callable[[Sequence[Found]], list[Exhibit]] = lambda found: []
    datasets: tuple[str, ...] = ()
    correlations: tuple[float, ...] = ()
    methods: tuple[str, ...] = ()
    variants: tuple[Mapping[str, Any], ...] = ({},)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    head_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    many_encoders: bool = False
    run: Callable[..., list[Outcome]] | None = None
    model: str = ""
    packaged: bool = False


def make_request(
    suite: Suite,
    *,
    models: Sequence[str],
    datasets: Sequence[str],
    root: Path | None,
    options: Mapping[str, Any],
    correlations: Sequence[float],
    methods: Sequence[str],
    seeds: Sequence[int],
    budget: Budget,
) -> Request:
    """Return a suite's request: what is asked for, over what the suite and the budget say.

    Args:
        suite: the suite.
        models: URIs of encoders; the budget may have smaller ones in their place.
        datasets: what to run on.
        root: folder of the published data sets, or None.
        options: of the data sets.
        correlations: the suite's own where none is given.
        methods: names of methods.
        seeds: seeds.
        budget: how much of everything.
    """
    # What the paper sets for a suite's data is not for what stands in for them.
    own = bool(set(datasets) & set(suite.datasets))
    return Request(
        suite=suite.name,
        models=tuple(budget.models.get(name, name) for name in models),
        datasets=tuple(datasets),
        root=root,
        options=options,
        correlations=tuple(correlations or suite.correlations),
        methods=tuple(methods),
        seeds=tuple(seeds),
        budget=budget,
        variants=suite.variants,
        published=suite.settings if own else {},
        head_settings=suite.head_settings if own else {},
    )
