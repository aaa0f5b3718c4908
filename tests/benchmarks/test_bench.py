"""Suites run end to end on a tiny random CLIP and drawn images: nothing is faked but its size."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from fieldmark.benchmarks.bench import run_bench
from fieldmark.benchmarks.budgets import Budget, change_budget, find_budget
from fieldmark.benchmarks.jobs import Job, TaskRef
from fieldmark.benchmarks.methods import METHODS
from fieldmark.benchmarks.paired import adjust_p_values, compare_with_rivals
from fieldmark.benchmarks.runner import gather, run_jobs
from fieldmark.benchmarks.store import Store
from fieldmark.benchmarks.suite import Request
from fieldmark.benchmarks.suites import SUITES
from fieldmark.core.errors import InputError, RunExistsError, UnknownNameError, UsageError
from fieldmark.core.records import read_rows
from fieldmark.data.datasets.nico import PAIRS
from fieldmark.methods.recipes import RECIPES
from tests.models import tiny

TUNING = {"epochs": 1, "batch_size": 8, "warmup": 1, "precision": "fp32", "probe_epochs": 1}
PRETRAINING = {
    "epochs": 1,
    "batch_size": 8,
    "contexts": 1,
    "anchor_contexts": 2,
    "precision": "fp32",
}
BUDGET = Budget(
    name="tiny",
    summary="for tests",
    data={
        "synthetic": {"size": 32, "n_objects": 6, "n_scenes": 4, "per_class": 40, "per_group": 6}
    },
    settings={
        **dict.fromkeys(("lp-ft", "erm-80", "bang"), TUNING),
        "weight-ensemble": {**TUNING, "members": 2},
        "prusc": {**TUNING, "task_ratio": 0.5, "mask_epochs": 1, "clusters": 2},
        **dict.fromkeys(("bap", "data-matched-control", "random-orthogonal-anchors"), PRETRAINING),
    },
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return f"local-dir:{tiny.write_open_clip(tmp_path_factory.mktemp('model') / 'clip', 'clip')}"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIELDMARK_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def request_(model, *, methods=tuple(METHODS), correlations=(0.95, 1.0)):
    return Request(
        suite="synthetic",
        models=(model,),
        datasets=("synthetic",),
        correlations=correlations,
        methods=methods,
        budget=BUDGET,
    )


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """One run of every method at both correlations."""
    out = tmp_path_factory.mktemp("bench") / "out"
    return run_bench(request_(model), out=out)


def jobs_of(model, *, heads=("zero-shot", "linear-probe"), **changes):
    ref = TaskRef(
        dataset="synthetic", options={**BUDGET.data["synthetic"], "correlation": 1.0, "seed": 0}
    )
    shared = {"task": ref, "model": model, "settings": BUDGET.settings, **changes}
    return [Job(**shared, arguments={"head": head}) for head in heads]


def test_every_method_has_its_figures_or_its_reason(whole):
    rows = read_rows(whole)
    refused = json.loads((whole / "run.json").read_text())["notes"]["refused"]
    for method in METHODS.values():
        for correlation in (0.95, 1.0):
            name = (method.recipe, method.head)
            measured = [
                r
                for r in rows
                if (r.method, r.head) == name
                and r.correlation == correlation
                and r.metric == "acc_wg"
            ]
            reasons = [
                r
                for r in refused
                if (r["method"], r["head"]) == name and r["correlation"] == correlation
            ]
            assert bool(measured) != bool(reasons), (name, correlation, reasons)


def test_heads_that_need_a_minority_are_refused_without_one(whole):
    refused = json.loads((whole / "run.json").read_text())["notes"]["refused"]
    found = {(r["head"], r["correlation"]): r["reason"] for r in refused}
    assert set(found) == {(head, 1.0) for head in ("dfr", "dfr-rest", "afr", "group-dro")}
    assert all("y:fish_background:water" in reason for reason in found.values())


def test_no_encoder_is_trained_for_a_refused_head(whole):
    store = Store(whole / "store")
    recipes = [json.loads(p.read_text())["job"] for p in (store.root / "jobs").glob("*.json")]
    trained = {(j["recipe"], j["task"]["options"]["correlation"]) for j in recipes}
    assert ("erm-80", 0.95) in trained
    assert ("erm-80", 1.0) in trained
    # lp-ft, wise-ft, bang, weight-ensemble and prusc at two correlations each, erm-80 at one, and
    # three pre-trainings, whose objects do not depend on the correlation.
    assert len(list(store.list_adapted())) == 5 * 2 + 1 + 3


def test_selection_is_on_validation_images_and_recorded(whole):
    notes = json.loads((whole / "run.json").read_text())["notes"]
    chosen = {(s["method"], s["head"]): s for s in notes["selection"]}
    assert chosen["lp-ft", "dfr"]["selected on"] == "val"
    assert chosen["lp-ft", "dfr"]["chosen"]["selected"]["C"] in (
        1.0,
        0.7,
        0.3,
        0.1,
        0.07,
        0.03,
        0.01,
    )
    assert chosen["native", "zero-shot"]["selected on"] == "nothing"


def test_each_method_is_tested_against_its_best_rival(whole):
    notes = json.loads((whole / "run.json").read_text())["notes"]
    worst = {
        (r.correlation, r.split, r.method, r.head): r.value
        for r in read_rows(whole)
        if r.metric == "acc_wg"
    }
    for test in notes["comparisons"]:
        place = (test["correlation"], test["split"])
        others = {
            key[2:]: value
            for key, value in worst.items()
            if key[:2] == place and key[2:] != (test["method"], test["head"])
        }
        rival = (test["rival_method"], test["rival_head"])
        assert others[rival] == max(others.values())
        mine = worst[(*place, test["method"], test["head"])]
        assert test["difference"] == pytest.approx(mine - others[rival])
        assert 0 < test["p_value"] <= 1


def test_a_finished_job_is_not_run_again(whole, model, tmp_path):
    phases = []
    out = run_bench(
        request_(model),
        out=tmp_path / "again",
        store=whole / "store",
        report=lambda phase, *rest: phases.append(phase),
    )
    assert set(phases) == {"jobs", "compare"}
    assert (out / "results.jsonl").read_text() == (whole / "results.jsonl").read_text()


def test_a_killed_sweep_goes_on_and_ends_alike(whole, model, tmp_path):
    wanted = request_(model, methods=("zero-shot", "linear-probe", "bap"), correlations=(1.0,))

    def stop(phase, done, total, note):
        if phase == "jobs" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_bench(wanted, out=tmp_path / "a", report=stop)
    assert len(list((tmp_path / "a" / "store" / "jobs").iterdir())) == 3
    with pytest.raises(RunExistsError, match="--resume"):
        run_bench(wanted, out=tmp_path / "a")
    run_bench(wanted, out=tmp_path / "a", resume=True)
    run_bench(wanted, out=tmp_path / "b")
    first, second = (Path(tmp_path / n / "results.jsonl").read_text() for n in "ab")
    assert first == second


def test_what_a_job_is_called_is_no_part_of_what_it_is(model, tmp_path):
    store = Store(tmp_path)
    (one,) = jobs_of(model, heads=["zero-shot"])
    other = dataclasses.replace(one, suite="another", setting="K=4")
    first, second = run_jobs([one, other], store=store)
    assert first.key == second.key
    (_, found), (_, named) = gather([first, second], store)
    assert {r.setting for r in found.rows} == {""}
    assert {r.setting for r in named.rows} == {"K=4"}


def test_a_key_changes_with_all_that_decides_the_rows(model, tmp_path):
    (job,) = jobs_of(model, heads=["zero-shot"])
    options = {**job.task.options, "correlation": 0.95}
    changed = [
        dataclasses.replace(job, seed=1),
        dataclasses.replace(job, arguments={"head": "convex-probe"}),
        dataclasses.replace(job, task=dataclasses.replace(job.task, options=options)),
        dataclasses.replace(job, measure="sensitivity", arguments={}),
    ]
    outcomes = run_jobs([job, *changed], store=Store(tmp_path))
    assert len({outcome.key for outcome in outcomes}) == 1 + len(changed)


def test_encoders_that_no_job_needs_can_be_deleted(model, tmp_path):
    store = Store(tmp_path)
    run_jobs(jobs_of(model, heads=["trained"], recipe="wise-ft"), store=store, keep_encoders=False)
    assert list(store.list_adapted()) == []


def test_names_are_looked_up_before_anything_runs(model, tmp_path):
    (job,) = jobs_of(model, heads=["zero-shot"])
    for wrong in ({"recipe": "bep"}, {"measure": "luck"}):
        with pytest.raises(UnknownNameError):
            run_jobs([job, dataclasses.replace(job, **wrong)], store=Store(tmp_path))
    assert not tmp_path.joinpath("jobs").exists()


def test_an_unknown_setting_is_named_with_the_known_ones(model, tmp_path):
    jobs = jobs_of(model, heads=["trained"], recipe="lp-ft")
    wrong = dataclasses.replace(jobs[0], settings={"lp-ft": {"epoch": 3}})
    with pytest.raises(UsageError, match=r"settings of lp-ft.*known:.*epochs"):
        run_jobs([wrong], store=Store(tmp_path))


def test_a_damaged_job_is_named(model, tmp_path):
    store = Store(tmp_path)
    (outcome,) = run_jobs(jobs_of(model, heads=["zero-shot"]), store=store)
    (tmp_path / "jobs" / f"{outcome.key}.json").write_text("{")
    with pytest.raises(InputError, match="delete it"):
        store.read(outcome.key)


def test_p_values_by_hand():
    # Holm: 0.01 x 3, then max(0.03 x 2, 0.03), then max(0.04, 0.06).
    assert adjust_p_values([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert adjust_p_values([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_one_method_alone_has_no_rival(model, tmp_path):
    store = Store(tmp_path)
    outcomes = run_jobs(jobs_of(model, heads=["zero-shot"]), store=store)
    assert compare_with_rivals(outcomes, store) == []


def test_a_budget_takes_changes_and_names_unknown_places():
    budget = change_budget(
        find_budget("quick"), [(("bap", "epochs"), 7), (("study", "sequences"), 9)]
    )
    assert budget.settings_of("bap")["bap"]["epochs"] == 7
    assert budget.study["sequences"] == 9
    assert find_budget("quick").settings["bap"]["epochs"] != 7
    with pytest.raises(UnknownNameError, match="lp-ft"):
        change_budget(budget, [(("bop", "epochs"), 1)])


def test_settings_of_a_recipe_include_those_that_it_starts_from():
    for name, recipe in RECIPES.items():
        found = find_budget("quick").settings_of(name)
        assert set(found) <= {name, *recipe.starts_from}
    assert "lp-ft" in find_budget("quick").settings_of("wise-ft")


def test_the_vehicles_are_planned_as_the_paper_has_them():
    suite = SUITES["nico++"]
    request = Request(
        suite="nico++",
        models=("m",),
        datasets=suite.datasets,
        root=Path("data"),
        methods=("bap", "lp-ft"),
        seeds=(0, 1),
        budget=find_budget("full"),
        variants=suite.variants,
        published=suite.settings,
        head_settings=suite.head_settings,
    )
    jobs = [job for job in suite.plan(request) if job.measure == "accuracy"]
    assert len(jobs) == 4 * 2 * 2
    assert {job.task.options["pair"] for job in jobs} == set(PAIRS)
    assert {job.task.root for job in jobs} == {Path("data")}
    probe = next(job for job in jobs if job.head == "linear-probe")
    assert (probe.settings["bap"]["epochs"], probe.settings["bap"]["batch_size"]) == (160, 512)
    assert probe.arguments["settings"]["learning_rate"] == 1e-4
    tuned = next(job for job in jobs if job.head == "trained")
    assert tuned.settings["lp-ft"]["learning_rate"] == 1e-6


def test_what_the_paper_sets_gives_way_to_a_budget():
    found = find_budget("quick").settings_of("lp-ft", published=SUITES["nico++"].settings)
    assert found["lp-ft"]["epochs"] == find_budget("quick").settings["lp-ft"]["epochs"]
    assert find_budget("full").settings_of("lp-ft") == {}


def test_settings_of_a_head_reach_it(model, tmp_path):
    (job,) = jobs_of(model, heads=["linear-probe"])
    settings = {"epochs": 1, "batch_size": 8}
    changed = dataclasses.replace(job, arguments={"head": "linear-probe", "settings": settings})
    outcomes = run_jobs([job, changed], store=Store(tmp_path))
    (_, plain), (_, set_) = gather(outcomes, Store(tmp_path))
    assert (plain.notes["head"]["epochs"], set_.notes["head"]["epochs"]) == (30, 1)
