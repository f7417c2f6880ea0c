"""What is measured while a run works, as Ray's metrics and for the run's record: one list of names, one way in.

Ray exports a counter `phonolake_x` as `ray_phonolake_x_total`, and a gauge as `ray_phonolake_x`, on each node's metrics
port; docs/operation.md describes them. Labels are few and short: never a run, a uri or a message. Things are counted
once a block of audio, which is seconds of work; a call costs some microseconds, also where nobody collects.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import ray
from ray.util.metrics import Counter, Gauge

PREFIX: Final = "phonolake_"

COUNTERS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "source_bytes": ("Bytes of the objects that were given to the decoder.", ("corpus",)),
    "staged_bytes": ("Bytes of Parquet written to staging.", ("corpus", "table")),
    "published_bytes": ("Bytes of Parquet published by sealed runs.", ("corpus", "table")),
    "decoded_audio_seconds": ("Seconds of audio that came out of the decoder.", ("corpus",)),
    "segment_audio_seconds": ("Seconds of audio in segments: what models and spectrograms get.", ("corpus",)),
    "staged_audio_seconds": ("Seconds of recordings that staged segments span.", ("corpus",)),
    "segments": ("Segments that were staged.", ("corpus",)),
    "recordings": ("Recordings that have a receipt, by outcome: ok, partial, failed.", ("corpus", "outcome")),
    "failures": ("Rows of the table failures, by stage and code.", ("corpus", "stage", "code")),
    "stage_seconds": ("Seconds of work, by stage.", ("corpus", "stage")),
    "model_audio_seconds": ("Seconds of audio that a model heard.", ("corpus", "model")),
    "batch_used_units": ("What a model's batches held, in windows, samples or frames.", ("corpus", "model")),
    "batch_padded_units": ("The same with padding.", ("corpus", "model")),
    "batch_room_units": ("What its batches might have held.", ("corpus", "model")),
    "pool_wait_seconds": ("Seconds in which a model's actors had nothing to do.", ("corpus", "model")),
    "step_seconds": ("Seconds of a run's steps on its driver.", ("corpus", "step")),
    "runs": ("Runs that ended, by outcome: sealed, nothing_new, over_budget, failed.", ("corpus", "outcome")),
}
"""Name, without prefix: what it counts, and its labels."""

GAUGES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "planned_recordings": ("Recordings of the run that is being carried out.", ("corpus",)),
    "planned_timestamp_seconds": ("When the run that is being carried out was planned, Unix time.", ("corpus",)),
    "success_timestamp_seconds": ("When a run was last sealed, or found nothing new, Unix time.", ("corpus",)),
}

Key = tuple[str, tuple[tuple[str, str], ...]]
"""A counter's name, and its labels but the corpus."""


def key(name: str, **labels: str) -> Key:
    """Return the key of a measure."""
    return name, tuple(sorted(labels.items()))


@dataclass(frozen=True, slots=True)
class Meter:
    """Takes measures of one corpus anywhere in a cluster, and tells the attempt's tally; None for no tally."""

    corpus: str
    tally: Any = None

    def add(self, measures: Mapping[Key, float]) -> None:
        """Count what is more than nothing; nowhere where Ray does not run."""
        found = {name: float(value) for name, value in measures.items() if value > 0}
        if not found or not ray.is_initialized():
            return
        for (name, labels), value in found.items():
            _counter(name).inc(value, {"corpus": self.corpus, **dict(labels)})
        if self.tally is not None:
            with contextlib.suppress(ray.exceptions.RayError):  # it is gone with its node: then nobody asks it either
                self.tally.measure.remote(found)


def set_gauge(name: str, corpus: str, value: float) -> None:
    """Set a gauge of this process; Ray exports it while the process lives, and some seconds longer."""
    if ray.is_initialized():
        _gauge(name).set(value, {"corpus": corpus})


@lru_cache
def _counter(name: str) -> Counter:
    text, labels = COUNTERS[name]
    return Counter(PREFIX + name, description=text, tag_keys=labels)


@lru_cache
def _gauge(name: str) -> Gauge:
    text, labels = GAUGES[name]
    return Gauge(PREFIX + name, description=text, tag_keys=labels)
