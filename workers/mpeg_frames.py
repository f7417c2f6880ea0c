"""Frames of MPEG audio, of ADTS and of LOAS: streams without a container, which may begin anywhere."""

from collections.abc import Callable
from typing import Final

_FRAMES: Final = 3  # one behind the other, that are no accident
LONGEST_FRAME_BYTES: Final = 1728  # of MPEG audio (layer II, 384 kbit/s, 32 kHz); ADTS frames are hardly ever longer
_HEADER_BYTES: Final = 7  # of an ADTS frame; MPEG audio has four
_LOAS_HEADER_BYTES: Final = 3


def is_mpeg_audio_header(head: bytes) -> bool:
    """Whether 4 bytes are a possible MPEG audio frame header (ISO/IEC 11172-3, 2.4.1.3): no reserved value.

    FF FE is refused: it would be Layer I with a checksum, which nobody has, and is how UTF-16 text starts.
    """
    if head[:2] == b"\xff\xfe":
        return False
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    bitrate, rate = head[2] >> 4, head[2] >> 2 & 3
    return version != 1 and layer != 0 and bitrate not in (0, 15) and rate != 3


def starts_adts(stream: bytes, start: int) -> bool:
    """Whether ADTS frames follow one another from `start` on."""
    return _follow(stream, start, _adts_bytes)


def starts_mpeg_audio(stream: bytes, start: int) -> bool:
    """Whether frames of MPEG audio follow one another from `start` on."""
    return _follow(stream, start, _mpeg_audio_bytes)


def starts_loas(stream: bytes, start: int) -> bool:
    """Whether LOAS frames follow one another from `start` on."""
    return _follow(stream, start, _loas_bytes, same_bytes=1)


def _follow(stream: bytes, start: int, length: Callable[[bytes], int], same_bytes: int = 2) -> bool:
    """Whether _FRAMES frames of one kind begin at `start`, each where the one before it ends."""
    kind = stream[start : start + same_bytes]  # sync word, version, layer, checksum
    for _ in range(_FRAMES):
        frame = stream[start : start + _HEADER_BYTES]
        if len(frame) < _HEADER_BYTES or frame[:same_bytes] != kind or not (n_bytes := length(frame)):
            return False
        start += n_bytes
    return True


def _adts_bytes(frame: bytes) -> int:
    """Return the length of an ADTS frame (ISO/IEC 13818-7, 6.2); 0 where this is none."""
    if frame[0] != 0xFF or frame[1] & 0xF6 != 0xF0 or frame[2] >> 2 & 15 > 12:
        return 0
    n_bytes = (frame[3] & 3) << 11 | frame[4] << 3 | frame[5] >> 5
    return n_bytes if n_bytes > _HEADER_BYTES else 0


def _loas_bytes(frame: bytes) -> int:
    """Return the length of a LOAS frame (ISO/IEC 14496-3, 1.7.2, AudioSyncStream); 0 where this is none."""
    n_bytes = (frame[1] & 0x1F) << 8 | frame[2]
    return _LOAS_HEADER_BYTES + n_bytes if frame[0] == 0x56 and frame[1] & 0xE0 == 0xE0 and n_bytes else 0


def _mpeg_audio_bytes(frame: bytes) -> int:
    """Return the length of an MPEG audio frame (ISO/IEC 11172-3, 2.4.3.1, and 13818-3); 0 where this is none."""
    if frame[0] != 0xFF or frame[1] & 0xE0 != 0xE0 or not is_mpeg_audio_header(frame):
        return 0
    version, layer = frame[1] >> 3 & 3, 4 - (frame[1] >> 1 & 3)
    bits = _KILOBITS[version == 3, layer if version == 3 or layer == 1 else 2][(frame[2] >> 4) - 1] * 1000
    rate = (44_100, 48_000, 32_000)[frame[2] >> 2 & 3] >> {3: 0, 2: 1, 0: 2}[version]
    padding = frame[2] >> 1 & 1
    if layer == 1:
        return (12 * bits // rate + padding) * 4
    return (72 if layer == 3 and version != 3 else 144) * bits // rate + padding


_KILOBITS: Final = {  # a second, by whether it is MPEG-1 and by layer; MPEG-2's layers 2 and 3 share theirs
    (True, 1): tuple(range(32, 449, 32)),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
