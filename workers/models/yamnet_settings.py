"""Which files a folder with YAMNet needs. No torch here: a plan reads this."""

from pathlib import Path
from typing import Any, Final

from workers.models.keras_h5 import require_h5py

RELEASED_WEIGHTS_FILE: Final = "yamnet.h5"  # of the original release
RELEASED_CLASSES_FILE: Final = "yamnet_class_map.csv"
CLASSES_DOWNLOAD: Final = (
    "https://raw.githubusercontent.com/tensorflow/models/master/research/audioset/yamnet/yamnet_class_map.csv"
)


def check_yamnet(folder: Path, table: str, settings: dict[str, Any]) -> None:
    """Refuse a choice of layers and options, of which YAMNet has none, and a folder without what it needs.

    Raises:
        ValueError: which, and the remedy.
    """
    if settings.get("layer") is not None:
        raise ValueError("it has no layers to choose from; leave `layer` out")
    if settings.get("options"):
        raise ValueError(f"it has no options, not {', '.join(settings['options'])}")
    if not (folder / RELEASED_WEIGHTS_FILE).exists():
        return
    if not (folder / RELEASED_CLASSES_FILE).is_file():
        raise ValueError(f"{folder} lacks {RELEASED_CLASSES_FILE}; download {CLASSES_DOWNLOAD} into it")
    require_h5py()
