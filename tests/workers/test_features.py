"""The spectrogram stages, on tones whose spectra are known."""

import numpy as np
import pyarrow as pa
import pytest

from schemas import wire
from workers.features import SpectrogramStage, add_spectrograms
from workers.spectrogram_settings import SpectrogramSettings

RATE = 16_000
FFT = 512  # the power of two above the 400 samples of a 25-ms window
LOG_MEL = SpectrogramStage("spectrograms/log_mel", SpectrogramSettings("log_mel", 64))
MFCC = SpectrogramStage("spectrograms/mfcc", SpectrogramSettings("mfcc", 20))
POWER = SpectrogramStage("spectrograms/power", SpectrogramSettings("power"))
ALL = [LOG_MEL, MFCC, POWER]


def tone(hertz, seconds):
    return (8000 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.int16)


def row(index, pcm, stages):
    where = {"recording_id": "r", "uri": "/r.wav", "stages": [stage.id for stage in stages]}
    if pcm is None:
        return {**where, "closing": {"uri": "/r.wav", "size_bytes": 1, "status": "ok", "n_segments": index}}
    end = len(pcm) / RATE
    return {**where, "segment_index": index, "start_seconds": 0.0, "end_seconds": end, "pcm": pcm.tobytes()}


def block(*pcms, stages=ALL):
    return pa.Table.from_pylist([row(index, pcm, stages) for index, pcm in enumerate(pcms)], schema=wire.WIRE)


def rows_of(table, stage):
    return table[wire.rows_column(stage.id)].to_pylist()


def matrix(found):
    return np.array(found["values"], np.float32).reshape(found["n_frames"], found["n_bins"])


@pytest.fixture(scope="module")
def table():
    return add_spectrograms(block(tone(440, 1.0), tone(1000, 2.5), None, tone(3000, 0.3)), ALL, RATE)


@pytest.mark.parametrize("stage", ALL, ids=lambda stage: stage.id)
def test_every_segment_gets_frames_times_bins_values_and_a_closing_row_none(table, stage):
    found = rows_of(table, stage)
    assert [len(rows) for rows in found] == [1, 1, 0, 1]
    for rows, seconds in zip(found, (1.0, 2.5, None, 0.3), strict=True):
        for one in rows:
            assert one["kind"] == stage.settings.kind
            assert len(one["values"]) == one["n_frames"] * one["n_bins"]
            assert one["n_bins"] == (stage.settings.n_bins or FFT // 2 + 1)
            assert one["n_frames"] * one["hop_seconds"] == pytest.approx(seconds, abs=0.03)
            assert np.isfinite(one["values"]).all()


def test_the_columns_have_the_wires_types_and_no_segment_failed(table):
    assert table.column_names == [
        *wire.WIRE.names,
        *(name(s.id) for s in ALL for name in (wire.rows_column, wire.error_column)),
    ]
    for stage in ALL:
        assert table.schema.field(wire.rows_column(stage.id)).type == wire.rows_type("spectrograms")
        assert table.schema.field(wire.error_column(stage.id)).type == wire.FAILURE
        assert table[wire.error_column(stage.id)].null_count == table.num_rows
    table.validate(full=True)


def test_a_tones_power_lies_in_its_bin(table):
    for rows, hertz in zip(rows_of(table, POWER), (440, 1000, None, 3000), strict=True):
        for one in rows:
            inner = matrix(one)[5:-5]
            assert np.abs(inner.argmax(axis=1) * RATE / FFT - hertz).max() <= RATE / FFT


def test_a_higher_tone_lies_in_a_higher_mel_band(table):
    bands = [int(np.median(matrix(rows[0]).argmax(axis=1))) for rows in rows_of(table, LOG_MEL) if rows]
    assert bands == sorted(set(bands))


def test_a_segment_has_the_same_spectrogram_whatever_its_neighbours(table):
    alone = add_spectrograms(block(tone(1000, 2.5)), [LOG_MEL], RATE)
    np.testing.assert_array_equal(matrix(rows_of(alone, LOG_MEL)[0][0]), matrix(rows_of(table, LOG_MEL)[1][0]))


def test_only_segments_that_need_a_stage_get_it():
    rows = [row(0, tone(440, 0.5), [LOG_MEL]), row(1, tone(440, 0.5), [MFCC]), row(2, tone(440, 0.5), ALL)]
    table = add_spectrograms(pa.Table.from_pylist(rows, schema=wire.WIRE), [LOG_MEL, MFCC], RATE)
    assert [len(found) for found in rows_of(table, LOG_MEL)] == [1, 0, 1]
    assert [len(found) for found in rows_of(table, MFCC)] == [0, 1, 1]


@pytest.mark.parametrize("pcms", [(), (None,), (None, None)], ids=["no rows", "closing", "two closings"])
def test_a_table_without_segments_gets_empty_columns(pcms):
    table = add_spectrograms(block(*pcms), [LOG_MEL], RATE)
    assert rows_of(table, LOG_MEL) == [[]] * len(pcms)
    assert table.schema.field(wire.rows_column(LOG_MEL.id)).type == wire.rows_type("spectrograms")


def test_a_slice_of_a_table_gets_the_spectrograms_of_its_own_segments(table):
    sliced = block(tone(440, 1.0), tone(1000, 2.5), None).slice(1)
    found = rows_of(add_spectrograms(sliced, [POWER], RATE), POWER)
    np.testing.assert_array_equal(matrix(found[0][0]), matrix(rows_of(table, POWER)[1][0]))
    assert found[1] == []


def test_a_segment_that_raises_costs_itself_only(monkeypatch):
    from workers.spectrogram import Spectrogrammer

    compute = Spectrogrammer.compute
    monkeypatch.setattr(
        Spectrogrammer, "compute", lambda self, wave: compute(self, wave) if len(wave) > 5000 else 1 / 0
    )
    table = add_spectrograms(block(tone(440, 1.0), tone(440, 0.3), tone(440, 1.0)), [LOG_MEL], RATE)
    assert [len(rows) for rows in rows_of(table, LOG_MEL)] == [1, 0, 1]
    errors = table[wire.error_column(LOG_MEL.id)].to_pylist()
    assert [error and error["code"] for error in errors] == [None, "model_failed", None]
    assert errors[1]["stage"] == LOG_MEL.id
    assert "ZeroDivisionError" in errors[1]["message"]
