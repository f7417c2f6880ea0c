"""The kinds of model there are: which tables each fills, how heavy it is, and which class runs it.

A checkpoint's kind is read from its files (workers.weights). Classes are imported by who loads them: a task that only
decodes need not wait seconds for torch and transformers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from workers.models import ast_settings, clap_settings, ctranslate2_checkpoint
from workers.models.language_adapters import check_language, languages_of
from workers.models.model import Loading, Model, ModelStage
from workers.models.openl3_settings import check_openl3
from workers.models.speech_settings import check_speaker, check_speech, shared_window_seconds
from workers.models.vggish_settings import check_vggish
from workers.models.whisper_tokens import check_settings
from workers.models.yamnet_settings import check_yamnet


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of model.

    Attributes:
        tables: the tables it can fill.
        work: CPU seconds per audio second, relative to YAMNet's; what shares of a machine follow.
        load: reads a checkpoint.
        check: raises ValueError where a checkpoint (its folder) cannot fill a table with these settings; reads no
            weights and imports no torch.
        check_pass: the same of all stages of a model, which share one pass over the audio.
    """

    tables: tuple[str, ...]
    work: float
    load: Callable[[Loading], Model]
    check: Callable[[Path, str, dict[str, Any]], None]
    check_pass: Callable[[Path, Sequence[ModelStage]], None] = lambda folder, stages: None


def _yamnet(loading: Loading) -> Model:
    from workers.models.yamnet import YamnetModel

    return YamnetModel.load(loading)


def _whisper(loading: Loading) -> Model:
    from workers.models.whisper import WhisperModel

    return WhisperModel.load(loading)


def _speech(loading: Loading) -> Model:
    from workers.models.speech import SpeechModel

    return SpeechModel.load(loading)


def _ctc(loading: Loading) -> Model:
    from workers.models.ctc import CtcModel

    return CtcModel.load(loading)


def _check_ctc(folder: Path, table: str, settings: dict[str, Any]) -> None:
    """Refuse what an encoder cannot do, what only Whisper can, and a checkpoint without a vocabulary."""
    check_speech(folder, table, settings)
    if table == "transcripts":
        if settings["task"] != "transcribe":
            raise ValueError("it writes what it hears and cannot translate")
        if settings["pack"]:
            raise ValueError("it has no window to pack clips into; leave `pack` out")
        if settings.get("identify") == "recording":
            raise ValueError("it identifies no language; leave `identify` out")
        if not (folder / "vocab.json").exists():
            raise ValueError("it has no vocab.json, which says what its labels stand for")
        check_language(folder, settings["language"])


def _check_ctc_pass(folder: Path, stages: Sequence[ModelStage]) -> None:
    """Refuse several windows, and several languages where each has an adapter: a pass goes through one."""
    shared_window_seconds(stages)
    asked = {stage.settings.get("language") for stage in stages}
    if len(asked) > 1 and languages_of(folder):
        told = ", ".join(f"{stage.settings.get('language') or 'none'} for {stage.id}" for stage in stages)
        raise ValueError(
            f"its tables share one pass, through the adapter of one language, and the recipe has {told}; give all "
            "transcripts one `language`, and make embeddings in a recipe of their own, without a language"
        )


def _check_windows(folder: Path, stages: Sequence[ModelStage]) -> None:
    """Refuse several windows."""
    shared_window_seconds(stages)


def _audio_classifier(loading: Loading) -> Model:
    from workers.models.audio_classifier import AudioClassifier

    return AudioClassifier.load(loading)


def _xvector(loading: Loading) -> Model:
    from workers.models.xvector import SpeakerModel

    return SpeakerModel.load(loading)


def _openl3(loading: Loading) -> Model:
    from workers.models.openl3 import OpenL3Model

    return OpenL3Model.load(loading)


def _vggish(loading: Loading) -> Model:
    from workers.models.vggish import VggishModel

    return VggishModel.load(loading)


def _ge2e(loading: Loading) -> Model:
    from workers.models.speaker import SpeakerModel

    return SpeakerModel.load(loading)


def _ctranslate2_whisper(loading: Loading) -> Model:
    ctranslate2_checkpoint.refuse_missing_engine()
    from workers.models.ctranslate2_whisper import Ctranslate2WhisperModel

    return Ctranslate2WhisperModel.load(loading)


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


def _own(loading: Loading) -> Model:
    from workers.models.own import load_own

    return load_own(loading)


def _anything(folder: Path, table: str, settings: dict[str, Any]) -> None:
    """Leave it to the class."""


KINDS: Final[dict[str, Kind]] = {
    "own": Kind(("embeddings", "tags", "transcripts"), 4.0, _own, _anything),
    "speech": Kind(("embeddings",), 15.0, _speech, check_speech),
    "ctc": Kind(("embeddings", "transcripts"), 15.0, _ctc, _check_ctc, _check_ctc_pass),
    "classifier": Kind(("embeddings", "tags"), 15.0, _audio_classifier, check_speech, _check_windows),
    "xvector": Kind(("embeddings",), 15.0, _xvector, check_speaker),
    "yamnet": Kind(("embeddings", "tags"), 1.0, _yamnet, check_yamnet),
    "openl3": Kind(("embeddings",), 300.0, _openl3, check_openl3),
    "vggish": Kind(("embeddings",), 3.5, _vggish, check_vggish),
    "ge2e": Kind(("embeddings",), 1.3, _ge2e, _no_layers),
    "whisper": Kind(("transcripts",), 8.0, _whisper, check_settings),
    "ctranslate2_whisper": Kind(("transcripts",), 8.0, _ctranslate2_whisper, ctranslate2_checkpoint.check_settings),
    "ast": Kind(("embeddings", "tags"), 40.0, _ast, ast_settings.check),
    "clap": Kind(("embeddings",), 4.0, _clap, clap_settings.check),
}


def kinds_for(table: str) -> list[str]:
    """Return the kinds that fill a table."""
    return [name for name, kind in KINDS.items() if table in kind.tables]
