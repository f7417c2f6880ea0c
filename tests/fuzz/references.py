"""Files that name other files: playlists, and containers whose audio lies elsewhere. None of them may be followed."""

import struct
from collections.abc import Callable
from dataclasses import dataclass

from tests.fuzz.boxes import box, replaced
from tests.fuzz.seeds import seeds


@dataclass(frozen=True, slots=True)
class Reference:
    """A file that names another; `demuxer` is FFmpeg's that would follow it."""

    name: str
    make: Callable[[str], bytes]
    demuxer: str


def _hls(target: str) -> bytes:
    return (
        f"#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:10\n#EXT-X-MEDIA-SEQUENCE:0\n"
        f'#EXT-X-MAP:URI="{target}"\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n'
    ).encode()


def _hls_master(target: str) -> bytes:
    return (
        f'#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="a",URI="{target}"\n'
        f'#EXT-X-STREAM-INF:BANDWIDTH=1000,AUDIO="a"\n{target}\n'
    ).encode()


def _hls_key(target: str) -> bytes:
    return (
        f'#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXT-X-KEY:METHOD=AES-128,URI="{target}"\n'
        f"#EXTINF:10,\ndata:audio/x;base64,AAAA\n#EXT-X-ENDLIST\n"
    ).encode()


def _dash(target: str) -> bytes:
    return (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT10S" profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period><AdaptationSet '
        f'mimeType="audio/mp4"><Representation id="0" bandwidth="1000"><BaseURL>{target}</BaseURL><SegmentBase/>'
        "</Representation></AdaptationSet></Period></MPD>"
    ).encode()


def _concat(target: str) -> bytes:
    return f"ffconcat version 1.0\nfile '{target}'\n".encode()


def _concat_subfile(target: str) -> bytes:
    data = "data:audio/wav;base64,UklGRg=="
    return f"ffconcat version 1.0\nfile 'subfile,,start,0,end,0,,:{target}'\nfile '{data}'\n".encode()


def _sdp(target: str) -> bytes:
    host, _, port = target.removeprefix("http://").partition("/")[0].partition(":")
    return (
        f"v=0\no=- 0 0 IN IP4 {host}\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\na=control:{target}\n"
        f"m=audio {port or 5004} RTP/AVP 0\n"
    ).encode()


def _wav_then_concat(target: str) -> bytes:
    return seeds()["wav"].content + _concat(target)


def _id3_then_hls(target: str) -> bytes:
    return b"ID3\x04\x00\x00\x00\x00\x00\x0a" + bytes(10) + _hls(target)


def _wav_named_in_list(target: str) -> bytes:
    """A WAV whose LIST chunk and trailing ID3 hold the address as tags."""
    content, text = seeds()["wav"].content, target.encode() + b"\0"
    text += b"\0" * (len(text) & 1)
    body = b"INFOIART" + struct.pack("<I", len(text)) + text
    return content + b"LIST" + struct.pack("<I", len(body)) + body


def _mov(kind: bytes, entry: bytes) -> bytes:
    """A QuickTime film whose samples lie in the file that its data reference names."""
    reference = struct.pack(">I4sI", 12 + len(entry), kind, 0) + entry
    return replaced(seeds()["mov-pcm"].content, b"dref", struct.pack(">II", 0, 1) + reference)


def _mov_url(target: str) -> bytes:
    return _mov(b"url ", target.encode() + b"\0")


def _mov_alias(target: str) -> bytes:
    """An alias record (Inside Macintosh: Files), with the absolute path as its entry of type 2."""
    name = target.rpartition("/")[2].encode()[:63]
    path = target.encode()
    record = struct.pack(">IHH", 0, 150, 2)  # application, size, version
    record += struct.pack(">H", 0) + bytes(1 + 27)  # a file; a volume without a name
    record += bytes(4) + b"H+" + bytes(2) + bytes(4) + bytes([len(name)]) + name.ljust(63, b"\0")
    record += bytes(8 + 8) + struct.pack(">hh", 0, 1) + bytes(4 + 2 + 10)
    for number, text in ((2, path), (18, path)):
        record += struct.pack(">hH", number, len(text)) + text + b"\0" * (len(text) & 1)
    return _mov(b"alis", record + struct.pack(">hH", -1, 0))


def _mov_reference_movie(target: str) -> bytes:
    """A reference movie: moov/rmra/rmda/rdrf."""
    where = b"url " + struct.pack(">I", len(target) + 1) + target.encode() + b"\0"
    movie = box(b"moov", box(b"rmra", box(b"rmda", box(b"rdrf", bytes(4), where))))
    return box(b"ftyp", b"qt  ", bytes(4), b"qt  ") + movie


def _element(name: bytes, body: bytes) -> bytes:
    return name + struct.pack(">Q", len(body) | 1 << 56) + body


def _mkv_linked(target: str) -> bytes:
    """A Matroska that goes on in another segment, named in its Info and by an ordered chapter."""
    content = seeds()["mkv"].content
    at = content.index(b"\x16\x54\xae\x6b", 100)
    named = _element(b"\x3e\x83\xbb", target.encode()) + _element(b"\x3e\xb9\x23", b"\x01" * 16)  # next: name, UID
    info = _element(b"\x15\x49\xa9\x66", _element(b"\x2a\xd7\xb1", b"\x0f\x42\x40") + named)
    atom = _element(b"\xb6", _element(b"\x91", b"\0") + _element(b"\x6e\x67", b"\x01" * 16))
    edition = _element(b"\x45\xb9", _element(b"\x45\xdd", b"\x01") + atom)
    return content[:at] + info + _element(b"\x10\x43\xa7\x70", edition) + content[at:]


def _asf_redirector(target: str) -> bytes:
    return f"[Reference]\nRef1={target}?MSWMExt=.asf\n".encode()


def _asx(target: str) -> bytes:
    return f'<asx version="3.0"><entry><ref href="{target}"/></entry></asx>'.encode()


def _m3u(target: str) -> bytes:
    return f"{target}\n".encode()


def _data_uri(target: str) -> bytes:
    return f"data:application/vnd.apple.mpegurl,{_hls(target).decode()}".encode()


def _imf(target: str) -> bytes:
    return f'<?xml version="1.0"?><CompositionPlaylist><Path>{target}</Path></CompositionPlaylist>'.encode()


REFERENCES = (
    Reference("hls", _hls, "hls"),
    Reference("hls master", _hls_master, "hls"),
    Reference("hls key", _hls_key, "hls"),
    Reference("dash", _dash, "dash"),
    Reference("ffconcat", _concat, "concat"),
    Reference("ffconcat of subfile and data", _concat_subfile, "concat"),
    Reference("sdp", _sdp, "sdp"),
    Reference("wav with a concat script behind it", _wav_then_concat, "wav"),
    Reference("id3 with a playlist behind it", _id3_then_hls, "mp3"),
    Reference("wav with an address in its tags", _wav_named_in_list, "wav"),
    Reference("mov url", _mov_url, "mov"),
    Reference("mov alias", _mov_alias, "mov"),
    Reference("mov reference movie", _mov_reference_movie, "mov"),
    Reference("linked matroska", _mkv_linked, "matroska"),
    Reference("asf redirector", _asf_redirector, "asf"),
    Reference("asx", _asx, "asf"),
    Reference("m3u", _m3u, "hls"),
    Reference("data uri", _data_uri, "hls"),
    Reference("imf", _imf, "asf"),
)
