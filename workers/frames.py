"""The frames that pass between a worker and its decoder child: a kind, a JSON header and a payload of bytes."""

import json
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

REQUEST: Final = b"R"  # header: path and raw where there are any; payload: the object's bytes where there is no path
OPENED: Final = b"O"  # header: AudioInfo
SAMPLES: Final = b"S"  # header: channels, where there are several; payload: int16 samples, interleaved
ENDED: Final = b"E"  # header: Ending
FAILED: Final = b"F"  # header: code, message

PREFIX: Final = struct.Struct("<cIQ")  # kind, header bytes, payload bytes


@dataclass(frozen=True, slots=True)
class Frame:
    """One message between worker and child."""

    kind: bytes
    header: dict[str, Any]
    payload: bytes


def fields_of(value: Any) -> dict[str, Any]:
    """Return a flat dataclass with slots as a header; dataclasses.asdict copies deeply, and takes ten times as long."""
    return {name: getattr(value, name) for name in value.__slots__}


def pack(kind: bytes, header: dict[str, Any], payload_bytes: int = 0) -> bytes:
    """Return the start of a frame: prefix and header; `payload_bytes` bytes must follow."""
    text = json.dumps(header).encode() if header else b""
    return PREFIX.pack(kind, len(text), payload_bytes) + text


def read_frame(stream: BinaryIO) -> Frame | None:
    """Read the next frame from a blocking stream; None at its end, also when it ends inside a frame."""
    prefix = stream.read(PREFIX.size)
    if len(prefix) < PREFIX.size:
        return None
    kind, header_bytes, payload_bytes = PREFIX.unpack(prefix)
    header = stream.read(header_bytes) if header_bytes else b""
    payload = stream.read(payload_bytes) if payload_bytes else b""
    if len(header) < header_bytes or len(payload) < payload_bytes:
        return None
    return Frame(kind, json.loads(header) if header else {}, payload)
