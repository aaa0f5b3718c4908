"""How often a discovery reports a finding where nothing is spurious.

    python benchmarks/discovery_null.py [--domain digits] [--seeds 50] [--level 0.05]

For each seed a small encoder is fine-tuned on a controlled setting whose feature goes with no
class, and its evaluation set is searched as `fieldmark discover` does: 2|Y| to 5|Y| clusters,
corrected permutation p-values. A run reports a finding if any candidate's is at most the level.

- `exchanged`: within each class, images exchange their predictions at random. No region then has
  to do with an error, so the share is that of false findings: at most about the level.
- `as it is`: predictions as they are. No feature is tied to a class, but what an object looks like
  bears on whether it is named right (a shirt like a coat), and a cluster of such objects is a
  finding of its own. That share may be larger: so much of what is found is no planted feature.
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np

from fieldmark.benchmarks.controlled.measure import prepare
from fieldmark.benchmarks.controlled.outcomes import (
    STANDARD,
    Prepared,
    cluster_regions,
    fine_tune,
    gather,
    look,
)
from fieldmark.benchmarks.controlled.plan import AMOUNTS, DISCOVERY, draw_settings, write_setting
from fieldmark.benchmarks.controlled.small_encoder import open_small_encoder
from fieldmark.benchmarks.jobs import Job, TaskRef
from fieldmark.core.seeds import generator
from fieldmark.data.controlled.canvases import draw_images
from fieldmark.data.controlled.objects import open_objects
from fieldmark.discovery.evidence import Evidence
from fieldmark.discovery.ravl import DiscoveryConfig, judge_clusters
from fieldmark.metrics.intervals import wilson_interval


def prepare_untied(domain: str, seed: int) -> Prepared:
    setting = draw_settings(domain, count=seed + 1, seed=2)[seed]
    job = Job(
        task=TaskRef(dataset=domain, options=write_setting(setting)),
        model="small",
        measure=DISCOVERY,
        arguments={**AMOUNTS, "seeds": [seed]},
    )
    tied = prepare(job, open_small_encoder(domain))
    untied = draw_images(
        setting,
        open_objects(domain),
        fold="training",
        count=len(tied.tuning),
        side=tied.encoder.spec.image_size,
        tied=False,
    )
    return dataclasses.replace(tied, tuning=untied)


def exchange(evidence: Evidence, *, seed: int) -> Evidence:
    random = generator(seed, "exchange")
    predictions = evidence.predictions.copy()
    for label in range(len(evidence.classes)):
        rows = np.flatnonzero(evidence.labels == label)
        predictions[rows] = predictions[random.permutation(rows)]
    return dataclasses.replace(evidence, predictions=predictions)


def count_findings(evidence: Evidence, *, seed: int, level: float) -> int:
    clusters = cluster_regions(evidence, seed=seed)
    found = judge_clusters(
        evidence,
        clusters.labels_,
        medoids=clusters.medoid_indices_,
        config=DiscoveryConfig(seed=seed),
    )
    return len(found.significant(level))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--domain", default="digits")
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--level", type=float, default=0.05)
    options = parser.parse_args()
    counts: dict[str, list[int]] = {"exchanged": [], "as it is": []}
    for seed in range(options.seeds):
        prepared = prepare_untied(options.domain, seed)
        model = fine_tune(prepared, method=STANDARD, seed=seed)
        evidence = gather(prepared, look(model, prepared.evaluation, way=prepared.config.regions))
        for name, one in (("exchanged", exchange(evidence, seed=seed)), ("as it is", evidence)):
            counts[name].append(count_findings(one, seed=seed, level=options.level))
        accuracy = float((evidence.predictions == evidence.labels).mean())
        print(f"seed {seed}: accuracy {accuracy:.2f}", *(f"{n} {c[-1]}" for n, c in counts.items()))
    for name, found in counts.items():
        runs = sum(count > 0 for count in found)
        low, high = wilson_interval(runs, len(found))
        print(
            f"{options.domain}, {name}: {runs} of {len(found)} runs report a finding at level "
            f"{options.level:g}: {runs / len(found):.2f}, 95 % interval {low:.2f} to {high:.2f}"
        )


if __name__ == "__main__":
    main()
