"""The frames that pass between a worker and its decoder child: a kind, a JSON header and a payload of bytes.

Objects and samples pass through memory that both share, as far as they fit into a request's slot of it, and frames tell
where they are; a pipe copies them twice, and in small pieces.
"""

import io
import json
import mmap
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

REQUEST: Final = b"R"  # header: slot, and path, raw, and where the bytes are, where there are any; payload: else they
OPENED: Final = b"O"  # header: AudioInfo
SAMPLES: Final = b"S"  # header: channels, where there are several; payload: int16 samples, interleaved
PLACED: Final = b"P"  # payload: a PLACE; the samples are there
ENDED: Final = b"E"  # header: Ending
FAILED: Final = b"F"  # header: code, message

PREFIX: Final = struct.Struct("<cIQ")  # kind, header bytes, payload bytes
PLACE: Final = struct.Struct("<QQI")  # start and end in the memory for answers, channels

SLOTS: Final = 4  # of shared memory, each for one request that waits for the child or is being answered
SLOT_BYTES: Final = 16 << 20  # for the object; what is longer comes through the pipe
ANSWER_BYTES: Final = 4 << 20  # for the first samples, two minutes of one channel at 16 kHz


@dataclass(frozen=True, slots=True)
class Frame:
    """One message between worker and child."""

    kind: bytes
    header: dict[str, Any]
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Request:
    """A REQUEST as the child reads it, its payload as a file, and where its samples have room."""

    header: dict[str, Any]
    payload: io.BytesIO
    room: "Room"


class Room:
    """One slot of the memory for answers, filled from its start."""

    def __init__(self, memory: mmap.mmap, slot: int) -> None:
        self._memory = memory
        self._told = self._next = slot * ANSWER_BYTES
        self._end = (slot + 1) * ANSWER_BYTES
        self._channels = 1

    @property
    def untold_bytes(self) -> int:
        """How much lies in the memory that `told` has not told of."""
        return self._next - self._told

    def put(self, samples: memoryview, channels: int) -> bool:
        """Copy samples behind those before; False where they do not fit. A recording has `channels` all along."""
        end = self._next + samples.nbytes
        if end > self._end:
            return False
        self._memory[self._next : end] = samples.cast("B")
        self._next, self._channels = end, channels
        return True

    def told(self) -> bytes:
        """Return the frame that tells where samples are that were not told of; nothing where there are none."""
        start, self._told = self._told, self._next
        if start == self._next:
            return b""
        return pack(PLACED, {}, PLACE.size) + PLACE.pack(start, self._next, self._channels)


def fields_of(value: Any) -> dict[str, Any]:
    """Return a flat dataclass with slots as a header; dataclasses.asdict copies deeply, and takes ten times as long."""
    return {name: getattr(value, name) for name in value.__slots__}


def pack(kind: bytes, header: dict[str, Any], payload_bytes: int = 0) -> bytes:
    """Return the start of a frame: prefix and header; `payload_bytes` bytes must follow."""
    text = json.dumps(header).encode() if header else b""
    return PREFIX.pack(kind, len(text), payload_bytes) + text


def read_request(stream: BinaryIO, objects: mmap.mmap, answers: mmap.mmap) -> Request | None:
    """Read the next request from a blocking stream; None at its end, also when it ends inside a request.

    `objects` and `answers` are the memory that the parent shares.
    """
    prefix = stream.read(PREFIX.size)
    if len(prefix) < PREFIX.size:
        return None
    _, header_bytes, payload_bytes = PREFIX.unpack(prefix)
    header = stream.read(header_bytes)
    if len(header) < header_bytes:
        return None
    told = json.loads(header)
    room = Room(answers, told["slot"])
    if "start" in told:
        return Request(told, io.BytesIO(objects[told["start"] : told["end"]]), room)
    payload = io.BytesIO()
    if payload_bytes:
        payload.seek(payload_bytes - 1)
        payload.write(b"\0")  # makes the room, which is then read into: a megabyte is copied once and not thrice
        payload.seek(0)
        if not _fill(stream, payload.getbuffer()):
            return None
    return Request(told, payload, room)


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
