"""Why FFmpeg reads nothing of an MP4: its boxes (ISO/IEC 14496-12, 4.2) say it, FFmpeg's errors do not."""

import io
import struct
from typing import BinaryIO, Final

MOST_BOXES: Final = 10_000  # looked at; a fragment of a stream has two
_NO_INDEX: Final = (
    "the index (moov) of the mp4 is missing: it was not downloaded or recorded to its end, or is a part of a stream"
)
_BRAND_AT: Final = 8
_PICTURES: Final = (b"heic", b"heix", b"mif1", b"avif")
_HEAD: Final = struct.Struct(">I4s")
_LONG_SIZE: Final = struct.Struct(">Q")


def why_unreadable(file: BinaryIO) -> str | None:
    """Say why nothing of an MP4 can be read; None where its boxes do not tell."""
    if _has_index(file):
        return None
    file.seek(0)
    brand = file.read(_BRAND_AT + 4)[_BRAND_AT:]
    return "it is a picture" if brand in _PICTURES else _NO_INDEX


def _has_index(file: BinaryIO) -> bool:
    position, end = 0, file.seek(0, io.SEEK_END)
    for _ in range(MOST_BOXES):
        if position >= end:
            return False
        file.seek(position)
        head = file.read(_HEAD.size + _LONG_SIZE.size)
        if len(head) < _HEAD.size:
            return False
        size, name = _HEAD.unpack_from(head)
        if name == b"moov":
            return True
        if size == 1 and len(head) == _HEAD.size + _LONG_SIZE.size:
            size = _LONG_SIZE.unpack_from(head, _HEAD.size)[0]
        if size < _HEAD.size:  # 0: to the end of the file
            return False
        position += size
    return False
