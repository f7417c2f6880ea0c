"""A track's packets, decoded one by one: what is passed over, what counts as damage, and who decodes what."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from operator import methodcaller
from typing import Final

import av
import av.error

from workers import container
from workers.container import Container
from workers.decoded import Damage, Holes
from workers.media_length import SharedLength
from workers.tags import tag_bytes

_OPUS_CELT: Final = 16  # the first of the configurations that are music only (RFC 6716, 3.1)
_AMR_DECODERS: Final = {"amr_nb": ("libopencore_amrnb", 8), "amr_wb": ("libopencore_amrwb", 9)}
"""Who decodes what phones send in pauses, and its first frame type: how it hisses, then nothing (TS 26.101, 26.201)."""
_AMR_WARM_PACKETS: Final = 25  # half a second, in which a decoder catches up with one that heard all

_TAG_HEADS: Final = 1 << 10  # bytes in which the heads of tags lie that follow each other

_Decode = Callable[["av.Packet"], "list[av.AudioFrame]"]


def decoded_frames(
    source: "av.container.InputContainer", stream: "av.AudioStream", kind: Container, shared: SharedLength | None
) -> "Iterator[av.AudioFrame]":
    """Yield decoded frames; packets that do not decode are passed over, and told of as damage at the end.

    What comes before the first good frame does not count: encoders put odd things there.
    """
    stream.thread_type = "NONE"  # one thread: cores belong to the workers around us
    good = broken = last_broken = 0
    reason = ""
    decode: _Decode | None = None
    tags = _TagsBetween(source.size) if kind is container.MP3 else None
    try:
        for packet in _packets(source, stream, shared):
            if tags is not None and tags.cover(packet):
                continue
            decode = decode or _decoder(stream, packet)
            try:
                for frame in decode(packet):
                    good += 1
                    if tags is not None:  # FFmpeg gives the first frame of an MP3 at another rate the old one
                        frame.sample_rate = stream.codec_context.sample_rate
                    yield frame
            except av.error.FFmpegError as error:  # of damaged packets decoders say many things
                if tags is not None and tags.end_before(packet):
                    continue
                broken, reason, last_broken = broken + 1, _said(error), good
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


def _said(error: av.error.FFmpegError) -> str:
    """Return what a decoder says; AAC's says EPERM of nonsense, which nobody forbids."""
    return "invalid data" if isinstance(error, PermissionError) else str(error.strerror)


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


class _TagsBetween:
    """Tags between the frames of an MP3 that rest.without_seams knows nothing of, as before each piece of a stream."""

    def __init__(self, size: int) -> None:
        """Take how long the object is: what says that it goes on behind that is no tag."""
        self._end, self._size = -_TAG_HEADS, size

    def cover(self, packet: "av.Packet") -> bool:
        """Whether a packet lies in a tag, and is no frame."""
        if not packet.size or packet.pos is None:
            return False
        if packet.pos >= self._end:
            tags = _tags_at(bytes(memoryview(packet)[:_TAG_HEADS]), self._size - packet.pos)
            self._end = packet.pos + tags if tags else self._end
        return bool(packet.pos < self._end)

    def end_before(self, packet: "av.Packet") -> bool:
        """Whether a packet comes soon after a tag, in which the demuxer may have taken a picture for frames."""
        return packet.pos is not None and packet.pos < self._end + _TAG_HEADS


def _tags_at(head: bytes, most: int) -> int:
    """Return how long the tags are that `head` begins with, one behind the other, as far as it shows; `most` fit."""
    length = 0
    while (more := tag_bytes(head[length:])) and length + more <= most:
        length += more
    return length


def _decoder(stream: "av.AudioStream", first: "av.Packet") -> _Decode:
    """Return what decodes a stream's packets, of which `first` is the first.

    Opus in its speech modes goes to libopus: FFmpeg's own decoder, which is faster, is far off there on tones.
    """
    name = stream.codec_context.codec.canonical_name
    if name in _AMR_DECODERS:
        return _AmrDecoder(stream, *_AMR_DECODERS[name])
    if name == "opus" and first.size and bytes(first)[0] >> 3 < _OPUS_CELT:
        return _other_decoder(stream, "libopus")
    return methodcaller("decode")


class _AmrDecoder:
    """FFmpeg's own decoder up to the first pause; it is twice as fast as opencore-amr, which knows pauses too."""

    def __init__(self, stream: "av.AudioStream", name: str, pause: int) -> None:
        self._stream, self._name, self._pause = stream, name, pause
        self._before: deque[av.Packet] = deque(maxlen=_AMR_WARM_PACKETS)
        self._own: _Decode = methodcaller("decode")
        self._other: _Decode | None = None

    def __call__(self, packet: "av.Packet") -> "list[av.AudioFrame]":
        if self._other is not None:
            return self._other(packet)
        try:
            found = self._own(packet)
        except av.error.FFmpegError:
            if not self._is_pause(packet):
                raise
        else:
            if found or not self._is_pause(packet):
                self._before.append(packet)
                return found
        self._other = _other_decoder(self._stream, self._name)
        for one in self._before:
            with suppress(av.error.FFmpegError):
                self._other(one)
        return self._other(packet)

    def _is_pause(self, packet: "av.Packet") -> bool:
        return packet.size > 0 and bytes(packet)[0] >> 3 & 15 >= self._pause


def _other_decoder(stream: "av.AudioStream", name: str) -> _Decode:
    """Return FFmpeg's decoder of this name, for a stream for which it takes another by itself."""
    own, other = stream.codec_context, av.CodecContext.create(name, "r")
    other.extradata = own.extradata
    return lambda packet: other.decode(packet if packet.size else None)
