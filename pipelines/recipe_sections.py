"""The sections of a recipe: each a frozen value that refuses what it does not know."""

import json
import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

TEXT_COLUMN = "text"
REFERENCE = "reference"  # the model whose transcripts are the manifest's own texts


def _as_json(options: dict[str, Any]) -> dict[str, Any]:
    """Return a model's options; ValueError where JSON has no words for them, as for a date or a NaN."""
    try:
        json.dumps(options, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"options are texts, numbers, lists and mappings of them: {error}") from None
    return options


Options = Annotated[dict[str, Any], AfterValidator(_as_json)]


def without_userinfo(uri: str | None) -> str | None:
    """Return a uri; ValueError where it holds credentials, which would be written into every plan and row."""
    if uri and "://" in uri and "@" in uri.split("://", 1)[1].partition("/")[0]:
        raise ValueError("holds credentials; they come from the environment, never a recipe")
    return uri


class Section(BaseModel):
    """What all sections share: nothing changes, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Storage(Section):
    """How a store is reached. Credentials come from the environment, as for s3fs, never from a recipe."""

    endpoint_url: str | None = None
    region: str | None = None
    anon: bool | None = None

    def options(self) -> dict[str, Any]:
        """Return what is set."""
        return self.model_dump(exclude_none=True)


class SourceSection(Section):
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


class LakeSection(Section):
    """Where to write."""

    uri: str
    storage: Storage = Storage()

    @field_validator("uri")
    @classmethod
    def _no_secret(cls, uri: str) -> str:
        return without_userinfo(uri) or uri


class AudioSection(Section):
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


class SegmentsSection(Section):
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


class SpectrogramSection(Section):
    """One spectrogram of every segment; see workers.spectrogram for the defaults and their sources."""

    kind: Literal["log_mel", "mfcc", "power"]
    n_bins: int | None = Field(default=None, ge=1, le=4096)
    window_seconds: float | None = Field(default=None, gt=0)
    hop_seconds: float | None = Field(default=None, gt=0)
    f_min: float | None = Field(default=None, ge=0)
    f_max: float | None = Field(default=None, gt=0)
    preset: Literal["whisper"] | None = None


class ClipsSection(Section):
    """The sound of every segment as a file in a column, for those who listen or train: `flac`, exact to the bit."""

    format: Literal["flac"] = "flac"


class EmbeddingSection(Section):
    """One embedding model over every segment.

    `layer` is a hidden layer of a speech encoder (0 is what its transformer is given, -1 the last), or layers with
    their weights, `{6: 0.5, 9: 0.5}`; where it is not given, what the model was made to give. `options` are the
    model's own; docs/models.md lists them.
    """

    model: str
    layer: int | dict[int, float] | None = None
    pooling: Literal["mean", "mean_std", "max", "first", "frames"] = "mean"
    options: Options = {}

    @field_validator("layer")
    @classmethod
    def _finite(cls, layer: int | dict[int, float] | None) -> int | dict[int, float] | None:
        if isinstance(layer, dict) and not all(map(math.isfinite, layer.values())):
            raise ValueError("the weights of layers are finite numbers")
        return layer


class TagSection(Section):
    """One tagging model over every segment; the `top_k` best labels are kept."""

    model: str
    top_k: int = Field(default=10, ge=1, le=10_000)
    options: Options = {}


class TranscriptSection(Section):
    """One transcriber over every segment.

    `language` is a code as the model has it (`en` of Whisper, `eng` of MMS, whose adapter it chooses); Whisper detects
    it where not given.
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
    text_column: str = TEXT_COLUMN
    options: Options = {}

    @model_validator(mode="after")
    def _texts_are_for_alignment(self) -> "TranscriptSection":
        if self.text_column != TEXT_COLUMN and self.model != REFERENCE:
            raise ValueError("text_column belongs to `model: reference`")
        return self

    @model_validator(mode="after")
    def _reference_needs_an_aligner(self) -> "TranscriptSection":
        if (self.model == REFERENCE) != (self.align_with is not None):
            raise ValueError("`model: reference` and `align_with` (a CTC model) belong together")
        return self


class LimitsSection(Section):
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


class PoolSection(Section):
    """Resources of the model pools; what is not given is computed from the cluster.

    `batch_size` windows and `batch_seconds` of audio, padding included, are on a device together; `dtype: auto` is
    half precision on a GPU and float32 on a CPU.
    """

    actors: int | None = Field(default=None, ge=1)
    gpus_per_actor: float | None = Field(default=None, ge=0)
    batch_size: int = Field(default=16, ge=1)
    batch_seconds: float = Field(default=120.0, gt=0)
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"


class EnhanceSection(Section):
    """Noise reduction before models: which model, and which tables are made of the enhanced signal."""

    model: str
    tables: tuple[Literal["embeddings", "tags", "transcripts", "spectrograms"], ...] = ("transcripts",)


class IcebergSection(Section):
    """Iceberg tables that every sealed run is registered in.

    `catalog` is a uri (`sqlite:///...`, `http://...`) or the name of a catalog that pyiceberg is configured for, which
    is where its secrets stand; `namespace` is where the tables stand in it.
    """

    catalog: str = Field(min_length=1)
    namespace: str = Field(default="phonolake", min_length=1)

    @field_validator("catalog")
    @classmethod
    def _no_secret(cls, uri: str) -> str:
        return without_userinfo(uri) or uri


class WarehouseSection(Section):
    """What is fed once a run is sealed; it decides nothing about the run."""

    iceberg: IcebergSection | None = None
