"""Decoding in a child process that may crash, hang or eat memory: each costs one recording and a new child.

A long-lived child per worker process decodes one recording after the other (workers.decoder_child). The next requests
are written while answers are read, over non-blocking pipes in one thread, so that neither side waits for the other.
Plain WAV files need no decoder and no child (workers.plain_wav).
"""

import json
import logging
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeVar, get_type_hints

import numpy as np

from workers import frames
from workers.child_process import ChildDied, ChildProcess, ChildSilent
from workers.decode import move
from workers.decode_settings import DecodeSettings
from workers.decoded import AudioInfo, DecodeError, Ending
from workers.headerless import RawAudio
from workers.plain_wav import PlainWav, open_plain, plain_wav

logger = logging.getLogger(__name__)

BASE_TIMEOUT_SECONDS: Final = 60.0
TIMEOUT_SECONDS_PER_MEGABYTE: Final = 2.0  # a slow core decodes far more than 0.5 MB a second
MOST_SAMPLES: Final = 32 << 20  # of a plain WAV file, decoded: 64 MB
REQUESTS_IN_FLIGHT: Final = frames.SLOTS  # written ahead of the answer being read


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


_Told = TypeVar("_Told", AudioInfo, Ending, Failed)


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


class Decoder:
    """Decodes recordings in a child process, one after the other, each to an ordered stream of answers."""

    def __init__(self, settings: DecodeSettings, command: list[str] | None = None) -> None:
        """Take what every request shares; `command` starts another child than our own (a test's)."""
        self._settings = settings
        shared = [str(os.getpid()), json.dumps(asdict(settings))]
        self._command = [*(command or [sys.executable, "-m", "workers.decoder_child"]), *shared]
        self._child: ChildProcess | None = None

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
            if plain is not None and plain.samples_at(self._settings.sample_rate) > MOST_SAMPLES:
                plain = None  # all of it would be here at once; the child streams it
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
        except Exception as error:  # as in the child: one recording's
            answers.found.append(Failed("unreadable", f"{type(error).__name__}: {error}"))
        return answers.found

    def _send(self, request: Request) -> None:
        if self._child is None:
            self._child = ChildProcess(self._command)
        header: dict[str, Any] = {"path": os.path.abspath(request.path)} if request.path else {}
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
        except ChildDied:
            yield Failed("decoder_crashed", f"the decoding process died on it ({child.obituary()})")
        except ChildSilent:
            yield Failed("decoder_timeout", f"the decoder gave no sign of life for {timeout:.0f} s and was ended")
        except Exception as error:  # of reading what the child wrote, whatever that was
            reason = f"{type(error).__name__}: {error}"
            yield Failed("decoder_crashed", f"the decoding process gave a malformed answer: {reason}")
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
        return _checked(AudioInfo(**frame.header))
    if frame.kind == frames.ENDED:
        return _checked(Ending(**frame.header))
    return _checked(Failed(**frame.header))


_FIELDS: Final[dict[str, dict[str, Any]]] = {
    kind.__name__: get_type_hints(kind) for kind in (AudioInfo, Ending, Failed)
}


def _checked(told: _Told) -> _Told:
    for name, kind in _FIELDS[type(told).__name__].items():
        if not isinstance(value := getattr(told, name), kind):
            raise TypeError(f"{name} is {value!r}")
    return told
