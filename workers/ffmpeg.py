"""Reading with FFmpeg through PyAV: every container and codec that libsndfile does not know.

FFmpeg is given bytes only, never a path or a URL; the demuxer is pinned from the magic number; nested opens (playlists,
external references) are refused, and so is every protocol.
"""

import itertools
from collections.abc import Callable, Iterator
from operator import methodcaller
from typing import BinaryIO, Final, NoReturn

import av
import av.error
import numpy as np
from av.stream import Discard

from workers import container
from workers.container import Container
from workers.decode_settings import DecodeLimits
from workers.decoded import BLOCK_FRAMES, AudioInfo, Block, Blocks, Damage, DecodeError, Holes, check_header
from workers.media_length import GUESSED_LENGTH, SharedLength, caf_excess, declared_seconds, shared_length

_OPUS_CELT: Final = 16  # the first of the configurations that are music only (RFC 6716, 3.1)
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
    shared = shared_length(source, stream, kind)
    if shared is None:
        _discard_others(source, stream)
    try:
        first = next(frames := _frames(source, stream, shared), None)
    except Damage as broken:
        raise DecodeError("unreadable", f"no frame of the {kind.name} decodes: {broken}") from None
    if first is None:
        raise DecodeError("empty", f"the audio track of the {kind.name} holds no frames")
    seconds = None
    if kind not in GUESSED_LENGTH and not demuxer_options and shared is None:
        seconds = declared_seconds(source, stream, first)
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


def _discard_others(source: "av.container.InputContainer", stream: "av.AudioStream") -> None:
    """Leave pictures unread, where the container has an index."""
    for other in source.streams:
        if other is not stream:
            other.discard = Discard.all


def _frames(
    source: "av.container.InputContainer", stream: "av.AudioStream", shared: SharedLength | None
) -> "Iterator[av.AudioFrame]":
    """Yield decoded frames; packets that do not decode are passed over, and told of as damage at the end.

    What comes before the first good frame does not count: encoders put odd things there.
    """
    stream.thread_type = "NONE"  # one thread: cores belong to the workers around us
    good = broken = last_broken = 0
    reason = ""
    decode: Callable[[av.Packet], list[av.AudioFrame]] | None = None
    try:
        for packet in _packets(source, stream, shared):
            decode = decode or _decoder(stream, packet)
            try:
                for frame in decode(packet):
                    good += 1
                    yield frame
            except av.error.InvalidDataError as error:
                broken, reason, last_broken = broken + 1, str(error), good
                if not good:
                    broken = 0
    except (av.error.FFmpegError, OSError) as error:
        raise Damage(str(error)) from None
    if good > last_broken and broken:
        raise Holes(f"damaged, {broken} packets did not decode: {reason}")
    if broken or (reason and not good):
        raise Damage(f"{max(broken, 1)} packets did not decode: {reason}")
    if shared is not None:
        shared.check()


def _packets(
    source: "av.container.InputContainer", stream: "av.AudioStream", shared: SharedLength | None
) -> "Iterator[av.Packet]":
    """Yield a track's packets up to the empty one that ends it.

    PyAV is not asked further: where a container makes up tracks as it goes, it does not know how many there are then.
    """
    for packet in source.demux(stream) if shared is None else _noted(source, stream, shared):
        yield packet
        if packet.size == 0 and packet.dts is None:
            return


def _noted(
    source: "av.container.InputContainer", stream: "av.AudioStream", shared: SharedLength
) -> "Iterator[av.Packet]":
    for packet in source.demux():
        shared.note(packet)
        if packet.stream is stream:
            yield packet


def _decoder(stream: "av.AudioStream", first: "av.Packet") -> "Callable[[av.Packet], list[av.AudioFrame]]":
    """Return what decodes a stream's packets, of which `first` is the first.

    Opus in its speech modes goes to libopus: FFmpeg's own decoder, which is faster, is far off there on tones.
    """
    context = stream.codec_context
    if context.codec.canonical_name != "opus" or first.size == 0 or bytes(first)[0] >> 3 >= _OPUS_CELT:
        return methodcaller("decode")
    reference = av.CodecContext.create("libopus", "r")
    reference.extradata = context.extradata
    return lambda packet: reference.decode(packet if packet.size else None)


def _blocks(frames: "Iterator[av.AudioFrame]", sample_rate: int) -> Blocks:
    """Yield blocks of about BLOCK_FRAMES; a change of rate within the stream ends it as damage.

    Frames are gathered by FFmpeg's own queue: turning each of some thousand samples into an array costs more than
    decoding it.
    """
    queue, channels = av.AudioFifo(), 0
    try:
        for frame in frames:
            if frame.sample_rate != sample_rate:
                raise Damage(f"the sampling rate changes from {sample_rate} to {frame.sample_rate} Hz")
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
