"""What the tests of Whisper share: real checkpoints out of packages, real speech, and noise."""

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

from workers.models.model import Clip
from workers.models.transcript import Transcript
from workers.models.whisper import WhisperModel, WhisperOptions
from workers.models.whisper_features import SAMPLE_RATE
from workers.weights import ModelError, resolve

CPU = torch.device("cpu")
CORPUS = Path(__file__).parents[3] / "pipelines" / "demo" / "corpus"


def packaged(package: str, folder: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"the package {package} is not installed")
    return Path(found.origin).parent / folder


@cache
def checkpoint(name: str) -> Path:
    try:
        return resolve(name).folder
    except ModelError as error:
        pytest.skip(str(error))


@cache
def model(name: str, options: WhisperOptions) -> WhisperModel:
    return WhisperModel.read(checkpoint(name), CPU, torch.float32, options)


@cache
def read_clips(language: str, count: int) -> tuple[np.ndarray, ...]:
    files = [file for file in sorted((CORPUS / language).glob("*.wav")) if soundfile.info(file).duration > 2]
    if not files:
        pytest.skip(f"no real speech in {CORPUS / language}")
    read = (soundfile.read(file, dtype="float32") for file in files[:count])
    return tuple(soxr.resample(samples, rate, SAMPLE_RATE).astype(np.float32) for samples, rate in read)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


def heard(whisper: WhisperModel, waveforms, recording: str = "") -> list[Transcript]:
    return whisper.run([Clip(waveform, recording_id=recording) for waveform in waveforms])


def floats(transcript: Transcript) -> list[float]:
    return [
        transcript.language_probability,
        transcript.avg_logprob,
        transcript.compression_ratio,
        transcript.no_speech_probability,
        transcript.temperature,
    ]
