"""What a run took: of an attempt from what its tally heard, of a run from its attempts, gathered after the seal."""

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Final

from pipelines.meter import Key
from pipelines.nodes import Cluster
from pipelines.runs import writer_id
from pipelines.stages import CODE_VERSIONS, Stage
from pipelines.store import Store
from schemas import layout
from schemas.records import Plan, Seal
from schemas.run_record import AttemptRecord, ModelRecord, RunRecord, read_attempt_record

ENDED: Final = "ended"
OVER_BUDGET: Final = "over_budget"
FAILED: Final = "failed"

PACKAGES: Final = (
    *("phonolake", "ray", "pyarrow", "numpy", "duckdb", "av", "soundfile", "soxr", "onnxruntime", "torch"),
    *("torchaudio", "transformers", "ctranslate2"),
)
"""What decides what rows hold, or how fast they come."""

_COUNTS: Final = {
    "segments": "segments",
    "decoded_audio_seconds": "audio_seconds",
    "segment_audio_seconds": "segment_seconds",
    "source_bytes": "source_bytes",
    "staged_bytes": "staged_bytes",
}
"""Counters that an attempt's record sums up, and what it calls them."""


def versions() -> dict[str, str]:
    """Return the versions of Python and of PACKAGES, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def attempt_record(
    attempt: int, started_at: str, outcome: str, seconds: float, cluster: Cluster, measures: Mapping[Key, float]
) -> AttemptRecord:
    """Return what an attempt took, from what its tally heard."""
    counts: dict[str, float] = {}
    for (name, labels), value in measures.items():
        if name == "recordings":
            counts[dict(labels)["outcome"]] = value
            counts["recordings"] = counts.get("recordings", 0.0) + value
        elif name in _COUNTS:
            counts[_COUNTS[name]] = counts.get(_COUNTS[name], 0.0) + value
    used, padded = _by("batch_used_units", "model", measures), _by("batch_padded_units", "model", measures)
    return AttemptRecord(
        attempt=attempt,
        started_at=started_at,
        outcome=outcome,
        seconds=seconds,
        nodes=len(cluster.nodes),
        cpus=cluster.cpus,
        gpus=cluster.gpus,
        stage_seconds=_by("stage_seconds", "stage", measures),
        pool_wait_seconds=_by("pool_wait_seconds", "model", measures),
        counts=dict(sorted(counts.items())),
        failures=_by("failures", "code", measures),
        batch_fill={model: used.get(model, 0.0) / padded[model] for model in padded},
        versions=versions(),
    )


def _by(name: str, label: str, measures: Mapping[Key, float]) -> dict[str, float]:
    """Return one counter's values, summed by one of its labels."""
    found: dict[str, float] = {}
    for (counter, labels), value in measures.items():
        if counter == name:
            of = dict(labels)[label]
            found[of] = found.get(of, 0.0) + value
    return dict(sorted(found.items()))


def run_record(
    plan: Plan, sealed: Seal, stages: Sequence[Stage], attempts: list[AttemptRecord], step_seconds: dict[str, float]
) -> RunRecord:
    """Return the record of a sealed run."""
    rows: dict[str, int] = {}
    for file in sealed.files:
        rows[file.table] = rows.get(file.table, 0) + file.rows
    return RunRecord(
        corpus=plan.corpus,
        run=plan.run,
        planned_at=sealed.planned_at,
        sealed_at=sealed.sealed_at,
        retry=plan.retry,
        versions=versions(),
        code=dict(CODE_VERSIONS),
        models=models_of(stages),
        recipe=plan.recipe,
        recordings=sealed.recordings,
        ok=sealed.ok,
        partial=sealed.partial,
        failed=sealed.failed,
        returned=sealed.returned,
        audio_seconds=sealed.audio_seconds,
        source_bytes=plan.size_bytes,
        published_bytes=sum(file.size_bytes for file in sealed.files),
        published_files=len(sealed.files),
        rows=rows,
        step_seconds=step_seconds,
        attempts=attempts,
        writer=writer_id(),
    )


def models_of(stages: Sequence[Stage]) -> list[ModelRecord]:
    """Return the models among stages; a model that fills two tables is one."""
    found: dict[str, ModelRecord] = {}
    for stage in stages:
        if (one := stage.checkpoint) is not None:
            model = found.setdefault(one.name, ModelRecord(one.name, one.kind, one.revision, one.digest, []))
            model.stages.append(stage.id)
    return list(found.values())


def attempts_of(store: Store, plan: Plan) -> list[AttemptRecord]:
    """Return what is known of each attempt of a run; of one whose driver died only its number."""
    objects = store.list(layout.run_folder(plan.corpus, plan.run))
    begun = sum("/attempts/" in path for path in objects)
    measured = {path for path in objects if path.startswith(layout.measures_folder(plan.corpus, plan.run))}
    found = []
    for number in range(1, begun + 1):
        path = layout.measures_file(plan.corpus, plan.run, number)
        found.append(read_attempt_record(store.read(path)) if path in measured else AttemptRecord(number))
    return found
