"""How long a track is by what its container says, as far as FFmpeg tells that: who says it, of what, and from where."""

import struct
from typing import BinaryIO, Final

import av
from av.stream import Disposition

from workers import container
from workers.container import Container
from workers.decoded import Damage

GUESSED_LENGTH: Final = (container.AAC_ADTS, container.AMR, container.AC3, container.MP3)
"""FFmpeg guesses from the first bit rate; an MP3 that says how long it is goes to libsndfile."""

_LENGTH_OF_ALL: Final = (container.MPEG_TS, container.MPEG_PS, container.ASF)
"""FFmpeg gives a track that it has not met yet the length of the others; ASF knows one length only."""

_ENDS_WITHIN: Final = 1.0  # seconds: muxers round, and count the last picture or do not
_FLAC_TOTAL: Final = slice(13, 18)  # of STREAMINFO, the lowest 36 bits (RFC 9639, 8.2); 0 where it is unknown
_FLAC_TOTAL_MASK: Final = (1 << 36) - 1
_ASF_HEAD_BYTES: Final = 64 << 10  # a sane header is a few thousand
_ASF_PROPERTIES: Final = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_TIMES: Final = slice(64, 92)  # play duration, send duration, preroll, flags
_ASF_IS_BROADCAST: Final = 1
_CAF_HEADER: Final = 8  # bytes
_CAF_CHUNK: Final = struct.Struct(">4sq")
_CAF_CHUNKS: Final = 64  # at most before the data; a sane file has some


class SharedLength:
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


def shared_length(
    source: "av.container.InputContainer", stream: "av.AudioStream", kind: Container, whole: float | None
) -> SharedLength | None:
    """Return the length that other tracks may have and this one not; None where the track's own is known.

    `whole` is what the container itself says, where FFmpeg does not ask it.
    """
    others = [one for one in source.streams if one is not stream]
    if any(map(_has_length, others)) and (stream.duration is None or kind in _LENGTH_OF_ALL):
        said = (source.duration or 0) / av.time_base + max(0, source.start_time or 0) / av.time_base
        return SharedLength(said if whole is None else whole)
    return None


def _has_length(stream: "av.stream.Stream") -> bool:
    return stream.type in ("audio", "video") and not stream.disposition & Disposition.attached_pic


def asf_seconds(file: BinaryIO) -> float | None:
    """Return how long an ASF is by its header, which FFmpeg ignores where less is there; None where it is not told.

    The File Properties Object tells it, with the time that players wait before they begin (ASF specification, 3.2).
    """
    file.seek(0)
    head = file.read(_ASF_HEAD_BYTES)
    file.seek(0)
    at = head.find(_ASF_PROPERTIES)
    if at < 0 or len(head) < at + _ASF_TIMES.stop:
        return None
    play, _, preroll, flags = struct.unpack("<QQQI", head[at + _ASF_TIMES.start : at + _ASF_TIMES.stop])
    seconds = play / 1e7 - preroll / 1e3
    return seconds if seconds > 0 and not flags & _ASF_IS_BROADCAST else None


def caf_excess(file: BinaryIO) -> float:
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


def declared_seconds(
    source: "av.container.InputContainer", stream: "av.AudioStream", kind: Container, first: "av.AudioFrame"
) -> float | None:
    """Return how long the track is by the header, without the silence that some containers count before `first`."""
    if kind is container.OGG:
        return _declared_in_ogg(stream)
    if stream.duration is not None and stream.time_base is not None:
        seconds = float(stream.duration * stream.time_base)
    else:
        seconds = (source.duration or 0) / av.time_base
    if first.pts is not None and stream.start_time is not None and stream.time_base is not None:
        before = float(first.pts * first.time_base - stream.start_time * stream.time_base)
        seconds -= before if 0 < before < seconds else 0
    return seconds if seconds > 0 else None


def _declared_in_ogg(stream: "av.AudioStream") -> float | None:
    """Return how long a track is in an Ogg, which may be a part of a broadcast and count from its beginning.

    Of Opus, FFmpeg's duration is where the part ends (RFC 7845, 4); of FLAC it may be either, and the header is asked.
    """
    codec = stream.codec_context.codec.canonical_name
    if stream.duration is None or stream.time_base is None:
        return None
    if codec == "flac":
        head = stream.codec_context.extradata or b""
        samples = int.from_bytes(head[_FLAC_TOTAL], "big") & _FLAC_TOTAL_MASK
        return samples / stream.codec_context.sample_rate or None
    start = stream.start_time or 0 if codec == "opus" else 0
    return max(0.0, float((stream.duration - start) * stream.time_base)) or None
