"""Which spectrogram to compute. Apart from workers.spectrogram, so that who only plans need not import torch."""

import math
from dataclasses import dataclass
from typing import Final, Literal

MFCC_MELS: Final = 80  # mel bands under the MFCCs: more would leave bands between the FFT's bins empty
WHISPER_BINS: Final = (80, 128)
DEFAULT_BINS: Final = {"log_mel": 80, "mfcc": 40}


@dataclass(frozen=True, slots=True)
class SpectrogramSettings:
    """Which spectrogram; windows and hops in seconds, frequencies in Hz.

    `log_mel`: natural logarithm of the power in `n_bins` mel bands (default 80), but at least LOG_FLOOR; Slaney's mel
    scale and unit-area triangles, as in librosa. `mfcc`: `n_bins` coefficients (default 40) of 80 HTK mel bands in
    dB, at most 80 dB below the clip's loudest, as in torchaudio.transforms.MFCC. `power`: |STFT|^2 in all FFT bins.
    25-ms windows every 10 ms are Kaldi's and Whisper's. Mel bands go from `f_min` to `f_max` (default: half the
    sampling rate). `preset="whisper"` with 80 or 128 bins is WhisperFeatureExtractor's log-mel: log10, 80 dB range
    below the clip's loudest, (x + 4) / 4; in a clip of more than 30 s the same over all of it.
    Raises ValueError for values that make no sense, or that the kind or the preset would have to ignore.
    """

    kind: Literal["log_mel", "mfcc", "power"]
    n_bins: int | None = None
    window_seconds: float = 0.025
    hop_seconds: float = 0.010
    f_min: float = 0.0
    f_max: float | None = None
    preset: Literal["whisper"] | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("log_mel", "mfcc", "power"):
            raise ValueError(f"a spectrogram is of kind log_mel, mfcc or power, not {self.kind!r}")
        if self.n_bins is not None and self.n_bins < 1:
            raise ValueError(f"n_bins must be 1 or more, not {self.n_bins}")
        if not 0 < self.hop_seconds <= self.window_seconds <= 1:
            raise ValueError(
                "seconds must be 0 < hop_seconds <= window_seconds <= 1, "
                f"not {self.hop_seconds} and {self.window_seconds}"
            )
        if not 0 <= self.f_min < (math.inf if self.f_max is None else self.f_max):
            raise ValueError(f"Hz must be 0 <= f_min < f_max, not {self.f_min} and {self.f_max}")
        self._check_nothing_ignored()

    def _check_nothing_ignored(self) -> None:
        fixed = SpectrogramSettings.__dataclass_fields__
        if self.kind == "power" and (self.n_bins, self.f_min, self.f_max) != (None, 0.0, None):
            raise ValueError("a power spectrogram has all bins of the FFT: it takes no n_bins, f_min or f_max")
        if self.kind == "mfcc" and (self.n_bins or 0) > MFCC_MELS:
            raise ValueError(f"{MFCC_MELS} mel bands give at most {MFCC_MELS} MFCCs, not {self.n_bins}")
        if self.preset is None:
            return
        if self.preset != "whisper" or self.kind != "log_mel" or self.n_bins not in (None, *WHISPER_BINS):
            raise ValueError(
                f"the only preset is 'whisper', a log_mel of 80 or 128 bins, "
                f"not {self.preset!r}, a {self.kind} of {self.n_bins}"
            )
        for name in ("window_seconds", "hop_seconds", "f_min", "f_max"):
            if getattr(self, name) != fixed[name].default:
                raise ValueError(f"preset 'whisper' fixes {name}: leave it out, or leave out the preset")

    def fft_length(self, sample_rate: int) -> int:
        """Return the samples of one FFT at a rate in Hz: the next power of two (Kaldi's rule), Whisper's as it is."""
        length = round(self.window_seconds * sample_rate)
        return length if self.preset else 1 << (length - 1).bit_length()

    def values_per_second(self, sample_rate: int) -> float:
        """Return how many float32 values a second of audio gives."""
        bins = self.n_bins or DEFAULT_BINS.get(self.kind, self.fft_length(sample_rate) // 2 + 1)
        return bins / self.hop_seconds
