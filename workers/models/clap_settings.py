"""What the configuration files of a CLAP checkpoint say, read without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from workers.models.checkpoint_files import read_config, read_preprocessor

PADDINGS: Final = ("repeatpad", "repeat", "pad")
POOLINGS: Final = ("mean", "frames")


@dataclass(frozen=True, slots=True)
class ClapSettings:
    """How a checkpoint wants its audio.

    Attributes:
        sample_rate: Hz.
        window_samples: what it hears at once, 10 s.
        fft_samples: of a frame of the spectrogram.
        hop_samples: from one frame to the next.
        mel_bins: of a frame.
        mel_low: Hz.
        mel_high: Hz.
        padding: how a short clip fills the window: `repeatpad`, whole repetitions and zeros; `repeat`; or `pad`, zeros.
        fusion: whether it was trained to fuse crops of long clips; its mel filters are HTK's then, else Slaney's.
    """

    sample_rate: int
    window_samples: int
    fft_samples: int
    hop_samples: int
    mel_bins: int
    mel_low: float
    mel_high: float
    padding: str
    fusion: bool

    @property
    def window_seconds(self) -> float:
        """What it hears at once, seconds."""
        return self.window_samples / self.sample_rate

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read `config.json` and `preprocessor_config.json` (or `processor_config.json`).

        Raises:
            ValueError: they contradict each other, or ask for a padding that there is none of.
        """
        audio, heard = read_config(folder).get("audio_config") or {}, read_preprocessor(folder)
        mel_bins, padding = heard.get("feature_size", 64), heard.get("padding", "repeatpad")
        wanted = audio.get("num_mel_bins", 64)
        if mel_bins != wanted:
            raise ValueError(f"its feature extractor makes {mel_bins} mel bins, and its network wants {wanted}")
        if padding not in PADDINGS:
            raise ValueError(f"it pads with {padding}; known are {', '.join(PADDINGS)}")
        rate = heard.get("sampling_rate", 48_000)
        return cls(
            rate,
            int(heard.get("max_length_s", 10) * rate),
            heard.get("fft_window_size", 1024),
            heard.get("hop_length", 480),
            mel_bins,
            heard.get("frequency_min", 0),
            heard.get("frequency_max", 14_000),
            padding,
            heard.get("truncation", "fusion") == "fusion",
        )


def check(folder: Path, table: str, settings: dict[str, Any]) -> None:
    """Raise ValueError where a checkpoint cannot fill `table` with these settings."""
    ClapSettings.read(folder)
    if settings.get("layer") is not None:
        raise ValueError("it gives one vector a window, in the space of its texts; leave `layer` out")
    if settings.get("pooling", "mean") not in POOLINGS:
        raise ValueError(
            f"pooling {settings['pooling']} would leave the space of its texts; it knows {' and '.join(POOLINGS)}"
        )
    if settings.get("options"):
        raise ValueError(f"it has no options, not {', '.join(settings['options'])}")
