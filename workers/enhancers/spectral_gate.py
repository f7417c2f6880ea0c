"""Stationary spectral gating: what in each frequency band is no louder than its noise is turned down.

Source: Sainburg, Thielk and Gentner, "Finding, visualizing, and quantifying latent structure across diverse animal
vocal repertoires", PLOS Computational Biology 16(10), 2020; their noisereduce (https://github.com/timsainb/noisereduce)
calls it stationary noise reduction. The noise is not given here but learnt from the clip: its quietest frames. Where
these vary more than noise can, they hold something else, and no more than noise's own deviation is taken off.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from workers.samples import INT16_SCALE, to_int16

WINDOW_SECONDS: Final = 0.032
OVERLAP: Final = 4  # windows that cover a sample
NOISE_PART: Final = 0.1  # of a clip's frames, the quietest: those are its noise
FEWEST_FRAMES: Final = 10  # 0.1 s; from less no noise can be learnt
MOST_DEVIATION: Final = 10 / np.log(10) * np.pi / np.sqrt(6)  # dB, 5.6: that of Gaussian noise; beyond it is no noise
DEVIATIONS: Final = 1.5  # above the mean of the noise in dB is what is no noise; white noise passes in 2 of 100 bins
DECREASE: Final = 0.9  # of the amplitude of noise; what stays, 20 dB below, hides that gates open and close
SMOOTH_HERTZ: Final = 100.0  # to either side, of the mask; less keeps harmonics, more hides stray bins
SMOOTH_SECONDS: Final = 0.03
POWER_FLOOR: Final = 1e-10
DIGITAL_SILENCE: Final = (1 / INT16_SCALE) ** 2  # mean square: less than one step of 16 bits is no noise to learn from
BLOCK_FRAMES: Final = 4096  # in memory together, some 33 s

_HANN_SQUARED: Final = OVERLAP * 3 / 8  # what overlapping squares of a Hann window add up to


class SpectralGate:
    """The gate at one sampling rate in Hz. What stays the same all through a clip is noise to it, also a tone."""

    def __init__(self, sample_rate: int) -> None:
        self._hop = round(WINDOW_SECONDS * sample_rate / OVERLAP)
        self._length = OVERLAP * self._hop
        self._window = np.hanning(self._length + 1)[:-1].astype(np.float32)
        self._neighbours = round(SMOOTH_SECONDS * sample_rate / self._hop)
        self._bands = round(SMOOTH_HERTZ * self._length / sample_rate)

    def enhance(self, pcm: np.ndarray) -> np.ndarray:
        """Return int16 samples, shape (n,), without their stationary noise; as they are where there is none to learn.

        That is so for less than 0.1 s of sound, and for digital silence.
        """
        frames = self._frames(pcm)
        threshold = self._threshold(frames[OVERLAP - 1 : len(pcm) // self._hop])  # those that lie in the clip
        if threshold is None:
            return pcm.copy()
        before = self._length - self._hop
        enhanced = np.empty(len(frames) * self._hop, np.int16)
        late = np.zeros((OVERLAP - 1, self._hop), np.float32)  # what frames so far add to samples after them
        for start in range(0, len(frames), BLOCK_FRAMES):
            stop = min(start + BLOCK_FRAMES, len(frames))
            added = self._overlapped(self._gated(frames, start, stop, threshold))
            added[: OVERLAP - 1] += late
            late = added[stop - start :]
            enhanced[start * self._hop : stop * self._hop] = to_int16(added[: stop - start].reshape(-1))
        return enhanced[before : before + len(pcm)]

    def _frames(self, pcm: np.ndarray) -> np.ndarray:
        """(n, window): a view of windows of int16, so that OVERLAP of them cover each sample."""
        around = self._length - self._hop
        padded = np.zeros(around + len(pcm) + around + -len(pcm) % self._hop, np.int16)
        padded[around : around + len(pcm)] = pcm
        if len(padded) < self._length:
            return np.empty((0, self._length), np.int16)
        return np.lib.stride_tricks.sliding_window_view(padded, self._length)[:: self._hop]

    def _threshold(self, frames: np.ndarray) -> np.ndarray | None:
        """Return the power in dB that each band must pass, shape (bands,); None where no noise can be learnt."""
        energy = np.concatenate([np.square(block).mean(axis=1) for block in self._windowed(frames)] or [np.zeros(0)])
        heard = np.flatnonzero(energy > DIGITAL_SILENCE)
        if len(heard) < FEWEST_FRAMES:
            return None
        count = max(FEWEST_FRAMES, round(NOISE_PART * len(heard)))
        quietest = np.sort(heard[np.argsort(energy[heard], kind="stable")[:count]])
        total = squares = np.zeros(self._length // 2 + 1)
        for block in self._windowed(frames, quietest):
            decibels = _decibels(np.fft.rfft(block)).astype(np.float64)
            total, squares = total + decibels.sum(axis=0), squares + np.square(decibels).sum(axis=0)
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - np.square(mean), 0))
        return np.asarray(mean + DEVIATIONS * np.minimum(deviation, MOST_DEVIATION), np.float32)

    def _windowed(self, frames: np.ndarray, chosen: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """Yield blocks of frames under the window, float32 in [-1, 1)."""
        positions = np.arange(len(frames)) if chosen is None else chosen
        for start in range(0, len(positions), BLOCK_FRAMES):
            yield frames[positions[start : start + BLOCK_FRAMES]] * (self._window / np.float32(INT16_SCALE))

    def _gated(self, frames: np.ndarray, start: int, stop: int, threshold: np.ndarray) -> np.ndarray:
        """Return frames `start` up to `stop` after the gate, under the window again, shape (stop - start, window)."""
        positions = np.arange(start - self._neighbours, stop + self._neighbours).clip(0, len(frames) - 1)
        spectrum = np.fft.rfft(frames[positions] * (self._window / np.float32(INT16_SCALE)))
        passes = (_decibels(spectrum) > threshold).astype(np.float32)
        wider = np.pad(passes, ((0, 0), (self._bands, self._bands)), "edge")
        mask = _averaged(_averaged(wider.T, self._bands).T, self._neighbours)
        gain = 1 - np.float32(DECREASE) * (1 - mask)
        kept = spectrum[self._neighbours : self._neighbours + stop - start] * gain
        return np.fft.irfft(kept, self._length).astype(np.float32, copy=False) * (self._window / _HANN_SQUARED)

    def _overlapped(self, gated: np.ndarray) -> np.ndarray:
        """Add frames up where they overlap: shape (frames + OVERLAP - 1, hop)."""
        parts = gated.reshape(len(gated), OVERLAP, self._hop)
        added = np.zeros((len(gated) + OVERLAP - 1, self._hop), np.float32)
        for part in range(OVERLAP):
            added[part : part + len(gated)] += parts[:, part]
        return added


def _decibels(spectrum: np.ndarray) -> np.ndarray:
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    decibels: np.ndarray = 10 * np.log10(power + np.float32(POWER_FLOOR))
    return decibels


def _averaged(values: np.ndarray, reach: int) -> np.ndarray:
    """Return the average of each row with `reach` rows to either side, the nearest counting most (a triangle).

    The first and last `reach` rows are neighbours only: shape (n, m) becomes (n - 2 reach, m).
    """
    weights = np.asarray(1 - np.abs(np.arange(-reach, reach + 1)) / (reach + 1), np.float32)
    n_rows = len(values) - 2 * reach
    average: np.ndarray = sum(
        weight * values[shift : shift + n_rows] for shift, weight in enumerate(weights / weights.sum())
    )
    return average
