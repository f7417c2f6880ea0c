"""The kinds of model there are: which tables each fills, how heavy it is, and which class runs it.

A checkpoint's kind is read from its files (workers.weights). Classes are imported by who loads them: a task that only
decodes need not wait seconds for torch and transformers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from workers.models import ast_settings, clap_settings
from workers.models.model import Loading, Model


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of model.

    Attributes:
        tables: the tables it can fill.
        work: CPU seconds per audio second, relative to YAMNet's; what shares of a machine follow.
        load: reads a checkpoint.
        check: raises ValueError where a checkpoint (its folder) cannot fill a table with these settings; reads no
            weights and imports no torch.
    """

    tables: tuple[str, ...]
    work: float
    load: Callable[[Loading], Model]
    check: Callable[[Path, str, dict[str, Any]], None]


def _yamnet(loading: Loading) -> Model:
    from workers.models.yamnet import YamnetModel

    return YamnetModel.load(loading)


def _whisper(loading: Loading) -> Model:
    from workers.models.whisper import WhisperModel

    return WhisperModel.load(loading)


def _ast(loading: Loading) -> Model:
    from workers.models.audio_spectrogram_transformer import AudioSpectrogramTransformer

    return AudioSpectrogramTransformer.load(loading)


def _clap(loading: Loading) -> Model:
    from workers.models.clap import Clap

    return Clap.load(loading)


def _no_layers(folder: Path, table: str, settings: dict[str, Any]) -> None:
    """Refuse a choice of layers, and options: the model has one embedding and none."""
    if settings.get("layer") is not None:
        raise ValueError("it has no layers to choose from; leave `layer` out")
    if settings.get("options"):
        raise ValueError(f"it has no options, not {', '.join(settings['options'])}")


KINDS: Final[dict[str, Kind]] = {
    "yamnet": Kind(("embeddings", "tags"), 1.0, _yamnet, _no_layers),
    "whisper": Kind(("transcripts",), 8.0, _whisper, _no_layers),
    "ast": Kind(("embeddings", "tags"), 40.0, _ast, ast_settings.check),
    "clap": Kind(("embeddings",), 4.0, _clap, clap_settings.check),
}


def kinds_for(table: str) -> list[str]:
    """Return the kinds that fill a table."""
    return [name for name, kind in KINDS.items() if table in kind.tables]
