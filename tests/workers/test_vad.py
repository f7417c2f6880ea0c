import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.vad import FRAME, SAMPLE_RATE, SpanFinder, SpeechDetector, checked_weights

CORPUS = Path(__file__).parents[2] / "pipelines" / "demo" / "corpus" / "en"


def speech() -> np.ndarray:
    """The corpus's English wav clips one after the other, with pauses, about 40 s."""
    files = sorted(CORPUS.glob("*.wav"))
    if not files:
        pytest.skip(f"no speech in {CORPUS}")
    parts = []
    for file in files:
        samples, rate = soundfile.read(file, dtype="int16")
        parts += [soxr.resample(samples, rate, SAMPLE_RATE), np.zeros(SAMPLE_RATE // 3, np.int16)]
    return np.concatenate(parts)[: 40 * SAMPLE_RATE + 77]


def probabilities(pieces: list[np.ndarray]) -> np.ndarray:
    stream = SpeechDetector().stream()
    return np.concatenate([*(stream.push(piece) for piece in pieces), stream.finish()])


@pytest.mark.filterwarnings("ignore")
def test_probabilities_are_those_of_the_stock_model_run_frame_by_frame():
    import silero_vad
    import torch

    pcm = speech()
    padded = np.concatenate([pcm, np.zeros(-len(pcm) % FRAME, np.int16)])
    stock = silero_vad.load_silero_vad(onnx=True)
    frames = torch.from_numpy(padded.astype(np.float32) / 32768).split(FRAME)
    expected = [stock(frame, SAMPLE_RATE).item() for frame in frames]
    found = probabilities([pcm])
    assert found.dtype == np.float32
    assert len(found) == -(-len(pcm) // FRAME)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@settings(max_examples=8)
@given(cuts=st.lists(st.integers(0, 12 * SAMPLE_RATE), max_size=12))
def test_probabilities_do_not_depend_on_how_the_recording_is_pushed(cuts):
    pcm = speech()[: 12 * SAMPLE_RATE + 77]
    pieces = np.split(pcm, sorted(cuts))
    np.testing.assert_allclose(probabilities(pieces), probabilities([pcm]), atol=1e-5)


def test_a_push_returns_exactly_the_frames_that_it_completes():
    stream = SpeechDetector().stream()
    assert [len(stream.push(np.zeros(n, np.int16))) for n in (0, 511, 1, 1023, 1, 300)] == [0, 0, 1, 1, 1, 0]
    assert len(stream.finish()) == 1


def test_an_empty_recording_has_no_frames():
    assert probabilities([]).shape == (0,)
    assert probabilities([np.zeros(0, np.int16)]).shape == (0,)


def test_streams_that_are_open_at_once_do_not_mix():
    pcm = speech()[: 4 * SAMPLE_RATE]
    noise = np.random.default_rng(1).integers(-9000, 9000, len(pcm)).astype(np.int16)
    detector = SpeechDetector()
    streams = detector.stream(), detector.stream()
    both = [
        [stream.push(part) for stream, part in zip(streams, parts, strict=True)]
        for parts in zip(np.split(pcm, 4), np.split(noise, 4), strict=True)
    ]
    np.testing.assert_allclose(np.concatenate([first for first, _ in both]), probabilities([pcm]), atol=1e-5)


def test_speech_is_told_from_silence_and_from_a_tone():
    tone = (8000 * np.sin(2 * np.pi * 440 * np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE)).astype(np.int16)
    assert np.mean(probabilities([speech()]) > 0.5) > 0.4
    assert probabilities([np.zeros(3 * SAMPLE_RATE, np.int16)]).max() < 0.1
    assert np.median(probabilities([tone])) < 0.2


@pytest.mark.parametrize("pcm", [np.zeros(5, np.float32), np.zeros((2, 5), np.int16)])
def test_what_is_not_int16_mono_is_refused(pcm):
    with pytest.raises(ValueError, match="one axis of int16"):
        SpeechDetector().stream().push(pcm)


def test_weights_with_another_digest_are_refused_by_name_and_digests(tmp_path):
    weights = tmp_path / "other.onnx"
    weights.write_bytes(b"")
    with pytest.raises(ValueError, match=r"other\.onnx has SHA-256 e3b0c442.* not 1234"):
        checked_weights(weights, "1234")


def test_detecting_speech_loads_no_torch():
    code = "import sys, workers.vad as v; v.SpeechDetector().stream(); sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})


levels = st.sampled_from([0.0, 0.2, 0.34, 0.36, 0.45, 0.5, 0.7, 1.0])
runs = st.lists(st.tuples(levels, st.integers(1, 12)), max_size=25)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=300)
@given(
    runs=runs,
    short=st.integers(0, FRAME - 1),
    step=st.integers(1, 40),
    times=st.tuples(st.sampled_from([0, 64, 250]), st.sampled_from([0, 32, 100, 160]), st.sampled_from([0, 30, 80])),
    threshold=st.sampled_from([0.1, 0.5, 0.8]),
)
def test_spans_are_those_of_get_speech_timestamps(runs, short, step, times, threshold):
    from silero_vad.utils_vad import get_speech_timestamps_from_probs

    probs = np.array([level for level, n in runs for _ in range(n)], np.float32)
    length = max(0, len(probs) * FRAME - short)
    min_speech, min_silence, pad = times
    finder = SpanFinder(threshold, min_speech * 16, min_silence * 16, pad * 16)
    spans = [span for i in range(0, len(probs), step) for span in finder.feed(probs[i : i + step])]
    spans += finder.finish(length)
    expected = get_speech_timestamps_from_probs(
        probs.tolist(),
        threshold=threshold,
        min_speech_duration_ms=min_speech,
        min_silence_duration_ms=min_silence,
        speech_pad_ms=pad,
        audio_length_samples=length,
    )
    assert [{"start": span.start, "end": span.end} for span in spans] == expected


@given(runs=runs)
def test_a_span_said_to_be_under_way_is_found_and_none_starts_before_the_horizon(runs):
    finder = SpanFinder(0.5, 4000, 1600, 480)
    promises, horizons, spans = [], [], []
    for level, n in runs:
        spans += finder.feed(np.full(n, level, np.float32))
        promises.append(finder.under_way)
        horizons.append((len(spans), finder.horizon, finder.under_way))
    spans += finder.finish(FRAME * sum(n for _, n in runs))
    for promise in filter(None, promises):
        assert any(span.start == promise.start and span.end >= promise.end for span in spans)
    for known, horizon, under_way in horizons:
        assert all(span.start >= horizon for span in spans[known + bool(under_way) :])


def test_an_end_in_doubt_is_settled_after_ten_seconds():
    finder = SpanFinder(0.5, 4000, 1600, 480)
    doubt = np.concatenate([np.full(20, 0.9), [0.1], np.full(400, 0.4), np.full(20, 0.9)]).astype(np.float32)
    found = finder.feed(doubt) + finder.finish(len(doubt) * FRAME)
    assert [(span.start, span.end) for span in found] == [(0, 20 * FRAME + 480), (421 * FRAME - 480, 441 * FRAME)]
