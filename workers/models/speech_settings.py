"""What a recipe may ask of a speech encoder, read from its config files alone: no weights, no torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from workers.models.checkpoint_files import read_config, read_preprocessor
from workers.models.model import ModelStage

MODEL_TYPES: Final = (
    "wav2vec2",
    "wav2vec2-conformer",
    "hubert",
    "wavlm",
    "data2vec-audio",
    "unispeech",
    "unispeech-sat",
)
"""Values of `model_type` in config.json that are of this family."""

DEFAULT_LAYERS: Final = 12  # what transformers takes where config.json says nothing, in all types above
WINDOW_SECONDS: Final = 60.0
WINDOW_LIMITS: Final = (1.0, 600.0)  # seconds; attention costs the square of it
WINDOW_OPTION: Final = "max_window_seconds"

Mix = Mapping[int, float] | None
"""Hidden states with their weights, 0 being what the transformer is given; None is the model's last hidden state."""


def head_of(config: Mapping[str, Any]) -> str:
    """Return which kind of workers.models.kinds a config.json of this family is, by what its network ends in."""
    architectures = config.get("architectures") or [""]
    for ending, kind in (("ForCTC", "ctc"), ("ForSequenceClassification", "classifier"), ("ForXVector", "xvector")):
        if architectures[0].endswith(ending):
            return kind
    return "speech"


def read_preparation(folder: Path) -> dict[str, Any]:
    """Return how samples are prepared: `sampling_rate`, `do_normalize`.

    Raises:
        ValueError: the folder does not say. Whether samples are normalised differs from model to model, so that
            nothing is assumed.
    """
    return {"sampling_rate": 16_000, "do_normalize": True} | read_preprocessor(folder)


def layer_mix(layer: int | Mapping[int, float] | None, n_layers: int) -> Mix:
    """Return the hidden states that the setting `layer` asks of a transformer of `n_layers`; -1 counts from the end.

    Raises:
        ValueError: there is no such layer, or no layer at all.
    """
    if layer is None:
        return None
    asked = {layer: 1.0} if isinstance(layer, int) else dict(layer)
    if not asked:
        raise ValueError("`layer` names no layer; leave it out for the last hidden state")
    mix: dict[int, float] = {}
    for number, weight in asked.items():
        if not -n_layers - 1 <= number <= n_layers:
            raise ValueError(f"it has layers 0 to {n_layers} (or -{n_layers + 1} to -1), not {number}")
        place = number % (n_layers + 1)
        mix[place] = mix.get(place, 0.0) + weight
    return mix


def mix_name(mix: Mix) -> str:
    """Return what the column `layer` says of hidden states: `last_hidden_state`, `9`, or `0.5*6+0.5*9`."""
    if mix is None:
        return "last_hidden_state"
    if list(mix.values()) == [1.0]:
        return str(next(iter(mix)))
    return "+".join(f"{weight:g}*{number}" for number, weight in sorted(mix.items()))


def window_seconds(settings: Mapping[str, Any]) -> float:
    """Return how much of a clip goes through the encoder at once, seconds.

    Raises:
        ValueError: the options are not this family's, or the seconds make no sense.
    """
    options = settings.get("options") or {}
    if others := sorted(set(options) - {WINDOW_OPTION}):
        raise ValueError(f"its option is {WINDOW_OPTION}, not {', '.join(others)}")
    seconds = options.get(WINDOW_OPTION, WINDOW_SECONDS)
    low, high = WINDOW_LIMITS
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not low <= seconds <= high:
        raise ValueError(f"{WINDOW_OPTION} is {low:g} to {high:g}, not {seconds}")
    return float(seconds)


def shared_window_seconds(stages: Sequence[ModelStage]) -> float:
    """Return how much of a clip goes through the encoder at once, seconds, for all stages of a model.

    Raises:
        ValueError: they ask for different windows, while they share one pass; or as window_seconds.
    """
    seconds = {window_seconds(stage.settings) for stage in stages}
    if len(seconds) > 1:
        told = ", ".join(f"{window_seconds(stage.settings):g} for {stage.id}" for stage in stages)
        raise ValueError(f"its tables share one pass; give all one {WINDOW_OPTION} in `options`, not {told}")
    return seconds.pop()


def check_speech(folder: Path, table: str, settings: dict[str, Any]) -> None:
    """Refuse what an encoder, or its head, cannot do; see workers.models.kinds.Kind."""
    config = read_config(folder)
    read_preparation(folder)
    if config.get("add_adapter"):
        raise ValueError("it has an adapter behind its encoder (add_adapter), which nothing here runs")
    window_seconds(settings)
    if table == "tags" and config.get("problem_type") == "regression":
        raise ValueError("its head gives a number (problem_type regression), not labels")
    layer_mix(settings.get("layer"), config.get("num_hidden_layers", DEFAULT_LAYERS))


def check_speaker(folder: Path, table: str, settings: dict[str, Any]) -> None:
    """Refuse what a speaker's vector has not: layers and other poolings."""
    check_speech(folder, table, settings)
    if settings.get("layer") is not None:
        raise ValueError("a speaker's vector has no layers to choose from; leave `layer` out")
    if settings.get("pooling", "mean") not in ("mean", "mean_std"):
        raise ValueError("a speaker's vector is pooled by mean and deviation; leave `pooling` out")
