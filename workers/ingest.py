"""From planned recordings to wire tables: fetch, decode, cut into segments. One pass, flat memory, nothing lost.

A recording that cannot be done becomes a closing row with a failure; it never raises. Recordings come out in the
order they go in, each as its segments and then its closing row (schemas.wire).
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa

from schemas import wire
from schemas.failures import TRANSIENT
from workers.decode import AudioInfo, DecodeLimits, Ending
from workers.decoder import Answer, Decoder, Failed, Request
from workers.objects import Fetched, ObjectError, ReadingStopped, Source, fetch, local_path
from workers.segments import Segment, Segmenter, SegmentSettings, segmenter
from workers.vad import SpeechDetector

FETCHES_IN_FLIGHT: Final = 16
BYTES_IN_FLIGHT: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class IngestSettings:
    """What ingesting depends on: the wire's sampling rate (Hz), limits, segments, and the source's storage options."""

    sample_rate: int
    segments: SegmentSettings
    limits: DecodeLimits
    max_bytes: int
    source_options: tuple[tuple[str, Any], ...]
    block_seconds: float


@dataclass(frozen=True, slots=True)
class Recording:
    """One planned recording: what to read, and the stages it needs, on `only` some segments where that is not None."""

    recording_id: str
    source: Source
    stages: list[str]
    metadata: list[tuple[str, str]]
    only: list[str] | None = None

    def stages_of(self, segment: int | None) -> list[str]:
        """Return the stages that a segment needs, or the closing row (None)."""
        if segment is None or self.only is None:
            return self.stages
        return [stage for stage in self.stages if f"{stage}#{segment}" in self.only]


class Ingester:
    """Turns planned recordings into wire tables; holds the decoder child and the speech detector of its process."""

    def __init__(self, settings: IngestSettings) -> None:
        self._settings = settings
        self._decoder = Decoder(settings.sample_rate, settings.limits)
        self._detector = SpeechDetector() if settings.segments.by == "speech" else None

    def close(self) -> None:
        """End the decoder child."""
        self._decoder.close()

    def ingest(self, recordings: Iterable[Recording]) -> Iterator[pa.Table]:
        """Yield wire tables of about `block_seconds` of audio each; every recording ends with its closing row."""
        block = WireBlock(self._settings.sample_rate)
        decoding: deque[_Decoding] = deque()
        with ThreadPoolExecutor(FETCHES_IN_FLIGHT, thread_name_prefix="fetch") as fetchers:
            loaded = _load_ahead(recordings, self._settings, fetchers)
            for answer in self._decoder.stream(self._requests(loaded, decoding, block)):
                self._take(answer, decoding, block)
                if block.seconds >= self._settings.block_seconds:
                    yield block.take()
        if block.rows:
            yield block.take()

    def _requests(
        self, loaded: "Iterator[_Loaded]", decoding: "deque[_Decoding]", block: "WireBlock"
    ) -> Iterator[Request]:
        """Turn loaded objects into decoder requests; close those that could not be loaded."""
        for recording, outcome in loaded:
            if isinstance(outcome, Fetched):
                segments = segmenter(self._settings.segments, self._detector, self._settings.sample_rate)
                decoding.append(_Decoding(recording, outcome, segments))
                yield Request(outcome.content, outcome.path, outcome.size_bytes)
            elif decoding:  # its turn comes after those that are being decoded
                decoding[-1].failed_behind.append((recording, outcome))
            else:
                _close_unfetched([(recording, outcome)], block)

    def _take(self, answer: Answer, decoding: "deque[_Decoding]", block: "WireBlock") -> None:
        """Book one answer of the decoder, which is about the oldest recording in decoding."""
        current = decoding[0]
        if isinstance(answer, AudioInfo):
            current.info = answer
        elif isinstance(answer, np.ndarray):
            block.add(current.recording, current.count(current.segmenter.push(answer)))
        else:
            done = decoding.popleft()
            done.close(answer, block)
            _close_unfetched(done.failed_behind, block)


@dataclass(slots=True)
class _Decoding:
    """A recording on its way through the decoder."""

    recording: Recording
    fetched: Fetched
    segmenter: Segmenter
    info: AudioInfo | None = None
    n_segments: int = 0
    failed_behind: "list[tuple[Recording, ObjectError]]" = field(default_factory=list)  # those that follow it at once

    def count(self, segments: list[Segment]) -> list[Segment]:
        self.n_segments += len(segments)
        return segments

    def close(self, ending: Ending | Failed, block: "WireBlock") -> None:
        """Write the last segments and the closing row."""
        self.fetched.release()
        if isinstance(ending, Failed) or self.info is None:
            failed = ending if isinstance(ending, Failed) else Failed("unreadable", "the decoder said nothing of it")
            message = f"{self.recording.source.uri}: {failed.message}"
            block.close_failed(self.recording, "decode", failed.code, message)
            return
        block.add(self.recording, self.count(self.segmenter.finish()))
        speech = self.segmenter.speech_samples
        block.close(self.recording, self.info, ending, self.fetched.sha256, self.n_segments, speech)


def _close_unfetched(failed: "list[tuple[Recording, ObjectError]]", block: "WireBlock") -> None:
    for recording, error in failed:
        block.close_failed(recording, "fetch", error.code, error.message, error.attempts)


_Loaded = tuple[Recording, Fetched | ObjectError]


def _load_ahead(
    recordings: Iterable[Recording], settings: IngestSettings, fetchers: ThreadPoolExecutor
) -> Iterator[_Loaded]:
    """Yield each recording with its bytes; remote objects are fetched ahead, bounded in number and in bytes."""
    ahead: deque[tuple[Recording, Future[Fetched | ObjectError]]] = deque()
    bytes_ahead = 0
    for recording in recordings:
        if local_path(recording.source.uri) is not None:
            yield recording, _load(recording, settings)
            continue
        ahead.append((recording, fetchers.submit(_load, recording, settings)))
        bytes_ahead += recording.source.size_bytes
        while len(ahead) > FETCHES_IN_FLIGHT or (bytes_ahead > BYTES_IN_FLIGHT and len(ahead) > 1):
            oldest, future = ahead.popleft()
            bytes_ahead -= oldest.source.size_bytes
            yield oldest, future.result()
    for recording, future in ahead:
        yield recording, future.result()


def _load(recording: Recording, settings: IngestSettings) -> Fetched | ObjectError:
    source = recording.source
    if source.size_bytes > settings.max_bytes:
        return ObjectError(
            "limit_bytes", f"{source.uri} has {source.size_bytes} bytes; limits.max_bytes allows {settings.max_bytes}"
        )
    try:
        return fetch(source, dict(settings.source_options))
    except ObjectError as error:
        return error
    except ReadingStopped:  # it would meet all others too
        raise
    except Exception as error:  # a uri that no store can even be asked for
        return ObjectError("fetch_failed", f"{source.uri} cannot be read: {type(error).__name__}: {error}")


class WireBlock:
    """Collects rows until they are worth an Arrow table of schema schemas.wire.WIRE."""

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._clear()

    def _clear(self) -> None:
        self.seconds = 0.0
        self._rows: list[tuple[Recording, Segment | None, dict[str, Any] | None]] = []

    @property
    def rows(self) -> int:
        """How many rows wait."""
        return len(self._rows)

    def add(self, recording: Recording, segments: list[Segment]) -> None:
        """Add segment rows."""
        for segment in segments:
            self._rows.append((recording, segment, None))
            self.seconds += len(segment.pcm) / self._sample_rate

    def close(
        self,
        recording: Recording,
        info: AudioInfo,
        ending: Ending,
        sha256: str,
        n_segments: int,
        speech_samples: int | None,
    ) -> None:
        """Add the closing row of a recording that decoded, wholly or in part."""
        closing = {
            **_source_columns(recording),
            "container": info.container,
            "codec": info.codec,
            "sample_rate": info.sample_rate,
            "channels": info.channels,
            "declared_seconds": info.declared_seconds,
            "decoded_seconds": ending.decoded_seconds,
            "speech_seconds": None if speech_samples is None else speech_samples / self._sample_rate,
            "content_sha256": sha256,
            "status": "partial" if ending.damage else "ok",
            "decoder": info.decoder,
            "n_segments": n_segments,
        }
        self._rows.append((recording, None, closing))

    def close_failed(self, recording: Recording, stage: str, code: str, message: str, attempts: int = 1) -> None:
        """Add the closing row of a recording that failed; segments it gave before do not count."""
        failure = {
            "stage": stage,
            "code": code,
            "message": message,
            "transient": code in TRANSIENT,
            "attempts": attempts,
        }
        closing = {**_source_columns(recording), "status": "failed", "n_segments": 0, "failure": failure}
        self._rows.append((recording, None, closing))

    def take(self) -> pa.Table:
        """Return the rows as a table and start afresh."""
        rows = self._rows
        segments = [segment for _, segment, _ in rows]
        rate = self._sample_rate
        columns = [
            [recording.recording_id for recording, _, _ in rows],
            [recording.source.uri for recording, _, _ in rows],
            [recording.stages_of(segment.index if segment else None) for recording, segment, _ in rows],
            [segment and segment.index for segment in segments],
            [segment and segment.start / rate for segment in segments],
            [segment and segment.end / rate for segment in segments],
            [segment and segment.speech_ratio for segment in segments],
            _pcm_column(segments),
            [closing for _, _, closing in rows],
        ]
        self._clear()
        arrays = [
            values if isinstance(values, pa.Array) else pa.array(values, field.type)
            for values, field in zip(columns, wire.WIRE, strict=True)
        ]
        return pa.Table.from_arrays(arrays, schema=wire.WIRE)


def _pcm_column(segments: list[Segment | None]) -> pa.Array:
    """Return the samples as binary values, copied once; null where there is no segment."""
    lengths = [0 if segment is None else segment.pcm.nbytes for segment in segments]
    offsets = np.cumsum([0, *lengths], dtype=np.int32)
    pcm = [segment.pcm for segment in segments if segment is not None]
    samples = np.concatenate(pcm) if pcm else np.zeros(0, np.int16)
    valid = pa.array([segment is not None for segment in segments]).buffers()[1]
    nulls = len(segments) - len(pcm)
    return pa.BinaryArray.from_buffers(
        pa.binary(), len(segments), [valid, pa.py_buffer(offsets), pa.py_buffer(samples)], nulls
    )


def _source_columns(recording: Recording) -> dict[str, Any]:
    source = recording.source
    return {
        "uri": source.uri,
        "etag": source.etag,
        "size_bytes": source.size_bytes,
        "metadata": recording.metadata,
    }
