"""The paper's figures: every table whole, spot checks typed from the paper by hand, look-ups."""

from __future__ import annotations

import collections
import math

import pytest

from fieldmark.core.errors import InputError
from fieldmark.report.published import (
    COLUMNS,
    Reference,
    find_reference,
    parse_references,
    read_references,
)

CLIP = "open_clip:ViT-B-16/laion2b_s34b_b88k"
SIGLIP = "hf:google/siglip2-base-patch16-224"
CONVNEXT = "open_clip:convnext_base_w/laion2b_s13b_b82k"
# Methods x columns x (AVG, WGA), less the two dashes of AFR and DFR at 100 % for each encoder.
COUNTS = {
    1: 16,
    2: 12 * 4 * 2 - 8,
    3: 12 * 4 * 2 - 8,
    4: 8 * 4 * 2,
    5: 6 * 4 * 2,
    6: 4 * 2,
    7: 7 * 2,
    8: 12 * 2 * 2 - 4,
    9: 6 * 4 * 2,
    10: 6 * 2,
    11: 4 * 3 * 2,
    12: 5 * 2,
    13: 3 * 2,
    14: 5 * 2,
    15: 4 * 2,
    16: 26 * 2,
}
ENCODERS = {
    "clip": CLIP,
    "siglip2": SIGLIP,
    "convnext": CONVNEXT,
    "siglip2-h": "SigLIP 2 ViT-H/14",
    "openai": "open_clip:ViT-B-16/openai",
    "datacomp": "open_clip:ViT-B-16/datacomp_xl_s13b_b90k",
}
# Table, encoder, data set, correlation, method, head, metric, value, deviation.
TYPED = """
2 clip waterbirds 0.95 erm-80 afr acc_avg 0.915 0.005
2 clip waterbirds 1.0 native linear-probe acc_wg 0.245 0.009
2 clip waterbirds 1.0 data-matched-control linear-probe acc_wg 0.714 0.069
2 siglip2 waterbirds 0.95 native dial acc_wg 0.564 0.0
2 siglip2 waterbirds 1.0 bap linear-probe acc_wg 0.927 0.008
2 siglip2 waterbirds 1.0 prusc trained acc_avg 0.491 0.023
3 clip coco-gender 1.0 wise-ft trained acc_wg 0.327 0.011
3 siglip2 coco-gender 0.95 erm-80 afr acc_wg 0.686 0.014
3 siglip2 coco-gender 1.0 bap linear-probe acc_wg 0.753 0.012
4 clip counteranimal/brambling-bulbul 1.0 prusc trained acc_wg 0.346 0.072
4 siglip2 counteranimal/brambling-bulbul 1.0 bap zero-shot acc_avg 0.819 0.0
4 clip counteranimal/ptarmigan-prairie-chicken 1.0 native linear-probe acc_wg 0.504 0.082
4 siglip2 counteranimal/ptarmigan-prairie-chicken 1.0 lp-ft trained acc_wg 0.147 0.056
5 convnext nico++/car-truck 1.0 native linear-probe acc_wg 0.4 0.031
5 convnext nico++/bicycle-motorcycle 1.0 bap linear-probe acc_wg 0.803 0.036
8 convnext waterbirds 0.95 lp-ft dfr acc_avg 0.941 0.004
8 convnext waterbirds 1.0 lp-ft trained acc_wg 0.187 0.014
9 siglip2 nico++/ship-sailboat 1.0 data-matched-control linear-probe acc_wg 0.599 0.015
9 siglip2 nico++/car-bus 1.0 native zero-shot acc_avg 0.889 0.0
10 clip waterbirds 1.0 bap linear-probe acc_wg 0.9058 0.0077
10 siglip2-h waterbirds 1.0 bap linear-probe acc_avg 0.9818 0.0018
11 openai waterbirds 1.0 data-matched-control linear-probe acc_wg 0.8738 0.019
11 datacomp waterbirds 1.0 bap linear-probe acc_wg 0.9184 0.012
12 clip waterbirds 1.0 lp-ft - bsi_per_dimension 38.5 1.2
12 siglip2 waterbirds 1.0 bap - bsi_per_dimension 2.5 0.3
13 clip waterbirds 1.0 random-orthogonal-anchors linear-probe acc_wg 0.902 0.004
"""


def find(table: int, **fields: object) -> Reference:
    found = [
        r
        for r in read_references()
        if r.table == table and all(getattr(r, key) == value for key, value in fields.items())
    ]
    assert len(found) == 1
    return found[0]


def test_every_table_has_all_its_figures_once() -> None:
    references = read_references()
    assert collections.Counter(r.table for r in references) == COUNTS
    keys = {tuple(str(getattr(r, column)) for column in COLUMNS[:9]) for r in references}
    assert len(keys) == len(references) == 540


@pytest.mark.parametrize("line", TYPED.strip().splitlines())
def test_figures_typed_from_the_paper(line: str) -> None:
    table, encoder, dataset, correlation, method, head, metric, value, deviation = line.split()
    found = find_reference(
        encoder=ENCODERS[encoder],
        dataset=dataset,
        correlation=float(correlation),
        method=method,
        head=head.strip("-"),
        metric=metric,
        table=int(table),
    )
    assert found is not None
    assert (found.value, found.deviation) == (float(value), float(deviation))


def test_figures_of_studies_typed_from_the_paper() -> None:
    assert find(1, encoder="MAE ConvNeXt").value == 0.71
    assert find(1, encoder="ImageNet-21K ViT-L/14").deviation == 0.05
    assert find(7, encoder="BERT", metric="text_additivity").value == 0.79
    assert find(7, encoder=CLIP, metric="word_similarity").value == 0.61
    assert find(6, setting="masks=box", metric="acc_wg").value == 0.825
    assert find(15, setting="masks=eroded", metric="acc_wg").value == 0.9092
    assert find(14, setting="K=1", metric="acc_wg").value == 0.871
    assert find(14, setting="K=8", metric="acc_avg").deviation == 0.005
    assert find(16, metric="acc_y:engine_room", method="bap").value == 0.07
    assert find(16, metric="acc_y:waterbird", method="native").value == 0.68


def test_ranges() -> None:
    for r in read_references():
        if r.metric.startswith("acc_") or "additivity" in r.metric:
            assert 0 <= r.value <= 1
            assert math.isnan(r.deviation) or 0 <= r.deviation < 0.12
        if r.head == "zero-shot" and r.table < 16:
            assert r.deviation == 0
        assert (r.runs > 0) == (r.table in (2, 3, 4, 5, 6, 8, 9, 10, 13, 15))
        assert math.isnan(r.deviation) == (r.table == 16)
    # Across studies the paper prints the same backbone more than once, never far apart.
    main = find(
        2, encoder=CLIP, correlation=1.0, method="bap", head="linear-probe", metric="acc_wg"
    )
    for table in (6, 10, 11, 14):
        for r in read_references():
            if (r.table, r.encoder, r.metric, r.method) == (table, CLIP, "acc_wg", "bap"):
                assert abs(r.value - main.value) < 0.1


def look(**fields: object) -> Reference | None:
    base = {"encoder": CLIP, "dataset": "waterbirds", "correlation": 1.0, "method": "bap"}
    base |= {"head": "linear-probe", "metric": "acc_wg"}
    return find_reference(**(base | fields))  # type: ignore[arg-type]


def test_the_first_table_answers_and_a_setting_must_be_asked_for() -> None:
    main, deep, four = look(), look(table=10), look(setting="k=4")
    assert main is not None
    assert deep is not None
    assert four is not None
    assert (main.table, deep.table, four.table) == (2, 10, 14)
    assert look(setting="K=3") is None


def test_other_words_for_the_same() -> None:
    assert look(encoder=CLIP.replace("/", ",")) == look()
    assert look(encoder="open_clip:ViT-B-16-SigLIP2/webli") == look(encoder=SIGLIP)
    assert look(method="data-matched control") == look(method="data_matched_control") is not None


def test_what_the_paper_does_not_print() -> None:
    assert look(encoder="packaged:openclip-rn50") is None
    assert look(correlation=0.9) is None
    assert look(method="lp-ft", head="dfr") is None
    assert look(correlation=math.nan) is None, "95 % and 100 % contradict each other"
    assert look(head="zero-shot", correlation=math.nan) is not None, "and here they agree"


def test_a_field_that_the_paper_leaves_open() -> None:
    found = find_reference(encoder=CLIP, dataset="stamps", metric="additivity", correlation=0.95)
    assert found is not None
    assert found.value == 0.82


@pytest.mark.parametrize(
    ("value", "differs"), [(0.918, False), (0.936, False), (0.937, True), (0.899, True)]
)
def test_two_deviations(value: float, differs: bool) -> None:
    found = look()
    assert found is not None
    assert (found.value, found.deviation) == (0.918, 0.009)
    assert found.differs(value) is differs
    assert not found.differs(math.nan)


def test_rounding_of_the_paper_is_no_difference() -> None:
    found = look(head="zero-shot")
    assert found is not None
    assert found.deviation == 0
    assert [found.differs(v) for v in (0.7214, 0.7205, 0.7222)] == [False, False, True]


@pytest.mark.parametrize("bad", ["x", ""])
def test_a_bad_line_is_named(bad: str) -> None:
    text = ",".join(COLUMNS) + f"\n2,e,d,1.0,test,m,h,acc_wg,,{bad},0.1,5\n"
    with pytest.raises(InputError, match=r"b\.csv line 2: cannot be read as a figure"):
        parse_references(text, where="b.csv")


def test_a_short_line_is_named() -> None:
    with pytest.raises(InputError, match=r"b\.csv line 2"):
        parse_references(",".join(COLUMNS) + "\n2,e\n", where="b.csv")
