"""The worked examples of benchmarks/scale_estimate.py, and its figures in docs/howto/scale.md."""

from __future__ import annotations

import doctest
import importlib.util
import re
import sys
from pathlib import Path

import pytest

from tests.models import tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def estimate():
    """Return the script as a module; it lies outside the package."""
    name = "scale_estimate"
    found = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    found.loader.exec_module(module)
    yield module
    del sys.modules[name]


def test_its_examples_hold(estimate):
    result = doctest.testmod(estimate, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
    assert result.attempted >= 8


def test_its_sizes_are_those_of_the_package(estimate):
    from fieldmark.methods.bap.anchors import PART
    from fieldmark.methods.bap.config import BapConfig
    from fieldmark.models.embed import SHARD

    sizes = (estimate.SHARD, estimate.PART, estimate.SCALES)
    assert sizes == (SHARD, PART, BapConfig().scale_steps)


def test_the_tables_of_the_page_are_what_its_commands_print(estimate, capsys, monkeypatch):
    page = (ROOT / "docs" / "howto" / "scale.md").read_text()
    command = r"```bash\n(python benchmarks/scale_estimate\.py [^`]+)```\n+"
    pattern = command + r"(given: .+?\n\n)?(\| \|.+?)\n\n"
    examples = re.findall(pattern, page, re.DOTALL)
    assert len(examples) >= 3
    for words, _, table in examples:
        monkeypatch.setattr(sys, "argv", words.replace("\\\n", " ").split()[1:])
        estimate.main()
        assert capsys.readouterr().out.split("\n", 1)[1].strip() == table.strip()


def test_what_a_thread_decodes_is_measured_on_the_files_given(estimate, tmp_path, monkeypatch):
    for seed in range(5):
        tiny.photograph(40, 32, seed=seed).save(tmp_path / f"{seed}.png")
    ticks = iter([10.0, 12.0])
    monkeypatch.setattr(estimate.time, "thread_time", lambda: next(ticks))
    found = estimate.measure_decoding(tmp_path, side=16, count=3)
    assert (found["images"], found["images/s of a thread"]) == (3, 1.5)
    sizes = [(tmp_path / f"{seed}.png").stat().st_size for seed in (0, 2, 4)]
    assert found["KB an image"] == pytest.approx(sum(sizes) / 3000)
