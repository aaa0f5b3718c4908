"""Sweeps: gathered over seeds, fitted by a power law, drawn as SVG and as files."""

from __future__ import annotations

import functools
import hashlib
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from fieldmark.core.errors import InputError
from fieldmark.report.bars import ClassBars, Dot, draw_class_bars, draw_dots
from fieldmark.report.curves import Axis, draw_sweep, find_log_ticks
from fieldmark.report.figures import Cloud
from fieldmark.report.plots import write_class_plot, write_map_plot, write_sweep_plot
from fieldmark.report.sweeps import Series, SweepPoint, fit_power_law, make_point, read_sweep

SVG = "{http://www.w3.org/2000/svg}"
K = (1, 2, 4, 8, 16)
LINEAR = Axis(label="K")
LOG = Axis(label="K", log=True)
NASTY = '<b>_$x$ & "y"</b>'


def make_series(label: str = "BAP", *, scale: float = 1.0) -> Series:
    values = {k: [scale / k, 1.1 * scale / k, 1.2 * scale / k] for k in K}
    return Series(label=label, points=tuple(make_point(k, v) for k, v in values.items()))


def read(drawing: str) -> ElementTree.Element:
    root = ElementTree.fromstring(drawing)
    assert root.get("role") == "img"
    return root


def list_texts(drawing: str) -> list[str]:
    return [str(text.text) for text in read(drawing).iter(f"{SVG}text")]


def test_a_point_is_mean_and_deviation() -> None:
    point = make_point(4, [0.5, 0.7, math.nan])
    assert (point.mean, point.low, point.high) == pytest.approx(
        (0.6, 0.6 - 0.02**0.5, 0.6 + 0.02**0.5)
    )
    assert math.isnan(make_point(4, [0.5]).low)
    assert math.isnan(make_point(4, [math.nan]).mean)


def test_rows_named_by_a_number_are_gathered_over_seeds() -> None:
    base = {"suite": "k", "dataset": "d", "method": "native"}
    rows: list[dict[str, object]] = [
        {**base, "metric": f"residual_variance:{k}", "seed": seed, "value": seed + k}
        for seed in (0, 1)
        for k in (8, 2)
    ]
    rows += [{**base, "metric": "acc_y:bird_background:water", "value": 0.1}]
    (series,) = read_sweep(rows, "residual_variance")
    assert [(p.x, p.mean) for p in series.points] == [(2, 2.5), (8, 8.5)]
    assert read_sweep(rows, "acc_y") == ()


def test_rows_with_a_setting_are_gathered_by_it() -> None:
    base = {"suite": "m", "dataset": "d", "method": "bap", "metric": "acc_wg"}
    rows = [
        {**base, "setting": f"N={n},M={m}", "value": n / 100 + m / 1000}
        for n in (50, 10)
        for m in (4, 2)
    ]
    rows += [{**base, "value": 0.9}, {**base, "setting": "masks=eroded", "value": 0.8}]
    found = read_sweep(rows, "acc_wg", setting="M")
    assert [one.label for one in found] == ["BAP, N=50", "BAP, N=10"]
    assert [(p.x, p.mean) for p in found[0].points] == [(2, 0.502), (4, 0.504)]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=3, max_size=12, unique=True), st.integers(0, 999))
def test_the_power_law_agrees_with_scipy(xs, seed):
    assume(np.ptp(np.log(xs)) > 1e-2)
    ys = [
        x**-1.5 * math.exp(e)
        for x, e in zip(xs, np.random.default_rng(seed).normal(0, 0.3, len(xs)), strict=True)
    ]
    law = fit_power_law([SweepPoint(x=x, mean=y) for x, y in zip(xs, ys, strict=True)])
    fit = stats.linregress(np.log(xs), np.log(ys))
    half = stats.t.ppf(0.975, len(xs) - 2) * fit.stderr
    assert law.slope == pytest.approx(fit.slope, rel=1e-6, abs=1e-9)
    assert law.ci_high - law.slope == pytest.approx(half, rel=1e-4, abs=1e-7)
    assert law.place(1) == pytest.approx(math.exp(fit.intercept), rel=1e-5)


def test_two_points_have_a_slope_without_interval() -> None:
    law = fit_power_law([SweepPoint(x=1, mean=1), SweepPoint(x=2, mean=0.5)])
    assert law.slope == pytest.approx(-1)
    assert math.isnan(law.ci_low)
    assert law.text == "slope \N{MINUS SIGN}1.00"


@pytest.mark.parametrize(
    ("points", "message"),
    [([(1, 0.0), (2, 1.0)], "above zero"), ([(1, 1.0), (1, 2.0)], "two different x"), ([], "two")],
)
def test_no_power_law(points: list[tuple[float, float]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_power_law([SweepPoint(x=x, mean=y) for x, y in points])


def test_a_power_law_is_a_straight_line_on_logarithmic_axes() -> None:
    series = make_series()
    laws = {"BAP": fit_power_law(series.points)}
    drawing = draw_sweep([series], across=LOG, up=LOG, identifier="a", title="t", laws=laws)
    dashed = [p for p in read(drawing).iter(f"{SVG}path") if p.get("stroke-dasharray")]
    numbers = [float(n) for n in re.findall(r"[\d.]+", str(dashed[0].get("d")))]
    xs, ys = np.array(numbers[::2]), np.array(numbers[1::2])
    assert np.abs(np.polyval(np.polyfit(xs, ys, 1), xs) - ys).max() < 0.2
    assert any("slope \N{MINUS SIGN}1.00 [" in text for text in list_texts(drawing))
    assert {"1", "2", "4", "8", "16"} <= set(list_texts(drawing))


def test_a_gap_in_a_line_and_a_band() -> None:
    points = [make_point(x, [0.4, 0.5]) for x in (1, 2)] + [make_point(3, [math.nan])]
    points += [make_point(x, [0.6, 0.7]) for x in (4, 5)]
    series = Series(label="BAP", points=tuple(points))
    drawing = draw_sweep([series], across=LINEAR, up=LINEAR, identifier="a", title="t")
    paths = [
        str(p.get("d")) for p in read(drawing).iter(f"{SVG}path") if p.get("stroke-width") == "1.8"
    ]
    assert paths[0].count("M") == 2
    assert [p for p in read(drawing).iter(f"{SVG}path") if p.get("fill-opacity")]


def test_everything_stays_inside_the_frame() -> None:
    series = [make_series(f"line {i}", scale=10.0**i) for i in range(4)]
    for up in (LOG, LINEAR, Axis(label="y", low=0)):
        root = read(draw_sweep(series, across=LOG, up=up, identifier="a", title="t"))
        width, height = map(float, str(root.get("viewBox")).split()[2:])
        for path in root.iter(f"{SVG}path"):
            if path.get("stroke-width") == "1.8" or path.get("fill-opacity"):
                numbers = [float(n) for n in re.findall(r"-?[\d.]+", str(path.get("d")))]
                assert all(0 <= x <= width for x in numbers[::2])
                assert all(0 <= y <= height for y in numbers[1::2])


def test_zero_has_no_place_on_a_logarithmic_axis() -> None:
    series = Series(label="a", points=(SweepPoint(x=0, mean=1), SweepPoint(x=1, mean=1)))
    with pytest.raises(InputError, match="K = 0 has no place"):
        draw_sweep([series], across=LOG, up=LINEAR, identifier="a", title="t")


def test_nothing_to_draw() -> None:
    nothing = Series(label="a", points=(SweepPoint(x=1, mean=math.nan),))
    assert draw_sweep([nothing], across=LOG, up=LOG, identifier="a", title="t") == ""
    assert draw_class_bars([], encoders=("a",), identifier="a", title="t") == ""
    assert draw_dots([], identifier="a", title="t") == ""


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(-2, 0, [0.01, 0.1, 1]), (0.2, 0.8, [2, 5]), (-0.01, 1, [1, 2, 5, 10])],
)
def test_logarithmic_ticks(low: float, high: float, ticks: list[float]) -> None:
    assert find_log_ticks(low, high) == pytest.approx(ticks)


CLASSES = [
    ClassBars(label="attic", values=(0.9, 0.45), references=(0.92, 0.02)),
    ClassBars(label=NASTY, values=(math.nan, 0.5)),
]


def test_bars_are_as_long_as_their_values_and_the_paper_has_ticks() -> None:
    drawing = draw_class_bars(CLASSES, encoders=("native", "BAP"), identifier="a", title="t")
    bars = [r for r in read(drawing).iter(f"{SVG}rect") if r.get("height") == "10"]
    widths = [float(str(bar.get("width"))) for bar in bars if float(str(bar.get("x"))) > 100]
    assert widths[0] == pytest.approx(2 * widths[1], rel=1e-3)
    assert len(widths) == 3, "an undefined value has no bar"
    assert sum(line.get("stroke-width") == "2" for line in read(drawing).iter(f"{SVG}line")) == 3
    assert NASTY in list_texts(drawing)


def test_dots_say_what_was_not_measured() -> None:
    dots = [
        Dot(label=NASTY, value=0.5, low=0.4, high=0.6, reference=0.7),
        Dot(label="DFR", value=math.nan, remark="refused (a)"),
    ]
    drawing = draw_dots(dots, identifier="a", title="t")
    assert "\N{EN DASH} refused (a)" in list_texts(drawing)
    described = str(read(drawing)[1].text)
    assert described == f"{NASTY} 0.500, the paper 0.700; DFR refused (a)"


def write_all(folder: Path, suffix: str) -> list[Path]:
    series = [make_series(), make_series(NASTY, scale=2)]
    laws = {"BAP": fit_power_law(series[0].points)}
    chance = np.random.default_rng(0)
    clouds = [
        Cloud(label=label, points=tuple(map(tuple, chance.normal(i, 1, (9, 2)))), mark=i)
        for i, label in enumerate(("bird", NASTY))
    ]
    panels = [("before", clouds), (NASTY, clouds)]
    return [
        write_sweep_plot(series, folder / f"k{suffix}", across=LOG, up=LOG, laws=laws, title=NASTY),
        write_class_plot(CLASSES, folder / f"c{suffix}", encoders=("native", NASTY)),
        write_map_plot(panels, folder / f"m{suffix}", columns=2),
    ]


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_same_numbers_give_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    first, second = (
        [hashlib.sha256(p.read_bytes()).hexdigest() for p in write_all(tmp_path / name, suffix)]
        for name in ("a", "b")
    )
    assert first == second


def test_pictures_hold_ink(tmp_path: Path) -> None:
    for path in write_all(tmp_path, ".png"):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L"))
            assert image.info.get("Software") is None
        assert 0.001 < (pixels < 200).mean() < 0.6


def test_pictures_that_cannot_be(tmp_path: Path) -> None:
    draw = functools.partial(write_sweep_plot, across=LOG, up=LOG)
    with pytest.raises(InputError, match=r"k\.gif: cannot be a picture of kind '\.gif'"):
        draw([make_series()], tmp_path / "k.gif")
    with pytest.raises(InputError, match="no defined point"):
        draw([], tmp_path / "k.png")
    with pytest.raises(InputError, match="no class"):
        write_class_plot([], tmp_path / "k.png", encoders=("a",))
    with pytest.raises(InputError, match="no map"):
        write_map_plot([], tmp_path / "k.png")
    assert list(tmp_path.iterdir()) == []
