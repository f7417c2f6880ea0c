"""Parts of a file as a file: what lies between them, such as tags, is not there for who reads it."""

import io
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, BinaryIO, cast


def parts_of(file: BinaryIO, spans: Sequence[tuple[int, int]]) -> BinaryIO:
    """Return the bytes of `file` in `spans`, each from where to where, one behind the other, as a file at its start."""
    if isinstance(file, io.BytesIO):  # one copy costs less than thousands of reads through this module
        held = file.getvalue()
        return io.BytesIO(b"".join(held[begin:end] for begin, end in spans))
    return cast(BinaryIO, io.BufferedReader(_Parts(file, spans)))


class _Parts(io.RawIOBase):
    def __init__(self, file: BinaryIO, spans: Sequence[tuple[int, int]]) -> None:
        self._file, self._spans, self._position = file, spans, 0
        *self._starts, self._size = accumulate((end - begin for begin, end in spans), initial=0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if position < 0:
            raise OSError(f"seeking to {position}, before the start")
        self._position = position
        return position

    def readinto(self, room: Any) -> int:
        if self._position >= self._size:
            return 0
        part = bisect_right(self._starts, self._position) - 1
        begin, end = self._spans[part]
        place = begin + self._position - self._starts[part]
        self._file.seek(place)
        content = self._file.read(min(len(room), end - place))
        room[: len(content)] = content
        self._position += len(content)
        return len(content)
