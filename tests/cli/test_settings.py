"""Settings from files and words."""

from __future__ import annotations

import pytest

from fieldmark.cli.settings import read_settings
from fieldmark.core.errors import InputError, UsageError
from fieldmark.methods.bap.config import BapConfig


def test_words_win_over_the_file_and_the_file_over_the_preset(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("contexts: 7\nepochs: 2\nscale: [0.5, 0.6]\n")
    settings = read_settings(BapConfig(), file=file, given=["epochs=3", "patience=null"])
    assert (settings.contexts, settings.epochs, settings.scale) == (7, 3, (0.5, 0.6))
    assert settings.batch_size == BapConfig().batch_size


@pytest.mark.parametrize("text", ["[1, 2]", "a: b: c", "\x00"])
def test_a_file_that_is_no_mapping_is_named(tmp_path, text):
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=r"a\.yaml"):
        read_settings(BapConfig(), file=file, given=[])


def test_an_impossible_value_is_named():
    with pytest.raises(UsageError, match="precision = 'int4'"):
        read_settings(BapConfig(), file=None, given=["precision=int4"])
