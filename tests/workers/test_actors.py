"""A pool member with the real packaged YAMNet, on real clips."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from schemas import wire
from workers.actors import PoolMember, PoolSpec
from workers.decode_settings import DecodeLimits, DecodeSettings
from workers.decoder import Decoder, Request
from workers.models.model import ModelStage
from workers.weights import ModelError, resolve

CORPUS = Path(__file__).parents[2] / "pipelines" / "demo" / "corpus"
CLIPS = ("en/confbridge-pin-bad.wav", "en/queue-youarenext.mp3", "es/queue-periodic-announce.wav", "en/beep.wav")
RATE = 16_000
TOP_K = 5
EMBED = ModelStage("embeddings/yamnet", "embeddings", {})
TAG = ModelStage("tags/yamnet", "tags", {"top_k": TOP_K})
BOTH = (EMBED, TAG)
MARK = 12_345  # the first sample of a segment that the model cannot bear


@pytest.fixture(scope="module")
def checkpoint():
    return resolve("yamnet")


@pytest.fixture(scope="module")
def spec(checkpoint):
    return PoolSpec("yamnet", checkpoint.kind, checkpoint.digest, BOTH, threads=1, batch_size=16)


@pytest.fixture(scope="module")
def member(spec):
    threads = torch.get_num_threads()
    yield PoolMember(spec)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def clips():
    """The clips' samples, each whole."""
    decoder = Decoder(DecodeSettings(RATE, DecodeLimits(60, 2)))
    found = []
    for name in CLIPS:
        answers = decoder.stream([Request((CORPUS / name).read_bytes())])
        found.append(np.concatenate([answer for answer in answers if isinstance(answer, np.ndarray)]))
    decoder.close()
    return found


def block(pcms, stages=BOTH):
    """A segment row for each of `pcms`, and a closing row."""
    ids = [stage.id for stage in stages]
    rows = [
        {"recording_id": "r", "uri": "/r", "stages": ids, "segment_index": index, "pcm": pcm.tobytes()}
        for index, pcm in enumerate(pcms)
    ]
    closing = {"uri": "/r", "size_bytes": 1, "status": "ok", "n_segments": len(pcms)}
    return pa.Table.from_pylist([*rows, {**rows[0], "segment_index": None, "pcm": None, "closing": closing}], wire.WIRE)


def rows_of(table, stage):
    return table[wire.rows_column(stage.id)].to_pylist()


def errors_of(table, stage):
    return table[wire.error_column(stage.id)].to_pylist()


@pytest.fixture(scope="module")
def done(member, clips):
    return member(block(clips))


def test_one_pass_fills_both_tables_with_the_wires_types(done):
    expected = [name(stage.id) for stage in BOTH for name in (wire.rows_column, wire.error_column)]
    assert done.column_names == [*wire.WIRE.names, *expected]
    for stage in BOTH:
        assert done.schema.field(wire.rows_column(stage.id)).type == wire.rows_type(stage.table)
        assert errors_of(done, stage) == [None] * done.num_rows
    assert rows_of(done, EMBED)[-1] == rows_of(done, TAG)[-1] == []  # the closing row


def test_one_pass_runs_the_model_once(member, clips, monkeypatch):
    calls = []
    run = member._model.run
    monkeypatch.setattr(member._model, "run", lambda waves: calls.append(len(waves)) or run(waves))
    member(block(clips))
    assert calls == [len(clips)]


def test_an_embedding_is_of_the_model_and_revision_it_says(done, checkpoint):
    for rows in rows_of(done, EMBED)[:-1]:
        (row,) = rows
        assert (row["model"], row["revision"]) == ("yamnet", checkpoint.digest[:16])
        assert (row["dim"], len(row["vector"]), row["pooling"]) == (1024, 1024, "mean")
        assert np.isfinite(row["vector"]).all()
        assert np.linalg.norm(row["vector"]) > 0


def test_two_voices_are_nearer_to_each_other_than_to_a_beep(done):
    vectors = [np.array(rows[0]["vector"]) for rows in rows_of(done, EMBED)[:-1]]
    units = [vector / np.linalg.norm(vector) for vector in vectors]
    assert units[0] @ units[1] > units[0] @ units[3]
    assert units[0] @ units[2] > units[2] @ units[3]


def test_tags_are_the_highest_scores_from_the_top(done):
    for rows in rows_of(done, TAG)[:-1]:
        scores = [row["score"] for row in rows]
        assert len(rows) == TOP_K
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= score <= 1 for score in scores)
        assert len({row["label"] for row in rows}) == TOP_K


def test_speech_is_tagged_speech_and_a_beep_is_not(done):
    best = [rows[0]["label"] for rows in rows_of(done, TAG)[:-1]]
    assert best[:3] == ["Speech"] * 3
    assert best[3] != "Speech"


def test_a_segments_result_does_not_depend_on_its_batch(member, clips, done):
    alone = member(block(clips[1:2]))
    np.testing.assert_allclose(
        rows_of(alone, EMBED)[0][0]["vector"], rows_of(done, EMBED)[1][0]["vector"], rtol=1e-4, atol=1e-5
    )
    assert [row["label"] for row in rows_of(alone, TAG)[0]] == [row["label"] for row in rows_of(done, TAG)[1]]


def test_only_segments_that_need_a_stage_get_it(member, clips):
    table = pa.concat_tables([block(clips[:1], (EMBED,)), block(clips[1:2], (TAG,)), block(clips[2:3], ())])
    found = member(table)
    assert [len(rows) for rows in rows_of(found, EMBED)] == [1, 0, 0, 0, 0, 0]
    assert [len(rows) for rows in rows_of(found, TAG)] == [0, 0, TOP_K, 0, 0, 0]


def test_a_table_without_segments_passes_with_empty_columns(member, clips):
    closing_only = block(clips[:1]).slice(1)
    for table in (closing_only, closing_only.slice(1)):
        found = member(table)
        assert rows_of(found, EMBED) == [[]] * table.num_rows
        assert found.schema.field(wire.rows_column(TAG.id)).type == wire.rows_type("tags")


@pytest.mark.parametrize("place", range(5))
def test_an_error_on_one_segment_costs_that_one_only(place, member, clips, done, monkeypatch):
    marked = np.full(RATE, MARK, np.int16)
    run = member._model.run

    def refuse(waves):
        if any(len(clip.waveform) == RATE and clip.waveform[0] == np.float32(MARK / 32768) for clip in waves):
            raise FloatingPointError("cannot bear it")
        return run(waves)

    monkeypatch.setattr(member._model, "run", refuse)
    table = member(block([*clips[:place], marked, *clips[place:]]))
    for stage in BOTH:
        errors = errors_of(table, stage)
        assert [number for number, error in enumerate(errors) if error] == [place]
        assert (errors[place]["stage"], errors[place]["code"]) == (stage.id, "model_failed")
        assert "yamnet: FloatingPointError: cannot bear it" in errors[place]["message"]
        assert rows_of(table, stage)[place] == []
    kept = [rows for number, rows in enumerate(rows_of(table, TAG)) if number != place]
    assert [[row["label"] for row in rows] for rows in kept] == [
        [row["label"] for row in rows] for rows in rows_of(done, TAG)
    ]


def test_other_weights_than_the_planned_are_refused_with_both_digests(spec, checkpoint):
    planned = "f" * 64
    with pytest.raises(ModelError) as caught:
        PoolMember(PoolSpec("yamnet", spec.kind, planned, BOTH, threads=1, batch_size=1))
    assert planned[:16] in str(caught.value)
    assert checkpoint.digest[:16] in str(caught.value)
    assert "yamnet" in str(caught.value)


def test_a_model_that_cannot_do_silence_either_is_dead_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dead:
        def run(self, waveforms: list[np.ndarray]) -> list[object]:
            raise RuntimeError("the device is gone")

    member = object.__new__(PoolMember)
    member._model = Dead()
    with pytest.raises(RuntimeError, match="the device is gone"):
        member._results([np.zeros(100, np.float32)] * 3)
