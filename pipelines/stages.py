"""Stages: one table's worth of computing each, with a fingerprint that says when it must be computed anew."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final

from pipelines.errors import RecipeError
from pipelines.recipe import Recipe, SegmentsSection, SpectrogramSection
from workers.segments import SegmentSettings
from workers.spectrogram_settings import SpectrogramSettings
from workers.weights import Checkpoint, ModelError, resolve

CODE_VERSIONS: Final[dict[str, str]] = {
    "segments": "1",
    "spectrograms": "1",
    "embeddings": "1",
    "tags": "1",
    "transcripts": "1",
}
"""Raise a table's version when its code changes what it writes: old recordings are then computed anew."""

KINDS: Final[dict[str, tuple[str, ...]]] = {
    "embeddings": ("yamnet",),
    "tags": ("yamnet",),
    "transcripts": ("whisper",),
}
"""Which kinds of model fill which table."""


COMMON_SETTINGS: Final[tuple[dict[str, Any], ...]] = ({}, {"n_bins": 80}, {"n_bins": 40}, {"n_bins": 128})
"""Spectrogram settings known to fit 16 kHz."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One table's worth of computing.

    Attributes:
        table: the table it fills.
        name: the spectrogram's kind, the model's name, or how segments are cut.
        settings: its section of the recipe.
        checkpoint: its weights; None where it has none.
        fingerprint: digest of settings, weights, code version, and of what it builds on.
    """

    table: str
    name: str
    settings: dict[str, Any]
    checkpoint: Checkpoint | None
    fingerprint: str

    @property
    def id(self) -> str:
        """What wire columns, failures and reports call the stage."""
        return f"{self.table}/{self.name}"

    @property
    def key(self) -> str:
        """What the ledger books as done: the stage at this fingerprint."""
        return f"{self.id}@{self.fingerprint}"


def stages_of(recipe: Recipe) -> list[Stage]:
    """Return the stages of a recipe, `segments` (which also fills `recordings`) first.

    Raises:
        RecipeError: a model cannot be had, or cannot do what the recipe asks of it.
    """
    _check_settings(recipe)
    base_settings = {"audio": recipe.audio.model_dump(), "segments": recipe.segments.model_dump()}
    if recipe.segments.by == "speech":
        base_settings["weights"] = {"silero": _resolved("silero").digest}
    base = _stage("segments", recipe.segments.by, base_settings, None, "")
    stages = [base]
    for section in recipe.spectrograms:
        settings = section.model_dump(exclude_none=True)
        stages.append(_stage("spectrograms", section.kind, settings, None, base.fingerprint))
    for table in ("embeddings", "tags", "transcripts"):
        for section in getattr(recipe, table):
            checkpoint = _checkpoint(table, section.model)
            _check_transcriber(section, checkpoint)
            stages.append(_stage(table, section.model, section.model_dump(), checkpoint, base.fingerprint))
    return stages


def _check_settings(recipe: Recipe) -> None:
    """Refuse what no worker could do, before anybody plans it."""
    try:
        segment_settings(recipe.segments)
        for section in recipe.spectrograms:
            settings = spectrogram_settings(section)
            if section.model_dump(exclude_none=True, exclude={"kind", "preset"}) not in COMMON_SETTINGS:
                from workers.spectrogram import Spectrogrammer  # imports torch: only for what might not fit

                Spectrogrammer(settings, recipe.audio.sample_rate)
    except ValueError as error:
        raise RecipeError(f"the recipe asks for what cannot be done: {error}") from None


def _check_transcriber(section: Any, checkpoint: Checkpoint) -> None:
    """Refuse a language or task that a Whisper checkpoint says it has not."""
    rules_file = checkpoint.folder / "generation_config.json"
    if checkpoint.kind != "whisper" or not rules_file.exists():
        return
    rules = json.loads(rules_file.read_text())
    languages = [token.strip("<|>") for token in rules.get("lang_to_id") or {}] or ["en"]
    if section.language is not None and section.language not in languages:
        raise RecipeError(
            f"transcripts: {section.model} has no language {section.language!r}; it has {', '.join(sorted(languages))}"
        )
    if section.task == "translate" and languages == ["en"]:
        raise RecipeError(f"transcripts: {section.model} knows English only and cannot translate")


def segment_settings(section: SegmentsSection) -> SegmentSettings:
    """Return the workers' settings for a recipe's section; ValueError where they make no sense."""
    return SegmentSettings(**section.model_dump())


def spectrogram_settings(section: SpectrogramSection) -> SpectrogramSettings:
    """Return the workers' settings for a recipe's section; ValueError where they make no sense."""
    return SpectrogramSettings(**section.model_dump(exclude_none=True))


def _checkpoint(table: str, model: str) -> Checkpoint:
    checkpoint = _resolved(model)
    if checkpoint.kind not in KINDS[table]:
        raise RecipeError(f"{table}: {model} is a {checkpoint.kind} model; {table} come from {', '.join(KINDS[table])}")
    return checkpoint


def _resolved(model: str) -> Checkpoint:
    try:
        return resolve(model)
    except ModelError as error:
        raise RecipeError(str(error)) from None


def _stage(table: str, name: str, settings: dict[str, Any], checkpoint: Checkpoint | None, parent: str) -> Stage:
    content = [table, name, settings, checkpoint and checkpoint.digest, CODE_VERSIONS[table], parent]
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    return Stage(table, name, settings, checkpoint, fingerprint)
