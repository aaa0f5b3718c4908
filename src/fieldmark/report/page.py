"""The page of a run: `OUT/report.html`, one file that needs nothing beside it.

It reads `OUT/run.json`, `OUT/results.jsonl` and what lies under `OUT/page/`, whose files
`fieldmark.report.parts` describes. What is missing is left out, and the page says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fieldmark.core.atomic import write_text
from fieldmark.core.records import RESULTS, RUN, read_rows, read_run
from fieldmark.report.facts import Fact, list_facts
from fieldmark.report.formats import render_csv
from fieldmark.report.headline import Focus, choose_focus, list_untested, write_headline
from fieldmark.report.html import render_page
from fieldmark.report.parts import Parts, read_parts
from fieldmark.report.pictures import embed_text
from fieldmark.report.sections import (
    count_neighbours,
    draw_groups,
    draw_worst,
    explain_measures,
    list_tables,
    show_composites,
    show_losses,
    show_maps,
    show_queries,
)
from fieldmark.report.stored import refusing_damage
from fieldmark.report.tables import Summary, list_figures, summarise

PAGE = "report.html"
LEAD = (
    "The training images tie each class to one kind of background; the test images do not. "
    "A model that has learnt the background fails where the two disagree, "
    "and the group that comes off worst shows it."
)
MAKING = {
    "command": "verb",
    "started": "started",
    "seconds": "seconds",
    "commit": "commit",
    "uncommitted changes": "dirty",
    "seeds": "seeds",
}


def write_page(run_dir: Path) -> Path:
    """Write the page of a finished run and return its path.

    Args:
        run_dir: a run directory; `run.json` must be there, all else may be missing.

    Raises:
        InputError: there is no finished run, or one of its files is not what it should be.

    Example:
        >>> import tempfile
        >>> from fieldmark.core.records import start_run
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = start_run(Path(folder) / "a", "demo", arguments={})
        ...     write_page(run.finish()).name
        'report.html'
    """
    manifest = read_run(run_dir)
    rows = read_rows(run_dir) if (run_dir / RESULTS).is_file() else []
    parts = read_parts(run_dir / "page")
    path = run_dir / PAGE
    with refusing_damage(run_dir / RUN, mend="run it again"):
        page = build_page(summarise(rows), manifest=manifest, parts=parts)
        write_text(path, page)
    return path


def build_page(summaries: Sequence[Summary], *, manifest: Mapping[str, Any], parts: Parts) -> str:
    """Build a page of figures, a manifest and the parts of a page, without reading or writing."""
    focus = choose_focus(summaries)
    context = {
        **_tell(summaries, manifest=manifest, parts=parts),
        **_measure(summaries, focus=focus, parts=parts),
        "composites": show_composites(parts.composites),
        "composites_all": len(parts.composites),
        "losses": show_losses(parts),
        "neighbour_counts": count_neighbours(parts.neighbours),
        "queries": show_queries(parts.neighbours),
        "queries_all": len(parts.neighbours),
        "maps": show_maps(parts.maps),
        "missing": _list_missing(summaries, parts=parts),
    }
    return render_page("page.html.j2", context)


def _tell(
    summaries: Sequence[Summary], *, manifest: Mapping[str, Any], parts: Parts
) -> dict[str, object]:
    headline = write_headline(summaries)
    command = f"fieldmark {manifest.get('verb', '')}"
    title = headline.title or parts.words.title or f"A run of {command}"
    above = (command, parts.words.title if headline.title else "")
    return {
        "eyebrow": " \N{MIDDLE DOT} ".join(filter(None, above)),
        "title": _bind(title),
        "lead": parts.words.lead or (LEAD if headline.title else ""),
        "sentences": tuple(map(_bind, (*headline.sentences, *parts.words.sentences))),
        "making": _list_making(manifest, parts=parts),
        "untested": (*parts.words.not_tested, *list_untested(summaries, manifest=manifest)),
        "version": str(manifest.get("versions", {}).get("fieldmark", "")),
    }


def _bind(text: str) -> str:
    """Keep numbers on the line of the word before them."""
    return re.sub(r" (?=[\d\[])", "\N{NO-BREAK SPACE}", text)


def _measure(
    summaries: Sequence[Summary], *, focus: Focus | None, parts: Parts
) -> dict[str, object]:
    tables = list_tables(summaries)
    keys = ("method", "head", "split", "dataset", "correlation")
    telling = [key for key in keys if len({str(s.key[key]) for s in summaries}) > 1]
    return {
        "worst": draw_worst(summaries, focus=focus) if focus else (),
        "tables": tables,
        "every": list_figures(summaries, keys=(*telling, "metric")),
        "csv": embed_text(render_csv(list_figures(summaries)), kind="text/csv"),
        "meanings": explain_measures(tables),
        "groups": draw_groups(summaries, focus=focus, rare=parts.words.rare_groups),
    }


def _list_making(
    manifest: Mapping[str, Any], *, parts: Parts
) -> tuple[tuple[str, tuple[Fact, ...]], ...]:
    run = {words: manifest[key] for words, key in MAKING.items() if key in manifest}
    kinds = {
        "Run": run,
        "Arguments": manifest.get("arguments"),
        "Data set": parts.card,
        "Data and licences": manifest.get("data"),
        "Weights": manifest.get("weights"),
        "Versions": manifest.get("versions"),
        "Notes": manifest.get("notes"),
    }
    return tuple((kind, list_facts(value)) for kind, value in kinds.items() if value)


def _list_missing(summaries: Sequence[Summary], *, parts: Parts) -> tuple[str, ...]:
    wanted = {
        "Figures: results.jsonl holds none.": summaries,
        "What the encoder was shown: no images in page/composites.": parts.composites,
        "The loss: no page/loss.jsonl.": parts.losses,
        "Nearest neighbours: no page/neighbours.json.": parts.neighbours,
        "The map of embeddings: no page/map.json.": parts.maps,
    }
    return tuple(text for text, found in wanted.items() if not found)
