"""Aligning a known text to sound: which letters a CTC vocabulary has of it, and when each word was said.

The path is torchaudio's `forced_align` (Viterbi over the CTC lattice); what is ours is how text becomes labels.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import torch
import torchaudio.functional as F

MOST_CELLS: Final = 1 << 30  # frames times letters; the search keeps a byte or two of each


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What the labels of a CTC model stand for.

    Attributes:
        labels: the number of each letter.
        blank: the number of the blank.
        delimiter: the number of what stands between words; None where nothing does.
    """

    labels: Mapping[str, int]
    blank: int
    delimiter: int | None

    def numbers(self, word: str) -> list[int]:
        """Return the labels of a word's letters, in the vocabulary's case; what it has no label for is left out."""
        found: list[int] = []
        for letter in unicodedata.normalize("NFKC", word):
            found += self._number(letter)
        return found

    def _number(self, letter: str) -> list[int]:
        """A letter as it is, in the other case, or without its accents."""
        plain = unicodedata.normalize("NFD", letter)[:1]
        for form in (letter, letter.upper(), letter.lower(), plain, plain.upper(), plain.lower()):
            number = self.labels.get(form)
            if number is not None and number not in (self.blank, self.delimiter):
                return [number]
        return []


@dataclass(frozen=True, slots=True)
class AlignedWord:
    """A word of the text: its first frame, the frame behind its last, and the mean probability of its letters.

    All three are None where the vocabulary has none of its letters, as of "1984" or "--".
    """

    word: str
    first: int | None
    end: int | None
    probability: float | None


def align(log_probs: np.ndarray, text: str, vocabulary: Vocabulary) -> list[AlignedWord]:
    """Return the words of a text, as it has them, with their frames in log-probabilities, shape (frames, labels).

    Raises:
        ValueError: the text has more letters than the sound has frames, or both are too long.
    """
    words = text.split()
    spelled = [vocabulary.numbers(word) for word in words]
    targets = _targets(spelled, vocabulary.delimiter)
    if not targets:
        return [AlignedWord(word, None, None, None) for word in words]
    repeats = sum(a == b for a, b in pairwise(targets))
    if len(targets) + repeats > len(log_probs):
        raise ValueError(
            f"the reference has {len(targets)} letters, more than fit in {len(log_probs)} frames of sound; is it the "
            "text of another recording?"
        )
    if len(log_probs) * len(targets) > MOST_CELLS:
        raise ValueError(
            f"a reference of {len(targets)} letters over {len(log_probs)} frames is too much to align at once; cut the "
            "recording and its text"
        )
    spans = iter(_spans(log_probs, targets, vocabulary.blank))
    found = []
    for position, (word, numbers) in enumerate(zip(words, spelled, strict=True)):
        if numbers and vocabulary.delimiter is not None and any(spelled[:position]):
            next(spans)
        found.append(_word(word, [next(spans) for _ in numbers]))
    return found


def _targets(spelled: Sequence[Sequence[int]], delimiter: int | None) -> list[int]:
    targets: list[int] = []
    for numbers in spelled:
        if numbers and targets and delimiter is not None:
            targets.append(delimiter)
        targets += numbers
    return targets


def _spans(log_probs: np.ndarray, targets: Sequence[int], blank: int) -> list[Any]:
    """Return one span of frames for each target, with the mean probability of its label in them."""
    emissions = torch.from_numpy(np.ascontiguousarray(log_probs, np.float32))[None]
    path, scores = F.forced_align(emissions, torch.tensor([list(targets)]), blank=blank)
    spans: list[Any] = F.merge_tokens(path[0], scores[0].exp(), blank=blank)
    return spans


def _word(word: str, spans: Sequence[Any]) -> AlignedWord:
    if not spans:
        return AlignedWord(word, None, None, None)
    frames = sum(len(span) for span in spans)
    probability = sum(span.score * len(span) for span in spans) / frames
    return AlignedWord(word, spans[0].start, spans[-1].end, float(probability))
