"""What the configuration files of an Audio Spectrogram Transformer say, read without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from workers.models.checkpoint_files import read_config, read_preprocessor

AUDIOSET_CLASSES = 527
CLASSIFIER = "ASTForAudioClassification"
ENCODER = "ASTModel"


@dataclass(frozen=True, slots=True)
class AstSettings:
    """How a checkpoint wants its audio, and what its outputs mean.

    Attributes:
        architecture: the class in transformers: `ASTForAudioClassification`, or `ASTModel`, which has no labels.
        sample_rate: Hz.
        mel_bins: of a frame.
        frames: of a window; one every 10 ms, so 1,024 are 10.24 s.
        mean: of the log-mel values of what it was trained on; None where they are not normalised.
        deviation: their standard deviation.
        labels: in the order of the scores; none for `ASTModel`.
        scores: `sigmoid`, each label by itself, where the checkpoint says that it is multi-label, has one label, or
            says nothing and has AudioSet's 527 classes, several of which are heard in most clips; else `softmax`.
    """

    architecture: str
    sample_rate: int
    mel_bins: int
    frames: int
    mean: float | None
    deviation: float
    labels: tuple[str, ...]
    scores: Literal["sigmoid", "softmax"]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read `config.json` and `preprocessor_config.json`.

        Raises:
            ValueError: it is another class, solves another problem, or its two files contradict each other.
        """
        config, heard = read_config(folder), read_preprocessor(folder)
        architecture = _architecture(config)
        frames, mel_bins = heard.get("max_length", 1024), heard.get("num_mel_bins", 128)
        if (frames, mel_bins) != (config.get("max_length", 1024), config.get("num_mel_bins", 128)):
            raise ValueError(
                f"its feature extractor makes {frames} frames of {mel_bins} bins, and its network wants "
                f"{config.get('max_length', 1024)} of {config.get('num_mel_bins', 128)}"
            )
        labels = _labels(config) if architecture == CLASSIFIER else ()
        return cls(
            architecture,
            heard.get("sampling_rate", 16_000),
            mel_bins,
            frames,
            heard.get("mean", -4.2677393) if heard.get("do_normalize", True) else None,
            heard.get("std", 4.5689974),
            labels,
            _scores(config.get("problem_type"), len(labels)),
        )


def check(folder: Path, table: str, settings: dict[str, Any]) -> None:
    """Raise ValueError where a checkpoint cannot fill `table` with these settings."""
    found = AstSettings.read(folder)
    if table == "tags" and not found.labels:
        raise ValueError("it is an ASTModel, which has no labels; only embeddings come from it")
    if settings.get("layer") is not None:
        raise ValueError("it gives one vector a window, the model's pooled output; leave `layer` out")
    if settings.get("options"):
        raise ValueError(f"it has no options, not {', '.join(settings['options'])}")


def _architecture(config: dict[str, Any]) -> str:
    named = (config.get("architectures") or [CLASSIFIER])[0]
    if named not in (CLASSIFIER, ENCODER):
        raise ValueError(f"it is an {named}; {CLASSIFIER} and {ENCODER} can be run")
    return str(named)


def _labels(config: dict[str, Any]) -> tuple[str, ...]:
    named = {int(number): str(label) for number, label in (config.get("id2label") or {}).items()}
    if sorted(named) != list(range(len(named))) or not named:
        raise ValueError("its id2label does not name its classes from 0 on")
    return tuple(named[number] for number in range(len(named)))


def _scores(problem: str | None, labels: int) -> Literal["sigmoid", "softmax"]:
    if problem == "regression":
        raise ValueError("it was trained for regression; its outputs are no scores of labels")
    several = problem == "multi_label_classification" or (problem is None and labels == AUDIOSET_CLASSES)
    return "sigmoid" if several or labels == 1 else "softmax"
