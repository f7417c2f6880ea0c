"""Which container some bytes are, told by their magic numbers, never by a name.

Signatures: the file(1) database and each format's own specification. The FFmpeg demuxer is pinned from the result, so
that FFmpeg's own probing never chooses a playlist or another format that opens further files.
"""

from dataclasses import dataclass
from typing import Final

from workers.mpeg_frames import (
    LONGEST_FRAME_BYTES,
    is_mpeg_audio_header,
    starts_adts,
    starts_loas,
    starts_mpeg_audio,
)
from workers.other_files import name_other
from workers.tags import id3_bytes

HEAD_BYTES: Final = 4096  # enough for every signature below and for a codec name in the first Ogg page


@dataclass(frozen=True, slots=True)
class Container:
    """A container format.

    Attributes:
        name: what `recordings.container` says.
        demuxer: FFmpeg's name of the demuxer that reads it.
        soundfile: whether libsndfile decodes it.
    """

    name: str
    demuxer: str
    soundfile: bool = False


WAV: Final = Container("wav", "wav", soundfile=True)
AIFF: Final = Container("aiff", "aiff", soundfile=True)
FLAC: Final = Container("flac", "flac", soundfile=True)
MP3: Final = Container("mp3", "mp3", soundfile=True)
OGG: Final = Container("ogg", "ogg")
MP4: Final = Container("mp4", "mov")
MATROSKA: Final = Container("matroska", "matroska")
AAC_ADTS: Final = Container("aac", "aac")
AAC_LOAS: Final = Container("loas", "loas")
FLV: Final = Container("flv", "flv")
AVI: Final = Container("avi", "avi")
ASF: Final = Container("asf", "asf")
MPEG_TS: Final = Container("mpegts", "mpegts")
MPEG_PS: Final = Container("mpeg", "mpeg")
AMR: Final = Container("amr", "amr")
AC3: Final = Container("ac3", "ac3")
CAF: Final = Container("caf", "caf", soundfile=True)
AU: Final = Container("au", "au", soundfile=True)
W64: Final = Container("w64", "w64", soundfile=True)
NIST: Final = Container("nist", "nistsphere", soundfile=True)
VOC: Final = Container("voc", "voc")
WAVPACK: Final = Container("wv", "wv")
TTA: Final = Container("tta", "tta")
APE: Final = Container("ape", "ape")

_MPEG_TS_PACKET: Final = 188  # bytes, each packet starts with 0x47; on Blu-ray 4 bytes of time stand before it
_MPEG_TS_STAMP: Final = 4
_MPEG_TS_SYNCS: Final = 8  # sync bytes in their places that are no accident


def sniff(head: bytes) -> Container | None:
    """Return the container that `head`, the first bytes of an object, belongs to; None for no known one.

    What an ID3v2 tag stands before is told from what follows it, see id3_bytes; where that is unknown, it is MP3.
    """
    if tag := id3_bytes(head):
        return sniff(head[tag:]) or MP3
    return by_signature(head) or by_sync_word(head)


def by_signature(head: bytes) -> Container | None:
    """Return the container whose signature `head` bears: bytes that nothing else starts with by accident."""
    form = head[8:12]
    if head[:4] in (b"RIFF", b"RF64", b"RIFX", b"BW64"):
        return {b"WAVE": WAV, b"AVI ": AVI}.get(form)
    if head[:4] == b"FORM" and form in (b"AIFF", b"AIFC"):
        return AIFF
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return MP4
    if head[:1] == b"\0" and head[4:8] in (b"pnot", b"uuid", b"styp", b"moof"):
        return MP4
    for magic, container in _SIGNATURES.items():
        if head.startswith(magic):
            return container
    return None


_SIGNATURES: Final[dict[bytes, Container]] = {
    b"fLaC": FLAC,
    b"OggS": OGG,
    b"\x1a\x45\xdf\xa3": MATROSKA,  # EBML: Matroska and WebM
    b"FLV\x01": FLV,
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": ASF,
    b"#!AMR": AMR,
    b"caff": CAF,
    b".snd": AU,
    b"dns.": AU,
    b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00": W64,  # Sony's GUID for riff
    b"NIST_1A\n": NIST,
    b"Creative Voice File\x1a": VOC,
    b"wvpk": WAVPACK,
    b"TTA1": TTA,
    b"MAC ": APE,
    b"\x00\x00\x01\xba": MPEG_PS,
}


def by_sync_word(head: bytes) -> Container | None:
    """Return the container whose frames `head` seems to start with: two bytes or so, which noise may have too."""
    if _has_packets(head, 0, 2) or _has_packets(head, _MPEG_TS_STAMP, 2):
        return MPEG_TS
    if starts_loas(head, 0):
        return AAC_LOAS
    if head[:2] == b"\x0b\x77":
        return AC3
    if len(head) >= 4 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:  # ADTS: layer bits are zero
        return AAC_ADTS
    if len(head) >= 4 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and is_mpeg_audio_header(head):
        return MP3
    if any(_has_packets(head, start, _MPEG_TS_SYNCS) for start in range(1, _MPEG_TS_PACKET)):
        return MPEG_TS  # cut out of a broadcast in the middle of a packet
    return None


def by_frames(head: bytes) -> Container | None:
    """Return the container of a stream that begins in the middle of a frame, or behind zeros; None for other things.

    The first whole frame must be near: what holds sound further on, such as an archive, is not one recording.
    """
    if name_other(head) is not None:
        return None
    zeros = len(head) - len(head.lstrip(b"\0"))
    start = head.find(0xFF)
    while 0 <= start < zeros + LONGEST_FRAME_BYTES:
        if starts_adts(head, start):
            return AAC_ADTS
        if starts_mpeg_audio(head, start):
            return MP3
        start = head.find(0xFF, start + 1)
    return None


def _has_packets(head: bytes, start: int, least: int) -> bool:
    """Whether transport packets begin at `start`: each with the sync byte, three of them checked at least."""
    packet = _MPEG_TS_PACKET + (_MPEG_TS_STAMP if start == _MPEG_TS_STAMP else 0)
    syncs = head[start::packet]
    return len(syncs) >= least and set(syncs[: max(least, 3)]) == {0x47}
