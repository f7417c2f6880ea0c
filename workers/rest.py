"""What an MP3 or FLAC still holds where its header says that it ends: another file joined to it, or a stale count."""

import re
import struct
from typing import BinaryIO, Final

from workers import container
from workers.container import Container
from workers.mpeg_frames import starts_mpeg_audio
from workers.tags import id3_bytes

XING_WITHIN: Final = 4096  # bytes of an MP3's first frame, and more
XING_HAS_FRAMES, XING_HAS_BYTES = 1, 2
SEARCHED_BYTES: Final = 1 << 20  # of what is no audio at a seam; tags tell their length, and do not count
MOST_TAGS: Final = 4  # at one seam
FLAC_READS_AHEAD: Final = 16 << 10  # bytes, twice libFLAC's buffer

_MPEG_SYNC_OR_TAG: Final = re.compile(rb"ID3[\x02-\x04]|\xff[\xe2-\xf7\xfa-\xff][\x10-\xef]")
_FLAC_SYNC: Final = re.compile(rb"\xff[\xf8\xf9]")


def tells_its_length(file: BinaryIO) -> bool:
    """Whether an MP3's first frame says how much there is (Xing, Info or VBRI), and no sound follows behind that.

    Without it libsndfile guesses from the first bit rate, and stops where it guessed; where more follows, as when two
    files were joined, it stops there too.
    """
    file.seek(0)
    head = file.read(XING_WITHIN)
    found = next((at for tag in (b"Xing", b"Info") if (at := head.find(tag)) >= 0), -1)
    if found < 0:
        return b"VBRI" in head
    flags, *rest = struct.unpack_from(">III", head[found + 4 : found + 16].ljust(12, b"\0"))
    if not flags & XING_HAS_FRAMES:
        return False
    return not flags & XING_HAS_BYTES or not _mpeg_frames_follow(file, rest[1])


def holds_more(file: BinaryIO, kind: Container) -> bool:
    """Whether sound follows where libsndfile, which has read as far as `file` is, found an end."""
    if kind is container.MP3:
        return _mpeg_frames_follow(file, file.tell())
    position = file.tell()
    file.seek(max(0, position - FLAC_READS_AHEAD))
    before = file.read(position - file.tell())
    return b"fLaC" in before[1:] or _FLAC_SYNC.search(file.read(SEARCHED_BYTES)) is not None


def _mpeg_frames_follow(file: BinaryIO, position: int) -> bool:
    """Whether frames of MPEG audio follow one another near `position`, or near the end of a tag there."""
    for _ in range(MOST_TAGS):
        file.seek(position)
        behind = file.read(SEARCHED_BYTES)
        for sync in _MPEG_SYNC_OR_TAG.finditer(behind):
            if behind[sync.start()] != 0xFF:
                position += sync.start() + id3_bytes(behind[sync.start() : sync.start() + 10])
                break
            if starts_mpeg_audio(behind, sync.start()):
                return True
        else:
            return False
    return False
