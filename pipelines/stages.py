"""Stages: one table's worth of computing each, with a fingerprint that says when it must be computed anew."""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any, Final

from pipelines.errors import RecipeError
from pipelines.recipe import Recipe
from pipelines.recipe_sections import REFERENCE, EnhanceSection, SegmentsSection, SpectrogramSection
from schemas.wire import ENHANCED
from workers.enhance import EnhanceSettings
from workers.enhancers.enhancer import digest_of
from workers.models.kinds import KINDS, kinds_for
from workers.models.model import ModelStage
from workers.segments import SegmentSettings
from workers.spectrogram_settings import SpectrogramSettings
from workers.weights import Checkpoint, ModelError, resolve

CODE_VERSIONS: Final[dict[str, str]] = {
    "segments": "1",
    "spectrograms": "1",
    "embeddings": "1",
    "tags": "1",
    "transcripts": "2",
    "clips": "1",
    "enhance": "1",
}
"""Raise a table's version when its code changes what it writes: old recordings are then computed anew."""

COMMON_SETTINGS: Final[tuple[dict[str, Any], ...]] = ({}, {"n_bins": 80}, {"n_bins": 40}, {"n_bins": 128})
COMMON_RATE: Final = 16_000
"""Spectrogram settings that are known to fit, and the rate in Hz that they are known to fit."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One table's worth of computing.

    Attributes:
        table: the table it fills.
        name: the spectrogram's kind, the clips' format, the model's name, or how segments are cut.
        settings: its section of the recipe.
        checkpoint: its weights; None where it has none.
        fingerprint: digest of settings, weights, code version, and of what it builds on.
        signal: the wire column with the samples it hears: `pcm`, or `enhanced`.
    """

    table: str
    name: str
    settings: dict[str, Any]
    checkpoint: Checkpoint | None
    fingerprint: str
    signal: str = "pcm"

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
    if recipe.clips:
        stages.append(_stage("clips", recipe.clips.format, recipe.clips.model_dump(), None, base.fingerprint))
    for table in ("embeddings", "tags", "transcripts"):
        for section in getattr(recipe, table):
            stages.append(_model_stage(table, section, base, recipe.pools.dtype))
    _check_passes(stages)
    return [_enhanced(stage, recipe) for stage in stages]


def _model_stage(table: str, section: Any, base: Stage, dtype: str) -> Stage:
    aligned = section.model == REFERENCE
    settings = section.model_dump()
    checkpoint = _checkpoint(table, section.align_with if aligned else section.model, settings.get("language"))
    if aligned and checkpoint.kind != "ctc":
        raise RecipeError(
            f"transcripts: align_with is {section.align_with}, a {checkpoint.kind} model; a ctc model aligns"
        )
    _check_options(table, checkpoint, settings)
    # What is not given stays out of the fingerprint: a key that a later release adds must not recompute old recordings.
    given = section.model_dump(exclude_defaults=True) | ({} if dtype == "auto" else {"dtype": dtype})
    stage = _stage(table, section.model, given, checkpoint, base.fingerprint)
    return replace(stage, settings=settings)


def _check_options(table: str, checkpoint: Checkpoint, settings: dict[str, Any]) -> None:
    """Refuse settings that the kind of model cannot follow."""
    try:
        KINDS[checkpoint.kind].check(checkpoint.folder, table, settings)
    except ValueError as error:
        raise RecipeError(f"{table}: {checkpoint.name}: {error}") from None


def _check_passes(stages: list[Stage]) -> None:
    """Refuse stages of one model that cannot share its pass over the audio."""
    passes: dict[str, tuple[Checkpoint, list[ModelStage]]] = {}
    for stage in stages:
        if stage.checkpoint is not None:
            told = ModelStage(stage.id, stage.table, stage.settings)
            passes.setdefault(stage.checkpoint.name, (stage.checkpoint, []))[1].append(told)
    for checkpoint, sharing in passes.values():
        try:
            KINDS[checkpoint.kind].check_pass(checkpoint.folder, sharing)
        except ValueError as error:
            raise RecipeError(f"{checkpoint.name}: {error}") from None


def _enhanced(stage: Stage, recipe: Recipe) -> Stage:
    """Let a stage hear the enhanced signal where the recipe says so."""
    if recipe.enhance is None or stage.table not in recipe.enhance.tables:
        return stage
    content = [stage.fingerprint, recipe.enhance.model, _enhancer_digest(recipe.enhance), CODE_VERSIONS["enhance"]]
    return replace(stage, fingerprint=_digest(content), signal=ENHANCED)


def enhance_settings(recipe: Recipe, stages: list[Stage]) -> EnhanceSettings | None:
    """Return how the signal is enhanced that some stages hear; None where a recipe has no noise reduction."""
    if recipe.enhance is None:
        return None
    hearing = tuple(stage.id for stage in stages if stage.signal == ENHANCED)
    return EnhanceSettings(recipe.enhance.model, _enhancer_digest(recipe.enhance), hearing)


def _enhancer_digest(section: EnhanceSection) -> str:
    try:
        return digest_of(section.model)
    except ModelError as error:
        raise RecipeError(str(error)) from None


def _check_settings(recipe: Recipe) -> None:
    """Refuse what no worker could do, before anybody plans it."""
    try:
        segment_settings(recipe.segments)
        for section in recipe.spectrograms:
            settings = spectrogram_settings(section)
            given = section.model_dump(exclude_none=True, exclude={"kind", "preset"})
            if recipe.audio.sample_rate != COMMON_RATE or given not in COMMON_SETTINGS:
                from workers.spectrogram import Spectrogrammer  # imports torch: only for what might not fit

                Spectrogrammer(settings, recipe.audio.sample_rate)
    except ValueError as error:
        raise RecipeError(f"the recipe asks for what cannot be done: {error}") from None


def segment_settings(section: SegmentsSection) -> SegmentSettings:
    """Return the workers' settings for a recipe's section; ValueError where they make no sense."""
    return SegmentSettings(**section.model_dump())


def spectrogram_settings(section: SpectrogramSection) -> SpectrogramSettings:
    """Return the workers' settings for a recipe's section; ValueError where they make no sense."""
    return SpectrogramSettings(**section.model_dump(exclude_none=True))


def _checkpoint(table: str, model: str, language: str | None) -> Checkpoint:
    checkpoint = _resolved(model, language)
    if checkpoint.kind not in kinds_for(table):
        able = ", ".join(kinds_for(table))
        raise RecipeError(f"{table}: {model} is a {checkpoint.kind} model; {table} come from {able}")
    return checkpoint


def _resolved(model: str, language: str | None = None) -> Checkpoint:
    try:
        return resolve(model, language)
    except ModelError as error:
        raise RecipeError(str(error)) from None


def _stage(table: str, name: str, settings: dict[str, Any], checkpoint: Checkpoint | None, parent: str) -> Stage:
    content = [table, name, settings, checkpoint and checkpoint.digest, CODE_VERSIONS[table], parent]
    return Stage(table, name, settings, checkpoint, _digest(content))


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
