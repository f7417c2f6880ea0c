"""Where the numbers lie in a file that a reader believes, and which parts it can be taken apart into."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from tests.fuzz import ogg

WORDS_OF_A_STRANGER = 128  # bytes at the start of a format not known here, all taken for numbers
PART_OF_A_STRANGER = 128


@dataclass(frozen=True, slots=True)
class Number:
    """A number of `bits` bits from bit `at` on, little-endian only where it is made of whole bytes."""

    at: int
    bits: int
    little: bool = False
    synchsafe: bool = False  # 7 bits a byte, as ID3 has it

    def put(self, content: bytearray, value: int) -> None:
        """Write the lowest bits of `value` in its place; nothing where the file ends before."""
        if self.at + self.bits > len(content) * 8:
            return
        if self.synchsafe:
            value = sum((value >> 7 * place & 0x7F) << 8 * place for place in range(4))
        value &= (1 << self.bits) - 1
        if self.little:
            value = int.from_bytes(value.to_bytes(self.bits // 8, "little"), "big")
        first, last = self.at // 8, (self.at + self.bits + 7) // 8
        room = int.from_bytes(content[first:last], "big")
        shift = last * 8 - self.at - self.bits
        mask = (1 << self.bits) - 1 << shift
        content[first:last] = (room & ~mask | value << shift).to_bytes(last - first, "big")


@dataclass(slots=True)
class Anatomy:
    """The numbers of a file, its parts (start, end), and what makes checksums right again."""

    numbers: list[Number] = field(default_factory=list)
    parts: list[tuple[int, int]] = field(default_factory=list)
    repair: Callable[[bytes], bytes] = bytes

    def number(self, at: int, *sizes: int, little: bool = False) -> None:
        """Note numbers of `sizes` bytes, one after the other from byte `at`."""
        for size in sizes:
            self.numbers.append(Number(at * 8, size * 8, little))
            at += size


def anatomy(content: bytes) -> Anatomy:
    """Return the anatomy of `content`, by its first bytes."""
    try:
        return _dissected(content)
    except RecursionError:  # nested deeper than any reader should follow
        return _equal_parts(content, PART_OF_A_STRANGER)


def _dissected(content: bytes) -> Anatomy:
    for magic, dissect in _DISSECTORS:
        if content.startswith(magic):
            return _or_stranger(dissect(content), content)
    if content[4:8] in (b"ftyp", b"moov", b"mdat"):
        return _or_stranger(_boxes(content), content)
    if content[:1] == b"\x47":
        return _equal_parts(content, 188)
    return _or_stranger(_frames(content), content)


def _or_stranger(found: Anatomy, content: bytes) -> Anatomy:
    return found if found.numbers and found.parts else _equal_parts(content, PART_OF_A_STRANGER)


def _equal_parts(content: bytes, size: int) -> Anatomy:
    found = Anatomy(parts=[(at, min(at + size, len(content))) for at in range(0, len(content), size)])
    for at in range(0, min(len(content), WORDS_OF_A_STRANGER), 2):
        found.numbers += [Number(at * 8, 16), Number(at * 8, 32), Number(at * 8, 32, little=True)]
    return found


# RIFF, AIFF, AU, CAF


def _chunks(content: bytes, at: int, size_bytes: int = 4, *, little: bool) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start of the body, and end of the chunks of a file."""
    while at + 4 + size_bytes <= len(content):
        size = int.from_bytes(content[at + 4 : at + 4 + size_bytes], "little" if little else "big")
        body = at + 4 + size_bytes
        end = min(len(content), body + size + (size & 1))
        yield content[at : at + 4], body, end
        at = end


def _riff(content: bytes) -> Anatomy:
    found = Anatomy()
    found.number(4, 4, little=True)
    _riff_chunks(content, 12, len(content), found)
    return found


def _riff_chunks(content: bytes, start: int, stop: int, found: Anatomy) -> None:
    for name, body, end in _chunks(content[:stop], start, little=True):
        found.number(body - 4, 4, little=True)
        found.parts.append((body - 8, end))
        if name == b"fmt ":
            found.number(body, 2, 2, 4, 4, 2, 2, 2, 2, 4, little=True)
        elif name in (b"ds64", b"fact"):
            found.number(body, *((8, 8, 8, 4) if name == b"ds64" else (4,)), little=True)
        elif name == b"LIST":
            _riff_chunks(content, body + 4, end, found)
        elif name in (b"avih", b"strh", b"strf", b"idx1"):
            found.number(body, *[4] * min(16, (end - body) // 4), little=True)


def _aiff(content: bytes) -> Anatomy:
    found = Anatomy()
    found.number(4, 4)
    for name, body, end in _chunks(content, 12, little=False):
        found.number(body - 4, 4)
        found.parts.append((body - 8, end))
        found.number(body, *{b"COMM": (2, 4, 2, 2, 8, 4), b"SSND": (4, 4), b"FVER": (4,)}.get(name, ()))
    return found


def _au(content: bytes) -> Anatomy:
    found = Anatomy(parts=[(0, 24), (24, len(content))])
    found.number(4, 4, 4, 4, 4, 4)
    return found


def _caf(content: bytes) -> Anatomy:
    found = Anatomy()
    for name, body, end in _chunks(content, 8, 8, little=False):
        found.number(body - 8, 8)
        found.parts.append((body - 12, end))
        found.number(body, *{b"desc": (8, 4, 4, 4, 4, 4, 4), b"pakt": (8, 8, 4, 4), b"kuki": (4,) * 6}.get(name, ()))
    return found


def _w64(content: bytes) -> Anatomy:
    found, at = Anatomy(), 40
    found.number(16, 8, little=True)
    while at + 24 <= len(content):
        size = int.from_bytes(content[at + 16 : at + 24], "little")
        end = min(len(content), at + max(24, size + 7 & ~7))
        found.number(at + 16, 8, little=True)
        found.parts.append((at, end))
        if content[at : at + 4] == b"fmt ":
            found.number(at + 24, 2, 2, 4, 4, 2, 2, little=True)
        at = end
    return found


# FLAC, Ogg, MPEG audio


def _flac(content: bytes) -> Anatomy:
    found, at, last = Anatomy(), 4, False
    while not last and at + 4 <= len(content):
        last = bool(content[at] >> 7)
        end = min(len(content), at + 4 + int.from_bytes(content[at + 1 : at + 4], "big"))
        found.number(at, 1, 3)
        found.parts.append((at, end))
        if content[at] & 0x7F == 0:
            found.number(at + 4, 2, 2, 3, 3)
            start = (at + 14) * 8
            found.numbers += [Number(start, 20), Number(start + 20, 3), Number(start + 23, 5), Number(start + 28, 36)]
        else:
            found.number(at + 4, 4, 4)
        at = end
    found.parts += _split(content, b"\xff\xf8", at)
    return found


def _split(content: bytes, sync: bytes, start: int) -> list[tuple[int, int]]:
    cuts = []
    at = content.find(sync, start)
    while at >= 0:
        cuts.append(at)
        at = content.find(sync, at + 4)
    return list(pairwise([*cuts, len(content)]))


def _ogg(content: bytes) -> Anatomy:
    found = Anatomy(parts=ogg.pages(content), repair=ogg.repaired)
    for start, _ in found.parts:
        found.number(start + 4, 1, 1)
        found.number(start + 6, 8, 4, 4, little=True)
        found.number(start + 26, 1, 1)
    for name, sizes in ((b"\x01vorbis", (4, 1, 4, 4, 4, 4, 1)), (b"OpusHead", (1, 1, 2, 4, 2, 1, 1, 1))):
        if (at := content.find(name)) >= 0:
            found.number(at + len(name), *sizes, little=True)
    for name in (b"\x03vorbis", b"OpusTags"):
        if (at := content.find(name)) >= 0:
            found.number(at + len(name), 4, 4, 4, little=True)
    return found


def _id3(content: bytes) -> Anatomy:
    size = 10 + sum((byte & 0x7F) << 7 * (3 - place) for place, byte in enumerate(content[6:10]))
    found = _frames(content, min(size, len(content)))
    found.numbers += [Number(6 * 8, 32, synchsafe=True), Number(3 * 8, 8), Number(5 * 8, 8)]
    at = 10
    while at + 10 <= size and content[at : at + 1].isalpha():
        found.number(at + 4, 4, 2)
        found.numbers.append(Number((at + 4) * 8, 32, synchsafe=True))
        end = at + 10 + int.from_bytes(content[at + 4 : at + 8], "big")
        found.parts.append((at, min(end, len(content))))
        at = end
    return found


def _frames(content: bytes, start: int = 0) -> Anatomy:
    """Take a file for frames that begin with the first 2 bytes of the first: MPEG audio, ADTS, AC-3, WavPack."""
    found = Anatomy(parts=_split(content, content[start : start + 2], start) if len(content) > start + 2 else [])
    for at, _ in found.parts[:6]:
        found.number(at + 2, 1, 1, 1, 1)
        found.numbers += [Number((at + 3) * 8 + 6, 13), Number((at + 4) * 8, 32, little=True)]
    return found


# MP4, Matroska, ASF, FLV

NESTING = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"udta", b"moof", b"traf", b"edts", b"dinf", b"mvex", b"ilst"}
_LONGEST_TABLE = 96


def _boxes(content: bytes) -> Anatomy:
    found = Anatomy()
    _box(content, 0, len(content), found)
    return found


def _box(content: bytes, at: int, stop: int, found: Anatomy) -> None:
    while at + 8 <= stop:
        size, name = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        end = min(stop, at + max(8, size))
        found.number(at, 4)
        found.parts.append((at, end))
        if name in NESTING:
            _box(content, at + 8, end, found)
        elif name != b"mdat":
            for word in range(at + 8, min(end, at + _LONGEST_TABLE) - 3, 4):
                found.number(word, 4)
                found.number(word, 2, 2)
        at = end


_MASTERS = {
    *(b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x11\x4d\x9b\x74", b"\x15\x49\xa9\x66", b"\x16\x54\xae\x6b"),
    *(b"\x1f\x43\xb6\x75", b"\x1c\x53\xbb\x6b", b"\x12\x54\xc3\x67", b"\xae", b"\xe1", b"\xe0", b"\xa0", b"\xbb"),
    *(b"\xb7", b"\x4d\xbb", b"\x73\x73", b"\x63\xc0", b"\x67\xc8"),
}


def _ebml(content: bytes) -> Anatomy:
    found = Anatomy()
    _element(content, 0, len(content), found)
    return found


def _element(content: bytes, at: int, stop: int, found: Anatomy) -> None:
    while at < stop:
        name = 9 - content[at].bit_length()
        sized = at + name
        if sized >= stop or name > 4 or not content[sized]:
            return
        width = 9 - content[sized].bit_length()
        body = sized + width
        size = int.from_bytes(content[sized:body], "big") & (1 << 7 * width) - 1
        end = min(stop, body + size)
        found.numbers.append(Number(sized * 8 + width, 7 * width))
        found.parts.append((at, end))
        if content[at:sized] in _MASTERS:
            _element(content, body, end, found)
        elif 0 < end - body <= 8:
            found.number(body, end - body)
        at = end


def _asf(content: bytes) -> Anatomy:
    found = Anatomy()
    _asf_objects(content, 0, len(content), found)
    return found


def _asf_objects(content: bytes, at: int, stop: int, found: Anatomy) -> None:
    while at + 24 <= stop:
        end = min(stop, at + max(24, int.from_bytes(content[at + 16 : at + 24], "little")))
        found.number(at + 16, 8, little=True)
        found.parts.append((at, end))
        if at == 0:
            found.number(24, 4, 1, 1, little=True)
            _asf_objects(content, 30, end, found)
        else:
            for word in range(at + 24, min(end, at + 24 + _LONGEST_TABLE) - 3, 2):
                found.number(word, 4, little=True)
        at = end


def _flv(content: bytes) -> Anatomy:
    found, at = Anatomy(), 13
    found.number(4, 1, 4, 4)
    while at + 11 <= len(content):
        end = min(len(content), at + 15 + int.from_bytes(content[at + 1 : at + 4], "big"))
        found.number(at, 1, 3, 3, 1, 3, 1, 1)
        found.number(end - 4, 4)
        found.parts.append((at, end))
        at = end
    return found


_DISSECTORS = (
    (b"RIFF", _riff),
    (b"RF64", _riff),
    (b"riff", _w64),
    (b"FORM", _aiff),
    (b".snd", _au),
    (b"caff", _caf),
    (b"fLaC", _flac),
    (b"OggS", _ogg),
    (b"ID3", _id3),
    (b"\x1a\x45\xdf\xa3", _ebml),
    (b"\x30\x26\xb2\x75", _asf),
    (b"FLV", _flv),
)
