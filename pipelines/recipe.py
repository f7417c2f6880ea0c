"""The recipe: what to read, compute and write. YAML in, a frozen and checked value out."""

import difflib
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from pipelines.errors import RecipeError
from pipelines.places import refuse_overlap
from pipelines.recipe_sections import (
    REFERENCE,
    AudioSection,
    ClipsSection,
    EmbeddingSection,
    EnhanceSection,
    LakeSection,
    LimitsSection,
    PoolSection,
    Section,
    SegmentsSection,
    SourceSection,
    SpectrogramSection,
    TagSection,
    TranscriptSection,
    WarehouseSection,
)
from schemas.layout import CORPUS_PATTERN

SECRETS = ("key", "secret", "token", "password", "credential")


Unique = Annotated[str, Field(pattern=CORPUS_PATTERN)]


class Recipe(Section):
    """A whole recipe."""

    corpus: Unique
    """What the recordings are called together; part of every recording's id, and of every path in the lake."""
    source: SourceSection
    """What to read."""
    lake: LakeSection
    """Where to write."""
    audio: AudioSection = AudioSection()
    """What the audio becomes before anything else."""
    segments: SegmentsSection = SegmentsSection()
    """How recordings are cut."""
    spectrograms: tuple[SpectrogramSection, ...] = ()
    """A table of spectrograms; each kind once."""
    embeddings: tuple[EmbeddingSection, ...] = ()
    """A table of embeddings; each model once."""
    tags: tuple[TagSection, ...] = ()
    """A table of tags; each model once."""
    transcripts: tuple[TranscriptSection, ...] = ()
    """A table of transcripts; each model once."""
    clips: ClipsSection | None = None
    """A table of the segments' sound, for those who listen or train."""
    enhance: EnhanceSection | None = None
    """Noise reduction before models."""
    limits: LimitsSection = LimitsSection()
    """What is refused, and how much of that ends the run."""
    pools: PoolSection = PoolSection()
    """Resources of the model pools; no part of what is written, but for `dtype`."""
    warehouse: WarehouseSection | None = None
    """What is fed once a run is sealed; it decides nothing about the run."""

    @field_validator("spectrograms", "embeddings", "tags", "transcripts")
    @classmethod
    def _each_once(cls, sections: tuple[Section, ...]) -> tuple[Section, ...]:
        names = [getattr(section, "kind", None) or getattr(section, "model", None) for section in sections]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"{name} is listed {names.count(name)} times; a table holds it once a segment. For two settings of "
                    f"one {'kind' if hasattr(sections[0], 'kind') else 'model'} see docs/models.md, Two layers of one "
                    f"model: a second name for a model's folder, or a second corpus"
                )
        return sections

    @model_validator(mode="after")
    def _enhanced_is_heard(self) -> "Recipe":
        if self.enhance and not any(getattr(self, table) for table in self.enhance.tables):
            wanted = ", ".join(self.enhance.tables) or "none"
            raise ValueError(f"enhance.tables is {wanted}, and the recipe makes none of these; nobody would hear it")
        return self

    @model_validator(mode="after")
    def _a_reference_is_of_a_whole_recording(self) -> "Recipe":
        if self.segments.by != "whole" and any(section.model == REFERENCE for section in self.transcripts):
            raise ValueError("transcripts: `model: reference` needs segments.by: whole; a text is a whole recording's")
        if any(section.model == REFERENCE for section in self.transcripts):
            if self.source.uri is not None:
                raise ValueError("transcripts: `model: reference` needs texts: a manifest, tar or parquet source")
            if self.audio.channels == "each":
                raise ValueError(
                    "transcripts: `model: reference` has one text a recording; not with audio.channels: each"
                )
        if len({section.text_column for section in self.transcripts if section.model == REFERENCE}) > 1:
            raise ValueError("transcripts: one text_column is aligned in a run")
        return self

    def fingerprint(self) -> str:
        """Return a digest of what decides which rows a run writes; pools, failure budget and warehouse do not."""
        budget = {"max_failed_fraction", "tolerated_failures"}
        resources = {"actors", "gpus_per_actor", "batch_size", "batch_seconds"}  # dtype changes what is written
        content = self.model_dump(mode="json", exclude={"pools": resources, "limits": budget, "warehouse": True})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def as_yaml(self) -> str:
        """Return the resolved recipe, defaults filled in."""
        return yaml.safe_dump(self.model_dump(mode="json", exclude_none=True), sort_keys=False)


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe and apply `key.path=value` overrides (values are YAML).

    A relative local source or lake is relative to the recipe's folder.

    Raises:
        RecipeError: the file is missing, not YAML, or not a recipe, where the message names each key; or source and
            lake lie in each other.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise RecipeError(f"no recipe at {path}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} is not a readable YAML file: {error}") from None
    if not isinstance(content, dict):
        raise RecipeError(f"{path} is not a recipe: its top level must be a mapping with corpus, source and lake")
    for override in overrides or []:
        _override(content, override)
    recipe = _anchored(parse_recipe(content, str(path)), path.resolve().parent)
    refuse_overlap(recipe.source, recipe.lake)
    return recipe


def parse_recipe(content: dict[str, Any], name: str) -> Recipe:
    """Check a recipe given as a mapping; `name` is what messages call it."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        problems = "\n".join(f"  {_explain(problem)}" for problem in error.errors())
        raise RecipeError(f"{name} is not a valid recipe:\n{problems}") from None


def _override(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise RecipeError(f"--set {override}: write it as key.path=value")
    *parents, last = key.split(".")
    section = content
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise RecipeError(f"--set {override}: {parent} is not a section")
    try:
        section[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override}: the value is not YAML: {error}") from None


def _explain(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"]) or "recipe"
    if problem["type"] != "extra_forbidden":
        return f"{where}: {_in_words(problem)}"
    known = sorted(_known_keys(problem["loc"][:-1]))
    nearest = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(known)}"
    secret = any(word in str(problem["loc"][-1]).lower() for word in SECRETS)
    return f"{where}: unknown key; " + ("credentials come from the environment, never a recipe" if secret else hint)


def _in_words(problem: Any) -> str:
    """Return what is wrong with a value and what to write, in a recipe's words where pydantic has its own."""
    given, kind = problem.get("input"), problem["type"]
    if kind == "string_pattern_mismatch":
        likely = re.sub(r"[^a-z0-9._-]+", "-", given.lower()).strip("-._")[:64]
        rule = "lower-case letters, digits, `.`, `_` and `-`, at most 64, a letter or digit first"
        hint = f"; such as {likely}" if likely else ""
        return f"{given!r} cannot name folders and tables everywhere: {rule}{hint}"
    if kind == "tuple_type":
        of = getattr(_section_at(problem["loc"]), "model_fields", {})
        return f"a list, such as {_as_flow([given if isinstance(given, dict) or not of else {next(iter(of)): given}])}"
    if kind in ("model_type", "model_attributes_type"):
        section = _section_at(problem["loc"])
        keys = ", ".join(section.model_fields)
        first = next(iter(section.model_fields))
        simple = isinstance(given, str | int | float) and section.model_fields[first].annotation in (str, str | None)
        return f"write {_as_flow({first: given})}; its keys are {keys}" if simple else f"a section with the keys {keys}"
    if kind == "string_type":
        simple = isinstance(given, int | float) and not isinstance(given, bool)
        return f'a text; write "{given}", in quotes' if simple else "a text"
    return str(problem["msg"]).removeprefix("Value error, ")


def _as_flow(value: Any) -> str:
    """Return a value as it would stand in a line of a recipe."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_as_flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_as_flow, value)) + "]"
    return json.dumps(value, default=str, ensure_ascii=False)


def _section_at(location: tuple[int | str, ...]) -> Any:
    section: Any = Recipe
    for part in location:
        if isinstance(part, str):
            section = section.model_fields[part].annotation
            section = next((kind for kind in getattr(section, "__args__", ()) if kind is not Ellipsis), section)
    return section


def _known_keys(location: tuple[int | str, ...]) -> set[str]:
    return set(_section_at(location).model_fields)


def _anchored(recipe: Recipe, folder: Path) -> Recipe:
    """Make relative local paths absolute, so that every node and every later command means the same place."""

    def anchor(uri: str | None) -> str | None:
        if uri is None or re.match(r"^[a-z0-9+.-]+://", uri):
            return uri
        absolute = os.path.normpath(folder / Path(uri).expanduser())  # globs are matched with listed, plain paths
        return absolute + "/" if uri.endswith("/") else absolute

    source = recipe.source.model_copy(
        update={name: anchor(getattr(recipe.source, name)) for name in ("uri", "manifest", "tar", "parquet")}
    )
    lake = recipe.lake.model_copy(update={"uri": anchor(recipe.lake.uri)})
    return recipe.model_copy(update={"source": source, "lake": lake, "warehouse": _anchored_warehouse(recipe, anchor)})


def _anchored_warehouse(recipe: Recipe, anchor: Callable[[str | None], str | None]) -> WarehouseSection | None:
    """Make the path of an SQLite catalog absolute; four slashes begin one that is."""
    wanted = recipe.warehouse and recipe.warehouse.iceberg
    if not wanted or not wanted.catalog.startswith("sqlite:///") or wanted.catalog.startswith("sqlite:////"):
        return recipe.warehouse
    catalog = f"sqlite:///{anchor(wanted.catalog.removeprefix('sqlite:///'))}"
    return WarehouseSection(iceberg=wanted.model_copy(update={"catalog": catalog}))
