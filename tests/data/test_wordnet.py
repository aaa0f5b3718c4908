"""The reader against a hand-written extract in the format of wndb(5WN), worked by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from fieldmark.core.errors import InputError
from fieldmark.data.wordnet import (
    compare_names,
    compare_synsets,
    count_steps,
    fetch_wordnet,
    find_synsets,
    measure_depth,
    read_wordnet,
    trace_hypernyms,
)

# name -> (lemmas, parents); one root, a class with two parents, an instance, one loose root.
SYNSETS = {
    10: (("entity",), ()),
    20: (("animal",), (10,)),
    30: (("machine",), (10,)),
    40: (("ape",), (20,)),
    50: (("lesser_ape",), (40,)),
    60: (("siamang",), (50,)),
    70: (("great_ape",), (40,)),
    80: (("chimpanzee", "chimp"), (70,)),
    90: (("crane", "Wading_Bird"), (20,)),
    100: (("crane", "hoist"), (30,)),
    110: (("robot_ape",), (40, 30)),
    120: (("Koko",), (70,)),
    130: (("loose_end",), ()),
    140: (("wolf",), (20,)),
}


def write_extract(folder: Path) -> Path:
    lines = ["  1 a line of the licence  "]
    senses: dict[str, list[int]] = {}
    for offset, (words, parents) in SYNSETS.items():
        symbol = "@i" if words == ("Koko",) else "@"
        pointers = "".join(f" {symbol} {parent:08d} n 0000" for parent in parents)
        listed = " ".join(f"{word} 0" for word in words)
        count = f"{len(parents) + 1:03d}"
        # A pointer to a verb is no hypernym.
        lines.append(
            f"{offset:08d} 03 n {len(words):02x} {listed} {count}{pointers} + 00000020 v 0000 "
            "| a gloss | with a bar  "
        )
        for word in words:
            senses.setdefault(word.lower(), []).append(offset)
    (folder / "data.noun").write_text("\n".join(lines) + "\n")
    index = [
        f"{lemma} n {len(found)} 1 @ {len(found)} 0 " + " ".join(f"{o:08d}" for o in found) + "  "
        for lemma, found in sorted(senses.items())
    ]
    (folder / "index.noun").write_text("\n".join(index) + "\n")
    (folder / "noun.exc").write_text("wolves wolf\n")
    return folder


@pytest.fixture
def wordnet(tmp_path):
    return read_wordnet(write_extract(tmp_path))


def test_senses_hypernyms_and_depths_of_the_extract(wordnet):
    assert wordnet.words[80] == ("chimpanzee", "chimp")
    assert wordnet.parents[120] == (70,)
    assert trace_hypernyms(wordnet, 110) == [(10, 20, 40, 110), (10, 30, 110)]
    assert [measure_depth(wordnet, synset) for synset in (10, 40, 60, 110)] == [1, 3, 5, 4]


@pytest.mark.parametrize(
    ("name", "synsets"),
    [
        ("Great Ape", (70,)),
        ("great-apes", (70,)),
        ("great_ape", (70,)),
        ("WOLVES", (140,)),
        ("chimpanzees", (80,)),
        ("crane", (90, 100)),
        ("crane, hoist", (100,)),
        ("crane, of some maker", (90, 100)),
        ("n00000090", (90,)),
        ("n00000091", ()),
        ("yeti", ()),
        ("", ()),
    ],
)
def test_a_name_is_found_by_its_spelling_plural_synonyms_or_id(wordnet, name, synsets):
    assert find_synsets(wordnet, name) == synsets


def test_wu_palmer_and_steps_by_hand(wordnet):
    # Common hypernym ape, depth 3, two steps from either.
    assert compare_synsets(wordnet, 60, 80) == pytest.approx(2 * 3 / (2 + 2 + 2 * 3))
    assert count_steps(wordnet, 60, 80) == 2
    # Through animal (depth 2) although entity joins them too.
    assert compare_synsets(wordnet, 60, 90) == pytest.approx(2 * 2 / (3 + 1 + 2 * 2))
    assert math.isnan(compare_synsets(wordnet, 60, 130))
    assert math.isnan(count_steps(wordnet, 60, 130))
    # The nearer of two parents counts.
    assert count_steps(wordnet, 110, 100) == 1


def test_names_are_compared_by_their_closest_senses_and_unknown_ones_are_nan(wordnet):
    names = ["siamang", "chimp", "crane", "hoist", "yeti"]
    similarity, steps = compare_names(wordnet, names)
    assert similarity[2, 3] == 1
    assert steps[2, 3] == 0
    assert np.isnan(similarity[4]).all()
    assert np.isnan(steps[:, 4]).all()
    known = similarity[:4, :4]
    assert (known == known.T).all()
    assert (np.diag(known) == 1).all()
    assert ((known > 0) & (known <= 1)).all()


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("data.noun", "00000200 03 n 01 broken 0 002 @ 00000010 n 0000 | too few pointers"),
        ("data.noun", "what is this"),
        ("index.noun", "broken n 2 1 @ 2 0 00000010"),
        ("index.noun", "broken n 1 1 @ 1 0 00009999"),
    ],
)
def test_a_bad_line_is_named_with_file_and_number(tmp_path, file, line):
    write_extract(tmp_path)
    text = (tmp_path / file).read_text() + line + "\n"
    (tmp_path / file).write_text(text)
    number = len(text.splitlines())
    with pytest.raises(InputError, match=rf"{file}, line {number}: is not a line of WordNet"):
        read_wordnet(tmp_path)


def test_bytes_that_are_no_text_are_one_clear_line(tmp_path):
    write_extract(tmp_path)
    (tmp_path / "index.noun").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"index.noun: cannot be read \(it is not text\)"):
        read_wordnet(tmp_path)


@pytest.mark.network
def test_debians_package_knows_imagenets_classes():
    from timm.data import ImageNetInfo

    wordnet = fetch_wordnet()
    info = ImageNetInfo()
    ids = [int(info.index_to_label_name(place)[1:]) for place in range(1000)]
    found = [find_synsets(wordnet, info.index_to_description(place)) for place in range(1000)]
    assert all(own in synsets for own, synsets in zip(ids, found, strict=True))
    similarity, steps = compare_names(wordnet, ["siamang", "chimpanzee", "cat", "airplane"])
    assert similarity[0, 1] == pytest.approx(0.875)
    assert steps[0, 1] == 2
    assert similarity[2, 3] < 0.7
