"""What a recipe may choose of OpenL3, and which file of its release that needs. No torch here: a plan reads this."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Self

from workers.models.keras_h5 import require_h5py

SAMPLE_RATE: Final = 48_000  # Hz
WINDOW_SAMPLES: Final = SAMPLE_RATE  # 1 s
DOWNLOADS: Final = "https://github.com/marl/openl3/raw/models/"

CHOICES: Final[dict[str, tuple[Any, ...]]] = {
    "input_repr": ("mel256", "mel128", "linear"),
    "content": ("music", "env"),
    "embedding_size": (6144, 512),
    "front_end": ("kapre", "librosa", "kapre-0.1"),
}


@dataclass(frozen=True, slots=True)
class OpenL3Settings:
    """The options of OpenL3; the defaults are those of openl3 0.4.2.

    Attributes:
        input_repr: what the network sees: 256 or 128 mel bands, or 257 linear bins.
        content: what the weights were trained on: videos of music, or of the environment.
        embedding_size: 6144, or 512 by larger pooling; the weights are the same.
        front_end: whose spectrogram; see workers.models.openl3_front_ends.
        hop_seconds: from one window of 1 s to the next.
        center: whether half a second of zeros in front makes times those of the windows' centres.
    """

    input_repr: str = "mel256"
    content: str = "music"
    embedding_size: int = 6144
    front_end: str = "kapre"
    hop_seconds: float = 0.1
    center: bool = True

    @classmethod
    def of(cls, options: dict[str, Any]) -> Self:
        """Return the settings of a recipe's `options`.

        Raises:
            ValueError: an option is not known, or has a value that none of the releases has.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise ValueError(f"OpenL3 has no option {', '.join(unknown)}; it has {', '.join(known)}")
        settings = cls(**options)
        for name, choices in CHOICES.items():
            value = getattr(settings, name)
            if value not in choices or isinstance(value, bool):
                raise ValueError(f"{name} is {value!r}; it is one of {', '.join(map(str, choices))}")
        settings._check_hop()
        return settings

    def _check_hop(self) -> None:
        hop = self.hop_seconds
        number = isinstance(hop, int | float) and not isinstance(hop, bool) and math.isfinite(hop)
        if not number or self.hop_samples < 1:
            raise ValueError(f"hop_seconds is {hop!r}; it is a number of seconds, 1/{SAMPLE_RATE} at least")
        if not isinstance(self.center, bool):
            raise ValueError(f"center is {self.center!r}; it is true or false")

    @property
    def hop_samples(self) -> int:
        """Samples from one window to the next, cut off to a whole number as the reference does."""
        return int(self.hop_seconds * SAMPLE_RATE)

    @property
    def weights_file(self) -> str:
        """The file of the release that has the weights."""
        return f"openl3_audio_{self.input_repr}_{self.content}-v0_4_0.h5"

    def windows(self, samples: int) -> int:
        """Return how many windows the reference makes of `samples` samples; one at least, the last zero-padded."""
        padded = samples + (WINDOW_SAMPLES // 2 if self.center else 0)
        return 1 + max(0, math.ceil((padded - WINDOW_SAMPLES) / self.hop_samples))


def check_openl3(folder: Path, table: str, settings: dict[str, Any]) -> None:
    """Refuse settings that OpenL3 cannot follow, and a folder without the file they need.

    Raises:
        ValueError: which, and the remedy.
    """
    if settings.get("layer") is not None:
        raise ValueError("OpenL3 has no layers to choose from; leave `layer` out")
    chosen = OpenL3Settings.of(settings.get("options") or {})
    if not (folder / chosen.weights_file).is_file():
        raise ValueError(
            f"{folder} lacks {chosen.weights_file}; download {DOWNLOADS}{chosen.weights_file}.gz, unpack it with "
            "gunzip, and put it there"
        )
    require_h5py()
