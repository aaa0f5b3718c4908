"""Tables, figures and pages, drawn from records alone, never from a model."""

from fieldmark.report.formats import render_csv, render_latex, render_markdown, render_rich
from fieldmark.report.page import write_page
from fieldmark.report.png import write_figure_png
from fieldmark.report.tables import Summary, Table, list_figures, summarise, tabulate

__all__ = [
    "Summary",
    "Table",
    "list_figures",
    "render_csv",
    "render_latex",
    "render_markdown",
    "render_rich",
    "summarise",
    "tabulate",
    "write_figure_png",
    "write_page",
]
