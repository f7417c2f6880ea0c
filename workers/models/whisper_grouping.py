"""From tokens to words. Source: openai/whisper `tokenizer.py` (splitting) and `timing.py` (punctuation)."""

import string
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from workers.models.transcript import Word

UNSPACED: Final = frozenset({"zh", "ja", "th", "lo", "my", "yue"})  # languages written without spaces
BEFORE_WORD: Final = "\"'“¿([{-"  # belongs to the word that follows it
AFTER_WORD: Final = "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001 - belongs to the word before it
_BROKEN: Final = "\ufffd"  # what part of a character decodes to


def group_tokens(tokenizer: Any, tokens: Sequence[int], language: str) -> list[tuple[str, int]]:
    """Return words, spaces before them kept, with how many tokens each has; punctuation stands alone.

    In languages without spaces a word is the least number of tokens that make whole characters.
    """
    characters = list(_whole_characters(tokenizer, tokens))
    if language in UNSPACED:
        return characters
    words: list[tuple[str, int]] = []
    for text, count in characters:
        if not words or text.startswith(" ") or text.strip() in string.punctuation:
            words.append((text, count))
        else:
            words[-1] = (words[-1][0] + text, words[-1][1] + count)
    return words


def _whole_characters(tokenizer: Any, tokens: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Yield the shortest runs of tokens that decode to whole characters, or to what is broken in the whole text too."""
    whole = tokenizer.decode(tokens)
    offset, pending = 0, list[int]()
    for token in tokens:
        pending.append(token)
        text = tokenizer.decode(pending)
        broken = text.find(_BROKEN)
        if broken < 0 or offset + broken >= len(whole) or whole[offset + broken] == _BROKEN:
            yield text, len(pending)
            offset, pending = offset + len(text), []
    if pending:
        yield tokenizer.decode(pending), len(pending)


def merge_punctuation(words: Sequence[Word]) -> list[Word]:
    """Give punctuation to the word it belongs to; the word's times and probability stay."""
    merged: list[Word] = []
    for word in reversed(words):  # an opening quote goes to the word behind it
        if merged and word.word.startswith(" ") and word.word.strip() in BEFORE_WORD:
            merged[-1] = replace(merged[-1], word=word.word + merged[-1].word)
        else:
            merged.append(word)
    closed: list[Word] = []
    for word in reversed(merged):
        if closed and not closed[-1].word.endswith(" ") and word.word in AFTER_WORD:
            closed[-1] = replace(closed[-1], word=closed[-1].word + word.word)
        else:
            closed.append(word)
    return closed
