"""Tars made by hand: every field of a header can be a lie, with a checksum that is right all the same."""

import gzip
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from tests.fuzz.seeds import seeds

BLOCK = 512
FIELDS = {  # name: start, bytes (POSIX.1-1988 ustar; the two last are GNU's)
    "name": (0, 100),
    "mode": (100, 8),
    "uid": (108, 8),
    "gid": (116, 8),
    "size": (124, 12),
    "mtime": (136, 12),
    "type": (156, 1),
    "link": (157, 100),
    "magic": (257, 8),
    "device": (329, 16),
    "prefix": (345, 155),
    "sparse": (386, 96),
    "real size": (483, 12),
}
NUMBERS = ("mode", "uid", "gid", "size", "mtime", "device", "real size")
TYPES = b"01234567DKLMNSVXgx\0\xff"
SIZES = (0, 1, -1, -512, -1536, -(2**62), 511, 513, 2**31 - 1, 2**32, 2**33, 2**62, 2**63 - 512, 2**63, 2**70, 2**90)


@dataclass(frozen=True, slots=True)
class Tar:
    """A tar's bytes; `suffix` says whether it is compressed. `whole` are the names that are certainly readable."""

    name: str
    content: bytes
    suffix: str = ".tar"
    whole: tuple[str, ...] = ()


def header(name: bytes, size: int = 0, kind: bytes = b"0", link: bytes = b"") -> bytes:
    """Return a header block."""
    block = bytearray(BLOCK)
    block[0 : min(100, len(name))] = name[:100]
    block[100:124] = b"0000644\0" + b"0000000\0" * 2
    put_number(block, "size", size)
    block[136:148] = b"00000000000\0"
    block[156:157] = kind
    block[157 : 157 + min(100, len(link))] = link[:100]
    block[257:265] = b"ustar\x0000"
    return summed(bytes(block))


def put_number(block: bytearray, field: str, value: int) -> None:
    """Write a number in octal where it fits, else in base 256 as GNU does."""
    start, length = FIELDS[field]
    if 0 <= value < 8 ** (length - 1):
        block[start : start + length] = b"%0*o\0" % (length - 1, value)
        return
    bits = 8 * (length - 1)
    first = 0x80 if value >= 0 else 0xFF
    block[start : start + length] = bytes([first]) + (value % (1 << bits)).to_bytes(length - 1, "big")


def summed(block: bytes) -> bytes:
    """Return a header block with its checksum made right."""
    total = sum(block[:148]) + 8 * 32 + sum(block[156:])
    return block[:148] + b"%06o\0 " % total + block[156:]


def member(name: bytes, content: bytes, kind: bytes = b"0", size: int | None = None) -> bytes:
    """Return header and content of a member; `size` is what it claims to have."""
    padded = content + bytes(-len(content) % BLOCK)
    return header(name, len(content) if size is None else size, kind) + padded


def pax(records: dict[bytes, bytes], kind: bytes = b"x") -> bytes:
    """Return a pax header with these records, each told as long as it is."""
    body = b"".join(_record(key, value) for key, value in records.items())
    return member(b"PaxHeader", body, kind)


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


END = bytes(2 * BLOCK)
AUDIO = b"RIFF\x00\x00\x00\x00WAVE" + bytes(700)


def good() -> bytes:
    """Return a tar of five members: three clips, one with two sidecars, as WebDataset has them."""
    clips = seeds()
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in (
            ("a/one.opus", clips["ogg-opus"].content),
            ("a/one.json", b'{"speaker": "x", "take": 3}'),
            ("a/one.txt", "h\u00e9llo".encode()),
            (f"a/{'long' * 40}.amr", clips["amr"].content),
            ("b/t\u00e4.gsm", clips["raw-gsm"].content),
        ):
            told = tarfile.TarInfo(name)
            told.size = len(content)
            tar.addfile(told, io.BytesIO(content))
    return file.getvalue()


def hand_made() -> list[Tar]:
    """Return tars that lie in ways of which each is known to have hurt some reader."""
    ok, end = member(b"ok.wav", AUDIO), END
    deep = b"[" * 200_000
    made = {
        "names out of it": b"".join(member(name, AUDIO) for name in (b"../up.wav", b"/abs.wav", b"a/../../b.wav")) + ok,
        "links": b"".join(header(b"link.wav", 0, kind, b"/etc/passwd") for kind in (b"1", b"2")) + ok,
        "devices": b"".join(header(b"dev%s.wav" % kind, 0, kind) for kind in (b"3", b"4", b"6")) + ok,
        "a link with a size": ok + header(b"link.wav", 10**9, b"1", b"ok.wav") + ok,
        "names with NUL and newline": pax({b"path": b"a\0b.wav"}) + ok + pax({b"path": b"a\nb.wav"}) + ok,
        "a name that is no text": member(b"\xff\xfe\xe9.wav", AUDIO) + ok,
        "a pax name that is no text": pax({b"path": b"\xff\xfe.wav"}) + ok,
        "an empty name": member(b"", AUDIO) + ok,
        "one name twice": ok + ok,
        "a size behind the end": ok + member(b"big.wav", AUDIO, size=2**33),
        "a size of 2**62": ok + member(b"big.wav", AUDIO, size=2**62),
        "a size of 2**63": ok + member(b"big.wav", AUDIO, size=2**63),
        "a size of 2**90": ok + member(b"big.wav", AUDIO, size=2**90),
        "a negative size": ok + member(b"minus.wav", AUDIO, size=-1),
        "a size that leads back": ok + member(b"minus.wav", AUDIO, size=-2 * BLOCK) + ok,
        "a pax size of 2**63": ok + pax({b"size": b"9223372036854775808"}) + ok,
        "a negative pax size": ok + pax({b"size": b"-1536"}) + member(b"x.wav", AUDIO) + end,
        "a pax size that is no number": ok + pax({b"size": b"ten"}) + ok,
        "a pax header of 8 GiB": ok + header(b"PaxHeader", 8**11 - 1, b"x") + ok,
        "a pax header of 60 MB": ok + member(b"PaxHeader", bytes(100), b"x", size=60 << 20),
        "a long name of 8 GiB": ok + header(b"././@LongLink", 8**11 - 1, b"L") + ok,
        "a negative long name": ok + header(b"././@LongLink", -1, b"L") + ok,
        "pax headers in a row": ok + pax({b"a": b"b"}) * 3_000 + ok,
        "long names in a row": ok + member(b"././@LongLink", b"n.wav\0", b"L") * 3_000 + ok,
        "a pax length of 5000 digits": ok + member(b"PaxHeader", b"9" * 5_000 + b" path=x\n", b"x") + ok,
        "a pax length of nothing": ok + member(b"PaxHeader", b"0 path=x\n", b"x") + ok,
        "a pax character set": ok + pax({b"hdrcharset": b"BINARY", b"path": b"\xff.wav"}) + ok,
        "a global pax name": pax({b"path": b"all.wav"}, b"g") + ok + member(b"two.wav", AUDIO),
        "a sparse member": ok + _old_sparse(b"sparse.wav", 100_000),
        "a sparse member of 2**60": ok + _old_sparse(b"sparse.wav", 2**60),
        "a sparse map that is no number": ok + pax({b"GNU.sparse.map": b"a,b", b"GNU.sparse.size": b"10"}) + ok,
        "a sparse map of one number": ok + pax({b"GNU.sparse.map": b"1", b"GNU.sparse.size": b"10"}) + ok,
        "a sparse size that is no number": ok + pax({b"GNU.sparse.map": b"0,1", b"GNU.sparse.size": b"x"}) + ok,
        "a sparse map 1.0 without an end": ok + _sparse_1_0(b"99999999\n1\n") + ok,
        "a sparse map 1.0 that is no number": ok + _sparse_1_0(b"x\n") + ok,
        "a sparse map 0.0 that is no number": ok + pax({b"GNU.sparse.size": b"9", b"GNU.sparse.offset": b"x"}) + ok,
        "a sidecar of brackets": member(b"ok.json", deep) + ok,
        "a sidecar of half a character": member(b"ok.json", b'{"a": "\\ud800", "\\udfff": 1}') + ok,
        "a sidecar of a huge number": member(b"ok.json", b'{"a": ' + b"9" * 10_000 + b"}") + ok,
        "a sidecar of a huge float": member(b"ok.json", b'{"a": 1e999, "b": NaN}') + ok,
        "a sidecar with NUL": member(b"ok.txt", b"a\0b") + ok,
        "a sparse sidecar": ok + _old_sparse(b"ok.json", 100_000),
        "a sidecar that ends before it": ok + member(b"ok.json", b"{}", size=BLOCK * 8),
        "a lone zero block": ok + bytes(BLOCK) + member(b"behind.wav", AUDIO),
        "rubbish behind a member": ok + b"rubbish" * 200,
        "nothing at all": b"",
        "half a header": ok[:300],
        "zeros": bytes(10 * BLOCK),
        "text": b"this is no tar at all\n" * 100,
    }
    tars = [Tar(name, content + (b"" if name in _UNENDED else end)) for name, content in made.items()]
    return tars + [Tar(f"{tar.name}, compressed", zipped(tar.content), ".tar.gz") for tar in tars] + _bombs()


_UNENDED = {
    "nothing at all",
    "half a header",
    "text",
    "a sidecar that ends before it",
    "a sparse map 1.0 without an end",
}


def _old_sparse(name: bytes, real: int) -> bytes:
    """Return a member of GNU's old sparse format: 512 bytes stored, `real` bytes when it is written out."""
    block = bytearray(header(name, BLOCK, b"S"))
    block[257:265] = b"ustar  \0"
    block[386:410] = b"00000000000\0" + b"00000001000\0"
    put_number(block, "real size", real)
    return summed(bytes(block)) + b"s" * BLOCK


def _sparse_1_0(table: bytes) -> bytes:
    told = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"512"}
    return pax({**told, b"GNU.sparse.name": b"s.wav"}) + member(b"s.wav", table)


def zipped(content: bytes) -> bytes:
    """Return `content` as gzip, without a time."""
    return gzip.compress(content, 1, mtime=0)


def _bombs() -> list[Tar]:
    zeros, last = zipped(bytes(32 << 20)), zipped(member(b"ok.wav", AUDIO) + END)  # gzips in a row are one
    silence = zipped(header(b"silence.wav", 256 << 20)) + zeros * 8 + last
    told = (zipped(header(b"PaxHeader", 32 << 20, b"x")) + zeros) * 24 + last  # each is kept while the next is read
    return [
        Tar("256 MB of zeros", silence, ".tar.gz"),
        Tar("big pax headers in a row", told, ".tar.gz"),
        Tar("no gzip at all", good(), ".tar.gz"),
        Tar("gzip under the name of a tar", zipped(good())),
        Tar("gzip twice", zipped(zipped(good())), ".tar.gz"),
        Tar("gzip with rubbish behind it", zipped(good()) + b"rubbish" * 100, ".tar.gz"),
        Tar("gzip in two pieces", zipped(good()[:2_000]) + zipped(good()[2_000:]), ".tar.gz"),
    ]


def truncations() -> Iterator[Tar]:
    """Yield the good tar cut off at bytes of every header and around every block, and its gzip everywhere."""
    content, packed = good(), zipped(good())
    for end in sorted({*range(0, len(content), 37), *range(0, len(content), BLOCK), *range(0, 520, 8)}):
        yield Tar(f"cut at {end}", content[:end], ".tar", _whole_before(content, end))
    for end in range(0, len(packed), 61):
        yield Tar(f"gzip cut at {end}", packed[:end], ".tar.gz")


def mutants(number: int) -> Iterator[Tar]:
    """Yield changed tars without end; the same `number` gives the same ones."""
    chance = Random(number)
    bases = [good(), *(tar.content for tar in hand_made() if tar.suffix == ".tar" and 0 < len(tar.content) < 1 << 16)]
    while True:
        content, first = bases[0] if chance.random() < 0.5 else chance.choice(bases), 1 << 60
        for _ in range(chance.choice((1, 1, 2, 3))):
            content, at = _changed(content, chance)
            first = min(first, at)
        whole = _whole_before(good(), first) if content[:first] == good()[:first] else ()
        if chance.random() < 0.6:
            yield Tar("mutant", content, ".tar", whole)
        else:
            yield Tar("packed mutant", _damaged(zipped(content), chance), ".tar.gz")


def _damaged(packed: bytes, chance: Random) -> bytes:
    way = chance.random()
    if way < 0.7:
        return packed
    at = chance.randrange(len(packed))
    return packed[:at] if way < 0.85 else packed[:at] + chance.randbytes(3) + packed[at + 3 :]


def _changed(content: bytes, chance: Random) -> tuple[bytes, int]:
    """Return a changed tar, and the byte from which on it is another."""
    blocks = max(1, len(content) // BLOCK)
    at = BLOCK * chance.choice((0, chance.randrange(blocks)))
    way = chance.randrange(6)
    if way == 0:
        end = chance.randrange(len(content) + 1)
        return content[:end], end
    if way == 1:
        return content[:at] + content[at + BLOCK * chance.randint(1, 3) :], at
    if way == 2:
        return content[:at] + chance.randbytes(chance.choice((1, 100, BLOCK))) + content[at:], at
    headers = [start for start in range(0, len(content) - BLOCK + 1, BLOCK) if content[start + 257 :][:5] == b"ustar"]
    if not headers:
        return content[:at] + b"\xff" + content[at + 1 :], at
    at = chance.choice(headers)
    block = bytearray(content[at : at + BLOCK])
    if way == 3:
        put_number(block, chance.choice(("size", *NUMBERS)), chance.choice((*SIZES, chance.getrandbits(40))))
    elif way == 4:
        block[156] = chance.choice(TYPES)
    else:
        start, length = FIELDS[chance.choice(list(FIELDS))]
        block[start : start + length] = chance.choice((bytes(length), b"\xff" * length, chance.randbytes(length)))
    return content[:at] + summed(bytes(block)) + content[at + BLOCK :], at


def _whole_before(content: bytes, end: int) -> tuple[str, ...]:
    """Return the names of audio members of a good tar that end before byte `end`, with padding."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return tuple(
            entry.name
            for entry in tar
            if entry.offset_data + (entry.size + BLOCK - 1) // BLOCK * BLOCK <= end
            and not entry.name.endswith((".json", ".txt"))
        )
