"""The clips stage: what is in the FLAC files is what was cut, to the bit."""

import io

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from schemas import wire
from workers.clips import add_clips, encode

RATE = 16_000
STAGE = "clips/flac"
ERROR = wire.error_column(STAGE)


def noise(samples, seed=0):
    return np.random.default_rng(seed).integers(-32768, 32768, samples, np.int16)


def row(index, pcm, stages=(STAGE,)):
    where = {"recording_id": "r", "uri": "/r.wav", "stages": list(stages)}
    if pcm is None:
        return {**where, "closing": {"uri": "/r.wav", "size_bytes": 1, "status": "ok", "n_segments": index}}
    times = {"start_seconds": 0.0, "end_seconds": len(pcm) / RATE}
    return {**where, "segment_index": index, **times, "pcm": pcm.tobytes()}


def block(*rows):
    return pa.Table.from_pylist(list(rows), schema=wire.WIRE)


def clips_of(table):
    return table[wire.rows_column(STAGE)].to_pylist()


def decoded(clip):
    samples, rate = soundfile.read(io.BytesIO(clip["audio"]["bytes"]), dtype="int16")
    assert rate == clip["sampling_rate"]
    return samples


@pytest.mark.parametrize("rate", [16_000, 48_000])
@pytest.mark.parametrize("samples", [1, 15, 16, 4096, 4097, 100_003])
def test_noise_over_the_whole_range_of_int16_comes_back_exactly(samples, rate):
    pcm = noise(samples)
    back, found = soundfile.read(io.BytesIO(encode(pcm, rate)), dtype="int16")
    assert found == rate
    np.testing.assert_array_equal(back, pcm)


def test_extremes_and_silence_come_back_exactly_and_silence_is_small():
    extremes = np.tile(np.array([-32768, 32767, 0, -1], np.int16), 1000)
    np.testing.assert_array_equal(soundfile.read(io.BytesIO(encode(extremes, RATE)), dtype="int16")[0], extremes)
    assert len(encode(np.zeros(30 * RATE, np.int16), RATE)) < 12_000


def test_every_segment_has_one_clip_and_a_closing_row_none():
    pcm = [noise(RATE, 1), noise(RATE // 4, 2)]
    table = add_clips(block(row(0, pcm[0]), row(1, pcm[1]), row(2, None)), [STAGE], RATE)
    assert table[wire.rows_column(STAGE)].type == wire.rows_type("clips")
    assert table[ERROR].null_count == 3
    first, second, closing = clips_of(table)
    assert closing == []
    for [clip], samples, path in zip((first, second), pcm, ("r-00000.flac", "r-00001.flac"), strict=True):
        np.testing.assert_array_equal(decoded(clip), samples)
        assert (clip["format"], clip["sampling_rate"], clip["seconds"]) == ("flac", RATE, len(samples) / RATE)
        assert clip["audio"]["path"] == path


def test_only_segments_that_need_it_get_it_and_no_stage_adds_no_column():
    rows = [row(0, noise(100)), row(1, noise(100), ["tags/yamnet"]), row(2, noise(100))]
    assert [len(found) for found in clips_of(add_clips(block(*rows), [STAGE], RATE))] == [1, 0, 1]
    assert add_clips(block(*rows), [], RATE).equals(block(*rows))


@pytest.mark.parametrize("start", [0, 1, 2])
def test_a_slice_of_a_table_gets_the_clips_of_its_own_segments(start):
    pcm = [noise(300 + number, number) for number in range(4)]
    table = block(*(row(number, samples) for number, samples in enumerate(pcm))).slice(start)
    found = clips_of(add_clips(table, [STAGE], RATE))
    assert [clip["audio"]["path"] for [clip] in found] == [f"r-{number:05d}.flac" for number in range(start, 4)]
    for [clip], samples in zip(found, pcm[start:], strict=True):
        np.testing.assert_array_equal(decoded(clip), samples)


def test_a_segment_that_cannot_be_encoded_is_a_failure_of_its_own():
    table = add_clips(block(row(0, noise(9)), row(1, noise(0)), row(2, noise(9))), [STAGE], RATE)
    assert [len(found) for found in clips_of(table)] == [1, 0, 1]
    told = table[ERROR].to_pylist()[1]
    assert (told["stage"], told["code"], told["transient"]) == (STAGE, "encode_failed", False)
    assert "the segment has no samples" in told["message"]
