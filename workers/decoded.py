"""What decoding gives: the header's facts, blocks of samples, and how it ended."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from workers.decode_settings import LOWEST_RATE, DecodeLimits

BLOCK_FRAMES: Final = 1 << 16  # frames a block on the way in: 1.4 s at 48 kHz

Block = Sequence[np.ndarray]
"""Some samples of every channel: as many float32 arrays in [-1, 1) as channels, each of shape (frames,)."""

Blocks = Iterator[Block]
"""Consecutive blocks of at most about BLOCK_FRAMES frames."""


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What a recording is, as far as its header can be believed.

    `declared_seconds` is what the header says of this track, None where it says nothing of it; `counts_samples` tells
    that this is a number of samples, and not rounded to frames or to milliseconds.
    """

    container: str
    codec: str
    sample_rate: int
    channels: int
    declared_seconds: float | None
    decoder: str
    counts_samples: bool = False


@dataclass(frozen=True, slots=True)
class Ending:
    """How the decoding of a recording ended: seconds decoded, and what damage ended it early, if any did."""

    decoded_seconds: float
    damage: str | None


class Sink(Protocol):
    """Who takes what a decoder finds, in this order: opened once, samples any number of times."""

    def opened(self, info: AudioInfo) -> None:
        """Take the header's facts."""

    def samples(self, pcm: np.ndarray) -> None:
        """Take the next int16 samples, shape (n,) of one channel, or (n, channels) where each is kept."""


class DecodeError(Exception):
    """The recording cannot be decoded; `code` is one of schemas.failures.CODES. Make it a failure row."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


class Damage(Exception):
    """Decoding broke off after some audio."""


class Holes(Damage):
    """Some audio on the way is missing or wrong; what follows it was decoded."""


def check_header(info: AudioInfo, limits: DecodeLimits) -> None:
    """Raise DecodeError where a header alone says that a limit is passed; called before a block is allocated."""
    if info.channels > limits.max_channels:
        raise DecodeError(
            "limit_channels", f"{info.channels} channels; limits.max_channels allows {limits.max_channels}"
        )
    if not LOWEST_RATE <= info.sample_rate <= limits.max_rate:
        raise DecodeError(
            "limit_rate", f"{info.sample_rate} Hz; allowed are {LOWEST_RATE} Hz to limits.max_rate, {limits.max_rate}"
        )
