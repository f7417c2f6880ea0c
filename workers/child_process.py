"""The decoder child's process: what it shares with us, a pipe each way and memory for objects and for samples."""

import fcntl
import json
import mmap
import os
import select
import subprocess
import time
from collections import deque
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

from workers import frames

READ_BYTES: Final = 1 << 20
KEPT_BYTES: Final = 32 << 20  # of free memory: what one block needs the next needs too, and new pages cost time
MAPPED_BYTES: Final = 8 << 20  # arrays of more than that are given back at once
MOST_FRAME_BYTES: Final = 1 << 30  # the child has no more memory than that
_ROOT: Final = Path(__file__).resolve().parents[1]


def _memory(what: str, n_bytes: int) -> int:
    """Return the descriptor of memory to share; it is taken where it is written to.

    It cannot be cut shorter: whoever reads behind the end of such memory dies of SIGBUS.
    """
    descriptor = os.memfd_create(f"phonolake-{what}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, n_bytes)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return descriptor


class ChildDied(Exception):
    """The child ended without finishing its answer."""


class ChildSilent(Exception):
    """The child gave no sign of life in time."""


class ChildProcess:
    """A child process and the two pipes to it."""

    def __init__(self, command: list[str]) -> None:
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": str(_ROOT),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MALLOC_TRIM_THRESHOLD_": str(KEPT_BYTES),
            "MALLOC_MMAP_THRESHOLD_": str(MAPPED_BYTES),
        }
        with ExitStack() as always, ExitStack() as on_failure:  # of no memory, say; the worker lives on and tries again
            self._objects = _memory("objects", frames.SLOTS * frames.SLOT_BYTES)
            on_failure.callback(os.close, self._objects)
            readable = os.open(f"/proc/self/fd/{self._objects}", os.O_RDONLY)  # the child may not write to it
            always.callback(os.close, readable)
            answers = _memory("answers", frames.SLOTS * frames.ANSWER_BYTES)
            always.callback(os.close, answers)
            self._answers = mmap.mmap(answers, frames.SLOTS * frames.ANSWER_BYTES, prot=mmap.PROT_READ)
            on_failure.callback(self._answers.close)
            self._process = subprocess.Popen(
                [*command, str(readable), str(answers)],
                pass_fds=[readable, answers],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # codecs chat there; what matters comes as a frame
                env=environment,
            )
            on_failure.pop_all()
        self._asked = 0
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        for pipe in (self._to, self._from):
            os.set_blocking(pipe, False)
            with suppress(OSError):  # a user may have so many on a host, of all its containers; without, it is slower
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, READ_BYTES)
        self._outgoing: deque[memoryview] = deque()
        self._incoming, self._room = bytearray(), bytearray(READ_BYTES)
        self._poll = select.poll()
        self._poll.register(self._from, select.POLLIN)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask(self, header: dict[str, Any], content: bytes) -> None:
        """Send a request: its bytes through the shared memory, or through the pipe where they are many.

        A slot is used again after as many requests as there are, when the one before it has been answered.
        """
        payload = content if len(content) > frames.SLOT_BYTES else b""
        header = {**header, "slot": (slot := self._asked % frames.SLOTS)}
        if content and not payload:
            start = slot * frames.SLOT_BYTES
            os.pwrite(self._objects, content, start)
            header |= {"start": start, "end": start + len(content)}
        self._asked += 1
        self._outgoing.append(memoryview(frames.pack(frames.REQUEST, header, len(payload))))
        if payload:
            self._outgoing.append(memoryview(payload))

    def read_frame(self, timeout_seconds: float) -> frames.Frame:
        """Return the next frame, as SAMPLES where the child says that samples are in the memory.

        Raises:
            ChildDied: the child ended before the frame was whole.
            ChildSilent: nothing moved for `timeout_seconds`.
            ValueError: it is none that our child writes; so do struct.error and RecursionError tell.
        """
        self._await_bytes(frames.PREFIX.size, timeout_seconds)
        kind, header_bytes, payload_bytes = frames.PREFIX.unpack_from(self._incoming)
        if header_bytes + payload_bytes > MOST_FRAME_BYTES:
            raise ValueError(f"a frame of {header_bytes + payload_bytes} bytes")
        self._await_bytes(frames.PREFIX.size + header_bytes + payload_bytes, timeout_seconds)
        return self._take_frame(kind, header_bytes, payload_bytes)

    def _take_frame(self, kind: bytes, header_bytes: int, payload_bytes: int) -> frames.Frame:
        start, end = frames.PREFIX.size + header_bytes, frames.PREFIX.size + header_bytes + payload_bytes
        header = json.loads(self._incoming[frames.PREFIX.size : start]) if header_bytes else {}
        payload = bytes(memoryview(self._incoming)[start:end])
        del self._incoming[:end]
        return self._placed(payload) if kind == frames.PLACED else frames.Frame(kind, header, payload)

    def _placed(self, place: bytes) -> frames.Frame:
        start, end, channels = frames.PLACE.unpack(place)
        if not start <= end <= len(self._answers):
            raise ValueError(f"samples at {start} to {end}, outside its memory")
        return frames.Frame(frames.SAMPLES, {"channels": channels}, self._answers[start:end])

    def _await_bytes(self, wanted: int, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        while len(self._incoming) < wanted:
            if self._move(max(0.0, deadline - time.monotonic())):
                deadline = time.monotonic() + timeout_seconds
            elif time.monotonic() >= deadline:
                raise ChildSilent

    def _move(self, timeout_seconds: float) -> bool:
        """Wait until bytes can move either way and move them; return whether any did."""
        if self._outgoing:
            self._poll.register(self._to, select.POLLOUT)
        ready = self._poll.poll(timeout_seconds * 1000)
        if self._outgoing:
            self._poll.unregister(self._to)
        for pipe, _ in sorted(ready, key=lambda event: event[0] != self._from):
            if pipe == self._from:
                self._receive()
            else:
                self._write()
        return bool(ready)

    def _receive(self) -> None:
        count = os.readv(self._from, [self._room])  # os.read would make a megabyte of new memory each time
        if not count:
            raise ChildDied
        self._incoming += memoryview(self._room)[:count]

    def _write(self) -> None:
        try:
            written = os.write(self._to, self._outgoing[0])
        except BrokenPipeError:
            self._outgoing.clear()  # its answers so far are still to be read; then reading tells that it died
            return
        if written == len(self._outgoing[0]):
            self._outgoing.popleft()
        else:
            self._outgoing[0] = self._outgoing[0][written:]

    def has_ended(self) -> bool:
        """Whether the child is no more."""
        return self._process.poll() is not None

    def obituary(self) -> str:
        """Say how the child ended, waiting a moment for it to do so."""
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "it closed its output"
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """End the child now."""
        self._process.kill()
        self._process.wait()
        os.close(self._objects)
        self._answers.close()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
