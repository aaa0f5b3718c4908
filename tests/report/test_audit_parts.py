from __future__ import annotations

import contextlib
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldmark.core.errors import InputError
from fieldmark.report.audit_markdown import write_audit_markdown
from fieldmark.report.audit_page import write_audit_page
from fieldmark.report.audit_parts import read_audit
from fieldmark.report.audit_texts import clean, clean_command
from tests.report.audit_sample import build_audit, build_bare_audit, edit_values


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return build_audit(tmp_path_factory.mktemp("audit"), encoders=2, images=2)


@pytest.fixture
def copy(sample, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "audit.json").write_bytes((sample / "audit.json").read_bytes())
    return out


def put(values, place, value):
    *way, last = place
    for step in way:
        values = values[step]
    values[last] = value


def test_every_part_of_the_contract_is_read(sample):
    parts = read_audit(sample)
    assert [one.label for one in parts.encoders] == ["before", "after"]
    assert (parts.images, parts.images_all, parts.objects) == (240, 960, 60)
    groups = {one.name: one.figure.value for one in parts.accuracy[0].groups}
    assert groups["y:bird_background:water"] == 0.48
    assert parts.swaps is not None
    assert parts.swaps.results[0].gap.low == 0.21
    assert parts.swaps.drops[0].changes[1].change == "scale_2"
    assert parts.swaps.pictures[1].tiles[2].said[0].predicted == "bird"
    assert parts.discovery[0].findings[0].words == ("pond", "shore", "reeds")
    assert parts.telling[1].maps[1].encoder == 1
    assert parts.changes is not None
    assert parts.changes.vanished == ("background_gap:zero-shot",)


def test_null_is_undefined_and_keeps_its_count(sample):
    undecided = read_audit(sample).sources[0].shares[2]
    assert math.isnan(undecided.corrected.value)
    assert not undecided.corrected.is_defined
    assert undecided.corrected.count == 74


def test_an_audit_without_any_optional_part_is_read(tmp_path):
    parts = read_audit(build_bare_audit(tmp_path))
    assert parts.swaps is None
    assert parts.compare == ""
    assert parts.left_out[0].mend == "give --masks FOLDER"
    assert not parts.accuracy[0].worst_group.is_defined


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        (["accuracy", 0, "average", "low"], "x", "accuracy.0.average.low: Input should be a valid"),
        (["accuracy", 0, "average", "count"], -1, "accuracy.0.average.count: Input should be gr"),
        (["findings", 1, "state"], "maybe", "findings.1.state: Input should be 'found'"),
        (["verdict", 0, "state"], "guilty", "verdict.0.state: Input should be 'relies'"),
        (["swaps", "pictures", 0, "tiles", 0, "kind"], "odd", "swaps.pictures.0.tiles.0.kind"),
        (["encoders"], [], "encoders: Tuple should have at least 1 item"),
        (["findings", 0, "encoder"], 2, "audit.findings.0: speaks of encoder 2, but lists 2"),
        (["verdict"], [{"encoder": 0, "state": "relies"}], "verdict: has none for encoder 1"),
        (["changes", "new"], ["gone"], "changes.new: no finding is called gone"),
        (["telling", 0, "picture", "src"], "../../etc/x.jpg", "names a file outside of"),
        (["telling", 0, "picture", "src"], "/etc/passwd", "names a file outside of"),
        (["telling", 0, "picture", "src"], "a\0b", "names a file outside of"),
        (["parts", 0, "page"], "../x.html", "audit.parts.0: names a file outside of"),
    ],
)
def test_what_breaks_the_contract_is_one_line_that_names_the_place(copy, place, value, problem):
    edit_values(copy, lambda values: put(values, place, value))
    with pytest.raises(InputError) as caught:
        read_audit(copy)
    text = str(caught.value)
    assert problem in text
    assert str(copy / "audit.json") in text
    assert text.endswith("run `fieldmark audit` again")
    assert "\n" not in text


@pytest.mark.parametrize("missing", ["model", "encoders", "dataset", "images", "margin", "verdict"])
def test_a_missing_field_is_named(copy, missing):
    edit_values(copy, lambda values: values.pop(missing))
    with pytest.raises(InputError, match=f"audit.json: {missing}: Field required"):
        read_audit(copy)


def test_infinity_is_no_figure(copy):
    text = (copy / "audit.json").read_text().replace('"seconds": 412.5', '"seconds": Infinity')
    (copy / "audit.json").write_text(text)
    with pytest.raises(InputError, match="seconds: Value error, is infinite"):
        read_audit(copy)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema": 2}', "null", "\x00"])
def test_a_damaged_record_is_refused(tmp_path, text):
    (tmp_path / "audit.json").write_text(text)
    with pytest.raises(InputError, match="run `fieldmark audit` again"):
        read_audit(tmp_path)


def test_a_link_out_of_the_directory_is_refused(copy, tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (copy / "pictures").mkdir()
    (copy / "pictures" / "a.jpg").symlink_to(tmp_path / "secret.jpg")
    edit_values(copy, lambda values: put(values, ["telling", 0, "picture", "src"],
                                         "pictures/a.jpg"))  # fmt: skip
    with pytest.raises(InputError, match="outside"):
        read_audit(copy)


@settings(max_examples=40, deadline=None)
@given(st.text())
def test_a_cleaned_text_is_one_line_that_turns_nothing(text):
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    assert len(cleaned.splitlines()) <= 1
    assert not any("\u202a" <= one <= "\u202e" or "\u2066" <= one <= "\u2069" for one in cleaned)


@pytest.mark.parametrize("text", ["a  b", "x \\\n  --out 'my  dir'", "\N{CAT FACE}"])
def test_a_command_is_kept_to_the_letter(text):
    assert clean_command(text) == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=4), below),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_stands_in_a_field_only_our_own_error_comes_out(sample, data, tmp_path_factory):
    values = json.loads((sample / "audit.json").read_text())
    values[data.draw(st.sampled_from(sorted(values)))] = data.draw(JSON)
    out = tmp_path_factory.mktemp("odd")
    (out / "audit.json").write_text(json.dumps(values))
    with contextlib.suppress(InputError):
        assert read_audit(out).encoders
        assert write_audit_markdown(out).read_text().startswith("# ")
        assert "</html>" in write_audit_page(out).read_text()
