"""WAV files as most are, read without a decoder: 16-bit PCM and G.711 behind a header in order.

A view of bytes that are already in memory can neither crash nor hang nor take more memory than they have, so it needs
no child process, and costs less than handing them to one. Whatever is out of the ordinary (another width or codec, a
length that is not true, a chunk that does not fit) is nobody's here and goes to the child, which tells what it is.
"""

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np

from workers.decode_settings import DecodeLimits
from workers.decoded import AudioInfo, Blocks, check_header

DECODER: Final = "phonolake wav"
MOST_BYTES: Final = 16 << 20  # of an object; longer ones stream out of the child
BLOCK_FRAMES: Final = 1 << 18
PCM, A_LAW, MU_LAW, EXTENSIBLE = 1, 6, 7, 0xFFFE  # format tags
_CODECS: Final = {PCM: ("pcm_16", 2), A_LAW: ("alaw", 1), MU_LAW: ("ulaw", 1)}  # libsndfile's names, bytes a sample
_SUBFORMAT_TAIL: Final = bytes.fromhex("000000001000800000aa00389b71")  # of a GUID whose first two bytes are a tag
_FMT: Final = struct.Struct("<HHIIHH")


@dataclass(frozen=True, slots=True)
class PlainWav:
    """Where the samples of a plain WAV file are, and what they are."""

    tag: int
    channels: int
    sample_rate: int
    start: int
    n_bytes: int

    @property
    def frames(self) -> int:
        """Samples of each channel."""
        return self.n_bytes // (_CODECS[self.tag][1] * self.channels)

    def samples_at(self, rate: int) -> float:
        """Return how many samples all channels have at another sampling rate, Hz."""
        return self.frames * self.channels * rate / max(self.sample_rate, 1)


def plain_wav(content: bytes) -> PlainWav | None:
    """Return what a plain WAV file holds; None for everything else."""
    if len(content) > MOST_BYTES or content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return None
    form, position = None, 12
    while position + 8 <= len(content):
        name, size = content[position : position + 4], int.from_bytes(content[position + 4 : position + 8], "little")
        start = position + 8
        if start + size > len(content):
            return None
        if name == b"data":
            return _told(form, start, size)
        if name == b"fmt ":
            if form is not None:
                return None
            form = content[start : start + size]
        position = start + size + size % 2
    return None


def _told(form: bytes | None, start: int, size: int) -> PlainWav | None:
    if form is None or len(form) < _FMT.size:
        return None
    tag, channels, rate, _, align, bits = _FMT.unpack_from(form)
    if tag == EXTENSIBLE:
        if len(form) != 40 or form[26:] != _SUBFORMAT_TAIL:
            return None
        tag = int.from_bytes(form[24:26], "little")
    _, width = _CODECS.get(tag, ("", 0))
    if not width or not channels or bits != 8 * width or align != channels * width or not size or size % align:
        return None
    return PlainWav(tag, channels, rate, start, size)


def open_plain(content: bytes, wav: PlainWav, limits: DecodeLimits) -> tuple[AudioInfo, Blocks]:
    """Return a plain WAV file's facts and its samples.

    Raises:
        DecodeError: a limit is passed by what the header says.
    """
    info = AudioInfo(
        container="wav",
        codec=_CODECS[wav.tag][0],
        sample_rate=wav.sample_rate,
        channels=wav.channels,
        declared_seconds=wav.frames / wav.sample_rate if wav.sample_rate else None,
        decoder=DECODER,
        counts_samples=True,
    )
    check_header(info, limits)
    return info, _blocks(content, wav)


def _blocks(content: bytes, wav: PlainWav) -> Blocks:
    kind: np.dtype[Any] = np.dtype("<i2") if wav.tag == PCM else np.dtype(np.uint8)
    samples = np.frombuffer(content, kind, wav.n_bytes // kind.itemsize, wav.start).reshape(-1, wav.channels)
    for first in range(0, wav.frames, BLOCK_FRAMES):
        block = samples[first : first + BLOCK_FRAMES]
        if wav.tag == PCM:
            yield list(np.multiply(block, np.float32(1 / 32768), dtype=np.float32).T)
        else:
            yield list(_expanded(wav.tag).take(block).T)  # a fifth faster, resampling included, than an index


@lru_cache
def _expanded(tag: int) -> np.ndarray:
    """Return the 256 values of G.711 (ITU-T G.191's ulaw_expand and alaw_expand), float32 in [-1, 1)."""
    codes = np.arange(256)
    inverted = ~codes & 0xFF if tag == MU_LAW else codes ^ 0x55
    exponent, mantissa = inverted >> 4 & 7, inverted & 15
    if tag == MU_LAW:
        size = ((mantissa << 3) + 132 << exponent) - 132
        negative = inverted >= 128
    else:
        size = np.where(exponent == 0, (mantissa << 4) + 8, (mantissa << 4) + 264 << np.maximum(exponent - 1, 0))
        negative = inverted < 128
    values: np.ndarray = (np.where(negative, -size, size) / 32768).astype(np.float32)
    return values
