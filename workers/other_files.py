"""What an object is that is no recording we read: files that are well known, told by their first bytes."""

import re
import zlib
from typing import Final

_MAGICS: Final[dict[bytes, str]] = {
    b"PK\x03\x04": "a zip archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a rar archive",
    b"BZh": "bzip2: unpack it",
    b"\xfd7zXZ": "xz: unpack it",
    b"\x28\xb5\x2f\xfd": "zstd: unpack it",
    b"PAR1": "Parquet: a column of audio is read with source.parquet",
    b"#EXTM3U": "a playlist, which is never followed",
    b"version https://git-lfs": "a Git LFS pointer to the file, which `git lfs pull` fetches",
    b"\x00\x05\x16\x07": "AppleDouble, macOS's ._ file beside another",
    b"MThd": "MIDI: notes, not sound",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"DSD ": "DSF, which is not read",
    b"FRM8": "DSDIFF, which is not read",
    b"MPCK": "Musepack, which is not read",
    b"MP+": "Musepack, which is not read",
    b".RMF": "RealMedia, which is not read",
    b"ajkg": "Shorten, which is not read",
    b"\x02dss": "DSS, which is not read",
    b"\x03ds2": "DSS, which is not read",
    b"#!SILK": "SILK, which is not read",
    b"\x02#!SILK": "SILK, which is not read",
    b"\x06\x0e\x2b\x34": "MXF, which is not read",
}
_RIFF_FORMS: Final[dict[bytes, str]] = {
    b"RMID": "MIDI: notes, not sound",
    b"QLCM": "QCP, which is not read",
    b"XWMA": "xWMA, which is not read",
    b"WEBP": "a picture",
}
_TEXTS: Final[dict[re.Pattern[bytes], str]] = {
    re.compile(rb"<[!?/A-Za-z]"): "HTML or XML, as servers give instead of a missing file",
    re.compile(rb'\{\s*["}]|\[\s*[\[{"\]]'): "JSON",
}
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_WINDOW: Final = 31  # zlib's word for gzip with any window
_TAR_MAGIC_AT: Final = 257
_TAR_HEADER_BYTES: Final = 512


def name_other(head: bytes) -> str | None:
    """Say what `head`, the first 4 kB or all of an object, is the start of; None where that is not well known."""
    if head and not head.strip(b"\0"):
        return "zeros, as an interrupted copy or download leaves them"
    if _is_tar(head):
        return "a tar archive: its members are read with source.tar"
    if head.startswith(_GZIP_MAGIC):
        tar = _is_tar(_unpacked(head))
        return "a .tar.gz: its members are read with source.tar" if tar else "gzip: unpack it"
    if head[:4] == b"RIFF" and head[8:12] in _RIFF_FORMS:
        return _RIFF_FORMS[head[8:12]]
    text = head.removeprefix(_BYTE_ORDER_MARK).lstrip()
    for magic, name in _MAGICS.items():
        if text.startswith(magic):
            return name
    return next((name for form, name in _TEXTS.items() if form.match(text)), None)


def _is_tar(head: bytes) -> bool:
    return head[_TAR_MAGIC_AT:][:5] == b"ustar"


def _unpacked(head: bytes) -> bytes:
    """Return the first bytes of what is gzipped, as far as they are sound."""
    try:
        return zlib.decompressobj(_GZIP_WINDOW).decompress(head, _TAR_HEADER_BYTES)
    except zlib.error:
        return b""
