"""How the corpora of a lake stand: what they hold, their last runs, and what is open."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from pipelines.lake import open_lake
from pipelines.report import megabytes
from pipelines.run_record import load_run_record
from pipelines.runs import corpora, find_runs, load_plan, load_seal
from pipelines.store import Store
from schemas import layout
from schemas.records import Plan, Seal
from schemas.run_record import RunRecord

READERS: Final = 16
_FACTS: Final = """
SELECT (SELECT count(*) FROM current_recordings WHERE corpus = $corpus),
    (SELECT coalesce(sum(decoded_seconds), 0) FROM current_recordings WHERE corpus = $corpus),
    (SELECT count(*) FROM current_failures WHERE corpus = $corpus AND segment_id IS NULL)
"""


_THROUGHPUT: Final = (
    *("run", "audio_hours", "attempt_seconds", "core_hours", "gpu_hours", "audio_seconds_per_second"),
    *("audio_hours_per_core_hour", "audio_hours_per_gpu_hour", "stage_seconds", "step_seconds"),
)
"""What status tells of a run's record."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A run in a list of runs: `state` is sealed or open, `day` when it was planned.

    `failed` and `returned` are known once it is sealed, `seconds` of work on it where its driver left a record.
    """

    run: str
    day: str
    state: str
    recordings: int
    failed: int | None = None
    returned: int | None = None
    sealed_at: str | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class CorpusStatus:
    """How a corpus stands: its sealed runs, the latest versions they hold, and the run that is open, if one is.

    `last_run` is how fast the last sealed run was; None where its driver left no record. `last_runs` are the last
    runs, newest first, as many as were asked for.
    """

    corpus: str
    runs: int
    last_sealed: str | None
    recordings: int
    failed: int
    hours: float
    size_bytes: int
    open_run: str | None
    open_recordings: int
    open_attempts: int
    last_run: dict[str, Any] | None = None
    last_runs: list[RunStatus] = field(default_factory=list)


def status(store: Store, most_runs: int | None = None) -> list[CorpusStatus]:
    """Return the status of every corpus in a lake, with its last `most_runs` runs; None is all."""
    return [_corpus_status(store, corpus, most_runs) for corpus in corpora(store)]


def _corpus_status(store: Store, corpus: str, most_runs: int | None) -> CorpusStatus:
    runs = find_runs(store, corpus)
    seals = [load_seal(store, corpus, run) for run in sorted(runs.sealed)]
    plan = load_plan(store, corpus, runs.open) if runs.open else None
    facts = open_lake(store).sql(_FACTS, params={"corpus": corpus}).fetchall()[0]
    attempts = store.list(f"{layout.run_folder(corpus, runs.open)}/attempts") if runs.open else {}
    return CorpusStatus(
        corpus=corpus,
        runs=len(seals),
        last_sealed=seals[-1].sealed_at if seals else None,
        recordings=facts[0],
        failed=facts[2],
        hours=facts[1] / 3600,
        size_bytes=sum(file.size_bytes for seal in seals for file in seal.files),
        open_run=runs.open,
        open_recordings=plan.recordings if plan else 0,
        open_attempts=len(attempts),
        last_run=_throughput(load_run_record(store, corpus, max(runs.sealed))) if seals else None,
        last_runs=_last_runs(store, seals, plan, most_runs),
    )


def _last_runs(store: Store, seals: list[Seal], plan: Plan | None, most: int | None) -> list[RunStatus]:
    """Return the last runs, newest first; the open one is the newest."""
    with ThreadPoolExecutor(READERS) as readers:
        sealed = list(readers.map(lambda seal: _sealed_run(store, seal), reversed(seals[-most:] if most else seals)))
    newest = [RunStatus(plan.run, plan.day, "open", plan.recordings)] if plan else []
    return [*newest, *sealed][:most]


def _sealed_run(store: Store, seal: Seal) -> RunStatus:
    record = load_run_record(store, seal.corpus, seal.run)
    seconds = None
    if record and record.attempt_seconds:
        seconds = record.attempt_seconds + sum(of for step, of in record.step_seconds.items() if step != "attempt")
    facts = (seal.recordings, seal.failed, seal.returned, seal.sealed_at, seconds)
    return RunStatus(seal.run, seal.planned_at[:10], "sealed", *facts)


def status_text(one: CorpusStatus) -> str:
    """Return the status of a corpus as text."""
    lines = [
        f"{one.corpus}: {one.runs} sealed runs, {one.recordings:,} recordings, {one.hours:.2f} h, "
        f"{one.failed:,} failed, {megabytes(one.size_bytes)}, last sealed {one.last_sealed or 'never'}"
    ]
    for run in one.last_runs:
        said = f"  run {run.run}  {run.day}  {run.state:<6} {run.recordings:>9,} recordings"
        if run.state == "open":
            said += f", {one.open_attempts} attempts"
        else:
            said += f", {run.failed:,} failed" + (f", {run.returned:,} returned" if run.returned else "")
        lines.append(said + (f", {run.seconds:,.0f} s" if run.seconds is not None else ""))
    if older := one.runs + (one.open_run is not None) - len(one.last_runs):
        lines.append(f"  … and {older:,} older: --json")
    return "\n".join(lines)


def _throughput(record: RunRecord | None) -> dict[str, Any] | None:
    """Return how fast a run was, as its record says; None where it has none."""
    if record is None:
        return None
    return {name: getattr(record, name) for name in _THROUGHPUT}
