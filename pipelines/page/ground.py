"""What the report's queries stand on besides the tables: the seals and records of runs, as DuckDB reads JSON."""

from dataclasses import dataclass
from typing import Final

from pipelines.store import Store
from schemas import layout

JSON_OBJECT_BYTES: Final = 16 << 20  # DuckDB's own limit; each of its threads holds a buffer of that size
GLOB_CHARACTERS: Final = "*?[]{}"

_SEAL: Final = (
    "{corpus: 'VARCHAR', run: 'VARCHAR', planned_at: 'TIMESTAMP', sealed_at: 'TIMESTAMP', attempts: 'BIGINT', "
    "recordings: 'BIGINT', ok: 'BIGINT', partial: 'BIGINT', failed: 'BIGINT', returned: 'BIGINT', "
    "audio_seconds: 'DOUBLE', files: 'STRUCT(\"table\" VARCHAR, rows BIGINT, size_bytes BIGINT)[]'}"
)
_RECORD: Final = (
    "{corpus: 'VARCHAR', run: 'VARCHAR', planned_at: 'TIMESTAMP', audio_seconds: 'DOUBLE', "
    "attempts: 'STRUCT(seconds DOUBLE, cpus DOUBLE, gpus DOUBLE, stage_seconds MAP(VARCHAR, DOUBLE))[]'}"
)
_NO_RUNS: Final = (
    "(SELECT NULL::VARCHAR AS corpus, NULL::VARCHAR AS run, NULL::TIMESTAMP AS planned_at, "
    "NULL::TIMESTAMP AS sealed_at, 0 AS attempts, 0 AS recordings, 0 AS ok, 0 AS partial, 0 AS failed, 0 AS returned, "
    '0.0::DOUBLE AS audio_seconds, NULL::STRUCT("table" VARCHAR, rows BIGINT, size_bytes BIGINT)[] AS files '
    "WHERE false)"
)
_NO_RECORDS: Final = (
    "(SELECT NULL::VARCHAR AS corpus, NULL::VARCHAR AS run, NULL::TIMESTAMP AS planned_at, 0.0::DOUBLE AS "
    "audio_seconds, NULL::STRUCT(seconds DOUBLE, cpus DOUBLE, gpus DOUBLE, stage_seconds MAP(VARCHAR, DOUBLE))[] AS "
    "attempts WHERE false)"
)


@dataclass(frozen=True, slots=True)
class Ground:
    """What stands in the FROM of a query: the seals of all runs, and the records of what they took."""

    seals: str
    records: str
    sealed_runs: int


def find_ground(store: Store) -> Ground:
    """Look up the records of a lake's runs."""
    objects = store.list(layout.RUNS)
    seals = {path: size for path, size in objects.items() if path.endswith("/seal.json")}
    records = {path: size for path, size in objects.items() if path.endswith("/record.json")}
    return Ground(
        _read_json(store, "seal.json", seals, _SEAL) if seals else _NO_RUNS,
        _read_json(store, "record.json", records, _RECORD) if records else _NO_RECORDS,
        len(seals),
    )


def _read_json(store: Store, name: str, found: dict[str, int], columns: str) -> str:
    """Return a table function over records of a name: by a glob, or one by one where that cannot be."""
    root = store.url(layout.RUNS)
    paths = [f"{root}/*/*/{name}"] if not set(root) & set(GLOB_CHARACTERS) else [store.url(path) for path in found]
    quoted = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
    biggest = max(found.values())
    limit = f", maximum_object_size = {2 * biggest}" if biggest > JSON_OBJECT_BYTES else ""
    return f"read_json([{quoted}], format = 'unstructured', columns = {columns}{limit})"
