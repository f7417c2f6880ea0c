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
from workers.decoded import AudioInfo, Block, Blocks, Damage, DecodeError, Ending, Sink, check_header
from workers.ffmpeg import open_media
from workers.headerless import RawAudio
from workers.libsndfile import open_sound, tells_its_length
from workers.samples import resampler, to_int16

FLOAT32_BYTES: Final = 4
MOST_TAGS: Final = 4  # ID3v2 tags one behind the other; a sane file has one
SHORT_BY_SECONDS: Final = 0.5  # a header may round; what is missing beyond this is damage
SHORT_BY_FRACTION: Final = 0.02
SHORT_BY_AT_MOST: Final = 5.0  # seconds, of however long a recording


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
    decoded, damage = _pump(info, blocks, pick, settings, sink)
    if decoded == 0:
        raise DecodeError("empty", damage or f"the {info.container} decodes to no samples")
    return Ending(decoded, damage or _missing(info, decoded))


def _open(file: BinaryIO, settings: DecodeSettings, raw: RawAudio | None) -> tuple[AudioInfo, Blocks]:
    head, tag = _head(file)
    if not head and not tag:
        raise DecodeError("empty", "the object has 0 bytes")
    kind = container.by_signature(head)
    if kind is None and raw is not None and not tag:
        return open_media(file, raw.container, settings.limits, settings.track, raw.demuxer_options)
    kind = kind or container.by_sync_word(head) or (container.MP3 if tag else None)
    if kind is None:
        other = container.name_other(head)
        raise DecodeError(
            "not_audio",
            f"no known audio or video format starts with the bytes {head[:8]!r}" + (f": {other}" if other else ""),
        )
    if not kind.soundfile or (kind is container.MP3 and not _tells_its_length(file)):
        return open_media(file, kind, settings.limits, settings.track, {})
    try:
        return open_sound(file, kind, settings.limits)
    except soundfile.LibsndfileError as refusal:
        return _second_opinion(file, kind, settings, refusal.error_string)


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
        more = container.id3_bytes(head)
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


def _pump(
    info: AudioInfo, blocks: Blocks, pick: _Pick, settings: DecodeSettings, sink: Sink
) -> tuple[float, str | None]:
    """Move all audio from `blocks` to `sink`; return decoded seconds and the damage that ended it, if any."""
    resample = resampler(info.sample_rate, settings.sample_rate)
    frames, damage, waiting = 0, None, None  # a block waits until it is known whether it is the last
    try:
        for block in blocks:
            kept = pick(block)
            frames += len(block[0])
            _check_block(block, frames, info, settings.limits)
            if waiting is not None:
                _hand_over(resample(waiting, False), sink)
            waiting = kept
    except Damage as broken:
        damage = f"damaged after {frames / info.sample_rate:.2f} s: {broken}"
    if waiting is not None:
        _hand_over(resample(waiting, True), sink)
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


def _hand_over(samples: np.ndarray, sink: Sink) -> None:
    if len(samples):
        sink.samples(to_int16(samples))


def _missing(info: AudioInfo, decoded: float) -> str | None:
    """Say so when much less decoded than the header declared (headers round, so a little less is no damage)."""
    declared = info.declared_seconds
    if declared is None or declared - decoded <= max(
        SHORT_BY_SECONDS, min(SHORT_BY_FRACTION * declared, SHORT_BY_AT_MOST)
    ):
        return None
    return f"the header declares {declared:.2f} s, {decoded:.2f} s decoded: cut short"
