"""Searching a lake by its embeddings: in words, or for what sounds like one segment.

Exact: every current vector of the model is compared, by cosine. DuckDB streams the row groups of that model alone past
the query and keeps the best, so memory grows with the keys of the rows, not with their vectors. Measured against
streaming the vectors to numpy, that takes a quarter less of the processor's time (tests/bench/search.py).

Vectors can be compared within one space only: one model at one revision, one layer, one pooling.
"""

from dataclasses import dataclass
from typing import Any, Final

import duckdb

from pipelines.errors import RecipeError
from pipelines.lake import open_lake
from pipelines.store import Store
from workers.weights import ModelError, resolve

TEXT_KIND: Final = "clap"  # the kind of model whose sounds and texts share a space

_SPACES: Final = """
SELECT model, revision, layer, pooling, dim, count(*)
FROM current_embeddings WHERE $model IS NULL OR model = $model GROUP BY ALL ORDER BY ALL
"""

_VECTOR: Final = """
SELECT model, revision, layer, pooling, dim, vector
FROM current_embeddings WHERE model = $model AND segment_id = $segment_id
"""

# A vector of zeros has no direction: its cosine is NaN, which DuckDB would call the greatest.
_NEAREST: Final = """
WITH best AS MATERIALIZED (
    SELECT corpus_id, recording_id, segment_id,
        nullif(list_cosine_similarity(vector, $vector::FLOAT[]), 'NaN'::FLOAT) AS score
    FROM current_embeddings
    WHERE model = $model AND revision = $revision AND layer IS NOT DISTINCT FROM $layer AND pooling = $pooling
        AND dim = $dim AND segment_id <> $itself
    ORDER BY score DESC NULLS LAST, segment_id LIMIT $limit
)
SELECT b.score, b.segment_id, b.corpus_id, r.uri, s.start_seconds, s.end_seconds
FROM current_segments s
JOIN best b ON b.corpus_id = s.corpus_id AND b.recording_id = s.recording_id AND b.segment_id = s.segment_id
JOIN current_recordings r ON r.corpus_id = b.corpus_id AND r.recording_id = b.recording_id
WHERE b.score IS NOT NULL
ORDER BY b.score DESC, b.segment_id
"""


@dataclass(frozen=True, slots=True)
class Space:
    """Vectors that can be compared with each other."""

    model: str
    revision: str
    layer: str | None
    pooling: str
    dim: int


@dataclass(frozen=True, slots=True)
class Match:
    """A segment that is near; `score` is the cosine of the angle between its vector and the query's, -1 to 1."""

    score: float
    segment_id: str
    corpus_id: str
    uri: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    Attributes:
        space: where it looked.
        compared: vectors in it.
        left_out: the model's other current vectors, of another revision, layer or pooling.
        matches: the nearest first; the lower segment id first where scores are equal.
    """

    space: Space
    compared: int
    left_out: int
    matches: tuple[Match, ...]


def search(store: Store, text: str, model: str | None = None, limit: int = 10) -> Found:
    """Return the segments whose sound is nearest to a text, by the CLAP model that embedded them.

    The model is loaded on this machine, on the CPU; `model` may be left out where the lake has embeddings of one alone.

    Raises:
        RecipeError: there is no such model in the lake or on this machine, it is none that reads texts, or the lake's
            rows were made with other weights.
    """
    if not text.strip():
        raise RecipeError("there is no text to search for")
    connection = _open(store)
    spaces = _spaces_of(connection, store, model)
    space, vector = _read_text(text, spaces)
    return _found(connection, spaces, space, vector, "", limit)


def similar(store: Store, segment_id: str, model: str | None = None, limit: int = 10) -> Found:
    """Return the segments whose vectors are nearest to that of one segment, itself left out.

    `model` may be left out where the lake has embeddings of one alone.

    Raises:
        RecipeError: there is no such model or segment in the lake, or the vectors are frames.
    """
    connection = _open(store)
    spaces = _spaces_of(connection, store, model)
    name = next(iter(spaces)).model
    rows = connection.execute(_VECTOR, {"model": name, "segment_id": segment_id}).fetchall()
    if not rows:
        raise RecipeError(_why_not(connection, store, segment_id, name))
    *facts, vector = rows[0]
    if not any(vector):
        raise RecipeError(f"the vector of segment {segment_id} by {name} is zero: it is like nothing")
    return _found(connection, spaces, _refuse_frames(Space(*facts)), vector, segment_id, limit)


def _open(store: Store) -> duckdb.DuckDBPyConnection:
    connection = open_lake(store)
    # Joins stay as the views write them, large table first: it streams past the keys, and is never kept in memory.
    connection.execute("SET disabled_optimizers = 'join_order,build_side_probe_side'")
    return connection


def _spaces_of(connection: duckdb.DuckDBPyConnection, store: Store, model: str | None) -> dict[Space, int]:
    """Return the spaces of one model's current rows, with how many there are."""
    spaces = _count(connection, model)
    models = sorted({space.model for space in spaces})
    if len(models) == 1:
        return spaces
    if models:
        raise RecipeError(f"{store.uri} has embeddings of several models; choose with --model: {', '.join(models)}")
    known = sorted({space.model for space in _count(connection, None)})
    if model is None or not known:
        raise RecipeError(f"{store.uri} has no embeddings; give its recipe a section `embeddings` and run it")
    raise RecipeError(f"{store.uri} has no embeddings of {model}; it has those of {', '.join(known)}")


def _count(connection: duckdb.DuckDBPyConnection, model: str | None) -> dict[Space, int]:
    rows = connection.execute(_SPACES, {"model": model}).fetchall()
    return {Space(*facts): count for *facts, count in rows}


def _read_text(text: str, spaces: dict[Space, int]) -> tuple[Space, list[float]]:
    """Return the space of the lake's rows that a text can be compared with, and the text's vector in it."""
    name = next(iter(spaces)).model
    try:
        checkpoint = resolve(name)
    except ModelError as error:
        raise RecipeError(f"a text is read by the model that embedded the sounds: {error}") from None
    if checkpoint.kind != TEXT_KIND:
        raise RecipeError(
            f"{name} is a {checkpoint.kind} model and reads no texts; search needs embeddings of a {TEXT_KIND} model, "
            "and `phonolake similar` works with those of any"
        )
    ours = [space for space in spaces if space.revision == checkpoint.revision]
    if not ours:
        revisions = ", ".join(sorted({space.revision for space in spaces}))
        raise RecipeError(
            f"the lake's embeddings of {name} are of revision {revisions}, and its weights on this machine are "
            f"{checkpoint.revision}; search where those weights are, or run the recipe again with these"
        )
    pooled = [space for space in ours if space.pooling != "frames"]
    space = _refuse_frames((pooled or ours)[0])
    from transformers.utils.logging import disable_progress_bar  # these import torch, which takes seconds

    from workers.models.clap import text_embedding

    disable_progress_bar()
    try:
        (vector,) = text_embedding(checkpoint.folder, [text])
    except (OSError, ValueError) as error:
        raise RecipeError(f"{name} cannot read the text: {error}") from None
    if len(vector) != space.dim:
        raise RecipeError(f"{name} gives texts {len(vector)} numbers, and the lake's vectors have {space.dim}")
    return space, vector.tolist()


def _refuse_frames(space: Space) -> Space:
    if space.pooling == "frames":
        raise RecipeError(
            f"the lake's embeddings of {space.model} are frames, many vectors a segment; embed with `pooling: mean` to "
            "compare segments"
        )
    return space


def _why_not(connection: duckdb.DuckDBPyConnection, store: Store, segment_id: str, model: str) -> str:
    known = "SELECT count(*) FROM current_segments WHERE segment_id = $segment_id"
    if connection.execute(known, {"segment_id": segment_id}).fetchone() == (0,):
        return f"{store.uri} has no current segment {segment_id}; `phonolake query` with current_segments lists them"
    return f"segment {segment_id} has no embedding by {model}; `phonolake failures` says whether it failed"


def _found(
    connection: duckdb.DuckDBPyConnection,
    spaces: dict[Space, int],
    space: Space,
    vector: list[float],
    itself: str,
    limit: int,
) -> Found:
    facts: dict[str, Any] = {name: getattr(space, name) for name in space.__slots__}
    rows = connection.execute(_NEAREST, {**facts, "vector": vector, "itself": itself, "limit": limit}).fetchall()
    compared = spaces[space] - bool(itself)
    left_out = sum(spaces.values()) - spaces[space]
    return Found(space, compared, left_out, tuple(Match(*row) for row in rows))
