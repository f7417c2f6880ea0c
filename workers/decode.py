"""Decoding in this process: bytes in, blocks of int16 at the wire's sampling rate out, in flat memory.

This module is what the decoder child runs; call it in a process that may die (see workers.decoder).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import BinaryIO, Final

import numpy as np

from workers.decode_settings import Channels, DecodeLimits, DecodeSettings
from workers.decoded import AudioInfo, Block, Blocks, Damage, DecodeError, Ending, Holes, Sink, check_header
from workers.headerless import RawAudio
from workers.opening import open_recording
from workers.samples import FLOAT32_BYTES, resampler, to_int16_and_tell

SHORT_BY_SAMPLES: Final = 0.1  # seconds that may be missing where the header counts samples
SHORT_BY_ROUNDING: Final = 0.2, 0.1, 0.5  # elsewhere: seconds, a fraction of the declared, and at most; or half of it
SHORT_BY_GUESS: Final = 0.02, 5.0  # of long recordings, whose bit rate may be a mean: a fraction, and at most seconds


def decode(file: BinaryIO, settings: DecodeSettings, sink: Sink, raw: RawAudio | None = None) -> Ending:
    """Decode `file` to int16 at `settings.sample_rate` Hz and hand it to `sink` block by block.

    Channels are chosen or averaged, then resampled with soxr HQ (both linear, so the order changes nothing but the
    cost). What decodes before damage is kept; the ending says what the damage was. `raw` is what the bytes are if they
    have no header.

    Raises:
        DecodeError: nothing could be decoded, or a limit was passed.
    """
    return move(*open_recording(file, settings, raw), settings, sink)


def move(info: AudioInfo, blocks: Blocks, settings: DecodeSettings, sink: Sink) -> Ending:
    """Hand an opened recording to `sink`, as `decode` says."""
    pick = _picker(settings.channels, info)
    sink.opened(info)
    outlet = _Outlet(info.sample_rate, settings.sample_rate, sink)
    decoded, damage = _pump(info, blocks, pick, settings.limits, outlet)
    if outlet.samples == 0:
        raise DecodeError("empty", damage or f"the {info.container} decodes to no samples ({decoded:g} s)")
    return Ending(decoded, damage or _missing(info, decoded) or outlet.damage)


_Pick = Callable[[Block], np.ndarray]
"""Turns a block of n frames into what is kept: shape (n,), or (n, channels) where each channel is."""


def _picker(channels: Channels, info: AudioInfo) -> _Pick:
    if channels == "mono":
        return _mean
    if channels == "each":
        return _same_channels(info.channels)
    wanted = 0 if channels == "left" else 1
    if wanted >= info.channels:
        raise DecodeError("no_channel", "it has one channel; audio.channels: right asks for a second")
    return lambda block: block[min(wanted, len(block) - 1)]


def _mean(block: Block) -> np.ndarray:
    if len(block) == 1:
        return block[0]
    total: np.ndarray = block[0] + block[1]  # numpy's mean over so short an axis takes forty times as long
    for channel in block[2:]:
        total += channel
    total *= np.float32(1 / len(block))
    return total


def _same_channels(count: int) -> _Pick:
    def pick(block: Block) -> np.ndarray:
        if len(block) != count:
            raise Damage(f"the number of channels changes from {count} to {len(block)}")
        return block[0] if count == 1 else np.stack(block, axis=1)

    return pick


class _Outlet:
    """Resamples blocks and hands them to a sink as int16; one waits until it is known whether it is the last."""

    def __init__(self, rate: int, wanted: int, sink: Sink) -> None:
        self._resample, self._sink = resampler(rate, wanted), sink
        self._waiting: np.ndarray | None = None
        self.samples = 0  # handed over
        self.damage: str | None = None

    def put(self, block: np.ndarray) -> None:
        """Take the next block."""
        if self._waiting is not None:
            self._hand_over(self._resample(self._waiting, False))
        self._waiting = block

    def finish(self) -> None:
        """Hand over what is left."""
        if self._waiting is not None:
            self._hand_over(self._resample(self._waiting, True))

    def _hand_over(self, samples: np.ndarray) -> None:
        if not len(samples):
            return
        pcm, finite = to_int16_and_tell(samples)
        if not finite:
            self.damage = "some of its samples are infinite or no numbers, and were not heard as they are"
        self.samples += len(samples)
        self._sink.samples(pcm)


def _pump(
    info: AudioInfo, blocks: Blocks, pick: _Pick, limits: DecodeLimits, outlet: _Outlet
) -> tuple[float, str | None]:
    """Move all audio from `blocks` to `outlet`; return decoded seconds and the damage that ended it, if any."""
    frames, damage = 0, None
    try:
        for block in blocks:
            kept = pick(block)
            frames += len(block[0])
            _check_block(block, frames, info, limits)
            outlet.put(kept)
    except Holes as holes:
        damage = str(holes)
    except Damage as broken:
        damage = f"damaged after {frames / info.sample_rate:.2f} s: {broken}"
    outlet.finish()
    return frames / info.sample_rate, damage


def _check_block(block: Block, frames: int, info: AudioInfo, limits: DecodeLimits) -> None:
    """Raise DecodeError where a limit is passed by a block, `frames` in all, whatever the header said."""
    if len(block) != info.channels:  # as broadcasts do; the header's own number was checked before
        check_header(replace(info, channels=len(block)), limits)
    if frames > limits.max_seconds * info.sample_rate:
        raise DecodeError("limit_seconds", f"longer than {limits.max_seconds:g} s; raise limits.max_seconds to take it")
    if frames * info.channels * FLOAT32_BYTES > limits.max_decoded_bytes:
        raise DecodeError(
            "limit_decoded",
            f"{info.channels} channels at {info.sample_rate} Hz decode to more than limits.max_decoded_bytes, "
            f"{limits.max_decoded_bytes}",
        )


def _missing(info: AudioInfo, decoded: float) -> str | None:
    """Say so when less decoded than the header declared, and rounding does not explain it."""
    declared = info.declared_seconds
    if declared is None or declared - decoded <= _rounding(info, declared):
        return None
    why = "cut short" if info.counts_samples else "cut short, or with gaps"
    return f"the header declares {declared:.2f} s, {decoded:.2f} s decoded: {why}"


def _rounding(info: AudioInfo, declared: float) -> float:
    """Return how many seconds may be missing of a whole recording: codecs count frames, and some headers guess."""
    if info.counts_samples:
        return SHORT_BY_SAMPLES
    seconds, fraction, most = SHORT_BY_ROUNDING
    guessed, most_guessed = SHORT_BY_GUESS
    rounded = min(seconds + fraction * declared, most, declared / 2)
    return max(rounded, min(guessed * declared, most_guessed))
