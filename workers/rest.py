"""What an MP3 or FLAC still holds where its header says that it ends: another file joined to it, or a stale count."""

import io
import re
import struct
from typing import BinaryIO, Final

from workers import container
from workers.container import Container
from workers.flac_frames import starts_flac_frame
from workers.mpeg_frames import starts_mpeg_audio
from workers.parts import parts_of
from workers.tags import id3_bytes, tag_bytes

FIRST_FRAME_WITHIN: Final = 4096  # bytes of an MP3's first frame, and more
XING_HAS_FRAMES, XING_HAS_BYTES = 1, 2
SEARCHED_BYTES: Final = 256 << 10  # of what is no audio at a seam; tags tell their length, and do not count
MOST_TAGS: Final = 4  # at one seam
MOST_JOINED: Final = 1000  # whose seams are looked for
FLAC_READS_AHEAD: Final = 16 << 10  # bytes, twice libFLAC's buffer

_XING: Final = re.compile(rb"(?:Xing|Info)(.{12})", re.DOTALL)  # flags, frames, bytes
_MPEG_SYNC_OR_TAG: Final = re.compile(rb"ID3[\x02-\x04]|\xff[\xe2-\xf7\xfa-\xff][\x10-\xef]")
_FLAC_SYNC: Final = re.compile(rb"\xff[\xf8\xf9]")


def tells_its_length(file: BinaryIO) -> bool:
    """Whether an MP3's first frame says how much there is (Xing, Info or VBRI), and no sound follows behind that.

    Without it libsndfile guesses from the first bit rate, and stops where it guessed; where more follows, as when two
    files were joined, it stops there too.
    """
    file.seek(0)
    head = file.read(FIRST_FRAME_WITHIN)
    flags, n_bytes = _counts(head)
    if not flags & XING_HAS_FRAMES:
        return b"VBRI" in head and not flags
    return not flags & XING_HAS_BYTES or not _mpeg_frames_follow(file, n_bytes)


def without_seams(file: BinaryIO) -> BinaryIO:
    """Return MP3s that were joined with their tags as one without those between them: they would be heard as damage.

    Each ends where its first frame says; behind one that does not say it nothing is left out.
    """
    size = file.seek(0, io.SEEK_END)
    spans: list[tuple[int, int]] = []
    begin = 0
    while len(spans) < MOST_JOINED and (told := _told(file, begin)) is not None and 0 < told < size - begin:
        spans.append((begin, begin + told))
        begin = _behind_tags(file, begin + told, size)
    if begin < size:
        spans.append((begin, size))
    file.seek(0)
    return parts_of(file, spans) if len(spans) > 1 else file


def holds_more(file: BinaryIO, kind: Container) -> bool:
    """Whether sound follows where libsndfile, which has read as far as `file` is, found an end."""
    if kind is container.MP3:
        return _mpeg_frames_follow(file, file.tell())
    position = file.tell()
    file.seek(max(0, position - FLAC_READS_AHEAD))
    before = file.read(position - file.tell())
    behind = file.read(SEARCHED_BYTES)
    return b"fLaC" in before[1:] or any(starts_flac_frame(behind, sync.start()) for sync in _FLAC_SYNC.finditer(behind))


def _counts(head: bytes) -> tuple[int, int]:
    """Return the flags of a Xing or Info frame, 0 for none, and what it says is the length in bytes from its start."""
    found = _XING.search(head)
    flags, _, n_bytes = struct.unpack(">III", found[1]) if found else (0, 0, 0)
    return flags, n_bytes


def _told(file: BinaryIO, begin: int) -> int | None:
    """Return how long the MP3 that begins there says it is, in bytes."""
    file.seek(begin)
    flags, n_bytes = _counts(file.read(FIRST_FRAME_WITHIN))
    return n_bytes if flags & XING_HAS_BYTES and flags & XING_HAS_FRAMES else None


def _behind_tags(file: BinaryIO, position: int, size: int) -> int:
    for _ in range(MOST_TAGS):
        file.seek(position)
        n_bytes = tag_bytes(file.read(container.HEAD_BYTES))
        if not n_bytes or position + n_bytes > size:  # behind the end: it is none
            break
        position += n_bytes
    return position


def _mpeg_frames_follow(file: BinaryIO, position: int) -> bool:
    """Whether frames of MPEG audio follow one another near `position`, or near the end of a tag there."""
    size = file.seek(0, io.SEEK_END)
    for _ in range(MOST_TAGS):
        file.seek(position)
        behind = file.read(SEARCHED_BYTES)
        for sync in _MPEG_SYNC_OR_TAG.finditer(behind):
            at = sync.start()
            if behind[at] != 0xFF:
                n_bytes = id3_bytes(behind[at : at + 10])
                if n_bytes and position + at + n_bytes <= size:
                    position += at + n_bytes
                    break
            elif starts_mpeg_audio(behind, at):
                return True
        else:
            return False
    return False
