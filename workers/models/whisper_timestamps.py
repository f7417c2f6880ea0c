"""Whisper's timestamp rules as tensor operations on all rows of a batch, and the segments they make.

Source: openai/whisper `decoding.py`, `ApplyTimestampRules`, and `transcribe.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from workers.models.whisper_tokens import Tokens

TIMESTAMP_SECONDS: Final = 0.02  # from one timestamp token to the next
LATEST_START: Final = 50  # timestamp tokens: the first is at most 1 s
_IMPOSSIBLE: Final = float("-inf")


class TimestampRules:
    """What may follow in each row: timestamps come in pairs around text, and never go back.

    `last_sounds` are seconds, one a row: no row ends before it has written a timestamp as late. That is no rule of
    OpenAI's; with zeros the rules are theirs. State, one a row: whether the last token and the one before it were
    timestamps (no token counts as one), and the last timestamp, -1 before there is one.
    """

    def __init__(self, tokens: Tokens, last_sounds: Sequence[float], device: torch.device) -> None:
        rows = len(last_sounds)
        self._tokens = tokens
        self._started = False
        self._needed = torch.tensor([int(seconds / TIMESTAMP_SECONDS) for seconds in last_sounds], device=device)
        self._last = torch.ones(rows, dtype=torch.bool, device=device)
        self._before = torch.ones(rows, dtype=torch.bool, device=device)
        self._latest = torch.full((rows,), -1, device=device)

    def apply(self, logits: torch.Tensor) -> None:
        """Make what may not follow impossible, in place; logits are (rows, vocabulary) float32."""
        begin = self._tokens.first_timestamp
        text, times = logits[:, :begin], logits[:, begin:]
        text[:, self._tokens.no_timestamps] = _IMPOSSIBLE
        if self._started:
            opened = self._last & ~self._before  # a timestamp behind text: its pair or the end follows
            lowest = torch.where(opened, self._latest, self._latest + 1)
            passed = torch.arange(times.shape[1], device=logits.device) < lowest[:, None]
            times.masked_fill_(passed | (self._last & self._before)[:, None], _IMPOSSIBLE)
            logits[:, : self._tokens.end].masked_fill_(opened[:, None], _IMPOSSIBLE)
            logits[:, self._tokens.end].masked_fill_(self._latest < self._needed, _IMPOSSIBLE)
        else:
            text.fill_(_IMPOSSIBLE)
            times[:, LATEST_START + 1 :] = _IMPOSSIBLE
        # Where all timestamps together are likelier than the likeliest text, it is a timestamp.
        text.masked_fill_((times.logsumexp(-1) > text.amax(-1))[:, None], _IMPOSSIBLE)

    def follow(self, chosen: torch.Tensor) -> None:
        """Take note of the token that each row was given, (rows,)."""
        self._started = True
        is_time = chosen >= self._tokens.first_timestamp
        self._before, self._last = self._last, is_time
        self._latest = torch.where(is_time, chosen - self._tokens.first_timestamp, self._latest)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        kept = torch.tensor(rows, device=self._last.device)
        self._last, self._before = self._last[kept], self._before[kept]
        self._latest, self._needed = self._latest[kept], self._needed[kept]


@dataclass(frozen=True, slots=True)
class Segment:
    """Text between two timestamps: seconds, tokens and the sum of their log-probabilities; `end` is None if cut off."""

    start: float
    end: float | None
    tokens: tuple[int, ...]
    logprob: float


def segments(numbers: Sequence[int], logprobs: Sequence[float], tokens: Tokens) -> list[Segment]:
    """Cut what was decoded with timestamps (without the end token) into its segments; empty ones are left out."""
    found: list[Segment] = []
    start, text, logprob = 0.0, list[int](), 0.0
    for number, sure in zip(numbers, logprobs, strict=False):
        if number < tokens.end:
            text, logprob = [*text, number], logprob + sure
        if number < tokens.first_timestamp:
            continue
        time = (number - tokens.first_timestamp) * TIMESTAMP_SECONDS
        if text:
            found.append(Segment(start, time, tuple(text), logprob))
        start, text, logprob = time, [], 0.0
    return [*found, Segment(start, None, tuple(text), logprob)] if text else found
