"""Real audio in enough bytes for several units of work: shipped clips, and studio masters made of them."""

import shutil
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import soundfile
import soxr

SHIPPED = Path(__file__).resolve().parents[2] / "pipelines" / "demo" / "corpus"
CLIPS = (
    *("en/beep.wav", "en/all-circuits-busy-now.wav", "en/speed-dial-empty.ogg", "en/ss-noservice.mp3"),
    *("en/priv-introsaved.opus", "en/tt-allbusy.m4a", "en/vm-newuser.mp4", "en/followme/status.flac"),
    *("es/confbridge-pin.mp3", "es/vm-marked-urgent.wav", "broken/notes.wav", "broken/truncated.mp3"),
)
SPOKEN = ("en/invalid.wav", "en/privacy-unident.wav", "en/agent-alreadyon.wav", "en/cannot-complete-as-dialed.wav")
MASTER_RATE, MASTER_SECONDS = 192_000, 7  # in 24 bits and stereo 8.06 MB: a unit of the plan holds one of them
MASTERS = 8


def make_corpus(folder: Path) -> Path:
    """Copy the shipped clips into `folder`, one of them no audio and one damaged, and add the masters; return it."""
    for name in CLIPS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SHIPPED / name, folder / name)
    (folder / "masters").mkdir()
    speech = soxr.resample(np.concatenate([_spoken(name) for name in SPOKEN]), 8000, MASTER_RATE)
    for number, samples in enumerate(islice(_takes(speech), MASTERS)):
        file = folder / "masters" / f"{number}.wav"
        soundfile.write(file, np.stack([samples, samples], 1), MASTER_RATE, "PCM_24")
    return folder


def _spoken(name: str) -> np.ndarray:
    samples, rate = soundfile.read(SHIPPED / name)
    assert rate == 8000
    return samples


def _takes(speech: np.ndarray) -> Iterator[np.ndarray]:
    """Yield MASTER_SECONDS of the speech, each time from another place and a little softer."""
    for number in cycle(range(1000)):
        start = number * 3 * MASTER_RATE % len(speech)
        yield np.resize(speech[start:], MASTER_SECONDS * MASTER_RATE) * 0.97**number
