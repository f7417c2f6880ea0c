"""Where there is speech: Silero VAD's probabilities, frame by frame, and the spans that follow from them.

Model: Silero VAD v6 (https://github.com/snakers4/silero-vad, MIT), its packaged graph that runs many frames in one
call. Spans: the state machine of silero_vad.utils_vad.get_speech_timestamps_from_probs with no longest span.
"""

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime

SAMPLE_RATE: Final = 16_000  # Hz
FRAME: Final = 512  # samples that one probability is about, 32 ms
CONTEXT: Final = 64  # samples before a frame that the model hears with it
BLOCK_FRAMES: Final = 256  # frames in one call of the model at most, 8.2 s
DOUBT: Final = 10 * SAMPLE_RATE  # samples for which the end of a span may stay open
WEIGHTS: Final = "silero_vad_16k_sequence.onnx"
WEIGHTS_SHA256: Final = "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85"  # silero-vad 6.2.3

_STATE: Final = (1, 1, 128)  # of the LSTM's h and of its c
_WARNINGS_OFF: Final = 3  # onnxruntime's log level: errors only


class SpeechDetector:
    """Finds speech with the one model session (one thread) that a process has.

    Raises FileNotFoundError if the silero-vad package is not installed, ValueError if its weights are not those
    that this code was tested with.
    """

    def __init__(self) -> None:
        _session()

    def stream(self) -> "SpeechStream":
        """Start on a recording; any number of streams may be open at once."""
        return SpeechStream(_session())


class SpeechStream:
    """The speech probabilities of one recording, which comes in pieces of any length (mono int16, 16 kHz)."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._rest = np.zeros(0, np.int16)
        self._context = np.zeros(CONTEXT, np.float32)
        self._h = np.zeros(_STATE, np.float32)
        self._c = np.zeros(_STATE, np.float32)

    def push(self, pcm: np.ndarray) -> np.ndarray:
        """Return the probabilities, float32, of the 512-sample frames that `pcm` (1-D int16) completes."""
        check_pcm(pcm)
        samples = np.concatenate([self._rest, pcm])
        whole = len(samples) // FRAME * FRAME
        self._rest = samples[whole:].copy()
        step = BLOCK_FRAMES * FRAME
        blocks = [self._listen(samples[start : min(start + step, whole)]) for start in range(0, whole, step)]
        return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)

    def finish(self) -> np.ndarray:
        """Return the probability of the samples left over, padded with zeros to a frame; none if none are left."""
        missing = -len(self._rest) % FRAME
        return self.push(np.zeros(missing, np.int16))

    def _listen(self, samples: np.ndarray) -> np.ndarray:
        """Run the model over whole frames, carrying context and state."""
        heard = np.empty(CONTEXT + len(samples), np.float32)
        heard[:CONTEXT] = self._context
        np.multiply(samples, np.float32(1 / 32768), out=heard[CONTEXT:])
        self._context = heard[-CONTEXT:].copy()
        frames = np.lib.stride_tricks.sliding_window_view(heard, CONTEXT + FRAME)[::FRAME]
        inputs = {"input": np.ascontiguousarray(frames), "h": self._h, "c": self._c}
        probabilities, self._h, self._c = self._session.run(["speech_probs", "hn", "cn"], inputs)
        return np.asarray(probabilities, np.float32)


@dataclass(frozen=True, slots=True)
class Span:
    """Samples from `start` up to `end`."""

    start: int
    end: int


class SpanFinder:
    """Turns the probabilities of consecutive frames into padded spans of speech, while they come in.

    Speech begins at a probability of `threshold` and ends when it has been under `threshold` - 0.15 (at least 0.01)
    and not again at `threshold` for `min_silence` samples; spans of no more than `min_speech` samples are dropped;
    the others are widened by `pad` samples on either side, or by half of a shorter pause. Equal to Silero's
    get_speech_timestamps, but for this: where a probability stays between the two thresholds, Silero leaves the end
    of a span open for as long as that lasts, and this does so for 10 s.
    """

    def __init__(self, threshold: float, min_speech: int, min_silence: int, pad: int) -> None:
        self._enter = threshold
        self._leave = max(threshold - 0.15, 0.01)
        self._min_speech, self._min_silence, self._pad = min_speech, min_silence, pad
        self._position = 0  # where the next frame starts
        self._start: int | None = None  # of the span under way, without its padding
        self._quiet: int | None = None  # where the span under way ends, unless speech returns soon
        self._last_end = -2 * pad  # of the last span kept, without its padding
        self._unpadded: Span | None = None  # the last span kept, while the padding of its end depends on the next one

    def feed(self, probabilities: np.ndarray) -> list[Span]:
        """Return the spans, in order, that are final after these frames."""
        spans = []
        for probability in probabilities.tolist():
            end = self._step(probability)
            if end is not None:
                spans += self._close(end)
            self._position += FRAME
        return spans + self._pad_if_sure()

    def finish(self, length: int) -> list[Span]:
        """Return the spans left in a recording that turned out to have `length` samples."""
        spans = [] if self._start is None else self._close(length)
        spans += self._pad_last(self._last_end + 2 * self._pad)
        return [Span(span.start, min(span.end, length)) for span in spans]

    @property
    def under_way(self) -> Span | None:
        """The span that is sure to be found next, if there is one; it may still end later than said here."""
        if self._start is not None and self._is_kept(self._start, self._reach):
            return Span(self._padded(self._start), self._reach)
        return self._unpadded

    @property
    def horizon(self) -> int:
        """The sample before which no span can start, but for the one under way."""
        return max(0, self._next_start - self._pad)

    @property
    def _next_start(self) -> int:
        return self._position if self._start is None else self._start

    @property
    def _reach(self) -> int:
        return self._position if self._quiet is None else self._quiet

    def _step(self, probability: float) -> int | None:
        """Take one frame in; return where a span ends if this frame proves it."""
        if probability >= self._enter:
            self._quiet = None
            self._start = self._next_start
        elif self._start is not None:
            quiet = self._position if self._quiet is None else self._quiet
            if probability < self._leave:
                self._quiet = quiet
            if self._position - quiet >= (self._min_silence if probability < self._leave else DOUBT):
                return quiet
        return None

    def _close(self, end: int) -> list[Span]:
        """End the span under way; return the one before it if this settles its padding."""
        start, self._start, self._quiet = self._next_start, None, None
        if not self._is_kept(start, end):
            return []
        settled = self._pad_last(start)
        self._unpadded, self._last_end = Span(self._padded(start), end), end
        return settled

    def _is_kept(self, start: int, end: int) -> bool:
        return end - start > self._min_speech

    def _pad_if_sure(self) -> list[Span]:
        """Settle the last span if the next one is known, or cannot come close enough to matter."""
        far = self._next_start - self._last_end >= 2 * self._pad
        known = self._start is not None and self._is_kept(self._start, self._reach)
        return self._pad_last(self._next_start) if far or known else []

    def _pad_last(self, next_start: int) -> list[Span]:
        """Widen the end of the last span, of which at most half the pause before `next_start` is taken."""
        last, self._unpadded = self._unpadded, None
        return [Span(last.start, last.end + self._padding(next_start))] if last else []

    def _padded(self, start: int) -> int:
        return max(0, start - self._padding(start))

    def _padding(self, next_start: int) -> int:
        return min(self._pad, (next_start - self._last_end) // 2)


def check_pcm(pcm: np.ndarray) -> None:
    """Raise ValueError unless `pcm` has one axis of int16 samples."""
    if pcm.ndim != 1 or pcm.dtype != np.int16:
        raise ValueError(f"PCM must have one axis of int16 samples, not shape {pcm.shape} of {pcm.dtype}")


@cache
def _session() -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _WARNINGS_OFF
    weights = checked_weights(_weights_path(), WEIGHTS_SHA256)
    return onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])


def checked_weights(path: Path, sha256: str) -> bytes:
    """Read the file at `path`; raise ValueError if it is not the one with this SHA-256 (hex)."""
    weights = path.read_bytes()
    found = hashlib.sha256(weights).hexdigest()
    if found != sha256:
        raise ValueError(f"{path} has SHA-256 {found}, not {sha256}: install silero-vad==6.2.3 afresh")
    return weights


def _weights_path() -> Path:
    # The package is not imported: that would load torch, which this model does not need.
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("speech detection needs the package silero-vad==6.2.3, which is not installed")
    return Path(spec.submodule_search_locations[0]) / "data" / WEIGHTS
