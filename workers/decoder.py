"""Decoding in a child process that may crash, hang or eat memory: each costs one recording and a new child.

A long-lived child per worker process decodes one recording after the other (workers.decoder_child). The next requests
are written while answers are read, over non-blocking pipes in one thread, so that neither side waits for the other.
Plain WAV files need no decoder and no child (workers.plain_wav).
"""

import fcntl
import json
import logging
import os
import select
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from workers import frames
from workers.decode import move
from workers.decode_settings import DecodeSettings
from workers.decoded import AudioInfo, DecodeError, Ending
from workers.headerless import RawAudio
from workers.plain_wav import PlainWav, open_plain, plain_wav

logger = logging.getLogger(__name__)

BASE_TIMEOUT_SECONDS: Final = 60.0
TIMEOUT_SECONDS_PER_MEGABYTE: Final = 2.0  # a slow core decodes far more than 0.5 MB a second
READ_BYTES: Final = 1 << 20
REQUESTS_IN_FLIGHT: Final = frames.SLOTS  # written ahead of the answer being read
_ROOT: Final = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Request:
    """One object to decode: its bytes, or where they are too many to hold, the path of a private copy.

    `raw` is what the bytes are if they have no header.
    """

    content: bytes
    path: str | None = None
    size_bytes: int = 0
    raw: RawAudio | None = None

    @property
    def timeout_seconds(self) -> float:
        """How long the child may go without a sign of life."""
        return BASE_TIMEOUT_SECONDS + TIMEOUT_SECONDS_PER_MEGABYTE * max(self.size_bytes, len(self.content)) / 1e6


@dataclass(frozen=True, slots=True)
class Failed:
    """The recording could not be decoded; `code` is one of schemas.failures.CODES."""

    code: str
    message: str


Answer = AudioInfo | np.ndarray | Ending | Failed
"""What comes of a request, in this order: AudioInfo, int16 samples any number of times, then Ending or Failed.

Samples have shape (n,), or (n, channels) where each of several channels is kept.
"""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request, and what a plain WAV file holds; then the child does not know of it."""

    request: Request
    plain: PlainWav | None


class _Answers:
    """A sink that keeps all."""

    def __init__(self) -> None:
        self.found: list[Answer] = []

    def opened(self, info: AudioInfo) -> None:
        self.found.append(info)

    def samples(self, pcm: np.ndarray) -> None:
        self.found.append(pcm)


class _ChildDied(Exception):
    """The child ended without finishing its answer."""


class _ChildSilent(Exception):
    """The child gave no sign of life in time."""


class Decoder:
    """Decodes recordings in a child process, one after the other, each to an ordered stream of answers."""

    def __init__(self, settings: DecodeSettings, command: list[str] | None = None) -> None:
        """Take what every request shares; `command` starts another child than our own (a test's)."""
        self._settings = settings
        shared = [str(os.getpid()), json.dumps(asdict(settings))]
        self._command = [*(command or [sys.executable, "-m", "workers.decoder_child"]), *shared]
        self._child: _Child | None = None

    def stream(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Decode `requests` in order and yield their answers; each request's last is an Ending or a Failed.

        Exceptions of the `requests` iterator are raised here. Use one stream at a time.
        """
        if self._child is not None and self._child.has_ended():
            self.close()  # it died with nothing to do: no recording of this stream did that
        source = iter(requests)
        unanswered: deque[_Asked] = deque()
        try:
            while self._top_up(unanswered, source):
                plain = unanswered[0].plain
                yield from self._answers(unanswered) if plain is None else self._read(unanswered[0].request, plain)
                unanswered.popleft()
        finally:
            if unanswered:  # the reader gave up early: what the child still says is nobody's
                self.close()

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _top_up(self, unanswered: "deque[_Asked]", source: Iterator[Request]) -> bool:
        """Send the next requests to the child, up to REQUESTS_IN_FLIGHT; return whether any is unanswered."""
        while len(unanswered) < REQUESTS_IN_FLIGHT and (request := next(source, None)) is not None:
            plain = plain_wav(request.content) if request.path is None else None
            unanswered.append(_Asked(request, plain))
            if plain is None:
                self._send(request)
        return bool(unanswered)

    def _read(self, request: Request, plain: PlainWav) -> list[Answer]:
        """Read a plain WAV file here."""
        answers = _Answers()
        try:
            info, blocks = open_plain(request.content, plain, self._settings.limits)
            answers.found.append(move(info, blocks, self._settings, answers))
        except DecodeError as error:
            answers.found.append(Failed(error.code, error.message))
        return answers.found

    def _send(self, request: Request) -> None:
        if self._child is None:
            self._child = _Child(self._command)
        header: dict[str, Any] = {"path": request.path} if request.path else {}
        if request.raw:
            header["raw"] = asdict(request.raw)
        self._child.ask(header, request.content)

    def _answers(self, unanswered: "deque[_Asked]") -> Iterator[Answer]:
        child, timeout = self._child, unanswered[0].request.timeout_seconds
        assert child is not None
        try:
            while True:
                answer = _answer(child.read_frame(timeout))
                yield answer
                if isinstance(answer, Ending | Failed):
                    return
        except _ChildDied:
            yield Failed("decoder_crashed", f"the decoding process died on it ({child.obituary()})")
        except _ChildSilent:
            yield Failed("decoder_timeout", f"the decoder gave no sign of life for {timeout:.0f} s and was ended")
        logger.warning("decoder child %d ended; the next recording starts another", child.pid)
        self.close()
        for asked in list(unanswered)[1:]:
            if asked.plain is None:
                self._send(asked.request)


def _answer(frame: frames.Frame) -> Answer:
    if frame.kind == frames.SAMPLES:
        samples = np.frombuffer(frame.payload, dtype=np.int16)
        channels = frame.header.get("channels", 1)
        return samples if channels == 1 else samples.reshape(-1, channels)
    if frame.kind == frames.OPENED:
        return AudioInfo(**frame.header)
    if frame.kind == frames.ENDED:
        return Ending(**frame.header)
    return Failed(**frame.header)


class _Child:
    """A child process and the two pipes to it."""

    def __init__(self, command: list[str]) -> None:
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": str(_ROOT),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self._memory = os.memfd_create("phonolake-requests")
        os.ftruncate(self._memory, frames.SLOTS * frames.SLOT_BYTES)  # takes memory where it is written to
        self._asked = 0
        readable = os.open(f"/proc/self/fd/{self._memory}", os.O_RDONLY)  # the child may not write to it
        self._process = subprocess.Popen(
            [*command, str(readable)],
            pass_fds=[readable],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # codecs chat there; what matters comes as a frame
            env=environment,
        )
        os.close(readable)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        for pipe in (self._to, self._from):
            os.set_blocking(pipe, False)
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, READ_BYTES)
        self._outgoing: deque[memoryview] = deque()
        self._incoming, self._room = bytearray(), bytearray(READ_BYTES)
        self._poll = select.poll()
        self._poll.register(self._from, select.POLLIN)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, header: dict[str, Any], content: bytes) -> None:
        """Send a request: its bytes through the shared memory, or through the pipe where they are many.

        A slot is used again after as many requests as there are, when the one before it has been answered.
        """
        payload = content if len(content) > frames.SLOT_BYTES else b""
        if content and not payload:
            start = self._asked % frames.SLOTS * frames.SLOT_BYTES
            os.pwrite(self._memory, content, start)
            header = {**header, "start": start, "end": start + len(content)}
        self._asked += 1
        self._outgoing.append(memoryview(frames.pack(frames.REQUEST, header, len(payload))))
        if payload:
            self._outgoing.append(memoryview(payload))

    def read_frame(self, timeout_seconds: float) -> frames.Frame:
        """Return the next frame.

        Raises:
            _ChildDied: the child ended before the frame was whole.
            _ChildSilent: nothing moved for `timeout_seconds`.
        """
        self._await_bytes(frames.PREFIX.size, timeout_seconds)
        kind, header_bytes, payload_bytes = frames.PREFIX.unpack_from(self._incoming)
        self._await_bytes(frames.PREFIX.size + header_bytes + payload_bytes, timeout_seconds)
        return self._take_frame(kind, header_bytes, payload_bytes)

    def _take_frame(self, kind: bytes, header_bytes: int, payload_bytes: int) -> frames.Frame:
        start, end = frames.PREFIX.size + header_bytes, frames.PREFIX.size + header_bytes + payload_bytes
        header = json.loads(self._incoming[frames.PREFIX.size : start]) if header_bytes else {}
        frame = frames.Frame(kind, header, bytes(memoryview(self._incoming)[start:end]))
        del self._incoming[:end]
        return frame

    def _await_bytes(self, wanted: int, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        while len(self._incoming) < wanted:
            if self._move(max(0.0, deadline - time.monotonic())):
                deadline = time.monotonic() + timeout_seconds
            elif time.monotonic() >= deadline:
                raise _ChildSilent

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
            raise _ChildDied
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
        os.close(self._memory)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
