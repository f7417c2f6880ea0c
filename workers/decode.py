"""Decoding in this process: bytes in, blocks of mono int16 at the wire's sampling rate out, in flat memory.

soundfile (libsndfile) reads WAV, AIFF, FLAC, MP3 and Ogg Vorbis; PyAV (FFmpeg) reads the rest. FFmpeg is given bytes
only, never a path or URL, with the demuxer pinned from the magic number and nested opens refused. This module is what
the decoder child runs; call it in a process that may die (see workers.decoder).
"""

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, NoReturn, Protocol

import av
import av.error
import numpy as np
import soundfile
import soxr

from workers import container
from workers.container import Container

BLOCK_FRAMES: Final = 1 << 16  # frames a block on the way in: 1.4 s at 48 kHz
LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000  # Hz
INT16_SCALE: Final = 32768.0
SHORT_BY_SECONDS: Final = 0.5  # a header may round; what is missing beyond this is damage
SHORT_BY_FRACTION: Final = 0.02
SHORT_BY_AT_MOST: Final = 5.0  # seconds, of however long a recording
UNKNOWN_LENGTH_BYTES: Final = 0x7FFF_0000  # who writes to a pipe leaves a length near 2 or 4 GiB in the header

FloatBlocks = Iterator[np.ndarray]


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What a recording may be at most: seconds of audio and channels. Checked as it decodes, never from a header."""

    max_seconds: float
    max_channels: int


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What a recording is, as far as its header can be believed."""

    container: str
    codec: str
    sample_rate: int
    channels: int
    declared_seconds: float | None
    decoder: str


@dataclass(frozen=True, slots=True)
class Ending:
    """How the decoding of a recording ended: seconds decoded, and what damage ended it early, if any did."""

    decoded_seconds: float
    damage: str | None


class DecodeError(Exception):
    """The recording cannot be decoded; `code` is one of schemas.failures.CODES. Make it a failure row."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


class Sink(Protocol):
    """Who takes what a decoder finds, in this order: opened once, samples any number of times."""

    def opened(self, info: AudioInfo) -> None:
        """Take the header's facts."""

    def samples(self, pcm: np.ndarray) -> None:
        """Take the next int16 samples, shape (n,), mono."""


class _Damage(Exception):
    """Decoding broke off after some audio."""


def decode(file: BinaryIO, sample_rate: int, limits: DecodeLimits, sink: Sink) -> Ending:
    """Decode `file` to mono int16 at `sample_rate` Hz and hand it to `sink` block by block.

    Channels are averaged, then resampled with soxr HQ (both linear, so the order changes nothing but the cost). What
    decodes before damage is kept; the ending says what the damage was.

    Raises:
        DecodeError: nothing could be decoded, or a limit was passed.
    """
    info, blocks = _open(file, limits)
    _check_header(info, limits)
    sink.opened(info)
    decoded, damage = _pump(info, blocks, sample_rate, limits, sink)
    if decoded == 0:
        raise DecodeError("empty", damage or f"the {info.container} decodes to no samples")
    return Ending(decoded, damage or _missing(info, decoded))


def _open(file: BinaryIO, limits: DecodeLimits) -> tuple[AudioInfo, FloatBlocks]:
    head = file.read(container.HEAD_BYTES)
    file.seek(0)
    if not head:
        raise DecodeError("empty", "the object has 0 bytes")
    kind = container.sniff(head)
    if kind is None:
        raise DecodeError("not_audio", f"no known audio or video format starts with the bytes {head[:8]!r}")
    if not kind.soundfile:
        return _open_av(file, kind)
    try:
        return _open_soundfile(file, kind, limits)
    except soundfile.LibsndfileError as refusal:
        return _second_opinion(file, kind, str(refusal))


def _second_opinion(file: BinaryIO, kind: Container, refusal: str) -> tuple[AudioInfo, FloatBlocks]:
    """Let FFmpeg try what libsndfile does not open: it knows more codecs, and forgives more."""
    file.seek(0)
    try:
        return _open_av(file, kind)
    except DecodeError as error:
        raise DecodeError(error.code, f"{error.message} (libsndfile: {refusal})") from None


def _check_header(info: AudioInfo, limits: DecodeLimits) -> None:
    if info.channels > limits.max_channels:
        raise DecodeError(
            "limit_channels", f"{info.channels} channels; limits.max_channels allows {limits.max_channels}"
        )
    if not LOWEST_RATE <= info.sample_rate <= HIGHEST_RATE:
        raise DecodeError("limit_rate", f"{info.sample_rate} Hz; allowed are {LOWEST_RATE} to {HIGHEST_RATE} Hz")


def _pump(
    info: AudioInfo, blocks: FloatBlocks, sample_rate: int, limits: DecodeLimits, sink: Sink
) -> tuple[float, str | None]:
    """Move all audio from `blocks` to `sink`; return decoded seconds and the damage that ended it, if any."""
    resampler = _resampler(info.sample_rate, sample_rate)
    frames, damage, waiting = 0, None, None  # a block waits until it is known whether it is the last
    try:
        for block in blocks:
            frames += len(block)
            if frames > limits.max_seconds * info.sample_rate:
                raise DecodeError(
                    "limit_seconds", f"longer than {limits.max_seconds:g} s; raise limits.max_seconds to take it"
                )
            if waiting is not None:
                _hand_over(resampler(waiting, False), sink)
            waiting = block
    except _Damage as broken:
        damage = f"damaged after {frames / info.sample_rate:.2f} s: {broken}"
    if waiting is not None:
        _hand_over(resampler(waiting, True), sink)
    return frames / info.sample_rate, damage


def _hand_over(samples: np.ndarray, sink: Sink) -> None:
    if len(samples):
        sink.samples(to_int16(samples))


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Return float samples in [-1, 1) as int16: rounded, clipped, NaN as 0; exact for what was int16 before."""
    scaled = samples * np.float32(INT16_SCALE)
    if not np.isfinite(np.dot(scaled, scaled)):  # one pass of BLAS tells; repair only what needs it
        scaled = np.nan_to_num(scaled, nan=0.0)
    np.rint(scaled, out=scaled)
    return np.clip(scaled, -32768, 32767, out=scaled).astype(np.int16)


def _resampler(source: int, target: int) -> Callable[[np.ndarray, bool], np.ndarray]:
    """Return a function of a block and whether it is the last; a recording of one block needs no stream (faster)."""
    if source == target:
        return lambda block, last: block
    stream: soxr.ResampleStream | None = None

    def resample(block: np.ndarray, last: bool) -> np.ndarray:
        nonlocal stream
        if stream is None and last:
            once: np.ndarray = soxr.resample(block, source, target, quality="HQ")  # bit for bit what the stream gives
            return once
        stream = stream or soxr.ResampleStream(source, target, 1, dtype="float32", quality="HQ")
        chunk: np.ndarray = stream.resample_chunk(block, last=last)
        return chunk

    return resample


def _missing(info: AudioInfo, decoded: float) -> str | None:
    """Say so when much less decoded than the header declared (headers round, so a little less is no damage)."""
    declared = info.declared_seconds
    if declared is None or declared - decoded <= max(
        SHORT_BY_SECONDS, min(SHORT_BY_FRACTION * declared, SHORT_BY_AT_MOST)
    ):
        return None
    return f"the header declares {declared:.2f} s, {decoded:.2f} s decoded: cut short"


def _mono(block: np.ndarray) -> np.ndarray:
    return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)


# libsndfile


def _open_soundfile(file: BinaryIO, kind: Container, limits: DecodeLimits) -> tuple[AudioInfo, FloatBlocks]:
    guessed = kind is container.MP3 and not _mp3_declares_length(file)
    sound = soundfile.SoundFile(file)
    frames = None if guessed else _declared_frames(sound)
    info = AudioInfo(
        container=kind.name,
        codec=sound.subtype.lower(),
        sample_rate=sound.samplerate,
        channels=sound.channels,
        declared_seconds=frames / sound.samplerate if frames else None,
        decoder=f"libsndfile {soundfile.__libsndfile_version__}",
    )
    _check_header(info, limits)  # before the first block is allocated: it is as wide as the header says
    return info, _soundfile_blocks(sound)


def _mp3_declares_length(file: BinaryIO) -> bool:
    """Whether an MP3 starts with a Xing, Info or VBRI frame; without one libsndfile guesses from the first bit rate."""
    start = container.id3_bytes(file.read(container.HEAD_BYTES))
    file.seek(start)
    head = file.read(container.HEAD_BYTES)
    file.seek(0)
    return any(tag in head for tag in (b"Xing", b"Info", b"VBRI"))


_CUT_SHORT: Final = re.compile(r"^ *(?:data|SSND) : (\d+) \(should be (\d+)\)$", re.MULTILINE)


def _declared_frames(sound: soundfile.SoundFile) -> int | None:
    """Return how many frames the header claims, None where it claims none.

    Where the object is shorter than its header says, libsndfile's `frames` is what is there; its log has both sizes.
    """
    if not 0 < sound.frames < 1 << 62:  # libsndfile says 2**63-1 for "unknown"
        return None
    cut = _CUT_SHORT.search(sound.extra_info)
    if cut is None:
        return int(sound.frames)
    claimed, found = int(cut[1]), int(cut[2])
    return sound.frames * claimed // found if claimed < UNKNOWN_LENGTH_BYTES else None


def _soundfile_blocks(sound: soundfile.SoundFile) -> FloatBlocks:
    position = 0
    while True:
        room = np.empty((BLOCK_FRAMES, sound.channels), np.float32)
        try:
            block = sound.read(out=room)
        except soundfile.LibsndfileError as error:
            kept = sound.tell() - position  # of this block, too, what came before the damage is good
            if kept > 0:
                yield _mono(room[:kept])
            raise _Damage(str(error)) from None
        if len(block):
            position += len(block)
            yield _mono(block)
        if len(block) < BLOCK_FRAMES:
            return


# FFmpeg


def _open_av(file: BinaryIO, kind: Container) -> tuple[AudioInfo, FloatBlocks]:
    try:
        source = av.open(
            file,
            mode="r",
            format=kind.demuxer,
            options={"protocol_whitelist": ""},
            io_open=_refuse_nested_open,
            metadata_errors="replace",
        )
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise DecodeError("unreadable", f"not a readable {kind.name}: {error}") from None
    if not source.streams.audio:
        raise DecodeError("no_audio_track", f"the {kind.name} holds no audio track")
    stream = source.streams.audio[0]
    try:
        first = next(frames := _av_frames(source, stream), None)
    except _Damage as broken:
        raise DecodeError("unreadable", f"no frame of the {kind.name} decodes: {broken}") from None
    if first is None:
        raise DecodeError("empty", f"the audio track of the {kind.name} holds no frames")
    info = AudioInfo(
        container=kind.name,
        codec=stream.codec_context.name,
        sample_rate=first.sample_rate,
        channels=len(first.layout.channels),
        declared_seconds=None if kind in _WITHOUT_LENGTH else _declared_seconds(source, stream),
        decoder=f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}",
    )
    return info, _av_blocks(itertools.chain([first], frames), info.sample_rate)


_WITHOUT_LENGTH: Final = (container.AAC_ADTS, container.AMR)  # FFmpeg guesses from the first bit rate


def _refuse_nested_open(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise PermissionError(f"the container asks to open {url!r}; only the object itself is read")


def _declared_seconds(source: "av.container.InputContainer", stream: "av.AudioStream") -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return source.duration / av.time_base if source.duration else None


def _av_frames(source: "av.container.InputContainer", stream: "av.AudioStream") -> "Iterator[av.AudioFrame]":
    """Yield decoded frames; packets that do not decode are passed over, and told of as damage at the end.

    What comes before the first good frame does not count: encoders put odd things there.
    """
    stream.thread_type = "NONE"  # one thread: cores belong to the workers around us
    good = broken = 0
    reason = ""
    try:
        for packet in source.demux(stream):
            try:
                for frame in packet.decode():
                    good += 1
                    yield frame
            except av.error.InvalidDataError as error:
                broken, reason = broken + 1, str(error)
                if not good:
                    broken = 0
    except (av.error.FFmpegError, OSError) as error:
        raise _Damage(str(error)) from None
    if broken or (reason and not good):
        raise _Damage(f"{max(broken, 1)} packets did not decode: {reason}")


def _av_blocks(frames: "Iterator[av.AudioFrame]", sample_rate: int) -> FloatBlocks:
    """Yield mono float32 blocks of about BLOCK_FRAMES; a change of rate within the stream ends it as damage."""
    waiting: list[np.ndarray] = []
    held = 0
    try:
        for frame in frames:
            if frame.sample_rate != sample_rate:
                raise _Damage(f"the sampling rate changes from {sample_rate} to {frame.sample_rate} Hz")
            waiting.append(_frame_samples(frame))
            held += len(waiting[-1])
            if held >= BLOCK_FRAMES:
                yield np.concatenate(waiting)
                waiting, held = [], 0
    except _Damage:
        if waiting:
            yield np.concatenate(waiting)
        raise
    if waiting:
        yield np.concatenate(waiting)


_INTEGER_SCALES: Final = {"u8": 128.0, "s16": 32768.0, "s32": 2147483648.0}


def _frame_samples(frame: "av.AudioFrame") -> np.ndarray:
    """Return a frame as mono float32 in [-1, 1), shape (n,)."""
    array = frame.to_ndarray()
    if not frame.format.is_planar:
        array = array.reshape(-1, len(frame.layout.channels)).T
    scale = _INTEGER_SCALES.get(frame.format.name.removesuffix("p"))
    samples = array.astype(np.float32)
    if scale is not None:
        samples = (samples - (128.0 if scale == 128.0 else 0.0)) / np.float32(scale)
    mono: np.ndarray = samples[0] if len(samples) == 1 else samples.mean(axis=0, dtype=np.float32)
    return mono
