"""The frames that pass between a worker and its decoder child: a kind, a JSON header and a payload of bytes."""

import io
import json
import mmap
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

REQUEST: Final = b"R"  # header: path, raw, and place in the shared memory, where there are any; payload: else the bytes
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
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Request:
    """A REQUEST as the child reads it, its payload as a file."""

    header: dict[str, Any]
    payload: io.BytesIO


def fields_of(value: Any) -> dict[str, Any]:
    """Return a flat dataclass with slots as a header; dataclasses.asdict copies deeply, and takes ten times as long."""
    return {name: getattr(value, name) for name in value.__slots__}


def pack(kind: bytes, header: dict[str, Any], payload_bytes: int = 0) -> bytes:
    """Return the start of a frame: prefix and header; `payload_bytes` bytes must follow."""
    text = json.dumps(header).encode() if header else b""
    return PREFIX.pack(kind, len(text), payload_bytes) + text


SLOTS: Final = 4  # of shared memory, each for the bytes of one object that waits for the child or is being decoded
SLOT_BYTES: Final = 16 << 20  # what is longer comes through the pipe, which copies it once more and in small pieces


def read_request(stream: BinaryIO, shared: mmap.mmap) -> Request | None:
    """Read the next request from a blocking stream; None at its end, also when it ends inside a request."""
    prefix = stream.read(PREFIX.size)
    if len(prefix) < PREFIX.size:
        return None
    _, header_bytes, payload_bytes = PREFIX.unpack(prefix)
    header = stream.read(header_bytes) if header_bytes else b""
    if len(header) < header_bytes:
        return None
    told = json.loads(header) if header else {}
    if "start" in told:
        return Request(told, io.BytesIO(shared[told["start"] : told["end"]]))
    payload = io.BytesIO()
    if payload_bytes:
        payload.seek(payload_bytes - 1)
        payload.write(b"\0")  # makes the room, which is then read into: a megabyte is copied once and not thrice
        payload.seek(0)
        if not _fill(stream, payload.getbuffer()):
            return None
    return Request(told, payload)


def _fill(stream: BinaryIO, room: memoryview) -> bool:
    """Fill `room` from a stream; False where it ends before."""
    with room:
        filled = 0
        while filled < len(room):
            count = stream.readinto(room[filled:])  # type: ignore[attr-defined]
            if not count:
                return False
            filled += count
    return True
