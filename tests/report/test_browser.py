"""The page in a real browser: no error, no sideways scroll, light and dark, sorted by hand."""

from __future__ import annotations

import functools
import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fieldmark.report import write_page
from tests.report.sample import build_sample

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=8000",
    "--dump-dom",
)
DARK = "--blink-settings=preferredColorScheme=0"
LIGHT = "--blink-settings=preferredColorScheme=1"
# Chromium has a smallest window, so a phone is a frame that reports to the page around it.
FRAME = """<!doctype html><meta name="color-scheme" content="light dark"><pre id="result"></pre>
<script>addEventListener("message", (m) => {{ result.textContent = m.data; }});</script>
<iframe src="report.html" style="border:0;width:{width}px;height:900px"></iframe>"""
PROBE = """<script>
const problems = [];
addEventListener("error", (event) => problems.push(event.message));
addEventListener("load", () => {
  const root = document.documentElement;
  const paper = () => getComputedStyle(document.body).backgroundColor;
  const before = { width: root.scrollWidth, paper: paper() };
  for (const details of document.querySelectorAll("details")) details.open = true;
  const theme = document.getElementById("theme");
  theme.click();
  const toggled = paper();
  const table = document.querySelector("table.sortable");
  const column = table.tHead.rows[0].cells.length - 1;
  const read = () => [...table.tBodies[0].rows].map((row) => row.cells[column].dataset.sort);
  const header = table.tHead.rows[0].cells[column];
  header.querySelector("button").click();
  const up = [header.getAttribute("aria-sort"), read()];
  header.querySelector("button").click();
  const down = [header.getAttribute("aria-sort"), read()];
  const visible = [...document.querySelectorAll("svg.plot text")];
  const sizes = visible.map((text) => text.getBoundingClientRect().height);
  const spilt = visible.filter((text) => {
    const box = text.getBoundingClientRect();
    const frame = text.ownerSVGElement.getBoundingClientRect();
    return box.left < frame.left - 1 || box.right > frame.right + 1;
  });
  const images = [...document.images];
  parent.postMessage(JSON.stringify({
    problems, before, toggled, up, down,
    inner: innerWidth, opened: root.scrollWidth,
    broken: images.filter((image) => !image.naturalWidth).length, images: images.length,
    smallest: Math.min(...sizes), spilt: spilt.map((text) => text.textContent),
    label: theme.getAttribute("aria-label"),
  }), "*");
});
</script>"""

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="needs chromium: apt-get install chromium (tests/QUARANTINES.md)"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(build_sample(tmp_path_factory.mktemp("run") / "out"))


def browse(path: Path, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """Open a file; return the document after its scripts ran, and what the console got."""
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={profile}", *flags, path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@functools.cache
def _probe(page: Path, width: int, scheme: str, folder: Path) -> dict[str, Any]:
    source = page.read_text(encoding="utf-8")
    source = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', PROBE, source)
    folder.mkdir()
    (folder / "report.html").write_text(source, encoding="utf-8")
    (folder / "frame.html").write_text(FRAME.format(width=width), encoding="utf-8")
    flags = (DARK if scheme == "dark" else LIGHT, f"--window-size={max(width, 600) + 40},1000")
    document, console = browse(folder / "frame.html", folder / "profile", *flags)
    result = re.search(r'<pre id="result">(.+?)</pre>', document, re.DOTALL)
    assert result is not None, document[:500]
    return {**json.loads(html.unescape(result[1])), "console": console}


def _brightness(colour: str) -> float:
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / (3 * 255)


def test_the_page_as_written_runs_under_its_own_policy(page: Path, tmp_path: Path) -> None:
    document, console = browse(page, tmp_path / "profile", "--window-size=1280,1000")
    assert console == []
    assert 'aria-label="Use dark colours"' in document
    assert re.search(r'<th scope="col"><button type="button">Method</button></th>', document)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_window(page: Path, tmp_path: Path, width: int, scheme: str) -> None:
    found = _probe(page, width, scheme, tmp_path / "probe")
    assert found["problems"] == []
    assert found["console"] == []
    assert found["inner"] == width
    assert found["before"]["width"] <= width
    assert found["opened"] <= width
    assert (found["broken"], found["images"] > 40) == (0, True)
    assert found["spilt"] == []
    assert found["smallest"] > 9
    was, now = _brightness(found["before"]["paper"]), _brightness(found["toggled"])
    assert (was < 0.2, now > 0.9) == ((True, True) if scheme == "dark" else (False, False))
    assert found["label"] == f"Use {scheme} colours"
    assert found["up"][0] == "ascending"
    values = [float(value) for value in found["up"][1]]
    assert values == sorted(values)
    assert found["down"] == ["descending", found["up"][1][::-1]]
