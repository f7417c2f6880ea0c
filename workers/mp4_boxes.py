"""The boxes that an MP4 or QuickTime file consists of, as far as it takes to say what is missing."""

import io
import struct
from typing import BinaryIO, Final

_BOX: Final = struct.Struct(">I4s")  # size with this, type (ISO/IEC 14496-12, 4.2)
_LARGE_SIZE: Final = struct.Struct(">Q")  # which follows where the size is 1
_MOST_BOXES: Final = 100_000
_INDEXES: Final = (b"moov", b"moof")


def has_index(file: BinaryIO) -> bool:
    """Whether a file has a box that says where its samples are; recorders write it last, and downloads may miss it."""
    end = file.seek(0, io.SEEK_END)
    position = 0
    for _ in range(_MOST_BOXES):
        file.seek(position)
        head = file.read(_BOX.size + _LARGE_SIZE.size)
        if len(head) < _BOX.size:
            return False
        size, name = _BOX.unpack_from(head)
        if name in _INDEXES:
            return True
        if size == 1 and len(head) == _BOX.size + _LARGE_SIZE.size:
            [size] = _LARGE_SIZE.unpack_from(head, _BOX.size)
        position += size
        if size < _BOX.size or position >= end:
            return False
    return True
