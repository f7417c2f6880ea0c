"""Reading with FFmpeg through PyAV: every container and codec that libsndfile does not know.

FFmpeg is given bytes only, never a path or a URL; the demuxer is pinned from the magic number; nested opens (playlists,
external references) are refused, and so is every protocol.
"""

import itertools
import struct
from collections.abc import Callable, Iterator
from operator import methodcaller
from typing import BinaryIO, Final, NoReturn

import av
import av.error
import numpy as np
from av.stream import Discard, Disposition

from workers import container
from workers.container import Container
from workers.decode_settings import DecodeLimits
from workers.decoded import BLOCK_FRAMES, AudioInfo, Block, Blocks, Damage, DecodeError, Holes, check_header

_GUESSED_LENGTH: Final = (container.AAC_ADTS, container.AMR, container.AC3, container.MP3)
"""FFmpeg guesses from the first bit rate; an MP3 that says how long it is goes to libsndfile."""

_LENGTH_OF_ALL: Final = (container.MPEG_TS, container.MPEG_PS)
"""FFmpeg gives a track that it has not met yet the length of the others."""

_ENDS_WITHIN: Final = 1.0  # seconds: muxers round, and count the last picture or do not
_CAF_HEADER: Final = 8  # bytes
_CAF_CHUNK: Final = struct.Struct(">4sq")
_CAF_CHUNKS: Final = 64  # at most before the data; a sane file has some
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
    excess = _caf_excess(file) if kind is container.CAF else 1.0
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
    shared = _shared_length(source, stream, kind)
    try:
        first = next(frames := _frames(source, stream, shared), None)
    except Damage as broken:
        raise DecodeError("unreadable", f"no frame of the {kind.name} decodes: {broken}") from None
    if first is None:
        raise DecodeError("empty", f"the audio track of the {kind.name} holds no frames")
    seconds = None
    if kind not in _GUESSED_LENGTH and not demuxer_options and shared is None:
        seconds = _declared_seconds(source, stream, first)
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


class _SharedLength:
    """One length that a container tells for all its tracks, and how far their packets go; in seconds from its start."""

    def __init__(self, declared: float) -> None:
        self._declared, self._reached = declared, 0.0

    def note(self, packet: "av.Packet") -> None:
        """Take a packet of any track."""
        if packet.pts is not None and packet.time_base is not None:
            self._reached = max(self._reached, float((packet.pts + (packet.duration or 0)) * packet.time_base))

    def check(self) -> None:
        """Raise Damage where no track goes to the end."""
        if self._declared - self._reached > _ENDS_WITHIN:
            raise Damage(f"the container declares {self._declared:.2f} s and ends at {self._reached:.2f} s: cut short")


def _shared_length(
    source: "av.container.InputContainer", stream: "av.AudioStream", kind: Container
) -> _SharedLength | None:
    """Return the length that other tracks may have and this one not; None where the track's own is known.

    Where it is known, the others' packets are not even read, if the container has an index.
    """
    others = [one for one in source.streams if one is not stream]
    if any(map(_has_length, others)) and (stream.duration is None or kind in _LENGTH_OF_ALL):
        return _SharedLength((source.duration or 0) / av.time_base + max(0, source.start_time or 0) / av.time_base)
    for other in others:
        other.discard = Discard.all
    return None


def _has_length(stream: "av.stream.Stream") -> bool:
    return stream.type in ("audio", "video") and not stream.disposition & Disposition.attached_pic


def _caf_excess(file: BinaryIO) -> float:
    """Return how much more audio a CAF's data chunk claims than is there, as a factor: FFmpeg counts what is there.

    Chunks have a type of 4 bytes and a size of 8, -1 where it is not known (Apple Core Audio Format Specification 1.0).
    """
    end = file.seek(0, 2)
    position, excess = _CAF_HEADER, 1.0
    for _ in range(_CAF_CHUNKS):
        file.seek(position)
        head = file.read(_CAF_CHUNK.size)
        if len(head) < _CAF_CHUNK.size:
            break
        name, size = _CAF_CHUNK.unpack(head)
        position += _CAF_CHUNK.size
        if name == b"data":
            excess = max(1.0, size / (end - position)) if end > position else 1.0
            break
        position = min(end, position + max(0, size))
    file.seek(0)
    return excess


def _declared_seconds(
    source: "av.container.InputContainer", stream: "av.AudioStream", first: "av.AudioFrame"
) -> float | None:
    """Return how long the track is by the header, without the silence that some containers count before `first`."""
    if stream.duration is not None and stream.time_base is not None:
        seconds = float(stream.duration * stream.time_base)
    else:
        seconds = (source.duration or 0) / av.time_base
    if first.pts is not None and stream.start_time is not None and stream.time_base is not None:
        before = float(first.pts * first.time_base - stream.start_time * stream.time_base)
        seconds -= before if 0 < before < seconds else 0
    return seconds if seconds > 0 else None


def _frames(
    source: "av.container.InputContainer", stream: "av.AudioStream", shared: _SharedLength | None
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
    source: "av.container.InputContainer", stream: "av.AudioStream", shared: _SharedLength | None
) -> "Iterator[av.Packet]":
    """Yield a track's packets up to the empty one that ends it.

    PyAV is not asked further: where a container makes up tracks as it goes, it does not know how many there are then.
    """
    for packet in source.demux(stream) if shared is None else _noted(source, stream, shared):
        yield packet
        if packet.size == 0 and packet.dts is None:
            return


def _noted(
    source: "av.container.InputContainer", stream: "av.AudioStream", shared: _SharedLength
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
