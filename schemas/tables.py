"""The eight tables of a lake, as Arrow schemas with a description on every field.

Schemas only grow: a new release may add nullable columns at the end, never rename, retype or remove one.
"""

import json
from typing import Final

import pyarrow as pa

SCHEMA_VERSION: Final = "1"


def _field(name: str, kind: pa.DataType, description: str, *, nullable: bool = True) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"description": description})


def _required(name: str, kind: pa.DataType, description: str) -> pa.Field:
    return _field(name, kind, description, nullable=False)


_STRING, _FLOAT32, _FLOAT64 = pa.string(), pa.float32(), pa.float64()
_INT32, _INT64 = pa.int32(), pa.int64()

WORD: Final = pa.struct(
    [
        _field("word", _STRING, "The word as the model wrote it."),
        _field("start", _FLOAT64, "Start in the recording, seconds."),
        _field("end", _FLOAT64, "End in the recording, seconds."),
        _field("probability", _FLOAT32, "The model's mean probability of the word's tokens, 0 to 1."),
    ]
)

KEYS: Final = (
    _required("recording_id", _STRING, "First 32 hex digits of sha256(corpus, uri, etag or size+mtime)."),
    _required("run_id", _STRING, "The run that wrote the row; dense per corpus, zero-padded."),
    _required("corpus_id", _STRING, "The corpus; also the path key `corpus`."),
    _required("ingested_at", pa.timestamp("us", tz="UTC"), "When the run was planned; its day is the path key `dt`."),
)
_SEGMENT_ID = _required("segment_id", _STRING, "`<recording_id>-<segment_index:05d>`.")
_MODEL = (
    _required("model", _STRING, "The model as the recipe names it."),
    _required("revision", _STRING, "Hub commit, or the first 16 hex digits of the weights' digest."),
)

RECORDINGS: Final = pa.schema(
    [
        *KEYS,
        _required("uri", _STRING, "Where the object was read."),
        _field("etag", _STRING, "The store's version tag when the run was planned; null where the store has none."),
        _required("size_bytes", _INT64, "Size of the object, bytes."),
        _field("container", _STRING, "Container by magic bytes: wav, flac, mp3, ogg, mp4 ..."),
        _field("codec", _STRING, "Audio codec as the decoder names it."),
        _field("sample_rate", _INT32, "Sampling rate in the object, Hz."),
        _field("channels", _INT32, "Channels in the object."),
        _field("declared_seconds", _FLOAT64, "Length that the header claims; null where it claims none."),
        _field("decoded_seconds", _FLOAT64, "Length of what was decoded: the truth."),
        _field(
            "speech_seconds",
            _FLOAT64,
            "Detected speech, of all channels where each is cut; null where no detection ran.",
        ),
        _field("content_sha256", _STRING, "sha256 of the object's bytes, hex."),
        _required("status", _STRING, "`ok` or `partial` (damage ended the audio early). What `failed` is in failures."),
        _field("decoder", _STRING, "Library and version that decoded it."),
        _field("metadata", pa.map_(_STRING, _STRING), "The manifest's own columns, as text."),
    ]
)

SEGMENTS: Final = pa.schema(
    [
        *KEYS,
        _SEGMENT_ID,
        _required("segment_index", _INT32, "Position in the recording, from 0."),
        _required("start_seconds", _FLOAT64, "Start in the recording, seconds."),
        _required("end_seconds", _FLOAT64, "End in the recording, seconds."),
        _field("speech_ratio", _FLOAT32, "Share of the segment that is speech; null where no detection ran."),
        _field("channel", _INT32, "The object's channel it was cut from, from 0; null where channels were mixed."),
    ]
)

SPECTROGRAMS: Final = pa.schema(
    [
        *KEYS,
        _SEGMENT_ID,
        _required("kind", _STRING, "log_mel, mfcc or power."),
        _required("n_frames", _INT32, "Frames in `values`."),
        _required("n_bins", _INT32, "Bins a frame."),
        _required("hop_seconds", _FLOAT64, "From one frame's start to the next, seconds."),
        _required("values", pa.list_(_FLOAT32), "n_frames x n_bins, row-major: reshape(n_frames, n_bins)."),
    ]
)

EMBEDDINGS: Final = pa.schema(
    [
        *KEYS,
        _SEGMENT_ID,
        *_MODEL,
        _field("layer", _STRING, "The layer the vector was taken from."),
        _required(
            "pooling", _STRING, "How frames or patches became one vector: mean, mean_std, max, first; or frames."
        ),
        _required("dim", _INT32, "Length of `vector`; of one frame where pooling is frames."),
        _required("vector", pa.list_(_FLOAT32), "The embedding; with frames n_frames x dim, row-major."),
        _field("n_frames", _INT32, "Frames in `vector`; null where they were pooled."),
        _field("hop_seconds", _FLOAT64, "From one frame's start to the next, seconds; null where they were pooled."),
    ]
)

TRANSCRIPTS: Final = pa.schema(
    [
        *KEYS,
        _SEGMENT_ID,
        *_MODEL,
        _field("language", _STRING, "The model's code of the language, detected or set: `en`, of MMS `eng`."),
        _field("language_probability", _FLOAT32, "The model's probability of `language`; 1 where it knows only one."),
        _required("text", _STRING, "What was said, as the model wrote it."),
        _field("words", pa.list_(WORD), "Word times, where the model gives them."),
        _field("avg_logprob", _FLOAT32, "Mean log-probability of the tokens, end token included."),
        _field("compression_ratio", _FLOAT32, "UTF-8 bytes over zlib bytes of the text; above 2.4 it loops."),
        _field("no_speech_probability", _FLOAT32, "The model's own guess that nobody speaks, 0 to 1."),
        _field("temperature", _FLOAT32, "Sampling temperature that gave the text; 0 is greedy."),
        _field(
            "flags",
            pa.list_(_STRING),
            "Doubts about the text, which stays as it is: repetitive (compression_ratio above 2.4), low_confidence "
            "(avg_logprob below -1), no_speech (no_speech_probability above 0.6 and low_confidence), truncated (cut "
            "off at the limit of tokens), loop (the same 1 to 6 words 4 times in a row), hallucination (text where "
            "the model or the signal says silence).",
        ),
    ]
)

TAGS: Final = pa.schema(
    [
        *KEYS,
        _SEGMENT_ID,
        *_MODEL,
        _required("label", _STRING, "The model's name for the class."),
        _required("score", _FLOAT32, "Score of the class, 0 to 1."),
    ]
)

AUDIO: Final = pa.struct(
    [
        _field("bytes", pa.binary(), "The segment's samples as a file of `format`, mono."),
        _field("path", _STRING, "`<segment_id>.<format>`: what the file would be called."),
    ]
)
"""The storage type of Hugging Face's Audio feature."""

CLIPS: Final = pa.schema(
    [
        *KEYS,
        _SEGMENT_ID,
        _required("format", _STRING, "How `audio.bytes` is encoded: flac, exact to the bit."),
        _required("sampling_rate", _INT32, "Samples a second, Hz."),
        _required("seconds", _FLOAT64, "Length of the clip, seconds."),
        # Never null, but declared nullable: Hugging Face's readers see an Audio feature in no other column.
        _field("audio", AUDIO, "The segment's sound, in the struct that Hugging Face's `datasets` plays."),
    ]
)

FAILURES: Final = pa.schema(
    [
        *KEYS,
        _field("segment_id", _STRING, "The segment that failed; null where the whole recording did."),
        _required("uri", _STRING, "Where the object was read."),
        _required("stage", _STRING, "What failed: fetch, decode, or a stage such as transcripts/whisper-tiny.en."),
        _required("code", _STRING, "One of schemas.failures.CODES."),
        _required("message", _STRING, "What, where, which limit, and what to do."),
        _required("transient", pa.bool_(), "Whether trying again may help."),
        _required("attempts", _INT32, "How often it was tried."),
    ]
)

TABLES: Final[dict[str, pa.Schema]] = {
    "recordings": RECORDINGS,
    "segments": SEGMENTS,
    "spectrograms": SPECTROGRAMS,
    "embeddings": EMBEDDINGS,
    "transcripts": TRANSCRIPTS,
    "tags": TAGS,
    "clips": CLIPS,
    "failures": FAILURES,
}

SORT_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "recordings": ("recording_id",),
    "segments": ("recording_id", "segment_index"),
    "spectrograms": ("kind", "recording_id", "segment_id"),
    "embeddings": ("model", "recording_id", "segment_id"),
    "transcripts": ("model", "recording_id", "segment_id"),
    "tags": ("model", "recording_id", "segment_id"),
    "clips": ("format", "recording_id", "segment_id"),
    "failures": ("recording_id", "segment_id"),
}
"""Rows of a published file are sorted by these, so that a reader skips row groups."""

FOOTERS: Final[dict[str, dict[str, str]]] = {
    "clips": {"huggingface": json.dumps({"info": {"features": {"audio": {"_type": "Audio"}}}})},
}
"""What the footers of a table's files say to other readers: to Hugging Face's that a column is audio."""


def leading_key(table: str) -> str | None:
    """Return the column that rows of `table` are sorted by before their ids (kind, model or format), if any."""
    first = SORT_KEYS[table][0]
    return None if first == "recording_id" else first


def beyond_keys(table: str) -> list[pa.Field]:
    """Return the fields of `table` that a stage fills: all but the keys and `segment_id`."""
    keys = {field.name for field in KEYS} | {"segment_id"}
    return [field for field in TABLES[table] if field.name not in keys]
