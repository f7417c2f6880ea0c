"""From planned recordings to wire tables: fetch, decode, cut into segments. One pass, flat memory, nothing lost.

A recording that cannot be done becomes a closing row with a failure; it never raises. Recordings come out in the
order they are loaded, each as its segments and then its closing row (schemas.wire).
"""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import pyarrow as pa

from workers.channels import ChannelSegmenter
from workers.decode_settings import DecodeSettings
from workers.decoded import AudioInfo, Ending
from workers.decoder import Answer, Decoder, Failed, Request
from workers.loading import Loaded, SourceSettings, load_ahead
from workers.objects import Fetched, ObjectError
from workers.recording import Recording, raw_audio_of
from workers.segments import Segment, Segmenter, SegmentSettings, segmenter
from workers.vad import SpeechDetector
from workers.wire_block import WireBlock

SAMPLES_AT_ONCE: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class IngestSettings:
    """What ingesting depends on; a wire table is given away when it holds `block_seconds` of audio."""

    decode: DecodeSettings
    segments: SegmentSettings
    source: SourceSettings
    block_seconds: float
    on_partial: Literal["keep", "fail"] = "keep"
    reference_column: str | None = None  # of the manifest: what is spoken


class Ingester:
    """Turns planned recordings into wire tables; holds the decoder child and the speech detector of its process."""

    def __init__(self, settings: IngestSettings) -> None:
        self._settings = settings
        self._decoder = Decoder(settings.decode)
        self._detector = SpeechDetector() if settings.segments.by == "speech" else None

    def close(self) -> None:
        """End the decoder child."""
        self._decoder.close()

    def ingest(self, recordings: Iterable[Recording]) -> Iterator[pa.Table]:
        """Yield wire tables of about `block_seconds` of audio each; every recording ends with its closing row."""
        settings = self._settings
        block = WireBlock(
            settings.decode.sample_rate,
            settings.block_seconds,
            settings.reference_column,
            settings.segments.max_seconds,
        )
        decoding: deque[_Decoding] = deque()
        with closing(load_ahead(recordings, self._settings.source)) as loaded:
            for answer in self._decoder.stream(self._requests(loaded, decoding, block)):
                for part in _parts(answer):
                    self._take(part, decoding, block)
                    while block.is_full:
                        yield block.take()
        if block.rows:
            yield block.take()

    def _requests(self, loaded: Iterable[Loaded], decoding: "deque[_Decoding]", block: WireBlock) -> Iterator[Request]:
        """Turn loaded objects into decoder requests; close those that could not be loaded."""
        for recording, outcome in loaded:
            if isinstance(outcome, Fetched):
                decoding.append(_Decoding(recording, outcome))
                yield Request(outcome.content, outcome.path, outcome.size_bytes, raw_audio_of(recording))
            elif decoding:  # its turn comes after those that are being decoded
                decoding[-1].failed_behind.append((recording, outcome))
            else:
                _close_unfetched([(recording, outcome)], block)

    def _take(self, answer: Answer, decoding: "deque[_Decoding]", block: WireBlock) -> None:
        """Book one answer of the decoder, which is about the oldest recording in decoding."""
        current = decoding[0]
        if isinstance(answer, AudioInfo):
            current.info, current.segmenter = answer, self._segmenter(answer)
        elif isinstance(answer, np.ndarray):
            assert current.segmenter is not None
            block.add(current.recording, current.count(current.segmenter.push(answer)))
        else:
            done = decoding.popleft()
            done.close(answer, block, self._settings.on_partial)
            _close_unfetched(done.failed_behind, block)

    def _segmenter(self, info: AudioInfo) -> Segmenter:
        """Return what cuts a recording: one segmenter, or one for each channel that is kept as it is."""
        channels = self._settings.decode.channels

        def make() -> Segmenter:
            return segmenter(self._settings.segments, self._detector, self._settings.decode.sample_rate)

        if channels == "mono":
            return make()
        kept = range(info.channels) if channels == "each" else [0 if channels == "left" else 1]
        return ChannelSegmenter(make, kept)


@dataclass(slots=True)
class _Decoding:
    """A recording on its way through the decoder."""

    recording: Recording
    fetched: Fetched
    info: AudioInfo | None = None
    segmenter: Segmenter | None = None
    n_segments: int = 0
    failed_behind: "list[tuple[Recording, ObjectError]]" = field(default_factory=list)  # those that follow it at once

    def count(self, segments: list[Segment]) -> list[Segment]:
        self.n_segments += len(segments)
        return segments

    def close(self, ending: Ending | Failed, block: WireBlock, on_partial: str) -> None:
        """Write the last segments and the closing row."""
        self.fetched.release()
        if self.fetched.has_changed():
            ending = Failed("source_changed", "it changed while it was decoded")
        if isinstance(ending, Ending) and ending.damage and on_partial == "fail":
            ending = Failed("partial", f"{ending.damage}; audio.on_partial is fail")
        if isinstance(ending, Failed) or self.info is None or self.segmenter is None:
            failed = ending if isinstance(ending, Failed) else Failed("unreadable", "the decoder said nothing of it")
            message = f"{self.recording.source.uri}: {failed.message}"
            block.close_failed(self.recording, "decode", failed.code, message)
            return
        block.add(self.recording, self.count(self.segmenter.finish()))
        speech = self.segmenter.speech_samples
        block.close(self.recording, self.info, ending, self.fetched, self.n_segments, speech)


def _parts(answer: Answer) -> list[Answer]:
    """Return samples in pieces: a megabyte of them may make sixty overlapping windows at once."""
    if not isinstance(answer, np.ndarray):
        return [answer]
    return [answer[start : start + SAMPLES_AT_ONCE] for start in range(0, len(answer), SAMPLES_AT_ONCE)]


def _close_unfetched(failed: "list[tuple[Recording, ObjectError]]", block: WireBlock) -> None:
    for recording, error in failed:
        block.close_failed(recording, "fetch", error.code, error.message, error.attempts)
