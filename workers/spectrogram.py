"""Spectrograms of one clip: log-mel, MFCC and power, on one thread, with nothing built twice.

Frame t is centred on sample t x hop; beyond the clip there is silence. The window is periodic Hann, the FFT as long
as the next power of two (Kaldi's rule), the filters and the DCT are torchaudio's. torch.stft is called directly
because torchaudio's modules take three times as long for the same numbers (a square root that they then square, and
copies).
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch
import torchaudio.functional as F

from workers.spectrogram_settings import DEFAULT_BINS, MFCC_MELS, SpectrogramSettings

LOG_FLOOR: Final = 1e-10  # mel power below this counts as this (Whisper's floor; 16-bit rounding noise is about there)
BANDS_TOGETHER: Final = 16  # of the mel filters in one product
MFCC_TOP_DB: Final = 80.0  # range below the loudest band of a clip, torchaudio's

_WHISPER_RATE: Final = 16_000  # Hz
_WHISPER_SECONDS: Final = 30


class Spectrogrammer:
    """Computes one kind of spectrogram at one sampling rate (Hz).

    Raises ValueError for settings that this rate cannot serve: bands above half of it, bands so narrow that no FFT
    bin falls in one, a hop of less than a sample, or the Whisper preset at another rate than 16 kHz.
    """

    def __init__(self, settings: SpectrogramSettings, sample_rate: int) -> None:
        self._kind, self._preset = settings.kind, settings.preset
        self._hop = round(settings.hop_seconds * sample_rate)
        length = round(settings.window_seconds * sample_rate)
        if self._hop < 1 or length < 2:
            raise ValueError(f"hop and window must be 1 and 2 samples or more, not {self._hop} and {length}")
        if self._preset == "whisper" and sample_rate != _WHISPER_RATE:
            raise ValueError(f"preset 'whisper' needs {_WHISPER_RATE} Hz, not {sample_rate}")
        self._n_fft = settings.fft_length(sample_rate)
        before = (self._n_fft - length) // 2  # a shorter window stands in the middle, as torch.stft has it
        self._window = torch.nn.functional.pad(torch.hann_window(length), (before, self._n_fft - length - before))
        self.hop_seconds = self._hop / sample_rate
        self.n_bins = settings.n_bins or DEFAULT_BINS.get(settings.kind, self._n_fft // 2 + 1)
        if settings.kind == "log_mel":
            self._filters = _mel_filters(settings, sample_rate, self._n_fft, self.n_bins)
        elif settings.kind == "mfcc":
            self._filters = _mel_filters(settings, sample_rate, self._n_fft, MFCC_MELS)
            self._dct = F.create_dct(self.n_bins, MFCC_MELS, "ortho")

    def n_frames(self, n_samples: int) -> int:
        """Return how many frames a clip of so many samples has."""
        if not n_samples:
            return 0
        return -(-n_samples // self._hop) if self._preset == "whisper" else 1 + n_samples // self._hop

    def compute(self, waveform: np.ndarray) -> np.ndarray:
        """Return (n_frames, n_bins) float32 of a clip: 1-D, floating point, in [-1, 1].

        n_frames is 1 + samples // hop; with the Whisper preset ceil(samples / hop); 0 for an empty clip. The values
        are finite whatever the clip's length. Raises ValueError for a waveform of another form.
        """
        if waveform.ndim != 1 or waveform.dtype.kind != "f":
            raise ValueError(f"a waveform has one axis of floats, not shape {waveform.shape} of {waveform.dtype}")
        if not len(waveform):
            return np.zeros((0, self.n_bins), np.float32)
        with torch.inference_mode(), _one_thread():
            features: np.ndarray = self._features(waveform).numpy()
        return features

    def _features(self, waveform: np.ndarray) -> torch.Tensor:
        if self._preset == "whisper":
            return self._whisper(waveform)
        half = self._n_fft // 2
        padded = _with_silence(waveform, half, half)
        if self._kind == "power":
            squares = self._squares(padded)
            return squares[:, 0::2] + squares[:, 1::2]
        mel = self._mel(padded)
        if self._kind == "log_mel":
            return mel.clamp_(min=LOG_FLOOR).log_()
        decibels = F.amplitude_to_DB(mel, multiplier=10.0, amin=LOG_FLOOR, db_multiplier=0.0, top_db=MFCC_TOP_DB)
        return torch.as_tensor(decibels @ self._dct)

    def _whisper(self, waveform: np.ndarray) -> torch.Tensor:
        if len(waveform) <= _WHISPER_SECONDS * _WHISPER_RATE:
            # Imported here because it loads transformers, which takes a second that the other kinds need not wait.
            from workers.models.whisper_features import log_mel_frames

            return log_mel_frames(torch.from_numpy(_with_silence(waveform, 0, 0)), self.n_bins)
        half = self._n_fft // 2
        padded = _with_silence(waveform, half, self._n_fft)
        padded[:half] = waveform[half:0:-1]  # as Whisper does: mirrored at the left, silence at the right
        frames = -(-len(waveform) // self._hop)
        log_mel = self._mel(padded)[:frames].clamp_(min=LOG_FLOOR).log10_()
        return (log_mel.clamp_(min=float(log_mel.max()) - 8.0) + 4.0) / 4.0

    def _mel(self, padded: np.ndarray) -> torch.Tensor:
        """(frames, n_mels): the power spectrum in mel bands."""
        squares = self._squares(padded)
        return torch.cat([squares[:, bins] @ filters for bins, filters in self._filters], dim=1)

    def _squares(self, padded: np.ndarray) -> torch.Tensor:
        """(frames, n_fft + 2): squared real and imaginary parts, in turn, of the spectrum of the windows that fit in.

        They are added up by who uses them: in the product with the mel filters that costs nothing.
        """
        frames = torch.from_numpy(padded).unfold(0, self._n_fft, self._hop) * self._window
        return torch.view_as_real(torch.fft.rfft(frames)).flatten(1).square_()


def _with_silence(waveform: np.ndarray, before: int, after: int) -> np.ndarray:
    """A float32 copy with zeros around it; a copy of its own, for torch warns about read-only memory."""
    padded = np.zeros(before + len(waveform) + after, np.float32)
    padded[before : before + len(waveform)] = waveform
    return padded


def _mel_filters(
    settings: SpectrogramSettings, sample_rate: int, n_fft: int, n_mels: int
) -> list[tuple[slice, torch.Tensor]]:
    """Triangles over the FFT bins, each bin twice; one that holds no bin is a ValueError.

    Neighbouring bands come together, BANDS_TOGETHER of them, with the columns of the squares that they reach: most of
    the whole matrix is zero, and a product of parts takes half the time of one with all.
    """
    f_max = sample_rate / 2 if settings.f_max is None else settings.f_max
    if not settings.f_min < f_max <= sample_rate / 2:
        raise ValueError(f"mel bands from {settings.f_min} to {f_max} Hz do not fit in 0 to {sample_rate / 2} Hz")
    scale = "slaney" if settings.kind == "log_mel" else "htk"
    norm = "slaney" if settings.kind == "log_mel" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchaudio's warning about empty bands; here they are an error
        filters: torch.Tensor = F.melscale_fbanks(
            n_fft // 2 + 1, settings.f_min, f_max, n_mels, sample_rate, norm=norm, mel_scale=scale
        )
    empty = int((filters.amax(dim=0) == 0).sum())
    if empty:
        raise ValueError(
            f"{empty} of {n_mels} mel bands from {settings.f_min} to {f_max} Hz are narrower than the FFT's bins "
            f"({sample_rate / n_fft:.1f} Hz): take fewer bands, a wider range or a longer window"
        )
    doubled = filters.repeat_interleave(2, dim=0)
    return [_reaching(part) for part in torch.split(doubled, BANDS_TOGETHER, dim=1)]


def _reaching(filters: torch.Tensor) -> tuple[slice, torch.Tensor]:
    """Return the rows of filters in which any is not zero, and the filters in these rows."""
    rows = filters.amax(dim=1).nonzero()
    reach = slice(int(rows.min()), int(rows.max()) + 1)
    return reach, filters[reach].contiguous()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch on the calling thread: clips are too short to share, and the cores have other tasks."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
