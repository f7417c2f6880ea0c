"""Why something could not be done: the closed list of failure codes."""

from typing import Final

CODES: Final[dict[str, str]] = {
    "empty": "The object has no bytes, or decodes to no samples.",
    "not_audio": "The first bytes belong to no audio or video format we know.",
    "no_audio_track": "The container holds no audio, or not the track that audio.track asks for.",
    "no_channel": "It has not the channel that audio.channels asks for.",
    "unreadable": "The decoder could not open it: the header is damaged or lies.",
    "limit_bytes": "Larger than limits.max_bytes.",
    "limit_seconds": "Decodes to more than limits.max_seconds.",
    "limit_decoded": "Its channels decode to more than limits.max_decoded_bytes.",
    "limit_channels": "More channels than limits.max_channels.",
    "limit_rate": "A sampling rate below 1 kHz or above limits.max_rate.",
    "partial": "It is damaged or cut short, and audio.on_partial is fail.",
    "decoder_crashed": "The decoding process died on it.",
    "decoder_timeout": "The decoding process gave no answer in time and was ended.",
    "source_refused": (
        "The manifest or archive names something outside its root, of a scheme not allowed, of a length that its store "
        "does not tell, or no file."
    ),
    "shard_damaged": "The tar or Parquet file it lies in is damaged or ends before it.",
    "source_missing": "The object was gone when it was read.",
    "source_changed": "The object was not the planned version when it was read.",
    "fetch_failed": "The store did not deliver it after all retries.",
    "model_failed": "A model raised an error on the segment.",
    "encode_failed": "The segment could not be encoded as a clip.",
}

TRANSIENT: Final = frozenset({"fetch_failed", "source_changed"})
"""Codes for which trying again may help."""
