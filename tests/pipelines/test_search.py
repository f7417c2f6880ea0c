"""Searching hand-made lakes: what is nearest, of what counts now, and what is refused."""

import datetime

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoTokenizer, ClapModel

from pipelines.errors import RecipeError
from pipelines.parquet import to_parquet
from pipelines.search import search, similar
from schemas import layout
from schemas.tables import TABLES, leading_key
from tests.tiny_sound_models import write_clap
from workers.weights import resolve

PLANNED = datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC)
DIM = 24


def put(store, table, rows, run, corpus="prompts", number=0):
    keys = {"run_id": run, "corpus_id": corpus, "ingested_at": PLANNED}
    content = pa.Table.from_pylist([{**keys, **row} for row in rows], TABLES[table])
    path = layout.data_file(table, corpus, "2024-05-01", run, number)
    store.put(path, to_parquet(content, leading_key(table)))
    return path


def put_recording(store, recording, segments, run="00001", uri=None, corpus="prompts"):
    """A recording cut into so many segments of ten seconds; its segments' ids."""
    uri = uri or f"s3://clips/{recording}.wav"
    put(store, "recordings", [{"recording_id": recording, "uri": uri, "size_bytes": 1, "status": "ok"}], run, corpus)
    ids = [f"{recording}-{index:05d}" for index in range(segments)]
    facts = [
        {"recording_id": recording, "segment_id": one, "segment_index": index, "start_seconds": 10.0 * index}
        for index, one in enumerate(ids)
    ]
    put(store, "segments", [{**one, "end_seconds": one["start_seconds"] + 10} for one in facts], run, corpus)
    return ids


def rows_of(vectors, model="toy", revision="r1", pooling="mean", layer="last", **more):
    """Rows of `embeddings` for vectors by segment id, sorted as the lake sorts them."""
    made = {"model": model, "revision": revision, "layer": layer, "pooling": pooling, **more}
    return [
        {
            "recording_id": one.rpartition("-")[0],
            "segment_id": one,
            "dim": more.get("dim", len(vector)),
            "vector": vector,
            **made,
        }
        for one, vector in sorted(vectors.items())
    ]


def random_vectors(ids, seed=0, dim=DIM):
    drawn = np.random.default_rng(seed).standard_normal((len(ids), dim)).astype(np.float32)
    return dict(zip(ids, drawn, strict=True))


def cosines(vectors, query):
    """Each segment's cosine to a query, in float64."""
    query = np.asarray(query, np.float64)
    return {
        one: float(vector @ query / np.linalg.norm(vector.astype(np.float64)) / np.linalg.norm(query))
        for one, vector in vectors.items()
    }


def ranked(scores, limit):
    return sorted(scores, key=lambda one: (-scores[one], one))[:limit]


def names(found):
    return [match.segment_id for match in found.matches]


@pytest.fixture
def small(store):
    """Three segments: b is like a, c is not."""
    ids = put_recording(store, "r", 3)
    vectors = dict(zip(ids, [[1.0, 0.0], [2.0, 1.0], [-1.0, 0.5]], strict=True))
    put(store, "embeddings", rows_of(vectors), "00001")
    return ids


def test_the_nearest_are_those_that_comparing_all_by_hand_gives(store, monkeypatch):
    monkeypatch.setattr("pipelines.parquet.ROW_GROUP_BYTES", 20_000)
    vectors = {}
    for number, corpus in enumerate(("calls", "prompts")):
        ids = put_recording(store, f"r{number}", 1_500, corpus=corpus)
        mine, others = random_vectors(ids, number), random_vectors(ids, 9, dim=7)
        vectors |= mine
        rows = [*rows_of(others, "alto"), *rows_of(mine), *rows_of(others, "zeta")]
        path = put(store, "embeddings", rows, "00001", corpus)
        assert pq.ParquetFile(store.full(path)).num_row_groups > 10
    scores = cosines(vectors, vectors["r0-00700"])
    assert scores.pop("r0-00700") == pytest.approx(1)
    found = similar(store, "r0-00700", "toy", limit=25)
    assert names(found) == ranked(scores, 25)
    for match in found.matches:
        assert match.score == pytest.approx(scores[match.segment_id], abs=1e-5)
        recording, index = match.segment_id.split("-")
        assert (match.uri, match.corpus_id) == (
            f"s3://clips/{recording}.wav",
            {"r0": "calls", "r1": "prompts"}[recording],
        )
        assert (match.start_seconds, match.end_seconds) == (10.0 * int(index), 10.0 * int(index) + 10)
    assert (found.compared, found.left_out, found.space.dim) == (2_999, 0, DIM)


def test_a_segment_is_not_like_itself_and_equals_come_in_order_of_their_ids(store):
    ids = put_recording(store, "r", 5)
    put(store, "embeddings", rows_of({one: [3.0, 4.0] for one in ids}), "00001")
    found = similar(store, ids[2], limit=3)
    assert names(found) == [ids[0], ids[1], ids[3]]
    assert [match.score for match in found.matches] == pytest.approx([1, 1, 1])


def test_vectors_of_other_models_are_not_even_read(store):
    ids = put_recording(store, "r", 200)
    mine = random_vectors(ids)
    path = put(store, "embeddings", [*rows_of(random_vectors(ids, 1), "alto"), *rows_of(mine, "toy")], "00001")
    file = pq.ParquetFile(store.full(path))
    group = file.metadata.row_group(0)
    (chunk,) = (one for one in map(group.column, range(group.num_columns)) if one.path_in_schema.startswith("vector"))
    with open(store.full(path), "r+b") as content:
        content.seek(chunk.data_page_offset)
        content.write(b"\xff" * chunk.total_compressed_size)
    scores = cosines(mine, mine[ids[0]])
    del scores[ids[0]]
    assert names(similar(store, ids[0], "toy")) == ranked(scores, 10)
    with pytest.raises(duckdb.Error):  # which proves that it was damaged
        similar(store, ids[0], "alto")


def test_only_the_latest_version_of_a_recording_is_found(store):
    old = put_recording(store, "old", 1, "00001", "s3://clips/a.wav")
    put(store, "embeddings", rows_of({old[0]: [1.0, 0.0]}), "00001")
    new = put_recording(store, "new", 1, "00002", "s3://clips/a.wav")
    put(store, "embeddings", rows_of({new[0]: [0.0, 1.0]}), "00002")
    other = put_recording(store, "other", 1, "00003")
    put(store, "embeddings", rows_of({other[0]: [1.0, 0.1]}), "00003")
    found = similar(store, other[0])
    assert (names(found), found.compared) == (new, 1)
    with pytest.raises(RecipeError, match=f"no current segment {old[0]}"):
        similar(store, old[0])


def test_what_was_computed_again_counts_and_other_revisions_are_left_out(store):
    ids = put_recording(store, "r", 4)
    put(store, "embeddings", rows_of({one: [1.0, 0.0] for one in ids}), "00001")
    again = dict(zip(ids[:3], [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], strict=True))
    put(store, "embeddings", rows_of(again, revision="r2"), "00002")
    found = similar(store, ids[0])
    assert names(found) == [ids[2], ids[1]]
    assert [match.score for match in found.matches] == pytest.approx([0.5**0.5, 0])
    assert (found.space.revision, found.compared, found.left_out) == ("r2", 2, 1)


def test_a_vector_of_zeros_is_near_to_nothing(store):
    ids = put_recording(store, "r", 3)
    put(store, "embeddings", rows_of(dict(zip(ids, [[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]], strict=True))), "00001")
    assert names(similar(store, ids[0])) == [ids[2]]
    with pytest.raises(RecipeError, match="is zero"):
        similar(store, ids[1])


def test_frames_are_refused_with_what_to_do(store):
    ids = put_recording(store, "r", 2)
    vectors = {one: [1.0, 0.0, 0.0, 1.0] for one in ids}
    put(store, "embeddings", rows_of(vectors, pooling="frames", dim=2, n_frames=2, hop_seconds=0.02), "00001")
    with pytest.raises(RecipeError, match="embed with `pooling: mean`"):
        similar(store, ids[0])


def test_where_there_are_several_models_one_has_to_be_named(store, small):
    put(store, "embeddings", rows_of({small[0]: [1.0], small[1]: [1.0]}, "alto"), "00001", number=1)
    for ask in (lambda: similar(store, small[0]), lambda: search(store, "a beep")):
        with pytest.raises(RecipeError, match="choose with --model: alto, toy"):
            ask()
    assert names(similar(store, small[0], "alto")) == [small[1]]
    with pytest.raises(RecipeError, match=f"segment {small[2]} has no embedding by alto"):
        similar(store, small[2], "alto")


def test_what_is_not_in_the_lake_is_named_with_what_is(store, small):
    with pytest.raises(RecipeError, match="no embeddings of bass; it has those of toy"):
        similar(store, small[0], "bass")
    with pytest.raises(RecipeError, match="no current segment nobody-00000"):
        similar(store, "nobody-00000")
    with pytest.raises(RecipeError, match="no text"):
        search(store, " ")


@pytest.mark.parametrize("model", [None, "toy"])
def test_a_lake_without_embeddings_is_said_to_have_none(store, model):
    put_recording(store, "r", 1)
    with pytest.raises(RecipeError, match="has no embeddings; give its recipe a section"):
        similar(store, "r-00000", model)


@pytest.fixture(scope="module")
def clap(tmp_path_factory):
    return write_clap(tmp_path_factory.mktemp("models") / "clap")


def test_a_text_finds_the_segments_that_its_vector_is_nearest_to(store, clap):
    vectors = random_vectors(put_recording(store, "r", 300))
    revision = resolve(str(clap)).revision
    put(store, "embeddings", rows_of(vectors, str(clap), revision, layer="audio_projection"), "00001")
    tokens = AutoTokenizer.from_pretrained(clap)("crowd chanting", return_tensors="pt")
    with torch.inference_mode():
        text = ClapModel.from_pretrained(clap).eval().get_text_features(**tokens).pooler_output[0].numpy()
    scores = cosines(vectors, text)
    for model in (None, str(clap)):
        found = search(store, "crowd chanting", model, limit=7)
        assert names(found) == ranked(scores, 7)
        assert [one.score for one in found.matches] == pytest.approx([scores[one] for one in names(found)], abs=1e-4)
    assert (found.compared, found.space.revision) == (300, revision)
    assert names(search(store, "a man speaking", limit=7)) != names(found)


def test_a_text_is_refused_where_the_weights_here_are_not_those_of_the_rows(store, clap, tmp_path):
    ids = put_recording(store, "r", 2)
    put(store, "embeddings", rows_of(random_vectors(ids), str(clap), "another"), "00001")
    with pytest.raises(RecipeError, match=f"of revision another, and .* are {resolve(str(clap)).revision}"):
        search(store, "a beep")
    assert len(similar(store, ids[0]).matches) == 1  # which needs no weights


@pytest.mark.parametrize(
    ("model", "said"), [("yamnet", "is a yamnet model and reads no texts"), ("/no/such/clap", "/no/such/clap")]
)
def test_a_model_that_cannot_read_a_text_is_refused(store, model, said, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    put(store, "embeddings", rows_of(random_vectors(put_recording(store, "r", 2)), model), "00001")
    with pytest.raises(RecipeError, match=said):
        search(store, "a beep")


def test_frames_of_clap_are_refused_for_texts(store, clap):
    revision = resolve(str(clap)).revision
    vectors = random_vectors(put_recording(store, "r", 2), dim=2 * DIM)
    more = {"pooling": "frames", "dim": DIM, "n_frames": 2, "hop_seconds": 10.0}
    put(store, "embeddings", rows_of(vectors, str(clap), revision, **more), "00001")
    with pytest.raises(RecipeError, match="embed with `pooling: mean`"):
        search(store, "a beep")
