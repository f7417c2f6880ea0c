"""Words with times, from tokens with times: grouping and clean-up as in openai/whisper `tokenizer.py`, `timing.py`."""

import string
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from workers.models.transcript import Word

UNSPACED_LANGUAGES: Final = frozenset({"zh", "ja", "th", "lo", "my", "yue"})  # here a character is a word
LEADING_MARKS: Final = "\"'“¿([{-"  # part of the word that follows
TRAILING_MARKS: Final = "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001 (part of the word before)
SENTENCE_ENDS: Final = ".。!！?？"  # noqa: RUF001
LONGEST_MEDIAN: Final = 0.7  # seconds; words beside the end of a sentence are at most twice the median, or this
INCOMPLETE: Final = "\ufffd"  # what bytes that are no whole character decode to

Decode = Callable[[list[int]], str]


def timed_words(
    tokens: Sequence[int],
    times: Sequence[float],
    probabilities: Sequence[float],
    decode: Decode,
    language: str,
    seconds: float,
) -> tuple[Word, ...]:
    """Return the words of a window that lasts `seconds`, in order, punctuation with the word it belongs to.

    `tokens` are of the text only; `times` are the start of each in seconds and the end of the last, hence one more;
    `decode` makes text of tokens. Whole words take the mean probability of their tokens.
    """
    words, first = [], 0
    for group in _words_of(tokens, decode, language):
        after = first + len(group)
        sure = float(np.mean(probabilities[first:after]))
        words.append(Word(decode(group), float(times[first]), float(times[after]), sure))
        first = after
    texts = _with_punctuation([word.word for word in words])
    pairs = zip(texts, _without_long_pauses(words), strict=True)
    return tuple(_inside(replace(word, word=text.strip()), seconds) for text, word in pairs if text.strip())


def _words_of(tokens: Sequence[int], decode: Decode, language: str) -> list[list[int]]:
    """Group tokens to words: at spaces and punctuation, or at every character where a language has no spaces."""
    characters = _characters_of(tokens, decode)
    if language in UNSPACED_LANGUAGES:
        return characters
    words: list[list[int]] = []
    for group in characters:
        text = decode(group)
        if not words or text.startswith(" ") or text.strip() in string.punctuation:
            words.append(list(group))
        else:
            words[-1].extend(group)
    return words


def _characters_of(tokens: Sequence[int], decode: Decode) -> list[list[int]]:
    """Group tokens to whole characters: one character's bytes may be spread over several tokens."""
    whole = decode(list(tokens))
    groups: list[list[int]] = []
    current: list[int] = []
    offset = 0
    for token in tokens:
        current.append(token)
        text = decode(current)
        broken = text.find(INCOMPLETE)
        # The model may also have written the replacement character itself.
        if broken < 0 or whole[offset + broken : offset + broken + 1] == INCOMPLETE:
            groups.append(current)
            offset += len(text)
            current = []
    return [*groups, current] if current else groups


def _with_punctuation(texts: Sequence[str]) -> list[str]:
    """Move marks into the word they belong to; a mark that was moved leaves an empty text."""
    merged = list(texts)
    after = len(merged) - 1
    for at in range(len(merged) - 2, -1, -1):
        if merged[at].startswith(" ") and merged[at].strip() in LEADING_MARKS:
            merged[after], merged[at] = merged[at] + merged[after], ""
        else:
            after = at
    before = 0
    for at in range(1, len(merged)):
        if not merged[before].endswith(" ") and merged[at] in TRAILING_MARKS:
            merged[before], merged[at] = merged[before] + merged[at], ""
        else:
            before = at
    return merged


def _without_long_pauses(words: Sequence[Word]) -> list[Word]:
    """Shorten words beside the end of a sentence, which swallow the pause there, to twice the median duration."""
    durations = [word.end - word.start for word in words if word.end != word.start]
    longest = 2 * min(LONGEST_MEDIAN, float(np.median(durations)) if durations else 0.0)
    short = list(words)
    for at in range(1, len(short)):
        word = short[at]
        if durations and word.end - word.start > longest:
            if word.word in SENTENCE_ENDS:
                short[at] = replace(word, end=word.start + longest)
            elif short[at - 1].word in SENTENCE_ENDS:
                short[at] = replace(word, start=word.end - longest)
    return short


def _inside(word: Word, seconds: float) -> Word:
    end = min(word.end, seconds)
    return replace(word, start=min(word.start, end), end=end)
