"""The documentation is whole: every page is listed, every link arrives, nothing is left out.

`make docs` builds the site with warnings as errors; these tests need a second and say more.
"""

import ast
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import markdown
import pytest
import yaml

from fieldmark.attribution.methods import METHODS as ATTRIBUTIONS
from fieldmark.attribution.protocols import PROTOCOLS
from fieldmark.benchmarks.methods import METHODS
from fieldmark.benchmarks.suites import SUITES
from fieldmark.cli.dispatch import VERBS
from fieldmark.data.datasets import DATASETS
from fieldmark.data.datasets.stamps import TASKS as STAMPS
from fieldmark.data.external import OPENERS
from fieldmark.discovery.discoverers import DISCOVERERS
from fieldmark.methods.bap.config import METHOD_NAMES
from fieldmark.methods.heads import HEADS
from fieldmark.methods.mitigation.objectives import MITIGATIONS
from fieldmark.methods.recipes import RECIPES
from fieldmark.models.mask_sources import SOURCES
from fieldmark.report.names import METRICS

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
_LINK = re.compile(r'<(?:a|img)\b[^>]*?\b(?:href|src)="([^"]*)"')
_ID = re.compile(r'\bid="([^"]+)"')
# What a method's page must have, in any order.
# Their options are not ours.
OTHER_PROGRAMS = re.compile(
    r"\b(tensorboard|mlflow|wandb|clip_benchmark|torchrun|ray|pip|python|docker|ssh|sbatch|srun) "
)
_SECTIONS = ("Figures", "Known gaps", "Run it")


@cache
def load(name: str) -> ModuleType:
    """Load one of the modules that build the site."""
    if str(DOCS) not in sys.path:
        sys.path.append(str(DOCS))
    found = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@cache
def read_settings() -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())
    hooks = load("hooks")
    settings["nav"] = hooks.fill_folders(settings["nav"], hooks.read_titles(DOCS))
    return settings


@cache
def read_pages() -> dict[str, str]:
    """Return every page of the site as Markdown, tables and equations filled in."""
    hooks = load("hooks")
    made: dict[str, str] = hooks.make_pages(DOCS)
    written = {
        path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8")
        for path in DOCS.rglob("*.md")
    }
    assert not made.keys() & written.keys(), "a page is both made and written"
    return {name: hooks.on_page_markdown(text) for name, text in (written | made).items()}


@cache
def draw(name: str) -> str:
    """Return a page as HTML, as far as links and headings go."""
    text = re.sub(r"^::: .*\n(?:    .*\n|\n)*", "", read_pages()[name], flags=re.MULTILINE)
    extensions = ["toc", "tables", "fenced_code", "attr_list"]
    drawn: str = markdown.markdown(text, extensions=extensions)
    return drawn


def walk(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for below in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from walk(below)


def test_every_page_is_in_the_navigation_once() -> None:
    listed = list(walk(read_settings()["nav"]))
    assert sorted(listed) == sorted(read_pages())


def test_every_link_and_anchor_arrives() -> None:
    broken = []
    for name in read_pages():
        for link in _LINK.findall(draw(name)):
            if re.match(r"https?://|data:", link):
                continue
            path, _, anchor = link.partition("#")
            target = DOCS / name if not path else (DOCS / name).parent / path
            aim = target.resolve().relative_to(DOCS.resolve()).as_posix()
            there = aim in read_pages() or target.is_file()
            if not there or (anchor and not has_anchor(aim, anchor)):
                broken.append(f"{name}: {link}")
    assert broken == []


def has_anchor(page: str, anchor: str) -> bool:
    """Tell if a page has a heading of that id, or shows a module of that name."""
    modules = re.findall(r"^::: (\S+)$", read_pages()[page], re.MULTILINE)
    return anchor in _ID.findall(draw(page)) or any(
        anchor == one or anchor.startswith(f"{one}.") for one in modules
    )


def test_a_broken_link_would_be_seen() -> None:
    assert _LINK.findall(markdown.markdown("[a](nowhere.md#x) ![b](c.png)")) == [
        "nowhere.md#x",
        "c.png",
    ]
    assert not has_anchor("index.md", "nothing-of-that-name")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_how_to_and_a_reference(verb: str) -> None:
    assert f"reference/cli/{verb}.md" in read_pages()
    told = [name for name in read_pages() if name.startswith("howto/")]
    assert any(f"fieldmark {verb} " in read_pages()[name] for name in told)


KNOWN_AS = {
    "gap-only": "Without influence",
    "unweighted-gap-only": "without weights",
    "erm-80": "other 80 %",
    "distilling-failures-image": "image's",
    "bsi": "bsi_total",
}
# Where each registry of the code is told: a name is a word in ticks or in bold, or a heading.
TOLD = {
    "methods/": [*METHODS, *RECIPES, *HEADS, *DISCOVERERS, *ATTRIBUTIONS],
    "methods/mitigation-rivals.md": [*MITIGATIONS],
    "howto/bench.md": [*SUITES],
    "howto/data-in.md": [*OPENERS],
    "howto/datasets.md": [*DATASETS, *STAMPS],
    "howto/diagnose.md": [*SOURCES],
    "howto/evaluate.md": [*METRICS],
    "howto/explain.md": [*ATTRIBUTIONS],
    "howto/faithfulness.md": [*PROTOCOLS],
    "methods/bap.md": [*METHOD_NAMES],
}


@pytest.mark.parametrize("place", TOLD)
def test_every_name_that_the_code_registers_is_told(place: str) -> None:
    text = "\n".join(page for name, page in read_pages().items() if name.startswith(place))
    assert [name for name in TOLD[place] if not is_told(name, text)] == []


def is_told(name: str, text: str) -> bool:
    """Tell if a name is in ticks, in bold, in a heading, or first in the row of a table."""
    if name in KNOWN_AS:
        return KNOWN_AS[name] in text
    words = "[- ]?".join(re.escape(word) for word in name.split("-"))
    word = rf"(?<![\w-]){words}(?![\w-])"
    places = (rf"`[^`\n]*{word}", rf"\*\*{word}", rf"^#+ .*{word}", rf"^\| \[?{word}")
    return re.search("|".join(places), text, re.IGNORECASE | re.MULTILINE) is not None


def test_a_name_that_is_nowhere_is_missed() -> None:
    assert is_told("dfr-rest", "or `DFR rest`")
    assert not is_told("dfr-rest", "`dfr` and the rest")


def test_every_module_of_metrics_is_in_the_reference() -> None:
    folder = REPOSITORY / "src" / "fieldmark" / "metrics"
    shown = {
        module
        for text in read_pages().values()
        for module in re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    }
    modules = {f"fieldmark.metrics.{path.stem}" for path in folder.glob("[a-z]*.py")}
    assert modules - shown == set()


@pytest.mark.parametrize(
    "page", sorted(path.name for path in (DOCS / "methods").glob("*.md") if path.stem != "index")
)
def test_a_methods_page_has_its_equation_and_its_gaps(page: str) -> None:
    text = (DOCS / "methods" / page).read_text(encoding="utf-8")
    assert "```math" in text
    missing = [title for title in _SECTIONS if f"\n## {title}\n" not in text]
    assert missing == []
    assert re.search(r"when to use", text, re.IGNORECASE)


def test_options_named_in_the_text_are_options_of_some_verb() -> None:
    known = {name for verb in VERBS for name in load("command_reference").list_options(verb)}
    known |= {"--version", "--backend-store-uri"}
    unknown = {
        f"{name}: {word}"
        for name, text in read_pages().items()
        if name.startswith(("howto/", "methods/", "index", "notebooks/"))
        for line in text.replace("\\\n", " ").splitlines()
        if not OTHER_PROGRAMS.search(line)
        for word in re.findall(r"(?<![-\w])--[a-z][a-z_-]+", line.replace("<!--", ""))
        if word not in known
    }
    assert unknown == set()


def test_what_code_blocks_import_is_there() -> None:
    seen, missing = set(), []
    for name, text in read_pages().items():
        for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            for node in ast.walk(ast.parse("" if ">>> " in block else block)):
                if isinstance(node, ast.ImportFrom) and str(node.module).startswith("fieldmark"):
                    module = importlib.import_module(str(node.module))
                    seen.add(node.module)
                    missing += [
                        f"{name}: {node.module}.{one.name}"
                        for one in node.names
                        if not hasattr(module, one.name) and not is_module(node.module, one.name)
                    ]
    assert missing == []
    assert len(seen) > 8


def is_module(parent: str | None, name: str) -> bool:
    return importlib.util.find_spec(f"{parent}.{name}") is not None


def test_nothing_is_loaded_from_elsewhere() -> None:
    settings = read_settings()
    assert settings["theme"]["font"] is False
    assert "extra_javascript" not in settings
    style = (DOCS / "assets" / "site.css").read_text()
    assert "http" not in style
    assert "@import" not in style


def test_an_unknown_table_and_an_empty_one_are_errors() -> None:
    tables = load("made_tables")
    with pytest.raises(ValueError, match="no kind of table 'nothing'"):
        tables.fill_tables("<!-- nothing: x -->")
    with pytest.raises(ValueError, match="without rows"):
        tables.fill_tables("<!-- figures: table=99 -->")
    with pytest.raises(ValueError, match="no heading"):
        tables.fill_tables("<!-- result: results/ravl.md | Not there -->")


def test_a_figure_of_the_paper_is_that_of_the_references() -> None:
    table = load("made_tables").compare_method("dfr")
    (row,) = [line for line in table.splitlines() if line.startswith("| **dfr** |")]
    assert [cell.strip() for cell in row.split("|")[2:4]] == ["0.913 ± 0.006", "\N{EN DASH}"]
    assert "| **CCI** | 0.1809 |" in load("made_tables").compare_faithfulness(
        "Which map to believe"
    )


def test_markup_in_a_notebooks_output_stays_text() -> None:
    convert = load("notebook_page").convert_notebook
    text = (
        '{"cells": [{"cell_type": "code", "source": "x", "metadata": {"alt": "a\\"><b>"},'
        ' "outputs": [{"data": {"image/png": "AA=="}}]}]}'
    )
    assert 'alt="a&quot;&gt;&lt;b&gt;"' in convert(text)
