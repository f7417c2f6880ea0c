"""From wire tables to the lake's rows, on small tables made by hand."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from schemas import tables, wire
from workers.results import StageError, append_results, rows_of_segment
from workers.tabulate import RunKeys, in_order, merge_totals, receipt_rows, tabulate, totals

KEYS = RunKeys("000007", "prompts", datetime(2026, 3, 1, 2, 30, tzinfo=UTC))
BASE, EMBED, TAG, WHISPER = "base", "embeddings/yamnet", "tags/yamnet", "transcripts/whisper-tiny.en"
STAGES = [(EMBED, "embeddings"), (TAG, "tags"), (WHISPER, "transcripts")]
NAMES = {"model": "yamnet", "revision": "0123"}


def segment(recording, index, stages=(BASE, EMBED, TAG)):
    return {
        "recording_id": recording,
        "uri": f"/corpus/{recording}.wav",
        "stages": list(stages),
        "segment_index": index,
        "start_seconds": index * 2.0,
        "end_seconds": index * 2.0 + 2,
        "speech_ratio": 0.5,
        "pcm": b"\1\0" * 4,
    }


def closing(recording, n_segments, stages=(BASE, EMBED, TAG), failure=None):
    facts = {
        "uri": f"/corpus/{recording}.wav",
        "size_bytes": 1000,
        "container": "wav",
        "sample_rate": 8000,
        "decoded_seconds": None if failure else n_segments * 2.0,
        "status": "failed" if failure else "ok",
        "metadata": [("language", "en"), ("odd", None)],
        "n_segments": n_segments,
        "failure": failure,
    }
    return {"recording_id": recording, "uri": facts["uri"], "stages": list(stages), "closing": facts}


def broken(stage="decode", code="not_audio"):
    return {"stage": stage, "code": code, "message": f"{code} it is", "transient": False, "attempts": 1}


def block_of(*rows):
    return pa.Table.from_pylist(list(rows), schema=wire.WIRE)


def embedding(first, **names):
    row = {**NAMES, **names, "layer": "last", "pooling": "mean", "dim": 2, "vector": [first, 0.5]}
    return rows_of_segment("embeddings", [row])


def tags(*scores):
    rows = [{**NAMES, "label": f"label {number}", "score": score} for number, score in enumerate(scores)]
    return rows_of_segment("tags", rows)


@pytest.fixture
def block():
    """Recordings b (two segments) and a (one, whose embedding failed), and c, which did not decode."""
    wire_rows = [segment("b", 0), segment("b", 1), closing("b", 2), segment("a", 0), closing("a", 1)]
    table = block_of(*wire_rows, closing("c", 0, failure=broken()))
    table = append_results(
        table, EMBED, "embeddings", {0: embedding(1), 1: embedding(2)}, {3: StageError("model_failed", "no good")}
    )
    return append_results(table, TAG, "tags", {0: tags(0.75, 0.5, 0.25), 1: tags(), 3: tags(0.125)}, {})


def test_every_table_has_exactly_its_schema(block):
    found = tabulate(block, KEYS, BASE, STAGES)
    assert set(found) == {"recordings", "segments", "embeddings", "tags", "failures"}
    for name, rows in found.items():
        assert rows.schema.equals(tables.TABLES[name], check_metadata=True)
        rows.validate(full=True)
        for field in rows.schema:
            assert field.nullable or rows[field.name].null_count == 0, f"{name}.{field.name}"


def test_every_row_has_the_runs_keys(block):
    for rows in tabulate(block, KEYS, BASE, STAGES).values():
        assert set(rows["run_id"].to_pylist()) == {"000007"}
        assert set(rows["corpus_id"].to_pylist()) == {"prompts"}
        assert set(rows["ingested_at"].to_pylist()) == {KEYS.ingested_at}


def test_recordings_hold_what_decoded_in_order_with_its_metadata(block):
    rows = tabulate(block, KEYS, BASE, STAGES)["recordings"]
    assert rows["recording_id"].to_pylist() == ["a", "b"]
    assert rows["decoded_seconds"].to_pylist() == [2.0, 4.0]
    assert rows["metadata"].to_pylist() == [[("language", "en"), ("odd", None)]] * 2
    assert rows["etag"].to_pylist() == [None, None]


def test_segments_have_ids_and_are_sorted(block):
    rows = tabulate(block, KEYS, BASE, STAGES)["segments"]
    assert rows["segment_id"].to_pylist() == ["a-00000", "b-00000", "b-00001"]
    assert rows["segment_index"].to_pylist() == [0, 0, 1]
    assert rows["start_seconds"].to_pylist() == [0.0, 0.0, 2.0]


def test_a_stage_of_one_row_a_segment_gives_one_row_a_segment(block):
    rows = tabulate(block, KEYS, BASE, STAGES)["embeddings"]
    assert rows["segment_id"].to_pylist() == ["b-00000", "b-00001"]
    assert rows["vector"].to_pylist() == [[1.0, 0.5], [2.0, 0.5]]


def test_a_stage_of_many_rows_a_segment_is_exploded_and_its_own_order_kept(block):
    rows = tabulate(block, KEYS, BASE, STAGES)["tags"]
    assert rows["segment_id"].to_pylist() == ["a-00000", "b-00000", "b-00000", "b-00000"]
    assert rows["recording_id"].to_pylist() == ["a", "b", "b", "b"]
    assert rows["score"].to_pylist() == [0.125, 0.75, 0.5, 0.25]


def test_a_stages_error_is_a_failure_of_its_segment_and_a_whole_failure_has_none(block):
    rows = tabulate(block, KEYS, BASE, STAGES)["failures"].to_pylist()
    assert [(row["recording_id"], row["segment_id"], row["stage"], row["code"]) for row in rows] == [
        ("a", "a-00000", EMBED, "model_failed"),
        ("c", None, "decode", "not_audio"),
    ]
    assert [row["uri"] for row in rows] == ["/corpus/a.wav", "/corpus/c.wav"]
    assert rows[0]["message"] == "no good"


def test_what_failed_is_no_recording_and_what_failed_a_stage_is_one(block):
    found = tabulate(block, KEYS, BASE, STAGES)
    assert "c" not in found["recordings"]["recording_id"].to_pylist()
    assert "a" in found["recordings"]["recording_id"].to_pylist()


def test_recordings_that_need_only_another_stage_are_not_written_again():
    old, new = (EMBED,), (BASE, EMBED)
    table = block_of(segment("old", 0, old), closing("old", 1, old), segment("new", 0, new), closing("new", 1, new))
    table = append_results(table, EMBED, "embeddings", {0: embedding(1), 2: embedding(2)}, {})
    found = tabulate(table, KEYS, BASE, STAGES)
    assert found["recordings"]["recording_id"].to_pylist() == ["new"]
    assert found["segments"]["recording_id"].to_pylist() == ["new"]
    assert found["embeddings"]["recording_id"].to_pylist() == ["new", "old"]


def test_a_recording_that_fails_on_a_later_stages_account_still_has_its_failure():
    table = block_of(closing("old", 0, (EMBED,), broken("fetch", "source_missing")))
    found = tabulate(table, KEYS, BASE, STAGES)
    assert set(found) == {"failures"}
    assert found["failures"]["code"].to_pylist() == ["source_missing"]


def test_tables_without_rows_are_left_out():
    assert tabulate(block_of(), KEYS, BASE, STAGES) == {}
    assert set(tabulate(block_of(segment("a", 0)), KEYS, BASE, STAGES)) == {"segments"}


def test_two_stages_of_one_table_are_joined_sorted_by_model():
    table = block_of(segment("a", 0), segment("b", 0))
    other = embedding(9, model="another")
    table = append_results(table, EMBED, "embeddings", {0: embedding(1), 1: embedding(2)}, {})
    table = append_results(table, "embeddings/another", "embeddings", {0: other, 1: other}, {})
    rows = tabulate(table, KEYS, BASE, [*STAGES, ("embeddings/another", "embeddings")])["embeddings"]
    assert rows["model"].to_pylist() == ["another", "another", "yamnet", "yamnet"]
    assert rows["recording_id"].to_pylist() == ["a", "b", "a", "b"]


@pytest.mark.parametrize("start", range(6))
def test_a_slice_or_a_chunked_block_gives_the_rows_it_holds(block, start):
    parts = pa.concat_tables([block.slice(start, 2), block.slice(start + 2)])
    rebuilt = pa.Table.from_pylist(block.to_pylist()[start:], schema=block.schema)
    expected = tabulate(rebuilt, KEYS, BASE, STAGES)
    for cut in (block.slice(start), parts):
        found = tabulate(cut, KEYS, BASE, STAGES)
        assert {name: rows.to_pylist() for name, rows in found.items()} == {
            name: rows.to_pylist() for name, rows in expected.items()
        }
        assert receipt_rows(cut).to_pylist() == receipt_rows(rebuilt).to_pylist()


def test_a_receipt_tells_segments_and_closing_rows_apart(block):
    receipt = receipt_rows(block)
    assert receipt.schema.equals(wire.RECEIPT)
    assert receipt["recording_id"].to_pylist() == ["b", "b", "b", "a", "a", "c"]
    assert receipt["segment_index"].to_pylist() == [0, 1, None, 0, None, None]
    assert receipt["n_segments"].to_pylist() == [None, None, 2, None, 1, 0]
    assert receipt["outcome"].to_pylist() == [None, None, "ok", None, "ok", "failed"]
    assert receipt["seconds"].to_pylist() == [None, None, 4.0, None, 2.0, None]


def test_totals_count_closed_recordings_failures_and_seconds(block):
    one = totals(receipt_rows(block))
    assert one == {"recordings": 3, "failed": 1, "seconds": 6.0}
    assert merge_totals([one, one, totals(receipt_rows(block_of()))]) == {"recordings": 6, "failed": 2, "seconds": 12.0}


def test_rows_in_order_are_not_copied(block):
    rows = tabulate(block, KEYS, BASE, STAGES)["segments"]
    assert in_order("segments", rows) is rows
    backwards = rows.take([2, 1, 0])
    assert in_order("segments", backwards).equals(rows)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"score": float("nan")}, "NaN or infinity"),
        ({"score": np.float32("inf")}, "NaN or infinity"),
        ({"score": 1e300}, "NaN or infinity"),
        ({"colour": "red"}, "tags has no column colour"),
        ({"label": None}, "tags needs label"),
        ({"label": 9}, "Expected bytes, got"),
    ],
)
def test_a_row_that_its_table_cannot_hold_is_refused(row, said):
    with pytest.raises((ValueError, TypeError), match=said):
        rows_of_segment("tags", [{**NAMES, "label": "x", "score": 0.5} | row])


def test_numbers_are_looked_at_however_deep_they_lie():
    words = [{"word": "a", "start": None, "end": 1.0, "probability": float("nan")}]
    with pytest.raises(ValueError, match="NaN"):
        rows_of_segment("transcripts", [{**NAMES, "text": "a", "words": words}])
    rows_of_segment("transcripts", [{**NAMES, "text": "a", "words": [words[0] | {"probability": None}]}])
