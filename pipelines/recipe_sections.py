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
    """What all sections share: nothing changes, unknown keys are refused, and what stands below a key describes it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Storage(Section):
    """How a store is reached. Credentials come from the environment, as for s3fs, never from a recipe."""

    endpoint_url: str | None = None
    """Endpoint of an S3 that is not Amazon's; else `AWS_ENDPOINT_URL` or the profile say."""
    region: str | None = None
    """Region of the bucket; else `AWS_REGION` or the profile say."""
    anon: bool | None = None
    """Read a public bucket without credentials."""

    def options(self) -> dict[str, Any]:
        """Return what is set."""
        return self.model_dump(exclude_none=True)


class SourceSection(Section):
    """What to read; one of `uri`, `manifest`, `tar` and `parquet`. docs/sources.md says which stores."""

    uri: str | None = None
    """A prefix, folder, object or glob (`*`, `?`, `[]`, `**`). A prefix is a folder: `calls` is not `calls-old/`."""
    manifest: str | None = None
    """A CSV, JSON Lines or Parquet file with a column `uri` or `path`; other columns become metadata."""
    tar: str | None = None
    """WebDataset shards (.tar, .tar.gz, .tgz): a file, a prefix or a glob."""
    parquet: str | None = None
    """Parquet files with a column of audio: a file, a prefix or a glob."""
    audio_column: str | None = None
    """The column of a `parquet` source that holds the audio, where it is not plain which."""
    include: tuple[str, ...] = ()
    """Globs over the whole uri, or over its end; what none of them matches is left out."""
    exclude: tuple[str, ...] = ()
    """Globs as in `include`; what one of them matches is left out."""
    allow: tuple[Literal["file", "http", "outside"], ...] = ()
    """Lifts what a manifest may not name: `file` (local files, from a manifest that is not local), `http`, `outside`
    (with .., above its folder).
    """
    storage: Storage = Storage()
    """How the source's store is reached."""

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
    """A folder or an s3:// uri; see docs/sources.md. A relative one is relative to the recipe."""
    storage: Storage = Storage()
    """How the lake's store is reached."""

    @field_validator("uri")
    @classmethod
    def _no_secret(cls, uri: str) -> str:
        return without_userinfo(uri) or uri


class AudioSection(Section):
    """What the audio becomes before anything else."""

    sample_rate: Literal[16000, 48000] = 16000
    """Hz of what is cut, and of spectrograms; each model gets its own rate. 48000 is for OpenL3 and CLAP, and three
    times the work of moving samples.
    """
    channels: Literal["mono", "left", "right", "each"] = "mono"
    """`mono` is the mean; `each` cuts every channel into segments of its own."""
    track: Annotated[int, Field(ge=0)] | str = 0
    """Of a container with several audio tracks the n-th from 0, or the first with this language tag (`eng`)."""
    on_partial: Literal["keep", "fail"] = "keep"
    """Whether a recording that decodes in part is kept as `partial`, or fails."""


class SegmentsSection(Section):
    """How recordings are cut."""

    by: Literal["speech", "windows", "whole"] = "speech"
    """`speech` joins what Silero VAD hears and cuts in pauses: what holds no speech has no segment. `windows` are of
    one length; `whole` is the recording, cut at multiples of `max_seconds` if it is longer.
    """
    max_seconds: float = Field(default=30.0, gt=0.1, le=3600)
    """The longest a segment may be."""
    hop_seconds: float | None = Field(default=None, gt=0.01)
    """From one window's beginning to the next; only with `by: windows`. Not given: `max_seconds`."""
    max_pause_seconds: float = Field(default=2.0, gt=0)
    """With `by: speech`: a pause that is longer ends the segment."""

    @model_validator(mode="after")
    def _hop_needs_windows(self) -> "SegmentsSection":
        if self.hop_seconds is not None and self.by != "windows":
            raise ValueError("hop_seconds belongs to `by: windows`")
        return self


class SpectrogramSection(Section):
    """One spectrogram of every segment; docs/spectrograms.md defines them."""

    kind: Literal["log_mel", "mfcc", "power"]
    """docs/spectrograms.md defines each."""
    n_bins: int | None = Field(default=None, ge=1, le=4096)
    """Mel bands of `log_mel` (80), coefficients of `mfcc` (40); `power` has all bins."""
    window_seconds: float | None = Field(default=None, gt=0)
    """0.025 where not given."""
    hop_seconds: float | None = Field(default=None, gt=0)
    """0.01 where not given."""
    f_min: float | None = Field(default=None, ge=0)
    """Hz at which the lowest band begins; 0 where not given."""
    f_max: float | None = Field(default=None, gt=0)
    """Hz at which the highest band ends; half the sampling rate where not given."""
    preset: Literal["whisper"] | None = None
    """`whisper`: the log-mel of WhisperFeatureExtractor."""


class ClipsSection(Section):
    """The sound of every segment as a file in a column, for those who listen or train: `flac`, exact to the bit."""

    format: Literal["flac"] = "flac"
    """Exact to the bit."""


class EmbeddingSection(Section):
    """One embedding model over every segment; a model is listed once."""

    model: str
    """A hub id, a folder, a uri, a name of ours or `module:Class`; docs/models.md."""
    layer: int | dict[int, float] | None = None
    """A hidden layer of a speech encoder (0 is what its transformer is given, -1 the last), or layers with their
    weights, `{6: 0.5, 9: 0.5}`. Not given: what the model was made to give.
    """
    pooling: Literal["mean", "mean_std", "max", "first", "frames"] = "mean"
    """How a segment's frames become one vector; `frames` keeps them all."""
    options: Options = {}
    """The model's own; docs/models.md lists them."""

    @field_validator("layer")
    @classmethod
    def _finite(cls, layer: int | dict[int, float] | None) -> int | dict[int, float] | None:
        if isinstance(layer, dict) and not all(map(math.isfinite, layer.values())):
            raise ValueError("the weights of layers are finite numbers")
        return layer


class TagSection(Section):
    """One tagging model over every segment."""

    model: str
    """A model with labels: `yamnet`, an Audio Spectrogram Transformer, a classification head, `module:Class`."""
    top_k: int = Field(default=10, ge=1, le=10_000)
    """How many labels are kept of each segment, the best first."""
    options: Options = {}
    """The model's own; docs/models.md lists them."""


class TranscriptSection(Section):
    """One transcriber over every segment.

    With `model: reference` nothing is guessed: the manifest's column `text_column` is aligned to the audio by the CTC
    model `align_with`.
    """

    model: str
    """A Whisper, a CTC model, `module:Class`, or `reference`, which aligns the manifest's texts."""
    language: str | None = None
    """A code as the model has it (`en` of Whisper, `eng` of MMS, whose adapter it chooses). Not given: Whisper detects
    it.
    """
    task: Literal["transcribe", "translate"] = "transcribe"
    """`translate` is Whisper's translation into English."""
    identify: Literal["segment", "recording"] = "segment"
    """Whether the language is detected for every segment, or for a recording's segments together."""
    words: bool = False
    """Whether words get times."""
    guards: bool = True
    """Whether a doubtful window is decoded again at higher temperatures."""
    pack: bool = False
    """Whether short clips share one window of the encoder, which costs the same however short a clip is."""
    align_with: str | None = None
    """The CTC model that `model: reference` aligns with."""
    text_column: str = TEXT_COLUMN
    """The manifest's column that `model: reference` aligns."""
    options: Options = {}
    """The model's own; docs/models.md lists them."""

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
    """What is refused, recording by recording, and how much of that ends the run."""

    max_bytes: int = Field(default=16 << 30, gt=0)
    """Bytes of an object; 16 GiB."""
    max_seconds: float = Field(default=48 * 3600.0, gt=0)
    """Seconds of decoded audio; two days."""
    max_channels: int = Field(default=32, ge=1)
    """Channels of a recording."""
    max_rate: int = Field(default=768_000, ge=1_000)
    """Hz; below 1 kHz is refused too."""
    max_decoded_bytes: int = Field(default=256 << 30, gt=0)
    """Bytes that all channels decode to; 256 GiB."""
    max_failed_fraction: float = Field(default=0.5, ge=0, le=1)
    """A run with more failures than this ends with exit code 3 and publishes nothing."""
    tolerated_failures: int = Field(default=10, ge=0)
    """So many failures never end a run, unless the fraction is 0."""


class PoolSection(Section):
    """Resources of the model pools; what is not given is computed from the cluster."""

    actors: int | None = Field(default=None, ge=1)
    """Actors of every model's pool; not given: as many as fit."""
    gpus_per_actor: float | None = Field(default=None, ge=0)
    """GPUs of every actor, fractions too; not given: computed, 0 where there are none."""
    batch_size: int = Field(default=16, ge=1)
    """Windows that are on a device together."""
    batch_seconds: float = Field(default=120.0, gt=0)
    """Seconds of audio that are on a device together, padding included."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """`auto` is half precision on a GPU and float32 on a CPU. Part of what a recipe writes."""


class EnhanceSection(Section):
    """Noise reduction before models: which model, and which tables are made of the enhanced signal."""

    model: str
    """`deepfilternet` or `spectral-gate`."""
    tables: tuple[Literal["embeddings", "tags", "transcripts", "spectrograms"], ...] = ("transcripts",)
    """The tables that are made of the enhanced signal."""


class IcebergSection(Section):
    """Iceberg tables that every sealed run is registered in."""

    catalog: str = Field(min_length=1)
    """A uri (`sqlite:///...`, `http://...`) or the name of a catalog that pyiceberg is configured for, which is where
    its secrets stand.
    """
    namespace: str = Field(default="phonolake", min_length=1)
    """Where the tables stand in the catalog."""

    @field_validator("catalog")
    @classmethod
    def _no_secret(cls, uri: str) -> str:
        return without_userinfo(uri) or uri


class WarehouseSection(Section):
    """What is fed once a run is sealed; it decides nothing about the run."""

    iceberg: IcebergSection | None = None
    """Iceberg tables that every sealed run is registered in."""
