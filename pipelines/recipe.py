"""The recipe: what to read, compute and write. YAML in, a frozen and checked value out."""

import difflib
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipelines.errors import RecipeError
from schemas.layout import CORPUS_PATTERN

REFERENCE = "reference"  # the model whose transcripts are the manifest's own texts
SECRETS = ("key", "secret", "token", "password", "credential")


def without_userinfo(uri: str | None) -> str | None:
    """Return a uri; ValueError where it holds credentials, which would be written into every plan and row."""
    if uri and "://" in uri and "@" in uri.split("://", 1)[1].partition("/")[0]:
        raise ValueError("holds credentials; they come from the environment, never a recipe")
    return uri


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Storage(_Section):
    """How a store is reached. Credentials come from the environment, as for s3fs, never from a recipe."""

    endpoint_url: str | None = None
    region: str | None = None
    anon: bool | None = None

    def options(self) -> dict[str, Any]:
        """Return what is set."""
        return self.model_dump(exclude_none=True)


class SourceSection(_Section):
    """What to read: objects under a prefix or glob (`uri`), a manifest of uris, or what lies inside shards.

    `tar` and `parquet` are a file, a prefix or a glob. `allow` lifts what a manifest may not name otherwise: `file`
    (local files, from a manifest that is not local), `http` (http and https), `outside` (with .., above its folder).
    """

    uri: str | None = None
    manifest: str | None = None
    tar: str | None = None
    parquet: str | None = None
    audio_column: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    allow: tuple[Literal["file", "http", "outside"], ...] = ()
    storage: Storage = Storage()

    @field_validator("uri", "manifest", "tar", "parquet")
    @classmethod
    def _no_secret(cls, uri: str | None) -> str | None:
        return without_userinfo(uri)

    @model_validator(mode="after")
    def _one_of_four(self) -> "SourceSection":
        if sum(one is not None for one in (self.uri, self.manifest, self.tar, self.parquet)) != 1:
            raise ValueError(
                "give one of uri (a prefix or glob), manifest (a CSV, JSON Lines or Parquet file of uris), tar "
                "(WebDataset shards) and parquet (files with a column of audio)"
            )
        if self.audio_column is not None and self.parquet is None:
            raise ValueError("audio_column belongs to a parquet source")
        if self.allow and self.manifest is None:
            raise ValueError("allow belongs to a manifest")
        return self

    @property
    def where(self) -> str:
        """The place that is read."""
        return self.uri or self.manifest or self.tar or self.parquet or ""


class LakeSection(_Section):
    """Where to write."""

    uri: str
    storage: Storage = Storage()

    @field_validator("uri")
    @classmethod
    def _no_secret(cls, uri: str) -> str:
        return without_userinfo(uri) or uri


class AudioSection(_Section):
    """What the audio becomes before anything else.

    `sample_rate`: Hz of what is cut, and of spectrograms; each model gets the rate it was trained at. 48000 is for
    models that hear more than speech has (OpenL3, CLAP), and three times the work of moving samples.
    `channels`: `mono` (the mean), `left`, `right`, or `each`, which cuts every channel into segments of its own.
    `track`: of a container with several audio tracks the n-th from 0, or the first with this language tag (`eng`).
    `on_partial`: whether a recording that decodes in part is kept, or fails.
    """

    sample_rate: Literal[16000, 48000] = 16000
    channels: Literal["mono", "left", "right", "each"] = "mono"
    track: Annotated[int, Field(ge=0)] | str = 0
    on_partial: Literal["keep", "fail"] = "keep"


class SegmentsSection(_Section):
    """How recordings are cut."""

    by: Literal["speech", "windows", "whole"] = "speech"
    max_seconds: float = Field(default=30.0, gt=0.1, le=3600)
    hop_seconds: float | None = Field(default=None, gt=0.01)
    max_pause_seconds: float = Field(default=2.0, gt=0)

    @model_validator(mode="after")
    def _hop_needs_windows(self) -> "SegmentsSection":
        if self.hop_seconds is not None and self.by != "windows":
            raise ValueError("hop_seconds belongs to `by: windows`")
        return self


class SpectrogramSection(_Section):
    """One spectrogram of every segment; see workers.spectrogram for the defaults and their sources."""

    kind: Literal["log_mel", "mfcc", "power"]
    n_bins: int | None = Field(default=None, ge=1, le=4096)
    window_seconds: float | None = Field(default=None, gt=0)
    hop_seconds: float | None = Field(default=None, gt=0)
    f_min: float | None = Field(default=None, ge=0)
    f_max: float | None = Field(default=None, gt=0)
    preset: Literal["whisper"] | None = None


class EmbeddingSection(_Section):
    """One embedding model over every segment.

    `layer` is a hidden layer of a speech encoder (0 is what its transformer is given, -1 the last), or layers with
    their weights, `{6: 0.5, 9: 0.5}`; where it is not given, what the model was made to give. `options` are the
    model's own; docs/models.md lists them.
    """

    model: str
    layer: int | dict[int, float] | None = None
    pooling: Literal["mean", "mean_std", "max", "first", "frames"] = "mean"
    options: dict[str, Any] = {}


class TagSection(_Section):
    """One tagging model over every segment; the `top_k` best labels are kept."""

    model: str
    top_k: int = Field(default=10, ge=1, le=10_000)
    options: dict[str, Any] = {}


class TranscriptSection(_Section):
    """One transcriber over every segment; `language` is an ISO 639-1 code, detected where not given.

    `identify`: whether the language is detected for every segment, or for a recording's segments together.
    `words`: whether words get times. `guards`: whether a doubtful window is decoded again at higher temperatures.
    `pack`: whether clips share one window of the encoder, which costs the same however short a clip is.
    With `model: reference` nothing is guessed: the manifest's column `text_column` is aligned to the audio by the CTC
    model `align_with`.
    """

    model: str
    language: str | None = None
    task: Literal["transcribe", "translate"] = "transcribe"
    identify: Literal["segment", "recording"] = "segment"
    words: bool = False
    guards: bool = True
    pack: bool = False
    align_with: str | None = None
    text_column: str = "text"
    options: dict[str, Any] = {}

    @model_validator(mode="after")
    def _reference_needs_an_aligner(self) -> "TranscriptSection":
        if (self.model == REFERENCE) != (self.align_with is not None):
            raise ValueError("`model: reference` and `align_with` (a CTC model) belong together")
        return self


class LimitsSection(_Section):
    """What is refused, recording by recording, and how much of that ends the run.

    More failures than `max_failed_fraction` end it, but `tolerated_failures` never do, unless the fraction is 0.
    """

    max_bytes: int = Field(default=16 << 30, gt=0)
    max_seconds: float = Field(default=48 * 3600.0, gt=0)
    max_channels: int = Field(default=32, ge=1)
    max_rate: int = Field(default=768_000, ge=1_000)
    max_decoded_bytes: int = Field(default=256 << 30, gt=0)
    max_failed_fraction: float = Field(default=0.5, ge=0, le=1)
    tolerated_failures: int = Field(default=10, ge=0)


class PoolSection(_Section):
    """Resources of the model pools; what is not given is computed from the cluster.

    `batch_size` windows and `batch_seconds` of audio, padding included, are on a device together; `dtype: auto` is
    half precision on a GPU and float32 on a CPU.
    """

    actors: int | None = Field(default=None, ge=1)
    gpus_per_actor: float | None = Field(default=None, ge=0)
    batch_size: int = Field(default=16, ge=1)
    batch_seconds: float = Field(default=120.0, gt=0)
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"


class EnhanceSection(_Section):
    """Noise reduction before models: which model, and which tables are made of the enhanced signal."""

    model: str
    tables: tuple[Literal["embeddings", "tags", "transcripts", "spectrograms"], ...] = ("transcripts",)


Unique = Annotated[str, Field(pattern=CORPUS_PATTERN)]


class Recipe(_Section):
    """A whole recipe."""

    corpus: Unique
    source: SourceSection
    lake: LakeSection
    audio: AudioSection = AudioSection()
    segments: SegmentsSection = SegmentsSection()
    spectrograms: tuple[SpectrogramSection, ...] = ()
    embeddings: tuple[EmbeddingSection, ...] = ()
    tags: tuple[TagSection, ...] = ()
    transcripts: tuple[TranscriptSection, ...] = ()
    enhance: EnhanceSection | None = None
    limits: LimitsSection = LimitsSection()
    pools: PoolSection = PoolSection()

    @field_validator("spectrograms", "embeddings", "tags", "transcripts")
    @classmethod
    def _each_once(cls, sections: tuple[_Section, ...]) -> tuple[_Section, ...]:
        names = [getattr(section, "kind", None) or getattr(section, "model", None) for section in sections]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name} is listed {names.count(name)} times; a table holds it once a segment")
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
        """Return a digest of what decides which rows a run writes; resources and the failure budget do not."""
        budget = {"max_failed_fraction", "tolerated_failures"}
        resources = {"actors", "gpus_per_actor", "batch_size", "batch_seconds"}  # dtype changes what is written
        content = self.model_dump(mode="json", exclude={"pools": resources, "limits": budget})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def as_yaml(self) -> str:
        """Return the resolved recipe, defaults filled in."""
        return yaml.safe_dump(self.model_dump(mode="json", exclude_none=True), sort_keys=False)


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe and apply `key.path=value` overrides (values are YAML).

    A relative local source or lake is relative to the recipe's folder.

    Raises:
        RecipeError: the file is missing, not YAML, or not a recipe; the message names each key.
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
    return _anchored(parse_recipe(content, str(path)), path.resolve().parent)


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
        return f"{where}: {problem['msg'].removeprefix('Value error, ')}"
    known = sorted(_known_keys(problem["loc"][:-1]))
    nearest = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(known)}"
    secret = any(word in str(problem["loc"][-1]).lower() for word in SECRETS)
    return f"{where}: unknown key; " + ("credentials come from the environment, never a recipe" if secret else hint)


def _known_keys(location: tuple[int | str, ...]) -> set[str]:
    section: Any = Recipe
    for part in location:
        if isinstance(part, str):
            section = section.model_fields[part].annotation
            section = next((kind for kind in getattr(section, "__args__", ()) if kind is not Ellipsis), section)
    return set(section.model_fields)


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
    return recipe.model_copy(update={"source": source, "lake": lake})
