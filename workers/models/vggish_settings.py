"""What a recipe may choose of VGGish, and which files that needs. No torch here: a plan reads this."""

from pathlib import Path
from typing import Any, Final

PCA_FILE: Final = "vggish_pca_params.npz"
PCA_DOWNLOAD: Final = "https://storage.googleapis.com/audioset/vggish_pca_params.npz"


def weights_file(folder: Path) -> Path:
    """Return the file with the weights: vggish*.safetensors, else vggish*.pth.

    Raises:
        ValueError: there is none, or more than one.
    """
    for pattern in ("vggish*.safetensors", "vggish*.pth"):
        found = sorted(path for path in folder.glob(pattern) if not path.name.startswith("vggish_pca"))
        if len(found) > 1:
            raise ValueError(f"{folder} has {', '.join(path.name for path in found)}; keep one of them")
        if found:
            return found[0]
    raise ValueError(f"{folder} has no vggish*.safetensors and no vggish*.pth (torchvggish's vggish-10086976.pth)")


def wants_pca(options: dict[str, Any]) -> bool:
    """Return whether embeddings are whitened and quantised; ValueError for options that VGGish does not have."""
    unknown = sorted(set(options) - {"pca"})
    if unknown:
        raise ValueError(f"VGGish has no option {', '.join(unknown)}; it has pca")
    pca = options.get("pca", False)
    if not isinstance(pca, bool):
        raise ValueError(f"pca is {pca!r}; it is true or false")
    return pca


def check_vggish(folder: Path, table: str, settings: dict[str, Any]) -> None:
    """Refuse settings that VGGish cannot follow, and a folder without the files they need; ValueError says which."""
    if settings.get("layer") is not None:
        raise ValueError("VGGish has no layers to choose from; leave `layer` out")
    weights_file(folder)
    if wants_pca(settings.get("options") or {}) and not (folder / PCA_FILE).is_file():
        raise ValueError(f"{folder} lacks {PCA_FILE}; download {PCA_DOWNLOAD} into it, or leave `pca` out")
