"""A planned recording, as an attempt works on it."""

from dataclasses import dataclass

from workers.headerless import RawAudio, raw_audio
from workers.source import Source


@dataclass(frozen=True, slots=True)
class Recording:
    """What to read, and the stages it needs, on `only` some segments where that is not None.

    `problem` is a failure code and a message where planning already found that it cannot be read.
    """

    recording_id: str
    source: Source
    stages: list[str]
    metadata: list[tuple[str, str]]
    only: list[str] | None = None
    problem: tuple[str, str] | None = None

    def stages_of(self, segment: int | None) -> list[str]:
        """Return the stages that a segment needs, or the closing row (None)."""
        if segment is None or self.only is None:
            return self.stages
        return [stage for stage in self.stages if f"{stage}#{segment}" in self.only]


def raw_audio_of(recording: Recording) -> RawAudio | None:
    """Return what a recording is if it has no header; a manifest that makes no sense says nothing."""
    return _told(recording)[0]


def wrong_hint(recording: Recording) -> str | None:
    """Return what makes no sense of what a manifest says of audio without a header; it counts where there is none."""
    return _told(recording)[1]


def _told(recording: Recording) -> tuple[RawAudio | None, str | None]:
    try:
        return raw_audio(recording.source.uri, dict(recording.metadata)), None
    except ValueError as error:
        return None, str(error)
