"""Every message is one line that says where, what and how to mend it."""

from __future__ import annotations

import inspect

import pytest

from fieldmark.core import errors
from fieldmark.core.registry import look_up


def test_the_drawn_tree_is_the_real_one():
    drawn = [line for line in (errors.__doc__ or "").splitlines() if "Error" in line]
    names = {
        line.replace("│", "").replace("├──", "").replace("└──", "").split()[0] for line in drawn
    }
    real = {
        name for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, errors.FieldmarkError)
    }  # fmt: skip
    assert names == real


def test_messages_are_one_line():
    error = errors.InputError("two\n lines", where="a.csv, row 3", mend="write one")
    assert str(error) == "a.csv, row 3: two lines; write one"


def test_unknown_names_list_the_known_ones():
    with pytest.raises(errors.UnknownNameError) as caught:
        look_up({"zero-shot": 1, "dfr": 2}, "zeroshot", kind="head")
    expected = "unknown head 'zeroshot'; did you mean zero-shot? known: dfr, zero-shot"
    assert str(caught.value) == expected
    assert caught.value.exit_code == 2
