from __future__ import annotations

import numpy as np
import pytest
import torch

from fieldmark.core.errors import InputError, UsageError
from fieldmark.discovery.members import check_vocabulary, find_words
from fieldmark.discovery.vocabulary import LONGEST, embed_vocabulary, read_vocabulary
from fieldmark.models.prompts import ensemble_prompts
from fieldmark.testing import FakeEncoder


class Counting(FakeEncoder):
    """The fake encoder, keeping every text that it embeds."""

    def __init__(self):
        super().__init__()
        self.texts: list[str] = []

    def encode_text(self, texts):
        self.texts += texts
        return super().encode_text(texts)


def test_the_own_list_is_clean_and_covers_what_regions_show():
    words = read_vocabulary()
    assert 400 <= len(words) <= 600
    assert len(set(words)) == len(words)
    for word in words:
        assert word == " ".join(word.split()) != ""
        assert word.isprintable()
        assert word.isascii()
    assert {"grass", "red rectangle", "written word", "water", "texture", "snow"} <= set(words)


def test_a_users_list_is_read_without_blanks_and_repeats(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeffgrass\r\n\r\n  red \t square \r\ngrass\nCafé\nred square\n".encode())
    assert read_vocabulary(path) == ("grass", "red square", "Café")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"words.txt: holds no word; write one word or phrase a line"),
        (b"\n \n\t\n", r"words.txt: holds no word"),
        (b"grass\nsn\0ow\n", r"words.txt, line 2: is no word \(it holds a NUL byte\)"),
        (b"grass\x07\n", r"line 1: is no word \(it holds a character that cannot be printed\)"),
        (b"\xff\xfe\x00g", r"words cannot be read \(it is not UTF-8 text\)"),
        (b"a" * (LONGEST + 1), r"line 1: is no word \(longer than 200 characters\)"),
    ],
)
def test_a_file_that_holds_no_words_is_one_clear_line(tmp_path, content, message):
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        read_vocabulary(path)
    assert "\n" not in str(raised.value)


def test_no_such_file_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match=r"words cannot be read \(No such file or directory\)"):
        read_vocabulary(tmp_path / "nowhere.txt")


def test_words_are_embedded_by_all_templates_and_found_again_by_what_they_say():
    encoder = FakeEncoder()
    words = ("red on blue", "green", "white on black")
    vocabulary = embed_vocabulary(encoder, words, templates=("{}", "{} on red"))
    expected = ensemble_prompts(encoder, words, ("{}", "{} on red")).numpy()
    np.testing.assert_allclose(np.asarray(vocabulary.embeddings), expected, atol=1e-6)
    checked = check_vocabulary(vocabulary, width=6)
    image = torch.zeros(1, 3, 8, 8)
    image[:, 1, 2:6, 2:6] = 1
    region = encoder.encode_image(image).detach().numpy()[0]
    assert find_words(region, checked, count=1)[0].word == "green"


def test_words_are_kept_on_disk_by_word_templates_and_weights(tmp_path):
    encoder = Counting()
    first = embed_vocabulary(encoder, ("red", "green"), templates=("{}",), cache=tmp_path)
    encoder.texts.clear()
    more = embed_vocabulary(encoder, ("green", "blue", "red"), templates=("{}",), cache=tmp_path)
    assert encoder.texts == ["blue"]
    known = np.asarray(first.embeddings)
    assert np.asarray(more.embeddings)[[2, 0]].tolist() == known.tolist()
    embed_vocabulary(encoder, ("red",), templates=("a {}",), cache=tmp_path)
    assert encoder.texts == ["blue", "a red"]
    other = Counting()
    with torch.no_grad():
        other.image_tower.mix.weight += 1
    embed_vocabulary(other, ("red",), templates=("{}",), cache=tmp_path)
    assert other.texts == ["red"]


def test_no_word_and_no_template_are_refused():
    with pytest.raises(UsageError, match="a vocabulary needs a word and a template"):
        embed_vocabulary(FakeEncoder(), ())
    with pytest.raises(UsageError, match="a vocabulary needs a word and a template"):
        embed_vocabulary(FakeEncoder(), ("red",), templates=())


def test_a_word_whose_embedding_is_not_finite_is_named_faked():
    """The fake encoder is made to give NaN for one word, as overflowing half weights do."""

    class Overflowing(FakeEncoder):
        def encode_text(self, texts):
            rows = super().encode_text(texts)
            rows[[text == "green" for text in texts]] = torch.nan
            return rows

    with pytest.raises(InputError, match="the word 'green' has an embedding that is not finite"):
        embed_vocabulary(Overflowing(), ("red", "green"), templates=("{}",))
