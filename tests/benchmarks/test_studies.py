"""The studies as suites: what they plan, and what they draw from what really ran on FakeEncoder."""

from __future__ import annotations

import dataclasses
import math
from xml.etree import ElementTree

import pytest

from fieldmark.benchmarks.budgets import Budget, find_budget
from fieldmark.benchmarks.jobs import Job, TaskRef
from fieldmark.benchmarks.measures import MEASURES
from fieldmark.benchmarks.store import Measured, Store
from fieldmark.benchmarks.study_measures import STUDY_MEASURES
from fieldmark.benchmarks.subject import Bench
from fieldmark.benchmarks.suite import Request
from fieldmark.benchmarks.suites.exhibits import read_number, tabulate_beside
from fieldmark.benchmarks.suites.plans import CHECKPOINTS, SIZES
from fieldmark.benchmarks.suites.recognition import draw_scenes
from fieldmark.benchmarks.suites.studies import SUITES
from fieldmark.core.errors import NotApplicableError
from fieldmark.core.records import ResultRow
from fieldmark.methods.recipes import RECIPES
from fieldmark.report.formats import render_csv, render_latex, render_markdown
from fieldmark.report.published import read_references
from fieldmark.testing import FakeEncoder
from tests.benchmarks.squares import BAP, draw_task

BY_NAME = {suite.name: suite for suite in SUITES}
CLIP = "open_clip:ViT-B-16/laion2b_s34b_b88k"
TUNING = {"epochs": 1, "batch_size": 8, "precision": "fp32", "probe_epochs": 1}
BUDGET = Budget(
    name="tiny",
    summary="for tests",
    settings={
        **dict.fromkeys(("bap", "data-matched-control"), BAP),
        "lp-ft": TUNING,
        "prusc": {**TUNING, "task_ratio": 0.5, "mask_epochs": 1, "clusters": 2},
    },
    study={
        "composites": 12,
        "backgrounds": 7,
        "sequences": 20,
        "anchor_objects": 2,
        "map_points": 12,
        "probe_epochs": [1, 2],
        "k_values": [1, 2],
        "m_values": [1, 2],
        "small_objects": [2],
        "n_values": [2, 4],
    },
)


def request(name, *, budget=BUDGET, models=("fake:colours",), datasets=("squares",), **changes):
    return Request(suite=name, models=models, datasets=datasets, budget=budget, **changes)


def plan(name, **changes):
    return BY_NAME[name].plan(request(name, **changes))


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIELDMARK_CACHE", str(folder / "cache"))
        task = dataclasses.replace(draw_task(folder / "task"), correlation=1.0)
        yield Bench(task=task, encoder=FakeEncoder(), store=Store(folder / "store"))


def run(bench, job):
    """Run a job as the runner does, its rows named after the job."""
    try:
        found = {**MEASURES, **STUDY_MEASURES}[job.measure](bench, job)
    except NotApplicableError as error:
        return job, Measured(refused=str(error))
    rows = (dataclasses.replace(r, suite=job.suite, setting=job.setting) for r in found.rows)
    return job, dataclasses.replace(found, rows=tuple(rows))


@pytest.mark.parametrize("name", sorted(set(BY_NAME) - {"masks"}))
def test_a_study_runs_and_draws(bench, name):
    jobs = plan(name)
    assert all(job.suite == name for job in jobs)
    found = [run(bench, job) for job in jobs]
    assert [one.refused for _, one in found if one.refused] == []
    exhibits = BY_NAME[name].draw(found)
    assert exhibits
    assert len({exhibit.name for exhibit in exhibits}) == len(exhibits)
    for exhibit in exhibits:
        assert exhibit.svg or exhibit.table
        if exhibit.svg:
            assert ElementTree.fromstring(exhibit.svg).get("role") == "img"
        if exhibit.table:
            assert all(
                len(line.figures) == len(exhibit.table.measures) for line in exhibit.table.lines
            )
            for render in (render_markdown, render_latex, render_csv):
                assert render(exhibit.table)


def test_masks_are_refused_where_photographs_have_none(bench):
    found = [run(bench, job) for job in plan("masks")]
    assert [job.setting for job, _ in found] == [
        "masks=none",
        "masks=dilated",
        "masks=eroded",
        "masks=box",
    ]
    assert {one.refused for _, one in found} == {"the training images of squares have no masks"}
    assert BY_NAME["masks"].draw(found) == []


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_a_study_without_jobs_that_could_run_draws_nothing(suite):
    assert suite.draw([(job, Measured(refused="no")) for job in plan(suite.name)]) == []


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_plans_hold_no_job_twice_and_only_what_exists(suite):
    jobs = plan(suite.name, seeds=(0, 1), datasets=("squares", "circles"))
    told = [str(job.to_json()) for job in jobs]
    assert len(set(told)) == len(told)
    assert {job.recipe for job in jobs} <= {"native", *RECIPES}
    assert {job.measure for job in jobs} <= {*MEASURES, *STUDY_MEASURES}
    assert {job.seed for job in jobs} == {0, 1}


def test_sweeps_take_the_papers_values_and_fewer_objects_where_there_are_few():
    published = {"budget": find_budget("full"), "datasets": ("waterbirds",)}
    ks = [job.settings["bap"]["anchor_contexts"] for job in plan("sweep-k", **published)]
    assert ks == [1, 2, 4, 8, 16]
    assert [job.setting for job in plan("sweep-k", **published)][2] == "K=4"
    grid = [
        (job.settings["bap"]["objects"], job.settings["bap"]["contexts"], job.setting)
        for job in plan("sweep-m", **published)
    ]
    assert {n for n, _, _ in grid} == {50, 100}
    assert all(setting == f"N={n}, M={m}" for n, m, setting in grid)
    ns = plan("sweep-n", **published)
    assert {job.settings["bap"]["contexts"] for job in ns} == {2}
    assert ns[0].settings["bap"]["objects"] == 100
    few = plan("sweep-n", budget=find_budget("quick"), datasets=("stamps",))
    assert max(job.settings["bap"]["objects"] for job in few) <= 68
    # What the sweep does not vary is the budget's.
    assert few[0].settings["bap"]["epochs"] == find_budget("quick").settings["bap"]["epochs"]


def test_encoders_are_those_asked_for_else_the_papers_else_packaged():
    asked = plan("backbones", models=("a:b", "c:d"))
    assert [job.model for job in asked] == ["a:b"] * 3 + ["c:d"] * 3
    full = find_budget("full")
    assert {job.model for job in plan("backbones", models=(), budget=full)} == set(SIZES)
    assert {job.model for job in plan("checkpoints", models=(), budget=full)} == set(CHECKPOINTS)
    quick = {job.model for job in plan("additivity", models=(), budget=find_budget("quick"))}
    assert all(model.startswith("packaged:") for model in quick)
    assert len(quick) == 2


def test_the_papers_encoders_are_those_of_its_tables():
    printed = {reference.encoder for reference in read_references() if reference.table in (10, 11)}
    assert set(SIZES) | set(CHECKPOINTS) <= printed


@pytest.mark.parametrize(
    ("setting", "letter", "number"),
    [("K=4", "K", 4), ("N=50, M=16", "M", 16), ("N=50, M=16", "N", 50), ("", "K", math.nan)],
)
def test_a_setting_is_read(setting, letter, number):
    assert read_number(setting, letter) == pytest.approx(number, nan_ok=True)


def row(**values):
    known = {"suite": "s", "dataset": "waterbirds", "split": "test", "encoder": CLIP, "count": 9}
    return ResultRow(**{**known, **values})


def test_the_papers_figure_stands_beside_ours_and_a_difference_is_noted():
    shared = {"method": "bap", "head": "linear-probe", "correlation": 1.0, "metric": "acc_wg"}
    rows = [row(setting="K=4", value=0.91, **shared), row(setting="K=8", value=0.5, **shared)]
    table = tabulate_beside(rows, caption="K", keys=("setting",), metrics=("acc_wg",))
    assert table.measures == ("worst group", "worst group, paper")
    figures = [[(f.mean, f.deviation) for f in line.figures if f] for line in table.lines]
    undefined = pytest.approx(math.nan, nan_ok=True)
    assert figures == [[(0.91, undefined), (0.909, 0.007)], [(0.5, undefined), (0.918, 0.008)]]
    assert table.notes[-1].endswith("from it: K=8 (worst group).")


def test_scenes_of_places_stand_beside_the_papers():
    rows = tuple(
        row(split=split, method=method, head="zero-shot", metric=metric, value=0.5)
        for method in ("native", "bap")
        for split, metric in (("test", "acc_y:landbird"), ("scenes", "acc_scene:a/alley"))
    )
    job = Job(task=TaskRef(dataset="waterbirds"), model=CLIP)
    (exhibit,) = draw_scenes([(job, Measured(rows=rows))])
    assert exhibit.table is not None
    assert exhibit.table.measures == ("native", "BAP", "native, paper", "BAP, paper")
    figures = {line.names[0]: [f.mean for f in line.figures if f] for line in exhibit.table.lines}
    assert figures == {"landbird": [0.5, 0.5, 0.76, 0.94], "alley": [0.5, 0.5, 0.95, 0.65]}
