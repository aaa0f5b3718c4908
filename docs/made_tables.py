"""Tables of the site, made from the papers' figures, our own records and the code's settings.

A page asks for one by a line `<!-- KIND: WORDS -->`; `KINDS` holds all of them. No figure is typed
twice: the papers' come from `fieldmark/report/references`, ours from `docs/results` and the README.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from made_settings import tabulate_settings

from fieldmark.benchmarks.methods import METHODS
from fieldmark.benchmarks.suites import SUITES
from fieldmark.report.names import DASH, HEADS, METRICS
from fieldmark.report.names import METHODS as RECIPES
from fieldmark.report.published import Reference, read_references
from fieldmark.report.published_covar import read_covar_references
from fieldmark.report.published_ravl import read_ravl_references

HERE = Path(__file__).parent
CLIP = "open_clip:ViT-B-16/laion2b_s34b_b88k"
_LINE = re.compile(r"^<!-- ([a-z-]+): (.+?) -->$", re.MULTILINE)
_OURS = "Compare every method"
_COMPARED = """*Worst-group accuracy, mean ± standard deviation. The paper (Zaazou and Thomas 2026,
Table 2): CLIP ViT-B/16 of LAION-2B on Waterbirds, five runs. Ours: DINOv2-small at 98 pixels, 200
training images, objects and scenes not seen in training, three seeds,
`fieldmark bench waterbirds --methods all --seeds 3 --out table2` without the published data.
Another model on other data: compare orders, not figures. A dash: not run there, or refused since
there is no minority group.*"""
_NAMES = {
    **HEADS,
    **RECIPES,
    **METRICS,
    "region_avg": "regions, average",
    "region_wg": "regions, worst group",
    "image_avg": "images, average",
    "image_wg": "images, worst group",
    "ravl-mitigation": "RaVL",
    "vl-erm": "VL-ERM",
    "spurious-aware-mitigation": "Spurious-Aware",
    "vl-gdro": "VL-GDRO",
    CLIP: "CLIP ViT-B/16",
    "hf:google/siglip2-base-patch16-224": "SigLIP 2 B/16",
}


def fill_tables(markdown: str) -> str:
    """Replace every line that asks for a table by the table.

    Raises:
        ValueError: there is no such kind of table, or it comes out empty.

    Example:
        >>> fill_tables("<!-- figures: table=1 encoder=MAE -->").splitlines()[0]
        '| table | encoder | data | correlation | method | setting | additivity S |'
    """
    return _LINE.sub(lambda found: _make(found[1], found[2]), markdown)


def _make(kind: str, words: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"there is no kind of table {kind!r}; known: {', '.join(KINDS)}")
    table = KINDS[kind](words)
    if table.count("\n") < 2:
        raise ValueError(f"<!-- {kind}: {words} --> gives a table without rows")
    return table


def compare_method(words: str) -> str:
    """Put a method beside the plain probe and BAP: the paper's figures and ours, worst group.

    Args:
        words: names of methods as `fieldmark bench --methods` knows them, spaces between.
    """
    ours = read_section(HERE.parent / "README.md", _OURS)
    names = [name for name in METHODS if name in {"linear-probe", "bap", *words.split()}]
    head = ["method", "paper: Waterbirds 95 %", "paper: Waterbirds 100 %"]
    head += [f"ours: {column}" for column in ours[0][1:]]
    measured = {row[0]: row[1:] for row in ours[2:]}
    blank = [DASH] * len(ours[0][1:])
    rows = [
        [
            f"**{name}**" if name in words.split() else name,
            *_publish(name),
            *measured.get(name, blank),
        ]
        for name in names
    ]
    return format_table(head, rows) + "\n\n" + _COMPARED


def _publish(name: str) -> list[str]:
    method = METHODS[name]
    wanted = {"table": 2, "encoder": CLIP, "metric": "acc_wg", "method": method.recipe}
    found = {
        one.correlation: _with_deviation(one)
        for one in read_references()
        if one.head == method.head and all(getattr(one, k) == v for k, v in wanted.items())
    }
    return [found.get(correlation, DASH) for correlation in (0.95, 1.0)]


def _with_deviation(one: Reference) -> str:
    spread = "" if one.deviation != one.deviation else f" ± {one.deviation:.3f}"
    return f"{one.value:.3f}{spread}"


def list_figures(words: str) -> str:
    """List the BAP paper's figures that fit, a column for each metric.

    Args:
        words: `field=text` with spaces between; a field fits if it is or holds the text.
            `method=NAME` may be a name of `fieldmark bench --methods`.
    """
    asked = dict(pair.split("=", 1) for pair in words.split())
    chosen = METHODS.get(asked.get("method", ""))
    if chosen is not None:
        asked |= {"method": chosen.recipe, "head": chosen.head}
    fitting = [one for one in read_references() if _fits(one, asked)]
    metrics = list(dict.fromkeys(one.metric for one in fitting))
    head = ["table", "encoder", "data", "correlation", "method", "setting"]
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for one in fitting:
        lines.setdefault(_line_of(one), {})[one.metric] = _with_deviation(one)
    rows = [[*key, *(line.get(metric, DASH) for metric in metrics)] for key, line in lines.items()]
    return format_table([*head, *(_NAMES.get(metric, metric) for metric in metrics)], rows)


def _fits(one: Reference, asked: Mapping[str, str]) -> bool:
    exact = ("table", "method", "head", "metric")
    return all(
        str(getattr(one, key)) == text if key in exact else text in str(getattr(one, key))
        for key, text in asked.items()
    )


def _line_of(one: Reference) -> tuple[str, ...]:
    method = " + ".join(_NAMES.get(word, word) for word in (one.method, one.head) if word)
    correlation = "" if one.correlation != one.correlation else f"{one.correlation:.0%}"
    encoder = _NAMES.get(one.encoder, one.encoder)
    return (str(one.table), encoder, one.dataset, correlation, method, one.setting)


def list_ravl(words: str) -> str:
    """Return one table of the RaVL paper: rows are methods, columns settings and metrics.

    Args:
        words: its number, and after it the model if the table has several.
    """
    number, _, model = words.partition(" ")
    chosen = [
        one
        for one in read_ravl_references()
        if one.table == int(number) and one.row and one.model in ("", model)
    ]
    columns = list(dict.fromkeys((one.column, one.metric) for one in chosen))
    rows: dict[str, dict[tuple[str, str], str]] = {}
    for one in chosen:
        rows.setdefault(one.row, {})[one.column, one.metric] = f"{one.value:.3f}"
    head = [f"{_NAMES.get(metric, metric)}, {column}" for column, metric in columns]
    cells = [
        [_NAMES.get(name, name), *(line.get(column, DASH) for column in columns)]
        for name, line in rows.items()
    ]
    return format_table(["method", *head], cells)


def list_covar(words: str) -> str:
    """Return one metric of the COVAR paper in %, a row for each of its encoders.

    Args:
        words: the metric: accuracy, background_errors or fine_grained_errors.
    """
    chosen = [one for one in read_covar_references() if one.metric == words]
    subsets = list(dict.fromkeys(one.subset for one in chosen))
    rows: dict[str, dict[str, str]] = {}
    for one in chosen:
        rows.setdefault(one.name, {})[one.subset] = f"{100 * one.value:.1f}"
    cells = [[name, *(line.get(subset, DASH) for subset in subsets)] for name, line in rows.items()]
    return format_table(["encoder", *subsets], cells)


def compare_faithfulness(words: str) -> str:
    """Put areas under the curves of accuracy of the CCI paper beside ours, a row for each method.

    Args:
        words: the heading in `docs/results/cci.md` of our table.
    """
    with (HERE / "published_cci.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    paper = {
        (line["method"].lower().replace(" ", ""), line["curve"]): line["value"]
        for line in lines
        if (line["task"], line["accuracy"]) == ("ground-truth", "@1")
    }
    ours = read_section(HERE / "results" / "cci.md", words)
    columns = [f"{curve}, {whose}" for curve in CURVES for whose in ("paper", "ours")]
    rows = []
    for name, deletion, insertion, *_ in ours[2:]:
        key = re.sub(r"\*| |\(.*", "", name).lower()
        published = [paper.get((key, curve), DASH) for curve in CURVES]
        rows.append([name, published[0], deletion, published[1], insertion])
    return format_table(["method", *columns], rows)


def include_result(words: str) -> str:
    """Copy a table out of `docs/results` or the README.

    Args:
        words: `FILE | HEADING`, and after another bar names of rows, with commas, to keep.
            A heading that ends in `#2` asks for the second table under it.
    """
    file, heading, *names = [word.strip() for word in words.split("|")]
    place = HERE.parent / file if file == "README.md" else HERE / file
    heading, _, number = heading.partition("#")
    table = read_section(place, heading.strip(), number=int(number or 1))
    kept = {name.strip() for name in names[0].split(",")} if names else None
    rows = [row for row in table[2:] if kept is None or row[0].replace("*", "").strip() in kept]
    return format_table(table[0], rows)


def read_section(path: Path, heading: str, *, number: int = 1) -> list[list[str]]:
    """Return the cells of a table under a heading: its head, its rule, and its rows.

    Raises:
        ValueError: there is no such heading, or no such table under it.
    """
    text = path.read_text(encoding="utf-8")
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"{path}: no heading {heading!r}")
    tables = re.findall(r"(?:^\|.*\n?)+", found[1], re.MULTILINE)
    if len(tables) < number:
        raise ValueError(f"{path}: no table number {number} under {heading!r}")
    lines = tables[number - 1].splitlines()
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def format_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown.

    Example:
        >>> print(format_table(["a", "b"], [["1", "2"]]))
        | a | b |
        |---|---|
        | 1 | 2 |
    """
    lines = [head, *rows]
    drawn = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([drawn[0], "|" + "---|" * len(head), *drawn[1:]])


def list_suites(words: str) -> str:
    """Return the suites of `fieldmark bench` and what each asks.

    Args:
        words: `all`.
    """
    rows = [[f"`{suite.name}`", suite.summary] for suite in SUITES.values() if words == "all"]
    return format_table(["suite", "what"], rows)


CURVES = ("deletion", "insertion")
KINDS: Mapping[str, Callable[[str], str]] = {
    "compare": compare_method,
    "figures": list_figures,
    "ravl": list_ravl,
    "covar": list_covar,
    "faithfulness": compare_faithfulness,
    "result": include_result,
    "settings": tabulate_settings,
    "suites": list_suites,
}
