"""Tables and figures of `bench ravl` from rows typed by hand: no model and no image behind them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from xml.etree import ElementTree

import pytest

from fieldmark.benchmarks.controlled.outcomes import COMPARED
from fieldmark.benchmarks.store import Measured
from fieldmark.benchmarks.suite import Exhibit, Found
from fieldmark.benchmarks.suites.ravl_discovery import TAUS
from fieldmark.benchmarks.suites.ravl_exhibits import draw_ravl
from fieldmark.report.formats import render_csv, render_latex, render_markdown
from fieldmark.report.names import DASH
from fieldmark.report.tables import Table
from tests.benchmarks.ravl_rows import FOUND, NAN, measure, row


def draw(found: Sequence[Found]) -> dict[str, Exhibit]:
    exhibits = draw_ravl(found)
    named = {one.name: one for one in exhibits}
    assert len(named) == len(exhibits)
    return named


def read_table(exhibit: Exhibit) -> dict[tuple[str, ...], dict[str, float]]:
    """Return a table's means by the texts of its rows and the heads of its columns."""
    table = exhibit.table
    assert table is not None
    return {
        line.names: {
            head: NAN if figure is None else figure.mean
            for head, figure in zip(table.measures, line.figures, strict=True)
        }
        for line in table.lines
    }


def list_tables(exhibits: Mapping[str, Exhibit]) -> Iterator[Table]:
    return (one.table for one in exhibits.values() if one.table is not None)


def test_table_1_is_the_mean_over_settings_beside_the_papers():
    table = read_table(draw(FOUND)["ravl-table-1"])
    assert list(table) == [("Domino",), ("RaVL",)]
    ours = {
        "tau = 10 (3 settings)": (0.9 + 0.3 + 1.0) / 3,
        "tau = 20 (2 settings)": 0.65,
        "tau = 30 (1 settings)": 1.0,
        "tau = 40 (1 settings)": 1.0,
    }
    paper = {
        "tau = 10, paper (654 settings)": 0.618,
        "tau = 20, paper (369 settings)": 0.762,
        "tau = 30, paper (234 settings)": 0.842,
        "tau = 40, paper (168 settings)": 0.911,
    }
    assert table["RaVL",] == pytest.approx({**ours, **paper})
    assert table["Domino",]["tau = 10 (3 settings)"] == pytest.approx((0.1 + 0.4 + 0.4) / 3)


def test_figures_carry_the_number_of_their_settings():
    table = draw(FOUND)["ravl-table-1"].table
    assert table is not None
    counts = [figure.counts for figure in table.lines[-1].figures if figure is not None]
    assert counts == [(n, n) for n in (3, 654, 2, 369, 1, 234, 1, 168)]


def test_table_2_holds_the_ablations():
    exhibit = draw(FOUND)["ravl-table-2"]
    table = read_table(exhibit)
    assert list(table) == [("gap only",), ("RaVL",)]
    assert table["gap only",]["tau = 20 (2 settings)"] == pytest.approx(0.45)
    assert table["gap only",]["tau = 10, paper (171 settings)"] == 0.409
    assert table["RaVL",]["tau = 40, paper"] == 0.833


def test_leads_are_differences_within_a_setting():
    table = read_table(draw(FOUND)["ravl-differences"])
    assert table["Domino",] == pytest.approx(
        {
            "tau = 10 (3 settings)": (0.8 - 0.1 + 0.6) / 3,
            "tau = 20 (2 settings)": (-0.1 + 0.6) / 2,
            "tau = 30 (1 settings)": 0.6,
            "tau = 40 (1 settings)": 0.6,
        }
    )
    assert table["gap only",]["tau = 20 (2 settings)"] == pytest.approx((0.2 + 0.2) / 2)


def test_how_often_nothing_was_found_is_said():
    drawn = draw(FOUND)
    assert "in which that is so: RaVL 1 of 6." in drawn["ravl-table-1"].note
    shares = read_table(drawn["ravl-found"])["RaVL", "6"]
    assert shares["share that found nothing"] == pytest.approx(1 / 6)
    assert shares["share with under 10 regions"] == 0
    assert shares["median cluster size"] == 12


def test_small_clusters_are_counted():
    few = row("d", "d stripes", "ravl", "precision@10", 1.0, count=4)
    strength = row("d", "d stripes", "fine-tuned", "strength", 30.0)
    drawn = draw([(FOUND[0][0], Measured(rows=(few, strength)))])
    assert read_table(drawn["ravl-found"])["RaVL", "1"]["share with under 10 regions"] == 1


def test_a_method_that_was_not_run_everywhere_is_noted():
    found = [*FOUND, measure("digits stripes up", strength=50, precision={"ravl": [1.0]})]
    note = draw(found)["ravl-table-1"].note
    assert "not run: Domino 1 of 4." in note
    assert "RaVL 1 of 4" not in note


@pytest.mark.parametrize(
    ("stem", "parts"),
    [
        ("ravl-by-domain", {"digits": (2, 1, 0, 0), "stamps": (1, 1, 1, 1)}),
        ("ravl-by-kind", {"texture patch": (2, 1, 1, 1), "rectangle": (1, 1, 0, 0)}),
    ],
)
def test_parts_add_up_to_the_whole(stem, parts):
    drawn = draw(FOUND)
    whole = read_table(drawn["ravl-table-1"])["RaVL",]
    table = read_table(drawn[stem])
    total = [0.0] * len(TAUS)
    for part, counts in parts.items():
        line = table[part, ", ".join(map(str, counts)), "RaVL"]
        for i, tau in enumerate(TAUS):
            assert math.isnan(line[f"tau = {tau}"]) == (counts[i] == 0)
            total[i] += counts[i] * (line[f"tau = {tau}"] if counts[i] else 0)
    sums = [sum(column) for column in zip(*parts.values(), strict=True)]
    for i, tau in enumerate(TAUS):
        assert total[i] / sums[i] == pytest.approx(whole[f"tau = {tau} ({sums[i]} settings)"])


def test_losses_are_weak_settings_and_those_behind_a_rival():
    found = [
        *FOUND,
        measure("digits stripes up", strength=30, precision={"ravl": [0.8], "domino": [0.8]}),
        measure("digits stripes down", strength=30, precision={"ravl": [0.8], "domino": [0.9]}),
        measure("digits stripes far", strength=30, precision={"ravl": [0.7], "gap-only": [1.0]}),
    ]
    exhibit = draw(found)["ravl-losses"]
    table = read_table(exhibit)
    assert list(table) == [
        ("digits", "digits red-rectangle left", "1 of 2", "Domino"),
        ("digits", "digits stripes far", "0 of 1", "none"),
        ("digits", "digits stripes down", "0 of 1", "Domino"),
    ]
    first = table["digits", "digits red-rectangle left", "1 of 2", "Domino"]
    assert first["RaVL"] == pytest.approx(0.3)
    assert first["best rival"] == pytest.approx(0.4)
    assert (first["strength"], first["cluster size"]) == (25, 12)
    assert "3 of 5" in exhibit.note


def test_rivals_that_are_told_of_images_stand_beside_those_told_of_regions():
    precision = {name: [0.5] for name in reversed(list(COMPARED))} | {"ravl": [0.4]}
    drawn = draw([measure("d stripes", strength=50, precision=precision)])
    assert [names for (names,) in read_table(drawn["ravl-table-1"])] == [
        "random",
        "Distilling Failures",
        "Distilling Failures (image's errors)",
        "George",
        "Domino",
        "Domino (image's errors)",
        "Spurious-Aware Detection",
        "RaVL",
    ]
    assert [names for (names,) in read_table(drawn["ravl-table-2"])] == [
        "unweighted gap only",
        "gap only",
        "RaVL",
    ]
    (loss,) = read_table(drawn["ravl-losses"])
    assert "Domino, Domino (image's errors), Spurious-Aware Detection" in loss[3]
    every = {texts for one in list_tables(drawn) for line in one.lines for texts in line.names}
    assert not every & set(COMPARED) - {"random"}


def test_a_list_without_losses_says_of_how_many():
    exhibit = draw([measure("d stripes", strength=50, precision={"ravl": [1.0]})])["ravl-losses"]
    assert exhibit.table is not None
    assert not exhibit.table.lines
    assert exhibit.note.startswith("0 of 1:")


MITIGATED = [
    measure(
        "coco dog",
        strength=30,
        precision={"ravl": [0.9, 0.6, 0.7]},
        mitigation={
            ("ravl-mitigation", "image_wg"): [0.5, 0.0, 0.7],
            ("standard", "image_wg"): [0.3, 1.0, 0.4],
            ("fine-tuned", "image_wg"): [0.1, 0.1, 0.3],
        },
    ),
    measure(
        "coco cat",
        strength=30,
        precision={"ravl": [1.0, NAN, 0.2]},
        mitigation={
            ("ravl-mitigation", "image_wg"): [0.9, 0.0, 0.0],
            ("standard", "image_wg"): [0.8, 1.0, 1.0],
            ("vl-erm", "image_wg"): [NAN, 1.0, 1.0],
        },
    ),
    # Not valid, and not mitigated.
    measure(
        "coco cow",
        strength=5,
        precision={"ravl": [1.0]},
        mitigation={("ravl-mitigation", "image_wg"): [0.0]},
    ),
    measure(
        "coco hen",
        strength=30,
        precision={"ravl": [1.0]},
        mitigation={("fine-tuned", "image_avg"): [0.9]},
    ),
]


def test_mitigation_is_averaged_where_discovery_was_right():
    drawn = draw(MITIGATED)
    exhibit = drawn["ravl-table-3-above-60"]
    table = read_table(exhibit)
    assert exhibit.title.endswith("2 settings, 3 runs; in the paper 192 settings of photographs")
    assert table["RaVL, mean over images",]["image worst group"] == pytest.approx((0.6 + 0.9) / 2)
    assert table["standard fine-tuning",]["image worst group"] == pytest.approx((0.35 + 0.8) / 2)
    assert table["fine-tuned, not mitigated",]["image worst group"] == pytest.approx(0.2)
    assert table["RaVL, mean over images",]["image worst group, paper"] == 0.391
    assert math.isnan(table["VL-ERM",]["image worst group"])
    above = read_table(drawn["ravl-table-3-above-80"])
    assert above["RaVL, mean over images",]["image worst group"] == pytest.approx((0.5 + 0.9) / 2)
    assert above["RaVL, mean over images",]["region worst group, paper"] == 0.585


def test_differences_are_paired_by_setting_and_seed():
    own = "RaVL, mean over images"
    table = read_table(draw(MITIGATED)["ravl-mitigation-differences"])
    assert set(table) == {
        ("above 0.6", "1", own, "fine-tuned, not mitigated"),
        ("above 0.6", "2", own, "standard fine-tuning"),
        ("above 0.8", "1", own, "fine-tuned, not mitigated"),
        ("above 0.8", "2", own, "standard fine-tuning"),
    }
    worst = {key: line["image worst group"] for key, line in table.items()}
    assert worst["above 0.6", "2", own, "standard fine-tuning"] == pytest.approx((0.25 + 0.1) / 2)
    assert worst["above 0.8", "2", own, "standard fine-tuning"] == pytest.approx((0.2 + 0.1) / 2)
    assert worst["above 0.6", "1", own, "fine-tuned, not mitigated"] == pytest.approx(0.4)


def test_mitigation_without_ravl_has_no_differences():
    found = [
        measure(
            "coco dog",
            strength=30,
            precision={"ravl": [0.7]},
            mitigation={("standard", "image_wg"): [0.3]},
        )
    ]
    drawn = draw(found)
    assert "ravl-table-3-above-60" in drawn
    assert not {"ravl-mitigation-differences", "ravl-table-3-above-80"} & set(drawn)


def test_figure_2_has_a_line_for_each_method_and_domain():
    drawn = draw(FOUND)
    figures = {stem: one for stem, one in drawn.items() if one.svg}
    assert list(figures) == ["ravl-figure-2", "ravl-figure-2-digits", "ravl-figure-2-stamps"]
    for exhibit in figures.values():
        root = ElementTree.fromstring(exhibit.svg)
        texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
        assert texts.index("RaVL") < texts.index("Domino")
        assert "gap only" not in texts
    root = ElementTree.fromstring(figures["ravl-figure-2-digits"].svg)
    said = root.findtext("{http://www.w3.org/2000/svg}desc")
    assert said is not None
    assert f"RaVL: 0.600 at 10, 0.300 at 20, {DASH} at 30, {DASH} at 40" in said
    assert figures["ravl-figure-2-digits"].note.startswith(
        "Settings: 2 at 10, 1 at 20, 0 at 30, 0 at 40."
    )


def test_every_table_comes_out_in_three_formats():
    drawn = draw([*FOUND, *MITIGATED])
    tables = list(list_tables(drawn))
    assert len(tables) == len([one for one in drawn.values() if not one.svg])
    for table in tables:
        latex = render_latex(table)
        assert latex.isascii()
        assert latex.count(r" \\") == len(table.lines) + 1
        rows = render_markdown(table).split("\n\n")[1].splitlines()
        assert len(rows) == len(table.lines) + 2
        cells = list(csv.reader(io.StringIO(render_csv(table))))
        assert {len(line) for line in cells} == {len(table.headings) + 7 * len(table.measures)}


def test_no_row_gives_no_exhibit():
    job, _ = FOUND[0]
    assert draw_ravl([]) == []
    assert draw_ravl([(job, Measured(refused="no images"))]) == []


def test_without_a_valid_setting_only_the_count_is_shown():
    drawn = draw(FOUND[3:])
    assert list(drawn) == ["ravl-settings"]
    table = read_table(drawn["ravl-settings"])
    assert table == {("stamps", "1", "0", "0", "0", "0"): {"median strength, points": 9.5}}


def test_settings_are_counted_by_domain():
    assert list(read_table(draw(FOUND)["ravl-settings"])) == [
        ("digits", "2", "2", "1", "0", "0"),
        ("stamps", "2", "1", "1", "1", "1"),
        ("all", "4", "3", "2", "1", "1"),
    ]


def test_without_ravl_there_is_no_list_of_losses():
    drawn = draw([measure("d stripes", strength=50, precision={"domino": [0.5]})])
    assert set(drawn) == {
        "ravl-settings",
        "ravl-table-1",
        "ravl-found",
        "ravl-by-domain",
        "ravl-by-kind",
        "ravl-figure-2-d",
    }


def test_ablations_alone_give_table_2_alone():
    drawn = draw([measure("d stripes", strength=50, precision={"gap-only": [0.5]})])
    assert set(drawn) == {"ravl-settings", "ravl-table-2", "ravl-found"}


def test_a_row_that_is_there_twice_counts_once():
    assert read_table(draw([*FOUND, *FOUND])["ravl-table-1"]) == read_table(
        draw(FOUND)["ravl-table-1"]
    )


def test_seeds_do_not_narrow_an_interval():
    """Three seeds that agree in every setting say no more than one."""

    def find_width(seeds: int) -> float:
        found = [
            measure(f"d stripes {i}", strength=50, precision={"ravl": [score] * seeds})
            for i, score in enumerate((0.1, 0.5, 0.9, 1.0))
        ]
        table = draw(found)["ravl-table-1"].table
        assert table is not None
        figure = table.lines[0].figures[0]
        assert figure is not None
        return figure.ci_high - figure.ci_low

    assert find_width(1) == find_width(3) > 0
