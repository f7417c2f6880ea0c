"""The enhancing step: which segments get a second signal, who hears it, and what an error costs."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import soxr
import torch

from schemas import wire
from workers import enhance
from workers.actors import PoolMember, PoolSpec
from workers.enhance import EnhanceSettings, add_enhanced
from workers.enhancers.enhancer import ENHANCERS
from workers.features import SpectrogramStage, add_spectrograms
from workers.models.model import ModelStage
from workers.spectrogram_settings import SpectrogramSettings
from workers.weights import ModelError, resolve

CORPUS = Path(__file__).parents[2] / "pipelines" / "demo" / "corpus" / "en"
RATE = 16_000
RAW, HEARD = "tags/yamnet", "embeddings/yamnet"
GATE = EnhanceSettings("spectral-gate", "", (HEARD, "spectrograms/mfcc"))
MARK = 12_345  # the first sample of a segment that the enhancer cannot bear


class Halver:
    """An enhancer that halves, and cannot bear a segment that starts with MARK."""

    def enhance(self, pcm):
        if len(pcm) and pcm[0] == MARK:
            raise ArithmeticError("beyond me")
        return pcm // 2


@pytest.fixture
def halving(monkeypatch):
    enhance._enhancer.cache_clear()
    monkeypatch.setitem(ENHANCERS, "spectral-gate", lambda rate: Halver())
    yield
    enhance._enhancer.cache_clear()


def clip(name="invalid.wav"):
    samples, rate = soundfile.read(CORPUS / name, dtype="int16")
    return soxr.resample(samples, rate, RATE)


def block(pcms, stages=(RAW, HEARD, "spectrograms/mfcc", "spectrograms/power")):
    """A segment row for each of `pcms`, and a closing row."""
    rows = [
        {"recording_id": "r", "uri": "/r", "stages": list(stages), "segment_index": index, "pcm": pcm.tobytes()}
        for index, pcm in enumerate(pcms)
    ]
    closing = {"uri": "/r", "size_bytes": 1, "status": "ok", "n_segments": len(pcms)}
    return pa.Table.from_pylist([*rows, {**rows[0], "segment_index": None, "pcm": None, "closing": closing}], wire.WIRE)


def enhanced_of(table):
    return [None if one is None else np.frombuffer(one, np.int16) for one in table[wire.ENHANCED].to_pylist()]


def test_every_segment_gets_its_own_enhanced_samples_and_the_closing_row_none(halving):
    pcms = [np.array(values, np.int16) for values in ([100, -100, 7], [], [32767], list(range(1000)))]
    done = add_enhanced(block(pcms), GATE, RATE)
    assert done.column_names == [*wire.WIRE.names, wire.ENHANCED, wire.ENHANCE_PROBLEM]
    assert done.schema.field(wire.ENHANCED).type == pa.binary()
    *found, last = enhanced_of(done)
    for pcm, one in zip(pcms, found, strict=True):
        assert np.array_equal(one, pcm // 2)
    assert last is None
    assert done[wire.ENHANCE_PROBLEM].null_count == done.num_rows
    done.validate(full=True)


def test_only_what_a_stage_will_hear_is_enhanced(halving):
    wanted, not_wanted = block([np.ones(8, np.int16)]), block([np.ones(9, np.int16)], stages=[RAW])
    done = add_enhanced(pa.concat_tables([not_wanted, wanted]), GATE, RATE)
    assert [one is None for one in enhanced_of(done)] == [True, True, False, True]


def test_a_table_without_rows_stays_without_rows(halving):
    done = add_enhanced(wire.WIRE.empty_table(), GATE, RATE)
    assert (done.num_rows, done.column_names[-2:]) == (0, [wire.ENHANCED, wire.ENHANCE_PROBLEM])


def test_each_alone_equals_all_together():
    pcms = [clip(), clip("tt-weasels.wav"), clip("beep.wav")]
    together = enhanced_of(add_enhanced(block(pcms), GATE, RATE))
    for pcm, one in zip(pcms, together, strict=False):
        assert np.array_equal(enhanced_of(add_enhanced(block([pcm]), GATE, RATE))[0], one)


def test_spectrograms_are_of_the_signal_that_their_stage_hears(halving):
    stages = [
        SpectrogramStage("spectrograms/mfcc", SpectrogramSettings("mfcc"), wire.ENHANCED),
        SpectrogramStage("spectrograms/power", SpectrogramSettings("power")),
    ]
    pcm = 2 * (clip() // 4)
    done = add_spectrograms(add_enhanced(block([pcm]), GATE, RATE), stages, RATE)
    for stage, samples in zip(stages, (pcm // 2, pcm), strict=True):
        plain = add_spectrograms(block([samples]), [SpectrogramStage(stage.id, stage.settings)], RATE)
        name = wire.rows_column(stage.id)
        assert done[name][0].as_py() == plain[name][0].as_py()
        assert done[name][0].as_py()[0]["n_frames"] > 0


def test_an_error_costs_the_stages_that_hear_the_segment_and_no_other(halving):
    pcms = [clip(), np.array([MARK, 1, 2] * 9000, np.int16), clip("tt-weasels.wav")]
    enhanced = add_enhanced(block(pcms), GATE, RATE)
    assert [one is None for one in enhanced_of(enhanced)] == [False, True, False, True]
    assert enhanced[wire.ENHANCE_PROBLEM].to_pylist()[1] == "spectral-gate: ArithmeticError: beyond me"

    checkpoint = resolve("yamnet")
    stages = (ModelStage(HEARD, "embeddings", {}, wire.ENHANCED), ModelStage(RAW, "tags", {"top_k": 1}))
    threads = torch.get_num_threads()
    done = PoolMember(PoolSpec("yamnet", checkpoint.kind, checkpoint.digest, stages, 1, 16))(enhanced)
    torch.set_num_threads(threads)
    spectrograms = [SpectrogramStage("spectrograms/mfcc", SpectrogramSettings("mfcc"), wire.ENHANCED)]
    done = add_spectrograms(done, spectrograms, RATE)
    for stage in (HEARD, "spectrograms/mfcc"):
        assert [len(rows) for rows in done[wire.rows_column(stage)].to_pylist()] == [1, 0, 1, 0]
        first, failure, second, closing = done[wire.error_column(stage)].to_pylist()
        assert first is second is closing is None
        assert (failure["stage"], failure["code"]) == (stage, "model_failed")
        assert failure["message"] == "enhance: spectral-gate: ArithmeticError: beyond me"
    assert [len(rows) for rows in done[wire.rows_column(RAW)].to_pylist()] == [1, 1, 1, 0]
    assert done[wire.error_column(RAW)].null_count == done.num_rows


def test_a_model_hears_both_signals_where_its_stages_do(halving):
    checkpoint = resolve("yamnet")
    raw = ModelStage(RAW, "tags", {"top_k": 1})
    both, plain = (
        PoolSpec(
            "yamnet", checkpoint.kind, checkpoint.digest, (ModelStage(HEARD, "embeddings", {}, signal), raw), 1, 16
        )
        for signal in (wire.ENHANCED, "pcm")
    )
    threads = torch.get_num_threads()
    member = PoolMember(both)
    pcm = clip()
    done = member(add_enhanced(block([pcm]), GATE, RATE))
    member._spec = plain
    of_raw, of_half = (member(block([samples])) for samples in (pcm, pcm // 2))
    torch.set_num_threads(threads)
    vectors = [np.array(table[wire.rows_column(HEARD)][0].as_py()[0]["vector"]) for table in (done, of_half, of_raw)]
    np.testing.assert_allclose(vectors[0], vectors[1], rtol=0, atol=1e-5)
    assert np.abs(vectors[0] - vectors[2]).max() > 1e-3
    assert done[wire.rows_column(RAW)][0].as_py() == of_raw[wire.rows_column(RAW)][0].as_py()


def test_other_weights_than_planned_end_the_run(halving):
    with pytest.raises(ModelError, match="where the run was planned"):
        add_enhanced(block([np.ones(8, np.int16)]), EnhanceSettings("spectral-gate", "ab" * 32, (HEARD,)), RATE)
