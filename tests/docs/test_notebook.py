"""The notebook of the documentation runs, and what it shows is what it says now.

Numbers may differ in their last digit from one processor to another, so they are masked; what was
found and what was not is compared.
"""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

HERE = Path(__file__).parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(HERE.glob("*.ipynb"))


def read_outputs(notebook: Any) -> list[str]:
    """Return what each cell printed or gave, pictures left out, numbers masked."""
    texts = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" not in data:
                text = output.get("text") or data.get("text/plain", "")
                texts.append(re.sub(r" *-?\d+\.\d+", " N", text))
    return texts


def forget_counts(notebook: Any) -> None:
    """Take out what differs from run to run."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.execution_count = None
            for output in cell.outputs:
                if "execution_count" in output:
                    output["execution_count"] = None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_and_shows_what_is_stored(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    stored = read_outputs(notebook)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    if request.config.getoption("--update-golden"):
        forget_counts(notebook)
        nbformat.write(notebook, path)
        return
    assert read_outputs(notebook) == stored, "run pytest --update-golden and look at the difference"
    assert len(stored) > 3


def test_notebooks_are_small() -> None:
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        assert path.stat().st_size < 100_000, path.name
