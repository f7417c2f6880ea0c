"""What a lake says of itself to strangers: how much of what, in which languages, by which models, under which licence.

Counts of rows are those of all published files; everything else is of the current versions (pipelines.views).
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import duckdb

from pipelines.errors import RecipeError
from pipelines.lake import open_lake
from pipelines.runs import corpora, find_runs, load_plan, load_seal
from pipelines.store import Store
from schemas.records import Seal
from schemas.tables import TABLES

LICENCE_COLUMNS: Final = ("license", "licence")
"""What a manifest calls the licence of a recording, in any case."""

_TOTALS: Final = "SELECT count(*), coalesce(sum(decoded_seconds), 0) / 3600 FROM current_recordings"
_LANGUAGES: Final = """
WITH spoken AS (SELECT DISTINCT language, segment_id FROM current_transcripts WHERE language IS NOT NULL)
SELECT language, count(*), sum(end_seconds - start_seconds) / 3600
FROM spoken JOIN current_segments USING (segment_id) GROUP BY language ORDER BY 3 DESC, 1
"""
_LICENCES: Final = """
WITH entries AS (SELECT decoded_seconds, unnest(map_entries(metadata)) AS entry FROM current_recordings)
SELECT trim(entry.value), count(*), coalesce(sum(decoded_seconds), 0) / 3600 FROM entries
WHERE list_contains($columns, lower(entry.key)) AND trim(entry.value) <> '' GROUP BY ALL ORDER BY 2 DESC, 1
"""
_MODELS: Final = " UNION ALL ".join(
    f"SELECT '{table}' AS filled, model, revision, count(DISTINCT segment_id) FROM current_{table} GROUP BY ALL"
    for table in TABLES
    if "model" in TABLES[table].names
)
_FAILURES: Final = "SELECT stage, code, count(*) FROM current_failures GROUP BY ALL ORDER BY 3 DESC, 1, 2"


class Share(NamedTuple):
    """A language or a licence: how many segments or recordings have it, and their hours."""

    name: str
    number: int
    hours: float


class Model(NamedTuple):
    """A model that filled a table."""

    table: str
    name: str
    revision: str
    segments: int


class Failed(NamedTuple):
    """How many recordings and segments a stage could not do, for one reason."""

    stage: str
    code: str
    number: int


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus: its latest sealed run, how many there are, and the recipe of that run."""

    name: str
    runs: int
    latest: Seal
    recipe: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Description:
    """A lake at one moment.

    Attributes:
        rows: of every table that has files, in the order of schemas.tables.
        recordings: current ones.
        hours: of audio in them.
        size_bytes: of all published files.
        licences: that the manifest gives; recordings without one are not in it.
    """

    corpora: list[Corpus]
    rows: dict[str, int]
    recordings: int
    hours: float
    size_bytes: int
    languages: list[Share]
    licences: list[Share]
    models: list[Model]
    failures: list[Failed]

    @property
    def sealed_at(self) -> str:
        """When the latest run was sealed, ISO 8601."""
        return max(corpus.latest.sealed_at for corpus in self.corpora)

    @property
    def runs(self) -> int:
        """How many runs are sealed, of all corpora."""
        return sum(corpus.runs for corpus in self.corpora)


def describe(store: Store) -> Description:
    """Gather what there is to say of a lake.

    Raises:
        RecipeError: no run of it is sealed, so that nothing is published.
    """
    seals = {corpus: _seals(store, corpus) for corpus in corpora(store)}
    found = [_corpus(store, name, runs) for name, runs in seals.items() if runs]
    if not found:
        raise RecipeError(f"{store.uri} holds no sealed run yet, so there is nothing to describe; finish one first")
    files = [file for runs in seals.values() for seal in runs for file in seal.files]
    rows = {table: sum(file.rows for file in files if file.table == table) for table in TABLES}
    lake = open_lake(store)
    [(recordings, hours)] = lake.sql(_TOTALS).fetchall()
    return Description(
        corpora=found,
        rows={table: count for table, count in rows.items() if count},
        recordings=recordings,
        hours=hours,
        size_bytes=sum(file.size_bytes for file in files),
        languages=[Share(*row) for row in lake.sql(_LANGUAGES).fetchall()],
        licences=_licences(lake),
        models=[Model(*row) for row in lake.sql(f"{_MODELS} ORDER BY ALL").fetchall()],
        failures=[Failed(*row) for row in lake.sql(_FAILURES).fetchall()],
    )


def _seals(store: Store, corpus: str) -> list[Seal]:
    return [load_seal(store, corpus, run) for run in sorted(find_runs(store, corpus).sealed)]


def _corpus(store: Store, name: str, seals: list[Seal]) -> Corpus:
    return Corpus(name, len(seals), seals[-1], load_plan(store, name, seals[-1].run).recipe)


def _licences(lake: duckdb.DuckDBPyConnection) -> list[Share]:
    return [Share(*row) for row in lake.execute(_LICENCES, {"columns": list(LICENCE_COLUMNS)}).fetchall()]
