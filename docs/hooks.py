"""What mkdocs calls while it builds the site: pages, tables and equations that are made, not typed.

- `reference/cli/VERB.md` comes from each verb's own options (`command_reference`).
- `notebooks/NAME.md` comes from `notebooks/NAME.ipynb` (`notebook_page`).
- A line `<!-- KIND: WORDS -->` becomes the table that it names (`made_tables`).
- A fence of `math` becomes MathML, which browsers draw without a script.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from command_reference import list_verbs, write_index, write_verb
from made_tables import fill_tables
from notebook_page import convert_notebook

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

_MATH = re.compile(r"^```math\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the pages of whole folders in the navigation."""
    docs = Path(config.docs_dir)
    config.nav = fill_folders(config.nav, read_titles(docs))
    return config


def fill_folders(nav: Any, titles: Mapping[str, str]) -> Any:
    """Put the pages of a folder where a navigation has `FOLDER/*.md`, an index before the others.

    Args:
        nav: as in mkdocs.yml.
        titles: page to its title, in the order of the pages.

    Example:
        >>> fill_folders([{"All": "a/*.md"}], {"a/b.md": "B", "c.md": "C", "a/index.md": "A"})
        [{'All': ['a/index.md', {'B': 'a/b.md'}]}]
    """
    if isinstance(nav, dict):
        return {title: fill_folders(below, titles) for title, below in nav.items()}
    if isinstance(nav, list):
        return [fill_folders(below, titles) for below in nav]
    if not str(nav).endswith("/*.md"):
        return nav
    folder = str(nav).removesuffix("*.md")
    pages = [page for page in titles if page.startswith(folder)]
    index = [page for page in pages if page == f"{folder}index.md"]
    return index + [{titles[page]: page} for page in pages if page not in index]


def read_titles(docs: Path) -> dict[str, str]:
    """Return the first heading of every page: those of a folder by name, verbs as in the help."""
    files = sorted(docs.rglob("*.md"))
    texts = {path.relative_to(docs).as_posix(): path.read_text(encoding="utf-8") for path in files}
    headings = {
        page: re.search(r"^# (.+)$", text, re.MULTILINE)
        for page, text in {**texts, **make_pages(docs)}.items()
    }
    return {page: found[1] if found else page for page, found in headings.items()}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    from mkdocs.structure.files import File

    for path, text in make_pages(Path(config.docs_dir)).items():
        files.append(File.generated(config, path, content=text))
    return files


def make_pages(docs: Path) -> dict[str, str]:
    """Return the pages that are made, by their path in the site.

    Args:
        docs: the folder of the documentation.

    Example:
        >>> "reference/cli/bap.md" in make_pages(Path(__file__).parent)
        True
    """
    pages = {f"reference/cli/{verb}.md": write_verb(verb) for verb in list_verbs()}
    pages["reference/cli/index.md"] = write_index()
    for notebook in sorted((docs / "notebooks").glob("*.ipynb")):
        path = f"notebooks/{notebook.stem}.md"
        pages[path] = convert_notebook(notebook.read_text(encoding="utf-8"))
    return pages


def on_page_markdown(markdown: str, **_: object) -> str:
    """Fill in tables and equations."""
    return _MATH.sub(lambda found: draw_equation(found[1]), fill_tables(markdown))


def draw_equation(source: str) -> str:
    r"""Return an equation in LaTeX as HTML: MathML, and the source for those who cannot see it.

    Example:
        >>> draw_equation("x + 1")[:40]
        '<div class="equation" role="math" aria-l'
    """
    from latex2mathml.converter import convert

    lines = [line.strip() for line in source.strip().split("\\\\\n")]
    drawn = "".join(convert(" ".join(line.split()), display="block") for line in lines)
    spoken = html.escape(" ".join(source.split()), quote=True)
    return f'<div class="equation" role="math" aria-label="{spoken}">{drawn}</div>'
