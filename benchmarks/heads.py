"""Every head on cached embeddings of Waterbirds' size, and DFR and AFR beside the authors' code.

    python benchmarks/heads.py [--seeds 5] [--threads 2] [--dfr CHECKOUT] [--afr CHECKOUT]

The embeddings are planted: 4,795 / 1,199 / 5,794 unit vectors of 512 coordinates in Waterbirds'
groups, with a core and a spurious direction and noise. Each head is made with its full grid and
the given number of seeds (once where it has no seed) and tried on the test split. Target: all of
them in under 3 minutes on two threads.

With `--dfr` and `--afr`, checkouts of PolinaKirichenko/deep_feature_reweighting and AndPotap/afr,
the authors' functions are read from those files at run time, in turns with ours on the same
embeddings. Targets: at least as fast, worst-group accuracy within 0.5 points.
- DFR: `dfr_on_validation_tune` and `dfr_on_validation_eval` as their script calls them, 20 retrains
  on both sides; the time includes prediction on the test split.
- AFR: their weights, layer and step, in a loop over gammas, lambdas and steps as in their
  `train_embeddings`, from the same ERM head on the same held-out fifth. The loop itself, which
  picks the best step on validation data, is written here; their logging is left out.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn.utils import clip_grad_norm_

from fieldmark.core.errors import NotApplicableError
from fieldmark.core.seeds import generator
from fieldmark.methods.afr import GAMMAS, AutomaticFeatureReweighting
from fieldmark.methods.dfr import DeepFeatureReweighting
from fieldmark.methods.head import Concepts, Features, Head, HeadData, hold_out
from fieldmark.methods.heads import HEADS
from fieldmark.methods.linear_probe import LinearProbe
from fieldmark.metrics.groups import count_groups, worst_group_accuracy

DIM, CORE, SPURIOUS = 512, 3.0, 4.0
COUNTS = {
    "train": (3498, 184, 56, 1057),
    "val": (467, 466, 133, 133),
    "test": (2255, 2255, 642, 642),
}
NAMES = {0: "landbird, land", 1: "landbird, water", 2: "waterbird, land", 3: "waterbird, water"}
LAMBDAS = (0.0, 0.1, 0.2, 0.3)
RETRAINS = 20


class Planted(NamedTuple):
    """The three splits, and the texts of a model that shares their two directions."""

    train: Features
    val: Features
    test: Features
    prototypes: np.ndarray
    concepts: Concepts


class Timing(NamedTuple):
    """Seconds and worst-group accuracies, one a seed."""

    seconds: list[float]
    worst: list[float]


def _unit(values: np.ndarray) -> np.ndarray:
    return np.asarray(values / np.linalg.norm(values, axis=-1, keepdims=True), np.float32)


def plant() -> Planted:
    directions = np.linalg.qr(generator(0, "directions").normal(size=(DIM, 3)))[0].T
    core, spurious, common = directions
    parts = {}
    for split, counts in COUNTS.items():
        labels, places = np.repeat([0, 0, 1, 1], counts), np.repeat([0, 1, 0, 1], counts)
        values = generator(0, "planted", split).normal(size=(len(labels), DIM))
        values += np.outer(2 * labels - 1, CORE * core)
        values += np.outer(2 * places - 1, SPURIOUS * spurious)
        parts[split] = Features(
            embeddings=_unit(values), labels=labels, groups=2 * labels + places, names=NAMES
        )
    birds = [common - core - 0.4 * spurious, common + core + 0.4 * spurious]
    concepts = Concepts(
        reject=_unit(np.stack([[common - spurious, common + spurious]])),
        accept=_unit(np.stack([[common - core, common + core]])),
    )
    return Planted(**parts, prototypes=_unit(np.stack(birds)), concepts=concepts)


def find_worst(head: Head, test: Features) -> float:
    right = np.asarray(head.predict(test.embeddings)) == test.labels
    return worst_group_accuracy(count_groups(right, test.groups))


def measure(make: Callable[[int], float], *, seeds: Iterable[int]) -> Timing:
    seconds, worst = [], []
    for seed in seeds:
        start = time.perf_counter()
        worst.append(make(seed))
        seconds.append(time.perf_counter() - start)
    return Timing(seconds, worst)


def measure_heads(planted: Planted, *, seeds: int) -> float:
    total = 0.0
    print(f"{'head':<14}{'runs':>5}{'s a run':>9}{'s in all':>9}{'worst group':>13}{'sd':>7}")
    for name, kind in HEADS.items():

        def make(seed: int, name: str = name) -> float:
            data = HeadData(
                train=planted.train,
                val=planted.val,
                prototypes=planted.prototypes,
                concepts=planted.concepts,
                seed=seed,
            )
            return find_worst(HEADS[name].make(data), planted.test)

        try:
            timing = measure(make, seeds=range(seeds if kind.seeded else 1))
        except NotApplicableError as error:
            print(f"{name:<14} {error}")
            continue
        total += sum(timing.seconds)
        spread = statistics.stdev(timing.worst) if len(timing.worst) > 1 else float("nan")
        print(
            f"{name:<14}{len(timing.worst):5}{statistics.median(timing.seconds):9.2f}"
            f"{sum(timing.seconds):9.1f}{100 * statistics.mean(timing.worst):13.2f}"
            f"{100 * spread:7.2f}",
            flush=True,
        )
    print(f"all heads: {total:.1f} s (target: under 180)")
    return total


def read_functions(file: Path, names: Iterable[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Run the named definitions and constants of a script, and nothing else of it.

    The scripts parse arguments and load data when they are imported.
    """
    wanted = set(names)
    kept: list[ast.stmt] = []
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name in wanted:
            kept.append(node)
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) in wanted:
            kept.append(node)
    space = dict(known)
    exec(compile(ast.Module(kept, []), str(file), "exec"), space)
    missing = wanted - space.keys()
    if missing:
        raise SystemExit(f"{file} does not define {', '.join(sorted(missing))}")
    return space


def build_dfr_of_authors(checkout: Path, planted: Planted) -> Callable[[int], float]:
    names = ("C_OPTIONS", "CLASS_WEIGHT_OPTIONS", "REG")
    theirs = read_functions(
        checkout / "dfr_evaluate_spurious.py",
        (*names, "dfr_on_validation_tune", "dfr_on_validation_eval"),
        {"np": np, "LogisticRegression": LogisticRegression, "StandardScaler": StandardScaler},
    )
    splits = {"train": planted.train, "val": planted.val, "test": planted.test}
    X = {name: part.embeddings for name, part in splits.items()}
    y = {name: part.labels for name, part in splits.items()}
    g = {name: part.groups for name, part in splits.items()}

    def run(seed: int) -> float:
        np.random.seed(seed)  # noqa: NPY002 (their code draws from it)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            best = theirs["dfr_on_validation_tune"](X, y, g, balance_val=True, add_train=False)
            accuracies, _, _ = theirs["dfr_on_validation_eval"](
                *best, X, y, g, num_retrains=RETRAINS, balance_val=True, add_train=False
            )
        return float(min(accuracies))

    return run


def build_dfr_of_ours(planted: Planted, *, retrains: int) -> Callable[[int], float]:
    val = planted.val

    def run(seed: int) -> float:
        head = DeepFeatureReweighting(n_retrains=retrains, random_state=seed)
        head.fit(val.embeddings, val.labels, groups=val.groups, X_train=planted.train.embeddings)
        return find_worst(head, planted.test)

    return run


def hold_out_and_probe(planted: Planted, *, seed: int) -> tuple[LinearProbe, Features]:
    first, second = hold_out(planted.train, share=0.2, seed=seed)
    return LinearProbe(random_state=seed).fit(first.embeddings, first.labels), second


def build_afr_of_authors(
    checkout: Path, planted: Planted, *, starts: list[tuple[LinearProbe, Features]]
) -> Callable[[int], float]:
    theirs = read_functions(
        checkout / "losses/__init__.py", ("afr_fn", "get_exp_weights"), {"torch": torch}
    )
    steps = ("rebalance_weights", "normalize_weights", "get_last_layer_model", "take_step")
    known = {"torch": torch, "Linear": torch.nn.Linear, "clip_grad_norm_": clip_grad_norm_}
    theirs |= read_functions(checkout / "utils/supervised_utils.py", steps, known)
    groups = torch.from_numpy(planted.val.groups)

    def run(seed: int) -> float:
        probe, part = starts[seed]
        scale = float(np.sqrt(np.mean(part.embeddings.astype(np.float64) ** 2)))
        X, y = torch.from_numpy(part.embeddings / np.float32(scale)), torch.from_numpy(part.labels)
        val_X = torch.from_numpy(planted.val.embeddings / np.float32(scale))
        val_y = torch.from_numpy(planted.val.labels)
        start = (
            torch.from_numpy(probe.coef_ * scale).float(),
            torch.from_numpy(probe.intercept_).float(),
        )
        logits = X @ start[0].T + start[1]
        best, kept = -1.0, start
        for gamma in GAMMAS:
            weights = theirs["get_exp_weights"](logits, y, gamma)
            weights = theirs["normalize_weights"](theirs["rebalance_weights"](weights, y))
            for pull in LAMBDAS:
                layer = theirs["get_last_layer_model"](start)
                optimiser = torch.optim.SGD(layer.parameters(), lr=1e-2)
                for _ in range(100):
                    theirs["take_step"](
                        layer, (X, y, weights), optimiser, theirs["afr_fn"], None, start, pull, 1.0
                    )
                    with torch.no_grad():
                        right = layer(val_X).argmax(1) == val_y
                    worst = min(float(right[groups == g].float().mean()) for g in range(4))
                    if worst > best:
                        best = worst
                        kept = (layer.weight.detach().clone(), layer.bias.detach().clone())
        scores = planted.test.embeddings / scale @ kept[0].double().numpy().T
        right = (scores + kept[1].double().numpy()).argmax(axis=1) == planted.test.labels
        return worst_group_accuracy(count_groups(right, planted.test.groups))

    return run


def build_afr_of_ours(
    planted: Planted, *, starts: list[tuple[LinearProbe, Features]]
) -> Callable[[int], float]:
    def run(seed: int) -> float:
        probe, part = starts[seed]
        head = AutomaticFeatureReweighting(lambdas=LAMBDAS)
        head.fit(part.embeddings, part.labels, start=probe, val=planted.val)
        return find_worst(head, planted.test)

    return run


def compare(name: str, runs: Mapping[str, Callable[[int], float]], *, seeds: int) -> None:
    """Time the authors' code ("theirs") and ours in turns, after one run of each to warm up."""
    timings = {who: Timing([], []) for who in runs}
    for run in runs.values():
        run(0)
    for seed in range(seeds):
        for who, run in runs.items():
            one = measure(run, seeds=[seed])
            timings[who].seconds.extend(one.seconds)
            timings[who].worst.extend(one.worst)
    theirs = timings["theirs"]
    for who, timing in timings.items():
        ratio = statistics.median(theirs.seconds) / statistics.median(timing.seconds)
        apart = 100 * (statistics.mean(timing.worst) - statistics.mean(theirs.worst))
        print(
            f"{name} {who:<18}{statistics.median(timing.seconds):8.3f} s a run, {ratio:6.2f} x as "
            f"fast, worst group {100 * statistics.mean(timing.worst):6.2f} ({apart:+.2f} points)",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dfr", type=Path, help="checkout of the authors' DFR")
    parser.add_argument("--afr", type=Path, help="checkout of the authors' AFR")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    planted = plant()
    measure_heads(planted, seeds=options.seeds)
    if options.dfr:
        runs = {
            "theirs": build_dfr_of_authors(options.dfr, planted),
            "ours": build_dfr_of_ours(planted, retrains=RETRAINS),
            "ours, 10 retrains": build_dfr_of_ours(planted, retrains=10),
        }
        compare("DFR", runs, seeds=options.seeds)
    if options.afr:
        starts = [hold_out_and_probe(planted, seed=seed) for seed in range(options.seeds)]
        runs = {
            "theirs": build_afr_of_authors(options.afr, planted, starts=starts),
            "ours": build_afr_of_ours(planted, starts=starts),
        }
        compare("AFR", runs, seeds=options.seeds)


if __name__ == "__main__":
    main()
