"""Stages: one table's worth of computing each, with a fingerprint that says when it must be computed anew."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final

from pipelines.errors import RecipeError
from pipelines.recipe import Recipe
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
    base_settings = {"audio": recipe.audio.model_dump(), "segments": recipe.segments.model_dump()}
    base = _stage("segments", recipe.segments.by, base_settings, None, "")
    stages = [base]
    for section in recipe.spectrograms:
        settings = section.model_dump(exclude_none=True)
        stages.append(_stage("spectrograms", section.kind, settings, None, base.fingerprint))
    for table in ("embeddings", "tags", "transcripts"):
        for section in getattr(recipe, table):
            checkpoint = _checkpoint(table, section.model)
            stages.append(_stage(table, section.model, section.model_dump(), checkpoint, base.fingerprint))
    return stages


def _checkpoint(table: str, model: str) -> Checkpoint:
    try:
        checkpoint = resolve(model)
    except ModelError as error:
        raise RecipeError(str(error)) from None
    if checkpoint.kind not in KINDS[table]:
        raise RecipeError(f"{table}: {model} is a {checkpoint.kind} model; {table} come from {', '.join(KINDS[table])}")
    return checkpoint


def _stage(table: str, name: str, settings: dict[str, Any], checkpoint: Checkpoint | None, parent: str) -> Stage:
    content = [table, name, settings, checkpoint and checkpoint.digest, CODE_VERSIONS[table], parent]
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    return Stage(table, name, settings, checkpoint, fingerprint)
