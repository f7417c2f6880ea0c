"""MP4 boxes: one put in the place of another, with the sizes of those around it made right."""

import struct

from tests.fuzz.anatomy import NESTING


def box(name: bytes, *bodies: bytes) -> bytes:
    """Return a box."""
    body = b"".join(bodies)
    return struct.pack(">I", 8 + len(body)) + name + body


def replaced(content: bytes, name: bytes, body: bytes) -> bytes:
    """Return a film with another first box `name`; what lies behind it moves, and is found no more."""
    parts, at = [], 0
    while at + 8 <= len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        kind, inner = content[at + 4 : at + 8], content[at + 8 : at + size]
        if kind == name:
            return b"".join(parts) + box(name, body) + content[at + size :]
        if kind in NESTING and name in inner:
            return b"".join(parts) + box(kind, replaced(inner, name, body)) + content[at + size :]
        parts.append(content[at : at + size])
        at += size
    return content
