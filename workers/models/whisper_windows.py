"""Windows of at most 30 s: how clips are cut into them, which may share one, and which language a recording is in."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from workers.models.model import Clip
from workers.models.transcript import Transcript, WindowText, join
from workers.models.whisper_guards import NEAR_SILENCE, SAMPLE_RATE, sound_level, sound_span
from workers.models.whisper_packing import WINDOW_SAMPLES, Sound


@dataclass(frozen=True, slots=True)
class Window:
    """At most 30 s of a clip.

    Attributes:
        clip: its position in the call.
        recording: the clip's recording; "" where it is not known.
        start: where the window begins in the clip, seconds.
        sound: its samples.
        language: its language, where that is known before it is decoded.
    """

    clip: int
    recording: str
    start: float
    sound: Sound
    language: str | None


def cut(clips: Sequence[Clip], language: str | None) -> list[Window]:
    """Return consecutive windows of clips, shape (n,) each; an empty clip is one empty window.

    Raises:
        ValueError: a waveform is not 1-D.
    """
    return [window for index, clip in enumerate(clips) for window in _cut(index, clip, language)]


def _cut(index: int, clip: Clip, language: str | None) -> Iterator[Window]:
    waveform = clip.waveform
    if waveform.ndim != 1:
        raise ValueError(f"a waveform has one axis, not the shape {waveform.shape}")
    for start in range(0, max(len(waveform), 1), WINDOW_SAMPLES):
        samples = waveform[start : start + WINDOW_SAMPLES]
        sound = Sound(samples, sound_span(samples), sound_level(samples))
        yield Window(index, clip.recording_id, start / SAMPLE_RATE, sound, language)


def together(windows: Sequence[Window]) -> list[list[int]]:
    """Group the positions of windows that may share one: whole clips, not silent, of one language or one recording."""
    counts = Counter(window.clip for window in windows)
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for position, window in enumerate(windows):
        alone = counts[window.clip] > 1 or window.sound.level < NEAR_SILENCE
        if not alone and (window.language or window.recording):
            key = ("language", window.language) if window.language else ("recording", window.recording)
            groups[key].append(position)
    return list(groups.values())


def telling(windows: Sequence[Window]) -> list[Window]:
    """Return the windows that tell a recording's language: the first of each clip, where there are several clips."""
    firsts = [window for window in windows if window.recording and window.start == 0]
    clips = Counter(window.recording for window in firsts)
    return [window for window in firsts if clips[window.recording] > 1]


def with_languages(
    windows: Sequence[Window], told: Sequence[Window], probabilities: Sequence[np.ndarray], codes: Sequence[str]
) -> list[Window]:
    """Give windows the language of their recording: that of the highest sum of `probabilities` over those that tell."""
    sums: dict[str, np.ndarray] = {}
    for window, of_window in zip(told, probabilities, strict=True):
        sums[window.recording] = sums.get(window.recording, 0.0) + of_window
    found = {recording: codes[int(total.argmax())] for recording, total in sums.items()}
    return [replace(window, language=found.get(window.recording)) for window in windows]


def transcripts(clips: Sequence[Clip], windows: Sequence[Window], texts: dict[int, WindowText]) -> list[Transcript]:
    """Join the texts, given by position in `windows`, to the transcripts of their clips."""
    of_clip: dict[int, list[int]] = defaultdict(list)
    for position, window in enumerate(windows):
        of_clip[window.clip].append(position)
    return [
        join(
            [texts[position] for position in of_clip[index]],
            [clip.start_seconds + windows[position].start for position in of_clip[index]],
        )
        for index, clip in enumerate(clips)
    ]
