"""Tags around the audio, of any size, that are none: ID3v2 or APEv2 before it, APEv2 behind it."""

import io
import struct
from typing import BinaryIO, Final

from workers.parts import parts_of

_ID3_HEADER_BYTES: Final = 10
_HAS_FOOTER: Final = 1 << 4  # of an ID3v2 header's flags: as long as the header, and not counted
_ID3V1_BYTES: Final = 128
_APE_FOOTER: Final = struct.Struct("<8sIIII8s")  # magic, version, length with footer, items, flags, zeros
_APE_MAGIC: Final = b"APETAGEX"
_HAS_HEADER: Final = 1 << 31  # of the flags: as long as the footer, and not counted
_IS_HEADER: Final = 1 << 29


def id3_bytes(head: bytes) -> int:
    """Return how long the ID3v2 tag at the start of `head` is by its own account, 0 where there is none.

    Versions are never 0xFF, and bytes of the size below 0x80 (ID3v2.4.0, 3.1), so that a damaged place is none.
    """
    if head[:3] != b"ID3":
        return 0
    if len(head) < _ID3_HEADER_BYTES:
        return len(head)
    if 0xFF in head[3:5] or max(head[6:_ID3_HEADER_BYTES]) >= 0x80:
        return 0
    footer = _ID3_HEADER_BYTES if head[5] & _HAS_FOOTER else 0
    return _ID3_HEADER_BYTES + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]) + footer


def tag_bytes(head: bytes) -> int:
    """Return how long the tag of any kind at the start of `head` is by its own account, 0 where there is none."""
    return id3_bytes(head) or ape_bytes(head) or (_ID3V1_BYTES if head[:3] == b"TAG" else 0)


def ape_bytes(head: bytes) -> int:
    """Return how long the APEv2 tag at the start of `head` is, 0 where there is none."""
    if len(head) < _APE_FOOTER.size:
        return 0
    magic, _, n_bytes, _, flags, _ = _APE_FOOTER.unpack_from(head)
    return _APE_FOOTER.size + n_bytes if magic == _APE_MAGIC and flags & _IS_HEADER else 0


def without_front(file: BinaryIO, n_bytes: int) -> BinaryIO:
    """Return an object without its first `n_bytes`, the length of its tags, as a file at its start.

    What is no longer than its tags say it is left as it is.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    return parts_of(file, [(n_bytes, size)]) if 0 < n_bytes < size else file


def without_tail(file: BinaryIO) -> BinaryIO:
    """Return an object without the APEv2 tag at its end, as a file at its start.

    The tag's footer (APEv2 specification 2.000, Hydrogenaudio) is believed where the header is that it speaks of. An
    ID3v1 behind it goes too; decoders know one that is alone.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - _APE_FOOTER.size - _ID3V1_BYTES))
    tail = file.read()
    behind = _ID3V1_BYTES if tail[-_ID3V1_BYTES:][:3] == b"TAG" else 0
    footer = tail[len(tail) - behind - _APE_FOOTER.size : len(tail) - behind]
    end = _end_before(file, size - behind, footer) if len(footer) == _APE_FOOTER.size else None
    file.seek(0)
    return file if end is None else parts_of(file, [(0, end)])


def _end_before(file: BinaryIO, size: int, footer: bytes) -> int | None:
    """Return where the tag begins whose footer ends at `size`; None where there is none."""
    magic, _, n_bytes, _, flags, _ = _APE_FOOTER.unpack(footer)
    begin = size - n_bytes - _APE_FOOTER.size
    if magic != _APE_MAGIC or not flags & _HAS_HEADER or begin <= 0:
        return None
    file.seek(begin)
    return begin if file.read(len(_APE_MAGIC)) == _APE_MAGIC else None
