"""What a lake says about itself: failures, and the closing summary of a run."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.lake import open_lake
from pipelines.store import Store
from pipelines.verify import Verification
from schemas.records import Seal
from schemas.tables import TABLES


@dataclass(frozen=True, slots=True)
class CodeCount:
    """How many failures have a code, and whether it is one that may pass (`transient`)."""

    code: str
    transient: bool
    failures: int


@dataclass(frozen=True, slots=True)
class Failures:
    """What failed: counted by code, the most frequent first, and row by row, newest run first."""

    counts: list[CodeCount]
    rows: list[dict[str, Any]]

    @property
    def total(self) -> int:
        """How many there are, whether `rows` holds all or not."""
        return sum(one.failures for one in self.counts)


def failures(
    store: Store,
    *,
    history: bool = False,
    codes: Collection[str] = (),
    corpus: str | None = None,
    limit: int | None = None,
) -> Failures:
    """Return the failures as things stand; with `history`, also what was put right since.

    `codes` and `corpus` choose among them; `limit` is the most rows to return, all of them are counted.
    """
    chosen = (
        f"FROM {'failures' if history else 'current_failures'} WHERE (len($codes) = 0 OR list_contains($codes, code)) "
        f"AND ($corpus IS NULL OR corpus = $corpus)"
    )
    connection, which = open_lake(store), {"codes": list(codes), "corpus": corpus}
    counts = connection.sql(
        f"SELECT code, transient, count(*) AS failures {chosen} GROUP BY ALL ORDER BY failures DESC, code", params=which
    ).fetchall()
    query = connection.sql(
        f"SELECT corpus, run_id, uri, recording_id, segment_id, stage, code, message, transient, attempts {chosen} "
        f"ORDER BY corpus, run_id DESC, uri, segment_id LIMIT {limit if limit is not None else 'NULL'}",
        params=which,
    )
    rows = [dict(zip(query.columns, row, strict=True)) for row in query.fetchall()]
    return Failures([CodeCount(*row) for row in counts], rows)


def without_speech(store: Store, seal: Seal) -> int:
    """Return how many recordings of a run were decoded, and heard, and hold no speech: they have no segment."""
    found = 0
    for file in seal.files:
        if file.table == "recordings":
            read = store.read_parts(file.path, lambda one: pq.read_table(one, columns=["speech_seconds"]))
            found += pc.sum(pc.equal(read["speech_seconds"], 0)).as_py() or 0  # null where nothing listened for it
    return found


def summary(seal: Seal, speechless: int = 0) -> dict[str, Any]:
    """Return what a run did, as `run --json` prints it; `speechless` is what without_speech counted."""
    rows = {table: sum(file.rows for file in seal.files if file.table == table) for table in TABLES}
    facts = asdict(seal)
    kept = ("corpus", "run", "planned_at", "sealed_at", "attempts", "recordings", "ok", "partial", "failed", "returned")
    return {
        **{name: facts[name] for name in kept},
        "without_speech": speechless,
        "audio_hours": seal.audio_seconds / 3600,
        "rows": rows,
        "files": len(seal.files),
        "size_bytes": sum(file.size_bytes for file in seal.files),
    }


def summary_text(seal: Seal, seconds: float, lake: str, speechless: int = 0) -> str:
    """Return the closing summary of a run that took `seconds`."""
    facts = summary(seal)
    tables = "\n".join(f"  {table:<13} {rows:>9,} rows" for table, rows in facts["rows"].items() if rows)
    return (
        f"run {seal.run} of corpus {seal.corpus}: {seal.recordings:,} recordings, {seal.audio_seconds / 3600:.2f} h of "
        f"audio in {seconds:.0f} s ({seal.audio_seconds / max(seconds, 1e-9):.0f} audio s/s)\n"
        f"  {seal.ok:,} ok, {seal.partial:,} partial, {seal.failed:,} failed\n{_speechless_text(speechless)}{tables}\n"
        f"  {facts['files']} files, {megabytes(facts['size_bytes'])}, in {lake}"
    )


def _speechless_text(count: int) -> str:
    if not count:
        return ""
    why = "no segment, so no row of any model; segments.by: windows or whole takes them too"
    return f"  {count:,} recordings without speech: {why}\n"


def megabytes(size_bytes: int) -> str:
    """Return a size as people read it."""
    return f"{size_bytes / 1e6:,.1f} MB" if size_bytes < 1e9 else f"{size_bytes / 1e9:,.1f} GB"


def verification_text(found: Verification) -> str:
    """Return what a verification found as text."""
    checked = f"{found.runs} runs, {found.files:,} files, {found.rows:,} rows, {megabytes(found.size_bytes)}"
    lines = [f"  {one.code}: {one.where}: {one.message}" for one in found.findings]
    lines += [f"  note: {note}" for note in found.notes]
    outcome = f"{len(lines) - len(found.notes)} promises broken" if found.findings else "every promise holds"
    return "\n".join([f"checked {checked}: {outcome}", *lines])
