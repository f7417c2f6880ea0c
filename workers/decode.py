"""Decoding in this process: bytes in, blocks of int16 at the wire's sampling rate out, in flat memory.

Formats are told by content; libsndfile reads what it can read, FFmpeg the rest. This module is what the decoder child
runs; call it in a process that may die (see workers.decoder).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import BinaryIO, Final

import numpy as np
import soundfile

from workers import container
from workers.container import Container
from workers.decode_settings import Channels, DecodeLimits, DecodeSettings
from workers.decoded import AudioInfo, Block, Blocks, Damage, DecodeError, Ending, Holes, Sink, check_header
from workers.ffmpeg import open_media
from workers.headerless import RawAudio
from workers.libsndfile import open_sound, tells_its_length
from workers.samples import resampler, to_int16_and_tell
from workers.tags import id3_bytes, without_tail

FLOAT32_BYTES: Final = 4
MOST_TAGS: Final = 4  # ID3v2 tags one behind the other; a sane file has one
SHORT_BY_SAMPLES: Final = 0.1  # seconds that may be missing where the header counts samples
SHORT_BY_ROUNDING: Final = (
    0.2,
    0.1,
    0.5,
)  # elsewhere: seconds and a fraction of the declared, at most seconds, or half
SHORT_BY_GUESS: Final = 0.02, 5.0  # of long recordings, whose bit rate may be a mean: a fraction, and at most seconds


def decode(file: BinaryIO, settings: DecodeSettings, sink: Sink, raw: RawAudio | None = None) -> Ending:
    """Decode `file` to int16 at `settings.sample_rate` Hz and hand it to `sink` block by block.

    Channels are chosen or averaged, then resampled with soxr HQ (both linear, so the order changes nothing but the
    cost). What decodes before damage is kept; the ending says what the damage was. `raw` is what the bytes are if they
    have no header.

    Raises:
        DecodeError: nothing could be decoded, or a limit was passed.
    """
    return move(*_open(file, settings, raw), settings, sink)


def move(info: AudioInfo, blocks: Blocks, settings: DecodeSettings, sink: Sink) -> Ending:
    """Hand an opened recording to `sink`, as `decode` says."""
    pick = _picker(settings.channels, info)
    sink.opened(info)
    outlet = _Outlet(info.sample_rate, settings.sample_rate, sink)
    decoded, damage = _pump(info, blocks, pick, settings.limits, outlet)
    if outlet.samples == 0:
        raise DecodeError("empty", damage or f"the {info.container} decodes to no samples ({decoded:g} s)")
    return Ending(decoded, damage or _missing(info, decoded) or outlet.damage)


def _open(file: BinaryIO, settings: DecodeSettings, raw: RawAudio | None) -> tuple[AudioInfo, Blocks]:
    head, tag = _head(file)
    if not head and not tag:
        raise DecodeError("empty", "the object has 0 bytes")
    kind = container.by_signature(head)
    if kind is None and raw is not None and not tag:
        return open_media(file, raw.container, settings.limits, settings.track, raw.demuxer_options)
    kind = kind or container.by_sync_word(head) or (container.MP3 if tag else container.by_frames(head))
    if kind is None:
        other = container.name_other(head)
        raise DecodeError(
            "not_audio",
            f"no known audio or video format starts with the bytes {head[:8]!r}" + (f": {other}" if other else ""),
        )
    if kind in (container.MP3, container.AAC_ADTS):
        file = without_tail(file)  # FFmpeg would take its pictures for damaged frames
    if not kind.soundfile or (kind is container.MP3 and not _tells_its_length(file)):
        return open_media(file, kind, settings.limits, settings.track, {})
    try:
        info, blocks = open_sound(file, kind, settings.limits)
    except soundfile.LibsndfileError as refusal:
        return _second_opinion(file, kind, settings, refusal.error_string)
    return info, _read_on(file, kind, settings, info, blocks) if kind in _FRAMED else blocks


def _tells_its_length(file: BinaryIO) -> bool:
    try:
        return tells_its_length(file)
    finally:
        file.seek(0)


def _head(file: BinaryIO) -> tuple[bytes, int]:
    """Return the first bytes behind any ID3v2 tags, and how long the tags are."""
    tags = 0
    for _ in range(MOST_TAGS):
        file.seek(tags)
        head = file.read(container.HEAD_BYTES)
        more = id3_bytes(head)
        if not more:
            break
        tags += more
    file.seek(0)
    return head, tags


def _second_opinion(
    file: BinaryIO, kind: Container, settings: DecodeSettings, refusal: str
) -> tuple[AudioInfo, Blocks]:
    """Let FFmpeg try what libsndfile does not open: it knows more codecs, and forgives more."""
    file.seek(0)
    try:
        return open_media(file, kind, settings.limits, settings.track, {})
    except DecodeError as error:
        raise DecodeError(error.code, f"{error.message} (libsndfile: {refusal})") from None


_FRAMED: Final = (container.FLAC, container.MP3)
"""libsndfile reads them, and their frames bear a sync word, so that a decoder finds its way behind a damaged place."""

READ_ON_WITHIN: Final = 2 * 3600  # seconds: what came before is decoded again, in silence, and the parent waits


def _read_on(file: BinaryIO, kind: Container, settings: DecodeSettings, info: AudioInfo, blocks: Blocks) -> Blocks:
    """Yield libsndfile's blocks, and where they break off, FFmpeg's: it goes on behind a damaged place."""
    position = 0
    try:
        for block in blocks:
            position += len(block[0])
            yield block
    except Damage as broken:
        if position > READ_ON_WITHIN * info.sample_rate:
            raise
        file.seek(0)
        try:
            other, more = open_media(file, kind, settings.limits, settings.track, {})
        except DecodeError:
            raise broken from None
        if (other.sample_rate, other.channels) != (info.sample_rate, info.channels):
            raise
        found = position
        for block in _behind(more, position):
            found += len(block[0])
            yield block
        if found == position:
            raise
        raise Holes(f"damaged at {position / info.sample_rate:.2f} s: {broken}") from None


def _behind(blocks: Blocks, position: int) -> Blocks:
    """Yield what comes behind the first `position` frames."""
    passed = 0
    for block in blocks:
        skipped = min(len(block[0]), position - passed)
        passed += skipped
        if skipped < len(block[0]):
            yield [channel[skipped:] for channel in block]


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
