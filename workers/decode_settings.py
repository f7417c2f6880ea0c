"""How recordings are decoded, and how much of one is allowed."""

from dataclasses import dataclass
from typing import Final, Literal

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000  # Hz
MOST_DECODED_BYTES: Final = 256 << 30  # as float32: two days of eight channels at 48 kHz

Channels = Literal["mono", "left", "right", "each"]
"""What is kept: the mean of all channels, the first, the second, or all of them side by side."""


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What a recording may be at most. Checked as it decodes, never trusted from a header.

    Attributes:
        max_seconds: of audio.
        max_channels: in the object, whichever are kept.
        max_rate: sampling rate in Hz.
        max_decoded_bytes: of all its channels as float32, at its own rate.
    """

    max_seconds: float
    max_channels: int
    max_rate: int = HIGHEST_RATE
    max_decoded_bytes: int = MOST_DECODED_BYTES


@dataclass(frozen=True, slots=True)
class DecodeSettings:
    """How every recording of a run is decoded.

    Attributes:
        sample_rate: Hz, of what comes out.
        limits: what is refused.
        channels: which are kept.
        track: of a container with several audio tracks, the n-th from 0, or the first whose language tag is this.
    """

    sample_rate: int
    limits: DecodeLimits
    channels: Channels = "mono"
    track: int | str = 0
