"""Tags around the audio, of any size, that are none: ID3v2 before it, APEv2 behind it."""

import io
import struct
from typing import Any, BinaryIO, Final, cast

_ID3V1_BYTES: Final = 128
_APE_FOOTER: Final = struct.Struct("<8sIIII8s")  # magic, version, length with footer, items, flags, zeros
_HAS_HEADER: Final = 1 << 31  # of the flags: as long as the footer, and not counted


def id3_bytes(head: bytes) -> int:
    """Return how long the ID3v2 tag at the start of `head` is, 0 where there is none."""
    if head[:3] != b"ID3":
        return 0
    return 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]) if len(head) >= 10 else len(head)


def _ape_bytes(tail: bytes) -> int:
    """Return how long the APEv2 tag is that `tail`, an object's last bytes, ends with, an ID3v1 behind it included.

    0 where there is no APEv2 tag (its footer: APEv2 specification 2.000, Hydrogenaudio); decoders know an ID3v1 alone.
    """
    behind = _ID3V1_BYTES if tail[-_ID3V1_BYTES:][:3] == b"TAG" else 0
    footer = tail[len(tail) - behind - _APE_FOOTER.size : len(tail) - behind]
    if len(footer) < _APE_FOOTER.size:
        return 0
    magic, _, n_bytes, _, flags, _ = _APE_FOOTER.unpack(footer)
    header = _APE_FOOTER.size if flags & _HAS_HEADER else 0
    return n_bytes + header + behind if magic == b"APETAGEX" else 0


def without_tail(file: BinaryIO) -> BinaryIO:
    """Return an object without the APEv2 tag at its end, as a file at its start."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - _APE_FOOTER.size - _ID3V1_BYTES))
    tag = _ape_bytes(file.read())
    file.seek(0)
    return cast(BinaryIO, io.BufferedReader(_Front(file, size - tag))) if 0 < tag < size else file


class _Front(io.RawIOBase):
    """The first `size` bytes of a file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            offset, whence = self._size + offset, io.SEEK_SET
        return self._file.seek(offset, whence)

    def readinto(self, room: Any) -> int:
        content = self._file.read(max(0, min(len(room), self._size - self._file.tell())))
        room[: len(content)] = content
        return len(content)
