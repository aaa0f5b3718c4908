"""The demo: an encoder that leans on backgrounds, the same encoder after BAP, and what they see.

Native, data-matched control, BAP and the oracle (a probe of the native encoder fitted on balanced
data) on one built data set, by zero-shot and linear probe. Everything that is expensive is kept
under the run or in the cache, so a killed demo goes on where it was.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fieldmark.benchmarks.demo_parts import write_parts
from fieldmark.benchmarks.evaluate import Evaluation, evaluate
from fieldmark.benchmarks.pretraining import Report, report_step
from fieldmark.benchmarks.structure import measure_images, measure_texts
from fieldmark.core.fetch import cache_dir
from fieldmark.core.records import ResultRow, Run, start_run
from fieldmark.data.backgrounds import read_backgrounds
from fieldmark.data.compositing import Compositor
from fieldmark.data.datasets.built import read_card
from fieldmark.data.foregrounds import read_foregrounds
from fieldmark.data.leakage import check_leakage
from fieldmark.data.tables import ImageTable, read_table
from fieldmark.methods.bap.config import BapConfig
from fieldmark.methods.bap.pretrain import Pretrained, Pretraining, build_compositor, pretrain
from fieldmark.methods.checkpoints import CHECKPOINT
from fieldmark.methods.processes import Processes
from fieldmark.models.device import pick_device
from fieldmark.models.encoder import Encoder
from fieldmark.models.load import load_encoder
from fieldmark.report.page import write_page

HEADS = ("zero-shot", "linear-probe", "convex-probe")
# The split whose objects training has seen, by design.
SEEN = "test_seen"
# Composites that additivity is measured on.
STRUCTURE = 32
PRETRAININGS = ("data-matched-control", "bap")


@dataclass(frozen=True, kw_only=True)
class DemoRequest:
    """What a demo is run on.

    Attributes:
        data: folder of a built data set.
        model: URI of the encoder.
        config: settings of BAP and of its control.
        seed: seed of the run.
    """

    data: Path
    model: str
    config: BapConfig
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the request as JSON values."""
        config = self.config.model_dump(mode="json")
        return {"data": str(self.data), "model": self.model, "config": config, "seed": self.seed}


@dataclass
class _Demo:
    request: DemoRequest
    run: Run
    table: ImageTable
    card: dict[str, Any]
    encoder: Encoder
    report: Report
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[phase] = round(time.monotonic() - start, 2)


def run_demo(
    request: DemoRequest,
    *,
    out: Path,
    device: str = "auto",
    resume: bool = False,
    report: Report = lambda phase, done, total, note: None,
) -> Path:
    """Run the demo and write OUT/encoder, OUT/results.jsonl, OUT/run.json and OUT/report.html.

    Args:
        request: data, encoder, settings and seed.
        out: folder of the run.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        resume: go on with the unfinished run in `out`.
        report: called with the phase, units done, units in all and a note.
    """
    run = start_run(out, "demo", arguments=request.to_json(), seeds=[request.seed], resume=resume)
    demo = _Demo(
        request=request,
        run=run,
        table=read_table(request.data),
        card=read_card(request.data),
        encoder=load_encoder(request.model, device=pick_device(device)),
        report=report,
    )
    compositor = _prepare_composites(demo)
    evaluations = {"native": _evaluate(demo, demo.encoder, "native")}
    oracle = _evaluate(demo, demo.encoder, "oracle", heads=HEADS[1:], train="train_balanced")
    pretrained = {name: _pretrain(demo, compositor, name) for name in PRETRAININGS}
    for name, made in pretrained.items():
        evaluations[name] = _evaluate(demo, made.encoder, name)
    for evaluation in evaluations.values():
        run.add(evaluation.rows)
    # The oracle's embeddings are the native encoder's; only its probe is another.
    run.add(row for row in oracle.rows if row.head)
    mended = pretrained["bap"].encoder
    with demo.timed("structure"):
        for name, encoder in (("native", demo.encoder), ("bap", mended)):
            run.add(measure_images(encoder, compositor, blank=_blank(demo, name), count=STRUCTURE))
        run.add(measure_texts(demo.encoder, blank=_blank(demo, "native")))
    mended.save(out / "encoder")
    with demo.timed("page"):
        write_parts(
            out / "page",
            compositor=compositor,
            before=evaluations["native"],
            after=evaluations["bap"],
            losses={name: made.trained.losses for name, made in pretrained.items()},
            card=demo.card,
            seed=request.seed,
        )
    return _finish(demo, pretrained)


def _prepare_composites(demo: _Demo) -> Compositor:
    request = demo.request
    foregrounds = read_foregrounds(request.data / "foregrounds")
    backgrounds = read_backgrounds(request.data / "backgrounds")
    for split in _find_tests(demo.table):
        check_leakage(backgrounds, split, what="background")
        if split.name != SEEN:
            check_leakage(foregrounds, split, what="foreground")
    with demo.timed("prepare composites"):
        return build_compositor(
            foregrounds,
            backgrounds,
            side=demo.encoder.spec.image_size,
            config=request.config,
            seed=request.seed,
            cache=cache_dir() / "composites",
        )


def _find_tests(table: ImageTable) -> list[ImageTable]:
    names = dict.fromkeys(table.splits or ())
    return [
        dataclasses.replace(table.select(name), name=name)
        for name in names
        if name.startswith("test")
    ]


def _blank(demo: _Demo, method: str) -> ResultRow:
    return ResultRow(
        suite="demo",
        dataset=_name(demo),
        encoder=demo.request.model,
        method=method,
        correlation=float(demo.card.get("correlation", math.nan)),
        metric="",
        seed=demo.request.seed,
        split="train",
    )


def _name(demo: _Demo) -> str:
    return f"{demo.card['name']}/{demo.card['task']}"


def _evaluate(
    demo: _Demo,
    encoder: Encoder,
    method: str,
    *,
    heads: Sequence[str] = HEADS,
    train: str = "train",
) -> Evaluation:
    with demo.timed(f"evaluate {method}"):
        return evaluate(
            encoder,
            dataclasses.replace(demo.table, name=_name(demo)),
            heads=heads,
            seeds=[demo.request.seed],
            train_split=train,
            suite="demo",
            method=method,
            correlation=float(demo.card.get("correlation", math.nan)),
            cache=cache_dir() / "embeddings",
            progress=lambda done, total: demo.report(f"embed: {method}", done, total, ""),
        )


def _pretrain(demo: _Demo, compositor: Compositor, method: str) -> Pretrained:
    with demo.timed(f"train {method}"):
        return pretrain(
            Pretraining(
                encoder=demo.encoder,
                compositor=compositor,
                config=demo.request.config,
                seed=demo.request.seed,
                folder=demo.run.out / "training" / method,
                cache=cache_dir() / "anchors",
                processes=Processes(),
                on_anchor=lambda done, total: demo.report("anchors", done, total, ""),
                on_step=functools.partial(report_step, demo.report, f"train: {method}"),
            ),
            method=method,
        )


def _finish(demo: _Demo, pretrained: dict[str, Pretrained]) -> Path:
    run = demo.run
    run.data = {"name": _name(demo), "sources": demo.card.get("sources", [])}
    run.weights = {"native": demo.encoder.spec.fingerprint} | {
        name: made.encoder.spec.fingerprint for name, made in pretrained.items()
    }
    # Kilobytes on Linux, bytes on macOS; this is Linux's.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    run.notes = {"seconds": demo.seconds, "peak memory in GiB": round(peak, 2)}
    run.finish(write_page)
    for name in pretrained:
        (run.out / "training" / name / CHECKPOINT).unlink(missing_ok=True)
    return run.out
