"""What kind of model a checkpoint folder holds, told by its files."""

import json
from pathlib import Path
from typing import Final

from workers.models import speech_settings

SUPPORTED: Final = (
    "whisper (transcripts; also CTranslate2's), yamnet and audio-spectrogram-transformer (embeddings, tags), openl3, "
    f"vggish, ge2e and clap (embeddings), and speech encoders: {', '.join(speech_settings.MODEL_TYPES)} (embeddings; "
    "tags and transcripts with a head for them)"
)

FILES: Final = (
    ("classes.csv", "yamnet"),
    ("yamnet.h5", "yamnet"),
    ("openl3_audio_*", "openl3"),
    ("vggish*", "vggish"),
)
"""What tells the kind of a checkpoint that has no config.json."""


def kind_of(folder: Path) -> str:
    """Return the kind (workers.models.kinds) of a checkpoint folder.

    Raises:
        ValueError: nothing here runs it; the message says what it is.
    """
    if (folder / "config.json").exists():
        config = json.loads((folder / "config.json").read_text())
        if "suppress_ids_begin" in config and (folder / "model.bin").exists():
            return "ctranslate2_whisper"
        model_type = config.get("model_type")
        if model_type is not None:
            _refuse_missing_weights(folder, model_type)
        if model_type == "whisper":
            return "whisper"
        if model_type in speech_settings.MODEL_TYPES:
            return speech_settings.head_of(config)
        if model_type == "audio-spectrogram-transformer":
            return "ast"
        if model_type == "clap":
            return "clap"
        raise ValueError(f"it is of type {model_type}; supported are {SUPPORTED}")
    for pattern, kind in FILES:
        if any(folder.glob(pattern)):
            return kind
    raise ValueError(f"{folder} holds no config.json; supported are {SUPPORTED}")


def _refuse_missing_weights(folder: Path, model_type: str) -> None:
    """Raise where transformers would find no safetensors: one file, or all that the index of a larger one names."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists():
        return
    if not index.exists():
        raise ValueError(
            f"{folder} holds no model.safetensors, the only form of a {model_type}'s weights that is read: convert "
            "pytorch_model.bin with transformers' save_pretrained"
        )
    files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    if missing := [file for file in files if not (folder / file).exists()]:
        raise ValueError(
            f"{folder} lacks {len(missing)} of the {len(files)} files with its weights that {index.name} names, "
            f"{missing[0]} first; copy or download it again"
        )
