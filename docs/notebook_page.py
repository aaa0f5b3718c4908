"""A notebook as a page: its text, its code, and what its cells printed and drew when they ran."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping
from typing import Any


def convert_notebook(text: str) -> str:
    """Return a notebook (nbformat 4, JSON) as Markdown.

    Pictures are embedded, so that the page needs no file beside it; what they show is said in the
    cell's metadata, `alt`.

    Example:
        >>> cell = {"cell_type": "code", "source": ["1 + 1"], "outputs": [
        ...     {"output_type": "execute_result", "data": {"text/plain": ["2"]}}]}
        >>> print(convert_notebook(json.dumps({"cells": [cell]})))
        ```python
        1 + 1
        ```
        <BLANKLINE>
        ``` { .text .output }
        2
        ```
        <BLANKLINE>
    """
    parts: list[str] = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code" and source:
            parts.append(f"```python\n{source}\n```")
            parts += _show(cell.get("outputs", []), alt=cell.get("metadata", {}).get("alt", ""))
    return "\n\n".join(parts) + "\n"


def _show(outputs: list[Mapping[str, Any]], *, alt: str) -> Iterator[str]:
    for output in outputs:
        data = output.get("data", {})
        if "image/png" in data:
            png = "".join(data["image/png"]).replace("\n", "")
            words = html.escape(alt or "a picture drawn by the cell above", quote=True)
            yield f'<img class="drawn" alt="{words}" src="data:image/png;base64,{png}">'
            continue
        plain = "".join(output.get("text", data.get("text/plain", ""))).rstrip()
        if plain:
            yield f"``` {{ .text .output }}\n{plain}\n```"
