"""Ogg pages (RFC 3533): where they lie, and the checksum without which no reader looks into a changed one."""

import struct

HEADER = struct.Struct("<4sBBqIIIB")  # OggS, version, type, granule, serial, number, checksum, segments
CRC_AT = 22


def _table() -> list[int]:
    table = []
    for byte in range(256):
        register = byte << 24
        for _ in range(8):
            register = (register << 1) ^ (0x04C11DB7 if register & 0x80000000 else 0)
        table.append(register & 0xFFFFFFFF)
    return table


_TABLE = _table()


def crc(page: bytes) -> int:
    """Return the checksum of a page whose own checksum is zero."""
    register = 0
    for byte in page:
        register = (register << 8 & 0xFFFFFFFF) ^ _TABLE[register >> 24 ^ byte]
    return register


def page(packets: list[bytes], granule: int, number: int, kind: int = 0, serial: int = 1) -> bytes:
    """Return a page of whole packets, of at most 255 segments."""
    lacing = b"".join(b"\xff" * (len(packet) // 255) + bytes([len(packet) % 255]) for packet in packets)
    body = HEADER.pack(b"OggS", 0, kind, granule, serial, number, 0, len(lacing)) + lacing + b"".join(packets)
    return body[:CRC_AT] + struct.pack("<I", crc(body)) + body[CRC_AT + 4 :]


def pages(content: bytes) -> list[tuple[int, int]]:
    """Return start and end of the pages that `content` holds, one after the other."""
    found, at = [], 0
    while content[at : at + 4] == b"OggS" and at + 27 <= len(content):
        lacing = content[at + 27 : at + 27 + content[at + 26]]
        end = min(len(content), at + 27 + len(lacing) + sum(lacing))
        found.append((at, end))
        at = end
    return found


def repaired(content: bytes) -> bytes:
    """Return `content` with every page's checksum made right."""
    fixed = bytearray(content)
    for start, end in pages(content):
        if end - start >= 27:
            fixed[start + CRC_AT : start + CRC_AT + 4] = bytes(4)
            fixed[start + CRC_AT : start + CRC_AT + 4] = struct.pack("<I", crc(bytes(fixed[start:end])))
    return bytes(fixed)


def renumbered(content: bytes) -> bytes:
    """Return a stream with serial number 1, where its encoder drew one by lot."""
    fixed = bytearray(content)
    for start, _ in pages(content):
        fixed[start + 14 : start + 18] = struct.pack("<I", 1)
    return repaired(bytes(fixed))
