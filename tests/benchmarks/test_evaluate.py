"""Evaluation of a hand-computable encoder on small tables, whole and with parts missing."""

import csv
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fieldmark.benchmarks.evaluate import evaluate
from fieldmark.benchmarks.predictions import compare_predictions
from fieldmark.core.errors import (
    ImageError,
    NotApplicableError,
    TableError,
    UnknownNameError,
    UsageError,
)
from fieldmark.core.records import ResultRow
from fieldmark.data.tables import read_table
from fieldmark.metrics.intervals import estimate_groups, wilson_interval
from fieldmark.metrics.invariance import measure_sensitivity
from fieldmark.testing import FakeEncoder

OBJECTS = {"landbird": (200, 30, 30), "waterbird": (30, 200, 30)}
SCENES = {"land": (90, 160, 60), "water": (40, 90, 200)}
# A probe of colours: an encoder that sees the scene far better than the object is misled by it.
MISLED, SOUND = FakeEncoder(background=3.0), FakeEncoder(background=0.0)


def _paint(path, colour, ground, random):
    def shade(rgb):
        return tuple(int(v) for v in np.clip(np.array(rgb) + random.integers(-25, 25, 3), 0, 255))

    image = Image.new("RGB", (8, 8), shade(ground))
    image.paste(shade(colour), (2, 2, 6, 6))
    image.save(path)


def _build(folder, plan, *, columns=("attribute", "split", "object")):
    """Write images and a table. `plan` lists (split, label, scene, how many)."""
    random = np.random.default_rng(0)
    rows: list[dict[str, str]] = []
    for split, label, scene, count in plan:
        for index in range(count):
            name = f"{len(rows)}.png"
            _paint(folder / name, OBJECTS[label], SCENES[scene], random)
            one = {"attribute": scene, "split": split, "object": f"{label}{index // 2}"}
            row = {"path": name, "label": label} | {c: one[c] for c in columns}
            rows.append(row)
    with (folder / "metadata.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return read_table(folder)


def _correlated(test=10):
    return [
        ("train", "landbird", "land", 30),
        ("train", "waterbird", "water", 20),
        *[("train_balanced", label, scene, 12) for label in OBJECTS for scene in SCENES],
        *[("test_seen", label, scene, test) for label in OBJECTS for scene in SCENES],
    ]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return _build(tmp_path_factory.mktemp("birds"), _correlated())


def _values(evaluation, **wanted):
    """Metric to row, of the rows that have these fields."""
    rows = [r for r in evaluation.rows if all(getattr(r, k) == v for k, v in wanted.items())]
    found = {row.metric: row for row in rows}
    assert len(found) == len(rows)
    return found


def test_a_misled_encoder_fails_and_a_sound_one_does_not(table):
    misled = evaluate(MISLED, table, heads=["linear-probe"], precision="fp32")
    sound = evaluate(SOUND, table, heads=["linear-probe"], precision="fp32")
    first = _values(misled, head="linear-probe")
    second = _values(sound, head="linear-probe")
    assert first["acc_wg"].value < 0.2
    assert first["acc_y:landbird_background:land"].value > 0.9
    assert second["acc_wg"].value > 0.9
    difference = compare_predictions(misled.predictions[0], sound.predictions[0])
    assert difference.value == second["acc_wg"].value - first["acc_wg"].value
    assert difference.interval.low > 0.4
    assert difference.p_value < 0.05


def test_the_oracle_is_a_probe_on_balanced_data(table):
    oracle = evaluate(MISLED, table, heads=["convex-probe"], train_split="train_balanced")
    native = evaluate(MISLED, table, heads=["convex-probe"])
    better, worse = (_values(e, head="convex-probe")["acc_wg"].value for e in (oracle, native))
    assert better > worse + 0.5
    # Both are weighted as `train`, where a landbird on water never occurs.
    found = _values(oracle, head="convex-probe")
    by_hand = (
        30 * found["acc_y:landbird_background:land"].value
        + 20 * found["acc_y:waterbird_background:water"].value
    ) / 50
    assert found["adj_acc_avg"].value == pytest.approx(by_hand)


def test_rows_agree_with_the_predictions(table):
    evaluation = evaluate(MISLED, table, heads=["convex-probe"], suite="s", method="m")
    [one] = evaluation.predictions
    part = one.split.table
    found = _values(evaluation, head="convex-probe")
    assert found["acc_avg"].value == pytest.approx(one.correct.mean())
    for group, name in part.group_names().items():
        inside = part.group_ids() == group
        row = found[f"acc_{name}"]
        assert row.value == pytest.approx(one.correct[inside].mean())
        assert (row.group, row.count) == (group, 10)
    worst = min(found[f"acc_{name}"].value for name in part.group_names().values())
    assert found["acc_wg"].value == worst
    assert found["acc_wg_bias"].value <= 0
    row = found["acc_wg"]
    assert (row.suite, row.method, row.dataset) == ("s", "m", table.name)
    assert (row.encoder, row.split) == ("fake:colours", "test_seen")
    assert ResultRow.from_json(row.to_json()).value == row.value


def test_intervals_draw_objects_together(table):
    evaluation = evaluate(MISLED, table, heads=["convex-probe"])
    [one] = evaluation.predictions
    part = one.split.table
    expected = estimate_groups(
        one.correct, part.group_ids(), clusters=part.objects, strata=part.labels
    )
    row = _values(evaluation, head="convex-probe")["acc_avg"]
    assert expected.clusters == 10
    assert (row.ci_low, row.ci_high) == pytest.approx(expected.average.interval)
    plain = wilson_interval(one.correct.sum(), 40)
    assert (row.ci_low, row.ci_high) != pytest.approx(plain)


def test_sensitivity_has_both_readings(table):
    evaluation = evaluate(MISLED, table, heads=["convex-probe"])
    part = evaluation.splits["test_seen"]
    assert part.table.attributes is not None
    expected = measure_sensitivity(part.embeddings, part.table.labels, part.table.attributes)
    found = _values(evaluation, head="")
    assert found["bsi_total"].value == expected.total
    assert found["bsi_per_dimension"].value == pytest.approx(expected.total * math.sqrt(6))
    assert found["bsi_total"].count == 40
    sound = _values(evaluate(SOUND, table, heads=["convex-probe"]), head="")
    assert sound["bsi_total"].value < found["bsi_total"].value / 3


def test_zero_shot_needs_no_training_split(table):
    names = ["red", "green"]
    evaluation = evaluate(
        SOUND, table, heads=["zero-shot"], class_names=names, templates=["a {} square"]
    )
    assert set(evaluation.splits) == {"test_seen"}
    assert _values(evaluation, head="zero-shot")["acc_wg"].value == 1


def test_seeds_belong_to_heads_that_have_one(table):
    heads = ["zero-shot", "linear-probe", "convex-probe"]
    evaluation = evaluate(MISLED, table, heads=heads, seeds=[3, 4], class_names=["red", "blue"])
    assert list(evaluation.heads) == [
        ("zero-shot", 3),
        ("linear-probe", 3),
        ("linear-probe", 4),
        ("convex-probe", 3),
    ]
    assert len(evaluation.predictions) == 4
    seeds = {row.seed for row in evaluation.rows if row.head == "linear-probe"}
    assert seeds == {3, 4}


def test_every_split_is_embedded_once(table, tmp_path):
    evaluate(MISLED, table, heads=["convex-probe"], cache=tmp_path)
    steps = []
    again = evaluate(
        MISLED,
        table,
        heads=["convex-probe", "linear-probe"],
        cache=tmp_path,
        progress=lambda *step: steps.append(step),
    )
    assert steps == []
    assert again.splits["train"].embeddings.shape == (50, 6)


def test_split_order_does_not_mix_rows(table):
    """Rows of the splits are shuffled through the table; embeddings follow their own rows."""
    order = np.random.default_rng(0).permutation(len(table))
    mixed = evaluate(SOUND, table.take(order), heads=["convex-probe"])
    plain = evaluate(SOUND, table, heads=["convex-probe"])
    a, b = mixed.splits["test_seen"], plain.splits["test_seen"]
    place = {name: i for i, name in enumerate(a.table.ids)}
    rows = [place[name] for name in b.table.ids]
    assert (a.embeddings[rows] == b.embeddings).all()


def test_a_group_is_absent(tmp_path):
    plan = [row for row in _correlated() if row[:3] != ("test_seen", "waterbird", "land")]
    found = _values(
        evaluate(MISLED, _build(tmp_path, plan), heads=["convex-probe"]), head="convex-probe"
    )
    absent = found["acc_y:waterbird_background:land"]
    assert math.isnan(absent.value)
    assert math.isnan(absent.ci_low)
    assert absent.count == 0
    assert not math.isnan(found["acc_wg"].value)
    assert found["acc_avg"].count == 30


def test_a_class_is_missing_in_a_split(tmp_path):
    plan = [row for row in _correlated() if row[:2] != ("test_seen", "waterbird")]
    evaluation = evaluate(MISLED, _build(tmp_path, plan), heads=["convex-probe"])
    found = _values(evaluation, head="convex-probe")
    assert found["acc_y:waterbird_background:water"].count == 0
    # The training split has a group that the test split has not: how it fares is not known.
    assert math.isnan(found["adj_acc_avg"].value)
    assert _values(evaluation, head="")["bsi_total"].count == 20


def test_a_class_is_missing_in_training(tmp_path):
    plan = [row for row in _correlated() if row[:2] != ("train", "waterbird")]
    table = _build(tmp_path, plan)
    with pytest.raises(TableError, match=r"has images of 1 class in split 'train'"):
        evaluate(MISLED, table)


def test_without_attributes_groups_are_classes(tmp_path):
    table = _build(tmp_path, _correlated(), columns=("split",))
    evaluation = evaluate(MISLED, table, heads=["convex-probe"])
    assert {row.head for row in evaluation.rows} == {"convex-probe"}
    found = _values(evaluation)
    assert {"acc_y:landbird", "acc_y:waterbird"} < set(found)
    row = found["acc_y:landbird"]
    interval = wilson_interval(row.value * 20, 20)
    assert (row.ci_low, row.ci_high) == pytest.approx(interval)
    by_hand = (30 * row.value + 20 * found["acc_y:waterbird"].value) / 50
    assert found["adj_acc_avg"].value == pytest.approx(by_hand)


def test_unknown_backgrounds_count_for_the_average_alone(tmp_path):
    table = _build(tmp_path, _correlated())
    text = (tmp_path / "metadata.csv").read_text().splitlines()
    blank = [line.replace(",land,test_seen", ",,test_seen") for line in text]
    (tmp_path / "metadata.csv").write_text("\n".join(blank) + "\n")
    part = read_table(tmp_path)
    found = _values(evaluate(MISLED, part, heads=["convex-probe"]), head="convex-probe")
    whole = _values(evaluate(MISLED, table, heads=["convex-probe"]), head="convex-probe")
    assert found["acc_avg"].value == whole["acc_avg"].value
    assert found["acc_avg"].count == 40
    assert found["acc_y:landbird_background:land"].count == 0
    water = "acc_y:landbird_background:water"
    assert found[water].value == whole[water].value
    assert found["acc_groups_mean"].count == 20


def test_a_table_without_splits(tmp_path):
    table = _build(tmp_path, _correlated(), columns=("attribute",))
    found = _values(evaluate(SOUND, table, heads=["zero-shot"], class_names=["red", "green"]))
    assert found["acc_avg"].split == "all"
    with pytest.raises(TableError, match="has no split 'train'"):
        evaluate(SOUND, table, heads=["linear-probe"])


def test_unreadable_images_are_listed_or_refused(tmp_path):
    table = _build(tmp_path, _correlated())
    broken = table.select("test_seen").paths[3]
    broken.write_bytes(b"no image")
    with pytest.raises(ImageError, match=broken.name):
        evaluate(MISLED, table)
    evaluation = evaluate(MISLED, table, heads=["convex-probe"], skip_unreadable=True)
    assert list(evaluation.unreadable) == [table.select("test_seen").ids[3]]
    assert _values(evaluation, head="convex-probe")["acc_avg"].count == 39
    assert np.isfinite(evaluation.splits["test_seen"].embeddings).all()


def test_a_split_with_no_readable_image(tmp_path):
    table = _build(tmp_path, _correlated(test=1))
    for path in table.select("test_seen").paths:
        path.write_bytes(b"no image")
    evaluation = evaluate(MISLED, table, heads=["convex-probe"], skip_unreadable=True)
    row = _values(evaluation, head="convex-probe")["acc_avg"]
    assert math.isnan(row.value)
    assert row.count == 0


def test_words_that_are_off(table):
    with pytest.raises(UnknownNameError, match="did you mean linear-probe"):
        evaluate(MISLED, table, heads=["linear-prob"])
    with pytest.raises(UsageError, match="at least one head and one seed"):
        evaluate(MISLED, table, seeds=[])
    with pytest.raises(TableError, match=r"has no split 'tset'.*test_seen"):
        evaluate(MISLED, table, test_splits=["tset"])
    with pytest.raises(UsageError, match="1 class names for 2 classes"):
        evaluate(MISLED, table, heads=["zero-shot"], class_names=["red"])


def test_predictions_are_compared_on_shared_images(table):
    [one] = evaluate(MISLED, table, heads=["convex-probe"]).predictions
    again = compare_predictions(one, one)
    assert (again.value, again.p_value, again.count) == (0, 1, 40)
    ids = tuple(f"other {name}" for name in one.split.table.ids)
    renamed = replace(one.split, table=replace(one.split.table, ids=ids))
    with pytest.raises(UsageError, match="share no image"):
        compare_predictions(one, replace(one, split=renamed))


def test_heads_that_select_and_a_head_of_texts(tmp_path):
    plan = [
        *[("train", label, scene, 8) for label in OBJECTS for scene in SCENES],
        *[("val", label, scene, 6) for label in OBJECTS for scene in SCENES],
        *[("test", label, scene, 4) for label in OBJECTS for scene in SCENES],
    ]
    heads = ["dfr", "dfr-rest", "afr", "group-dro"]
    table = _build(tmp_path, plan)
    found = evaluate(SOUND, table, heads=heads)
    worst = {row.head: row.value for row in found.rows if row.metric == "acc_wg"}
    assert set(worst) == set(heads)
    assert worst["dfr"] == 1.0
    # FakeEncoder reads colours alone.
    coloured = replace(table, attribute_names=("green", "blue"))
    by_text = evaluate(SOUND, coloured, heads=["roboshot"], class_names=["red", "green"])
    assert {row.head for row in by_text.rows if row.metric == "acc_wg"} == {"roboshot"}


def test_a_head_that_the_data_do_not_bear_is_refused(tmp_path):
    table = _build(tmp_path, _correlated())
    with pytest.raises(NotApplicableError, match="no split val"):
        evaluate(SOUND, table, heads=["dfr"])
    plain = _build(tmp_path, _correlated(), columns=("split",))
    with pytest.raises(NotApplicableError, match="names no two backgrounds"):
        evaluate(SOUND, plain, heads=["roboshot"])
