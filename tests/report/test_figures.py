"""Pictures: they say their numbers in words, escape their texts, and stay inside their frame."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from fieldmark.report import svg
from fieldmark.report.figures import Cloud, Curve, draw_bars, draw_losses, draw_map
from fieldmark.report.tables import Summary, summarise

SVG = "{http://www.w3.org/2000/svg}"


def make_figures(*values: float, method: str = "m") -> list[Summary]:
    row = {"suite": "s", "dataset": "d", "metric": "acc_wg", "count": 9}
    rows = [
        {**row, "method": f"{method}{i}", "value": v, "ci_low": v - 0.1, "ci_high": v + 0.1}
        for i, v in enumerate(values)
    ]
    return list(summarise(rows))


def read(drawing: str) -> ElementTree.Element:
    root = ElementTree.fromstring(drawing)
    assert root.get("role") == "img"
    named = str(root.get("aria-labelledby")).split()
    assert named == [root[0].get("id"), root[1].get("id")]
    assert [root[0].tag, root[1].tag] == [f"{SVG}title", f"{SVG}desc"]
    assert root[0].text
    return root


def test_bars_are_as_long_as_their_values() -> None:
    root = read(draw_bars(make_figures(0.25, 0.5), identifier="a", title="t"))
    short, long = (float(str(bar.get("width"))) for bar in root.iter(f"{SVG}rect"))
    assert long == pytest.approx(2 * short, rel=1e-3)
    assert root[1].text == "m0 0.250 [0.150, 0.350]; m1 0.500 [0.400, 0.600]"
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert texts[-4:] == ["m0", "0.25", "m1", "0.50"]


def test_intervals_beyond_the_axis_end_at_it() -> None:
    root = read(draw_bars(make_figures(0.98, 0.02), identifier="a", title="t"))
    right = max(float(str(line.get("x2"))) for line in root.iter(f"{SVG}line"))
    ticks = [float(str(t.get("x"))) for t in root.iter(f"{SVG}text") if t.text in {"0", "1"}]
    assert right == pytest.approx(max(ticks), abs=0.1)
    left = min(float(str(line.get("x1"))) for line in root.iter(f"{SVG}line"))
    assert left == pytest.approx(min(ticks), abs=0.1)


def test_an_undefined_bar_says_so() -> None:
    root = read(draw_bars(make_figures(math.nan), identifier="a", title="t"))
    assert list(root.iter(f"{SVG}rect")) == []
    assert root[1].text == "m0 undefined (n = 9)"
    assert any("undefined, n = 9" in (text.text or "") for text in root.iter(f"{SVG}text"))


def test_markup_in_a_name_is_text() -> None:
    drawing = draw_bars(
        make_figures(0.5, method='<script x="'), identifier="a", title="<b>&\"'</b>"
    )
    assert "<script" not in drawing
    assert read(drawing)[0].text == "<b>&\"'</b>"


def test_a_loss_curve_keeps_its_ends_and_few_points() -> None:
    steps = tuple(float(i) for i in range(5000))
    losses = tuple(1 / (1 + i / 100) for i in range(5000))
    drawing = draw_losses(
        [Curve(steps=steps, losses=losses, rates=losses)], identifier="a", title="t"
    )
    assert len(drawing) < 12_000
    assert read(drawing)[1].text == "from 1.000 to 0.020 in 4,999 steps"


def test_a_loss_curve_leaves_out_what_is_not_finite() -> None:
    curve = Curve(steps=(0.0, 1.0, 2.0), losses=(math.nan, 0.5, math.inf), rates=())
    assert "nan" not in draw_losses([curve], identifier="a", title="t")
    nothing = Curve(steps=(0.0,), losses=(math.nan,))
    assert draw_losses([nothing], identifier="a", title="t") == ""


def test_a_flat_loss_of_zero_and_one_step_are_drawn() -> None:
    curve = Curve(steps=(3.0,), losses=(0.0,), rates=(0.0,))
    read(draw_losses([curve], identifier="a", title="t"))


def test_a_map_keeps_points_inside_and_one_unit_for_both_axes() -> None:
    points = ((0.0, 0.0), (10.0, 0.0), (0.0, 1.0), (math.nan, 2.0))
    root = read(draw_map([Cloud(label="a", points=points, mark=0)], identifier="a", title="t"))
    path = next(iter(root.iter(f"{SVG}path"))).get("d")
    places = np.array(re.findall(r"M([\d.]+) ([\d.]+)", str(path)), float)
    assert places.shape == (3, 2)
    width, height = map(float, str(root.get("viewBox")).split()[2:])
    assert (places > 0).all()
    assert (places < (width, height)).all()
    across, up = places[1] - places[0], places[2] - places[0]
    assert across[0] == pytest.approx(-10 * up[1], abs=0.6)


def test_kinds_on_a_map_differ_in_shape_as_well_as_colour() -> None:
    clouds = [Cloud(label=str(i), points=((i, i),), mark=i) for i in range(4)]
    root = read(draw_map(clouds, identifier="a", title="t"))
    paths = list(root.iter(f"{SVG}path"))
    strokes = {re.sub(r"M[\d.]+ [\d.]+", "", str(path.get("d"))) for path in paths}
    assert len(strokes) == 4
    assert len({path.get("stroke") for path in paths}) == 4


def test_an_empty_map_is_a_frame() -> None:
    read(draw_map([], identifier="a", title="t"))


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0.0, 0.5, 1.0]),
        (0.0, 400.0, [0.0, 100.0, 200.0, 300.0, 400.0]),
        (-0.3, 0.3, [-0.2, 0.0, 0.2]),
        (5.0, 5.0, [5.0]),
    ],
)
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert svg.find_ticks(low, high) == pytest.approx(ticks)
