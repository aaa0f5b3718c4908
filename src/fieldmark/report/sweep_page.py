"""The page of a bench run: `OUT/report.html`, one file that needs nothing beside it.

It reads `OUT/results.jsonl`, `OUT/run.json` with its notes (`refused`, `comparisons`, `budget`,
`selection`) and the maps under `OUT/page/`, never a model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldmark.core.atomic import write_text
from fieldmark.core.errors import InputError
from fieldmark.core.records import RESULTS, RUN, ResultRow, read_rows, read_run
from fieldmark.report import names
from fieldmark.report.bars import Dot, draw_dots
from fieldmark.report.bench_notes import Refusal, read_refusal, read_test
from fieldmark.report.comparison import (
    Cell,
    Comparison,
    Line,
    compare_methods,
    find_base_encoder,
)
from fieldmark.report.comparison_formats import (
    TEST_HEADINGS,
    Words,
    caption_tests,
    letter,
    list_footnotes,
    list_headings,
    list_test_words,
    list_words,
    name_method,
    render_comparison_csv,
)
from fieldmark.report.curves import Axis, draw_sweep
from fieldmark.report.facts import Fact, list_facts
from fieldmark.report.html import render_page
from fieldmark.report.parts import read_parts
from fieldmark.report.pictures import embed_text
from fieldmark.report.sections import MapRow, Panel, show_maps
from fieldmark.report.stored import refusing_damage
from fieldmark.report.sweeps import (
    PowerLaw,
    Series,
    fit_power_law,
    parse_setting,
    read_number,
    read_sweep,
)
from fieldmark.report.tables import Table

PAGE = "report.html"
PAPER = (
    "Zaazou and Thomas (2026). Birds of a Feather Flock Together: Background-Invariant "
    "Representations via Linear Structure in VLMs."
)
LEAD = (
    "Every method saw the same images and the same seeds. The worst group is the one of class and "
    "background that comes off worst in the test images."
)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A comparison in words, for the template.

    Attributes:
        caption: above it.
        headings: of the columns.
        blocks: title and lines of each block.
        notes: below it.
        tests: the paired tests in words, a line each.
        tests_caption: above them.
        panels: its drawings.
    """

    caption: str
    headings: tuple[str, ...]
    blocks: tuple[tuple[str, tuple[tuple[Words, ...], ...]], ...]
    notes: tuple[str, ...]
    tests: tuple[tuple[str, ...], ...]
    tests_caption: str
    panels: tuple[Panel, ...]


def write_sweep_page(
    run_dir: Path,
    *,
    encoder: str = "",
    panels: Sequence[Panel] = (),
    tables: Sequence[Table] = (),
) -> Path:
    """Write the page of a finished bench run and return its path.

    Args:
        run_dir: holds `run.json` and `results.jsonl`.
        encoder: URI of the encoder that the paper's figures are looked up by; by default that of
            the native rows.
        panels: the suite's own drawings, in place of those that are drawn of any sweep.
        tables: the suite's own tables.

    Raises:
        InputError: there is no finished run, or one of its notes is not what it should be.

    Example:
        >>> import tempfile
        >>> from fieldmark.core.records import start_run
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = start_run(Path(folder) / "a", "bench", arguments={})
        ...     write_sweep_page(run.finish()).name
        'report.html'
    """
    manifest = read_run(run_dir)
    rows = read_rows(run_dir) if (run_dir / RESULTS).is_file() else []
    maps = show_maps(read_parts(run_dir / "page").maps)
    path = run_dir / PAGE
    with refusing_damage(run_dir / RUN, mend="run it again"):
        page = build_sweep_page(
            rows, manifest=manifest, encoder=encoder, panels=panels, tables=tables, maps=maps
        )
        write_text(path, page)
    return path


def build_sweep_page(
    rows: Sequence[ResultRow],
    *,
    manifest: Mapping[str, Any],
    encoder: str = "",
    panels: Sequence[Panel] = (),
    tables: Sequence[Table] = (),
    maps: Sequence[MapRow] = (),
) -> str:
    """Build the page of rows and a manifest, without reading or writing."""
    notes = manifest.get("notes") or {}
    refusals = [read_refusal(record) for record in _list_records(notes, "refused")]
    base = encoder or find_base_encoder(rows)
    found = compare_run(rows, notes, encoder=base)
    context = {
        "eyebrow": f"fieldmark {manifest.get('verb', '')}".strip(),
        "title": _write_title(found, tables=tables, manifest=manifest),
        "lead": LEAD if found else "",
        "encoder": base,
        "grids": tuple(_make_grid(one, number=i) for i, one in enumerate(found)),
        "test_headings": TEST_HEADINGS,
        "csv": embed_text(render_comparison_csv(found), kind="text/csv"),
        "tables": tuple(tables),
        "figures": tuple(panels) or draw_sweeps(rows),
        "maps": tuple(maps),
        "refused": tuple(map(_write_refusal, refusals)),
        "budget": _list_facts(notes.get("budget")),
        "selection": _list_facts(notes.get("selection")),
        "making": _list_making(manifest),
        "citations": tuple(dict.fromkeys([PAPER, *_find_citations(manifest.get("data"))])),
        "version": str((manifest.get("versions") or {}).get("fieldmark", "")),
    }
    return render_page("sweep.html.j2", context)


def compare_run(
    rows: Sequence[ResultRow], notes: Mapping[str, Any], *, encoder: str = ""
) -> tuple[Comparison, ...]:
    """Build the comparisons of a bench run from its rows and the notes of its `run.json`.

    Args:
        rows: of the run.
        notes: with `refused` and `comparisons`, where there are any.
        encoder: URI that the paper's figures are looked up by; the native rows' by default.

    Returns:
        Nothing where the rows are of several encoders, which such a table cannot tell apart.
    """
    if not encoder and len({row.encoder for row in rows if row.method == "native"}) > 1:
        return ()
    refusals = [read_refusal(record) for record in _list_records(notes, "refused")]
    tests = [read_test(record) for record in _list_records(notes, "comparisons")]
    base = encoder or find_base_encoder(rows)
    return compare_methods(rows, encoder=base, refusals=refusals, tests=tests)


def _list_records(notes: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
    records = notes.get(key) or []
    if not isinstance(records, list) or not all(isinstance(r, Mapping) for r in records):
        raise InputError(f"notes.{key} is no list of records", where=RUN, mend="run bench again")
    return records


def _write_title(
    comparisons: Sequence[Comparison], *, tables: Sequence[Table], manifest: Mapping[str, Any]
) -> str:
    if not comparisons:
        suite = str((manifest.get("arguments") or {}).get("suite", ""))
        return f"Study: {suite}" if tables or suite else "A bench run without figures"
    lines = {
        (line.method, line.head) for c in comparisons for block in c.blocks for line in block.lines
    }
    sets = list(dict.fromkeys(c.dataset for c in comparisons))
    shown = " and ".join(sets) if len(sets) < 3 else f"{len(sets)} data sets"
    return f"{len(lines)} method{'s' * (len(lines) > 1)} on {shown}"


def _make_grid(comparison: Comparison, *, number: int) -> Grid:
    return Grid(
        caption=comparison.caption,
        headings=tuple(list_headings(comparison)),
        blocks=tuple(
            (block.title, tuple(tuple(list_words(comparison, line)) for line in block.lines))
            for block in comparison.blocks
        ),
        notes=tuple(list_footnotes(comparison)),
        tests=tuple(tuple(list_test_words(test)) for test in comparison.tests),
        tests_caption=caption_tests(comparison),
        panels=draw_comparison(comparison, prefix=f"dots-{number}"),
    )


def draw_comparison(comparison: Comparison, *, prefix: str) -> tuple[Panel, ...]:
    """Draw the worst group of every method, a panel for each correlation.

    Args:
        comparison: from `compare_methods`.
        prefix: of the identifiers of the drawings on the page.
    """
    panels = []
    for index, (correlation, metric) in enumerate(comparison.columns):
        if metric != "acc_wg":
            continue
        share = "" if math.isnan(correlation) else f"correlation {100 * correlation:g} %"
        paper = "squares are the paper's" if comparison.has_references[index] else ""
        dots = [_make_dot(line, index=index) for block in comparison.blocks for line in block.lines]
        title = ", ".join(filter(None, ("Worst group", comparison.dataset, share)))
        drawing = draw_dots(dots, identifier=f"{prefix}-{index}", title=title)
        remark = ", ".join(filter(None, (share, paper)))
        panels.append(Panel(caption="Worst group", remark=remark, drawing=drawing))
    return tuple(panels)


def _make_dot(line: Line, *, index: int) -> Dot:
    cell = line.cells[index]
    words = (name_method(line), names.name(line.head, known=names.HEADS))
    figure, reference = cell.figure, cell.reference
    defined = figure is not None and cell.footnote is None
    return Dot(
        label=", ".join(filter(None, words)),
        value=figure.mean if figure is not None and defined else math.nan,
        low=figure.ci_low if figure is not None and defined else math.nan,
        high=figure.ci_high if figure is not None and defined else math.nan,
        reference=math.nan if reference is None else reference.value,
        remark="not run" if figure is None and cell.footnote is None else _remark(cell),
        strong=cell.best,
    )


def _remark(cell: Cell) -> str:
    return "undefined" if cell.footnote is None else f"refused ({letter(cell.footnote)})"


def draw_sweeps(rows: Sequence[ResultRow]) -> tuple[Panel, ...]:
    """Draw what a run swept: metrics named `METRIC:NUMBER`, then accuracies by setting.

    The residual variance stands on logarithmic axes with its fitted slope (BAP appendix G); a
    setting such as K on a logarithmic axis where it spans a factor of eight.
    """
    return (*_draw_metric_sweeps(rows), *_draw_setting_sweeps(rows))


def _draw_metric_sweeps(rows: Sequence[ResultRow]) -> list[Panel]:
    panels: list[Panel] = []
    for metric, dataset, split in dict.fromkeys(
        (row.metric.partition(":")[0], row.dataset, row.split)
        for row in rows
        if read_number(row.metric.partition(":")[2]) is not None
    ):
        part = [row for row in rows if (row.dataset, row.split) == (dataset, split)]
        series = read_sweep(part, metric)
        log = metric == "residual_variance" and _is_positive(series)
        laws = {one.label: fit_power_law(one.points) for one in series} if log else {}
        up = Axis(label=names.name_metric(metric), log=log)
        across = Axis(label="K", log=log)
        name = f"metric-{len(panels)}"
        panels += _draw_panel(series, across=across, up=up, laws=laws, remark=dataset, name=name)
    return panels


def _draw_setting_sweeps(rows: Sequence[ResultRow]) -> list[Panel]:
    panels: list[Panel] = []
    for setting, *where in dict.fromkeys(
        (key, *_place(row))
        for row in rows
        for key, value in parse_setting(row.setting).items()
        if read_number(value) is not None
    ):
        part = [row for row in rows if _place(row) == tuple(where)]
        dataset, _, correlation = where
        for metric in ("acc_wg", "acc_avg"):
            series = read_sweep(part, metric, setting=setting, by=("method", "head"))
            across = Axis(label=setting, log=_is_wide(series))
            up = Axis(label=names.name_metric(metric))
            remark = ", ".join(filter(None, (dataset, f"correlation {correlation}")))
            name = f"setting-{len(panels)}"
            panels += _draw_panel(series, across=across, up=up, laws={}, remark=remark, name=name)
    return panels


def _place(row: ResultRow) -> tuple[str, str, str]:
    return row.dataset, row.split, names.write_number(row.correlation, digits=2)


def _draw_panel(
    series: Sequence[Series],
    *,
    across: Axis,
    up: Axis,
    laws: Mapping[str, PowerLaw],
    remark: str,
    name: str,
) -> list[Panel]:
    if max((len(one.points) for one in series), default=0) < 2:
        return []
    caption = f"{up.label[:1].upper()}{up.label[1:]} by {across.label}"
    drawing = draw_sweep(
        series,
        across=across,
        up=up,
        identifier=name,
        title=f"{caption}, {remark}",
        laws=laws,
    )
    return [Panel(caption=caption, remark=remark, drawing=drawing)] if drawing else []


def _is_positive(series: Sequence[Series]) -> bool:
    return all(
        len(one.points) > 1 and all(p.x > 0 and p.mean > 0 for p in one.points) for one in series
    )


def _is_wide(series: Sequence[Series]) -> bool:
    xs = [p.x for one in series for p in one.points]
    return bool(xs) and min(xs) > 0 and max(xs) >= 8 * min(xs)


def _write_refusal(refusal: Refusal) -> tuple[str, str]:
    words = (
        names.name(refusal.method, known=names.METHODS),
        names.name(refusal.head, known=names.HEADS),
        refusal.dataset,
        "" if math.isnan(refusal.correlation) else f"correlation {100 * refusal.correlation:g} %",
    )
    return ", ".join(filter(None, words)), refusal.reason


def _list_facts(value: Any) -> tuple[Fact, ...]:
    if not value:
        return ()
    return list_facts(value if isinstance(value, Mapping) else {"": value})


def _list_making(manifest: Mapping[str, Any]) -> tuple[tuple[str, tuple[Fact, ...]], ...]:
    keys = ("verb", "started", "seconds", "commit", "dirty", "seeds")
    kinds = {
        "Run": {key: manifest[key] for key in keys if key in manifest},
        "Arguments": manifest.get("arguments"),
        "Data and licences": manifest.get("data"),
        "Weights": manifest.get("weights"),
        "Versions": manifest.get("versions"),
    }
    return tuple((kind, list_facts(value)) for kind, value in kinds.items() if value)


def _find_citations(value: Any) -> Iterator[str]:
    """Yield every text under a key `citation`, however deep."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == "citation" and isinstance(item, str):
                yield item
            else:
                yield from _find_citations(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _find_citations(item)
