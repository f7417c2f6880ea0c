"""Audio without a header: what it is cannot be told from its bytes, so a file's name or its manifest says it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from workers.container import Container

TELEPHONE_RATE: Final = 8_000  # Hz, of G.711 and GSM 06.10
G722_RATE: Final = 16_000

FORMATS: Final[dict[str, tuple[Container, int]]] = {
    "mulaw": (Container("mulaw", "mulaw"), TELEPHONE_RATE),
    "alaw": (Container("alaw", "alaw"), TELEPHONE_RATE),
    "gsm": (Container("gsm", "gsm"), TELEPHONE_RATE),
    "g722": (Container("g722", "g722"), G722_RATE),
    "s16le": (Container("s16le", "s16le"), TELEPHONE_RATE),
}
"""Formats by the name that a manifest's column `format` may hold, each with the rate it has where nothing says it."""

FIXED: Final = frozenset({"gsm", "g722"})
"""Formats whose rate and single channel are part of the codec."""

SUFFIXES: Final[dict[str, tuple[str, int]]] = {
    ".ul": ("mulaw", TELEPHONE_RATE),
    ".ulaw": ("mulaw", TELEPHONE_RATE),
    ".mulaw": ("mulaw", TELEPHONE_RATE),
    ".pcmu": ("mulaw", TELEPHONE_RATE),
    ".al": ("alaw", TELEPHONE_RATE),
    ".alaw": ("alaw", TELEPHONE_RATE),
    ".pcma": ("alaw", TELEPHONE_RATE),
    ".gsm": ("gsm", TELEPHONE_RATE),
    ".g722": ("g722", G722_RATE),
    ".sln": ("s16le", TELEPHONE_RATE),
    ".sln16": ("s16le", 16_000),
    ".sln48": ("s16le", 48_000),
}
"""What a name's ending says, as Asterisk and sox use them."""


@dataclass(frozen=True, slots=True)
class RawAudio:
    """What headerless bytes are: a format of FORMATS, sampling rate in Hz, channels (interleaved)."""

    format: str
    sample_rate: int
    channels: int = 1

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format is one of {', '.join(FORMATS)}, not {self.format!r}")
        if self.sample_rate < 1 or self.channels < 1:
            raise ValueError(f"{self.sample_rate} Hz and {self.channels} channels make no sense")

    @property
    def container(self) -> Container:
        """How FFmpeg reads it."""
        return FORMATS[self.format][0]

    @property
    def demuxer_options(self) -> dict[str, str]:
        """What FFmpeg's demuxer must be told."""
        if self.format in FIXED:
            return {}
        return {"sample_rate": str(self.sample_rate), "ch_layout": f"{self.channels}C"}


def raw_audio(name: str, metadata: Mapping[str, str]) -> RawAudio | None:
    """Return what an object would be if it had no header: as its manifest says, or else the ending of its name.

    A manifest's columns are `format`, `sample_rate` and `channels`. None where neither says anything.
    Raises ValueError where the manifest says what makes no sense.
    """
    told, rate = SUFFIXES.get(PurePosixPath(name).suffix.lower(), (None, TELEPHONE_RATE))
    if metadata.get("format", "").lower() in FORMATS:
        told = metadata["format"].lower()
        rate = FORMATS[told][1]
    if told is None:
        return None
    if told in FIXED:
        return RawAudio(told, rate)
    return RawAudio(told, _whole(metadata, "sample_rate", rate), _whole(metadata, "channels", 1))


def _whole(metadata: Mapping[str, str], column: str, default: int) -> int:
    """Return a column's whole number, also where a table with gaps made it 8000.0; `default` where it says nothing."""
    text = (metadata.get(column) or "").strip()
    if not text or text.lower() == "nan":
        return default
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number.is_integer():
        raise ValueError(f"the manifest's column {column} is {text[:80]!r}, and no whole number")
    return int(number)
