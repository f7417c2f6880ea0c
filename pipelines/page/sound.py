"""A segment's sound, read again from its source: only its seconds, small, or why it cannot be had."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import soundfile

from pipelines.planned_recordings import recording_of
from pipelines.recipe_sections import AudioSection, LimitsSection, SourceSection
from workers.decode_settings import Channels, DecodeLimits, DecodeSettings
from workers.decoder import Decoder, Failed, Request
from workers.loading import SourceSettings, load_ahead
from workers.objects import ObjectError
from workers.recording import raw_audio_of

RATE: Final = 16_000  # one of Opus's own
MOST_OBJECT_BYTES: Final = 64 << 20  # of an object that is read for some seconds of it


class Silent(Exception):
    """A segment's sound cannot be had; the message says why."""


@dataclass(frozen=True, slots=True)
class Span:
    """Which seconds of a recording, and of which channel where they are apart."""

    start: float
    end: float
    channel: int | None


@dataclass(frozen=True, slots=True)
class Reading:
    """The sections of a run's recipe that say how its source was read."""

    source: SourceSection
    audio: AudioSection
    limits: LimitsSection


def reading_of(recipe: dict[str, Any]) -> Reading:
    """Return how a run read its source, from the recipe in its plan; ValueError where that is of another release."""
    return Reading(
        SourceSection.model_validate(recipe["source"]),
        AudioSection.model_validate(recipe["audio"]),
        LimitsSection.model_validate(recipe["limits"]),
    )


def heard(row: dict[str, Any], reading: Reading, span: Span) -> bytes:
    """Return the seconds of a planned recording, a row of its run's plan, as Ogg Opus.

    Raises:
        Silent: the object is gone, another, too big, or does not decode.
    """
    storage = tuple(sorted(reading.source.storage.options().items()))
    settings = SourceSettings(storage, min(reading.limits.max_bytes, MOST_OBJECT_BYTES), reading.source.audio_column)
    recording = recording_of(row)
    for _, fetched in load_ahead([recording], settings):
        if isinstance(fetched, ObjectError):
            raise Silent(fetched.message)
        try:
            request = Request(fetched.content, fetched.path, fetched.size_bytes, raw_audio_of(recording))
            return _opus(_samples(request, reading, span))
        finally:
            fetched.release()
    raise Silent("nothing came of it")


def _samples(request: Request, reading: Reading, span: Span) -> np.ndarray:
    limits, audio = reading.limits, reading.audio
    channels: Channels = "each" if span.channel is not None else audio.channels
    most = DecodeLimits(limits.max_seconds, limits.max_channels, limits.max_rate, limits.max_decoded_bytes)
    decoder = Decoder(DecodeSettings(RATE, most, channels, audio.track))
    try:
        found = list(_within(decoder.stream([request]), span))
    finally:
        decoder.close()
    if not found:
        raise Silent("it has no sound there any more")
    return np.concatenate(found)


def _within(answers: Iterator[Any], span: Span) -> Iterator[np.ndarray]:
    """Yield the samples between the span's times, of its channel; stop reading behind them."""
    position, first, last = 0, round(span.start * RATE), round(span.end * RATE)
    for answer in answers:
        if isinstance(answer, Failed):
            raise Silent(answer.message)
        if not isinstance(answer, np.ndarray):
            continue
        block = answer if answer.ndim == 1 else answer[:, min(span.channel or 0, answer.shape[1] - 1)]
        part = block[max(0, first - position) : max(0, last - position)]
        position += len(block)
        if len(part):
            yield part
        if position >= last:
            return


def _opus(samples: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, RATE, format="OGG", subtype="OPUS")
    return encoded.getvalue()
