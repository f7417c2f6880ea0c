"""Reading with FFmpeg through PyAV: every container and codec that libsndfile does not know.

FFmpeg is given bytes only, never a path or a URL; the demuxer is pinned from the magic number; nested opens (playlists,
external references) are refused, and so is every protocol.
"""

import itertools
from collections.abc import Iterator
from typing import BinaryIO, Final, NoReturn

import av
import av.error
import numpy as np
from av.stream import Discard

from workers import container
from workers.container import Container
from workers.decode_settings import DecodeLimits
from workers.decoded import BLOCK_FRAMES, AudioInfo, Block, Blocks, Damage, DecodeError, check_header
from workers.media_length import GUESSED_LENGTH, asf_seconds, caf_excess, declared_seconds, shared_length
from workers.packets import decoded_frames

MOST_STRETCH: Final = 16  # between two rates of a stream: beyond, frames become as long as they like, and so do filters
MOST_RATE_CHANGES: Final = 256  # in a stream: each makes a filter, which takes milliseconds
_ENCRYPTED: Final = frozenset({"drms", "enca", "aavd"})
"""What MP4 calls tracks of which only the key's owner knows the samples: FairPlay, Common Encryption, Audible."""

_SCALES: Final = {"u8": 2.0**7, "s16": 2.0**15, "s32": 2.0**31, "s64": 2.0**63}
_TYPES: Final[dict[str, type[np.generic]]] = {
    "u8": np.uint8,
    "s16": np.int16,
    "s32": np.int32,
    "s64": np.int64,
    "flt": np.float32,
    "dbl": np.float64,
}


def open_media(
    file: BinaryIO, kind: Container, limits: DecodeLimits, track: int | str, demuxer_options: dict[str, str]
) -> tuple[AudioInfo, Blocks]:
    """Open `file` with the demuxer of `kind`; return the facts and the samples of one audio track.

    Raises:
        DecodeError: it cannot be opened, has no such track, or no frame decodes.
    """
    excess = caf_excess(file) if kind is container.CAF else 1.0
    whole = asf_seconds(file) if kind is container.ASF else None
    try:
        source = av.open(
            file,
            mode="r",
            format=kind.demuxer,
            container_options={**demuxer_options, "protocol_whitelist": ""},
            io_open=_refuse_nested_open,
            metadata_errors="replace",
        )
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise DecodeError("unreadable", f"not a readable {kind.name}: {error}") from None
    stream = _chosen_track(source, kind, track)
    if stream.codec_context is None:
        raise DecodeError("unreadable", f"the {kind.name} names a codec of its audio track that FFmpeg does not know")
    if (tag := _codec_tag(stream)) in _ENCRYPTED:
        message = f"the audio track of the {kind.name} is encrypted ({tag}); only a copy that is not can be read"
        raise DecodeError("unreadable", message)
    shared = shared_length(source, stream, kind, whole)
    if shared is None:
        _discard_others(source, stream)
    try:
        first = next(frames := decoded_frames(source, stream, kind, shared), None)
    except Damage as broken:
        raise DecodeError("unreadable", f"no frame of the {kind.name} decodes: {broken}") from None
    if first is None:
        raise DecodeError("empty", f"the audio track of the {kind.name} holds no frames")
    seconds = None
    if kind not in GUESSED_LENGTH and not demuxer_options and shared is None:
        seconds = whole or declared_seconds(source, stream, kind, first)
    info = AudioInfo(
        container=kind.name,
        codec=stream.codec_context.codec.canonical_name,
        sample_rate=first.sample_rate,
        channels=len(first.layout.channels),
        declared_seconds=seconds and seconds * excess,
        decoder=f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}",
    )
    check_header(info, limits)
    return info, _blocks(itertools.chain([first], frames), info.sample_rate)


def _refuse_nested_open(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise PermissionError(f"the container asks to open {url!r}; only the object itself is read")


def _chosen_track(source: "av.container.InputContainer", kind: Container, wanted: int | str) -> "av.AudioStream":
    tracks = source.streams.audio
    if not tracks:
        raise DecodeError("no_audio_track", f"the {kind.name} holds no audio track")
    chosen: list[av.AudioStream] = [
        track for position, track in enumerate(tracks) if wanted in (position, track.language) or len(tracks) == 1
    ]
    if not chosen:
        languages = ", ".join(track.language or "untold" for track in tracks)
        raise DecodeError(
            "no_audio_track",
            f"the {kind.name} holds {len(tracks)} audio tracks ({languages}); audio.track asks for {wanted!r}",
        )
    return chosen[0]


def _codec_tag(stream: "av.AudioStream") -> str | None:
    """Return what the container calls the codec; None where that is no text, which PyAV does not take."""
    try:
        return str(stream.codec_context.codec_tag)
    except UnicodeDecodeError:
        return None


def _discard_others(source: "av.container.InputContainer", stream: "av.AudioStream") -> None:
    """Leave pictures unread, where the container has an index."""
    for other in source.streams:
        if other is not stream:
            other.discard = Discard.all


def _blocks(frames: "Iterator[av.AudioFrame]", sample_rate: int) -> Blocks:
    """Yield blocks of about BLOCK_FRAMES.

    Frames are gathered by FFmpeg's own queue: turning each of some thousand samples into an array costs more than
    decoding it.
    """
    queue, channels = av.AudioFifo(), 0
    try:
        for frame in frames:
            if frame.sample_rate != sample_rate:
                yield from _emptied(queue)
                yield from _blocks(_at_one_rate(itertools.chain([frame], frames), sample_rate), sample_rate)
                return
            if frame.layout.nb_channels != channels:
                yield from _emptied(queue)
                queue, channels = av.AudioFifo(), frame.layout.nb_channels
            elif queue.samples >= BLOCK_FRAMES:
                yield from _emptied(queue)
            frame.pts = None  # gaps between frames are not filled: times count decoded samples
            try:
                queue.write(frame)
            except ValueError:  # the frame's samples are of another format
                yield from _emptied(queue)
                queue = av.AudioFifo()
                queue.write(frame)
    except Damage:
        yield from _emptied(queue)
        raise
    yield from _emptied(queue)


def _at_one_rate(frames: "Iterator[av.AudioFrame]", sample_rate: int) -> "Iterator[av.AudioFrame]":
    """Yield frames at `sample_rate`: where that changes, as between an advertisement and a show, FFmpeg resamples."""
    resampler: av.AudioResampler | None = None
    resampled: tuple[int, str, str] | None = None
    changes = 0
    try:
        for frame in frames:
            form = None
            if frame.sample_rate != sample_rate:
                form = (frame.sample_rate, frame.format.name, frame.layout.name)
            if form != resampled:
                if resampler is not None:
                    yield from resampler.resample(None)
                changes += 1
                if changes > MOST_RATE_CHANGES:
                    raise Damage("the sampling rate changes again and again")
                resampler, resampled = form and _resampler(frame, sample_rate), form
            if resampler is None:
                yield frame
            else:
                frame.pts = None
                yield from resampler.resample(frame)
    except Damage:
        if resampler is not None:
            yield from resampler.resample(None)
        raise
    if resampler is not None:
        yield from resampler.resample(None)


def _resampler(frame: "av.AudioFrame", sample_rate: int) -> "av.AudioResampler":
    if max(frame.sample_rate, sample_rate) > MOST_STRETCH * min(frame.sample_rate, sample_rate):
        raise Damage(f"the sampling rate changes from {sample_rate} to {frame.sample_rate} Hz")
    return av.AudioResampler(frame.format, frame.layout, sample_rate)


def _emptied(queue: "av.AudioFifo") -> Blocks:
    frame = queue.read(0, partial=True) if queue.samples else None
    if frame is not None:
        yield _channels(frame)


def _channels(frame: "av.AudioFrame") -> Block:
    """Return a frame's samples; what FFmpeg decoded to floats, a plane a channel, is not copied."""
    kind = frame.format.name.removesuffix("p")
    channels = frame.layout.nb_channels
    if frame.format.is_planar:
        planes = frame.planes[:channels]  # PyAV counts pointers until one is null; behind eight channels others follow
        return [_floats(np.frombuffer(plane, _TYPES[kind], frame.samples), kind) for plane in planes]
    packed = np.frombuffer(frame.planes[0], _TYPES[kind], frame.samples * channels)
    return list(_floats(packed, kind).reshape(-1, channels).T)


def _floats(samples: np.ndarray, kind: str) -> np.ndarray:
    """Return samples of one of FFmpeg's formats as float32 in [-1, 1)."""
    if kind == "u8":
        samples = np.subtract(samples, np.float32(128), dtype=np.float32)
    if kind in _SCALES:
        scaled: np.ndarray = np.multiply(samples, np.float32(1 / _SCALES[kind]), dtype=np.float32)
        return scaled
    return samples.astype(np.float32, copy=False)
