import math
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.segments import Segment, SegmentSettings, segmenter
from workers.vad import FRAME, SAMPLE_RATE, SpanFinder, SpeechDetector

CORPUS = Path(__file__).parents[2] / "pipelines" / "demo" / "corpus" / "en"


def clip(path: Path) -> np.ndarray:
    samples, rate = soundfile.read(path, dtype="int16")
    return soxr.resample(samples, rate, SAMPLE_RATE)


def clips() -> list[np.ndarray]:
    files = sorted(CORPUS.glob("*.wav")) + sorted(CORPUS.glob("*.flac"))
    if not files:
        pytest.skip(f"no speech in {CORPUS}")
    return [clip(file) for file in files]


def speech(seconds: int) -> np.ndarray:
    """Real speech, with a pause of 3 s after every second clip, and a ragged end."""
    parts = []
    for number, pcm in enumerate(clips()):
        parts += [pcm, np.zeros((number % 2) * 3 * SAMPLE_RATE, np.int16)]
    return np.concatenate(parts)[: seconds * SAMPLE_RATE + 77]


def cut(how: SegmentSettings, pieces: list[np.ndarray], detector=None) -> list[Segment]:
    cutter = segmenter(how, detector or (SpeechDetector() if how.by == "speech" else None), SAMPLE_RATE)
    segments = [segment for piece in pieces for segment in cutter.push(piece)] + cutter.finish()
    assert [segment.index for segment in segments] == list(range(len(segments)))
    speech = sum(round((segment.speech_ratio or 0) * len(segment.pcm)) for segment in segments)
    assert cutter.speech_samples == (speech if how.by == "speech" else None)
    return segments


def assert_same(found: list[Segment], expected: list[Segment]) -> None:
    def facts(segments: list[Segment]) -> list:
        return [(s.index, s.start, s.end, s.speech_ratio, s.pcm.tobytes()) for s in segments]

    assert facts(found) == facts(expected)


class Written:
    """A detector and its stream that read each frame's probability off its first sample, in thousandths."""

    def __init__(self):
        self.rest = np.zeros(0, np.int16)

    def stream(self):
        return Written()

    def push(self, pcm):
        samples = np.concatenate([self.rest, pcm])
        whole = len(samples) // FRAME * FRAME
        self.rest = samples[whole:]
        return samples[:whole:FRAME].astype(np.float32) / 1000

    def finish(self):
        return self.rest[:1].astype(np.float32) / 1000


def written(levels: list[tuple[float, int]], short: int = 0) -> np.ndarray:
    """PCM that `Written` reads as these (probability, frames), the last frame `short` of some samples."""
    thousandths = [round(level * 1000) for level, frames in levels for _ in range(frames)]
    return np.repeat(np.array(thousandths, np.int16), FRAME)[: max(0, FRAME * len(thousandths) - short)]


def spans_of(pcm: np.ndarray) -> list[tuple[int, int]]:
    finder = SpanFinder(0.5, 4000, 1600, 480)
    spans = finder.feed(pcm[::FRAME].astype(np.float32) / 1000) + finder.finish(len(pcm))
    return [(span.start, span.end) for span in spans]


def greedy(pcm: np.ndarray, longest: int, pause: int) -> list[list[tuple[int, int]]]:
    """Segments as lists of the spans of speech in them, with the whole recording at hand."""
    segments: list[list[tuple[int, int]]] = []
    for start, end in spans_of(pcm):
        joins = segments and start - segments[-1][-1][1] <= pause and end - segments[-1][0][0] <= longest
        if not joins:
            segments.append([])
        while end - (first := segments[-1][0][0] if segments[-1] else start) > longest:
            middles = [m for m in range(FRAME // 2, len(pcm), FRAME) if first + longest // 2 <= m <= first + longest]
            middle = min(middles, key=lambda m: (pcm[m], -m))
            segments[-1] = [(start, middle)]
            segments.append([])
            start = middle
        segments[-1].append((start, end))
    return segments


levels = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.34, 0.4, 0.5, 0.6, 0.8, 1.0]), st.integers(1, 90)), max_size=25
)


@settings(max_examples=300)
@given(levels, st.integers(0, FRAME - 1), st.sampled_from([0.1, 0.5, 2.0, 5.0, 30.0]), st.sampled_from([0.0, 0.4, 2.0]))
def test_streaming_gives_what_greedy_joining_gives_with_the_whole_recording_at_hand(levels, short, longest, pause):
    pcm = written(levels, short)
    how = SegmentSettings(by="speech", max_seconds=longest, max_pause_seconds=pause)
    expected = greedy(pcm, round(longest * SAMPLE_RATE), round(pause * SAMPLE_RATE))
    found = cut(how, [pcm], Written())
    assert [(s.start, s.end) for s in found] == [(spans[0][0], spans[-1][1]) for spans in expected]
    for segment, spans in zip(found, expected, strict=True):
        assert segment.speech_ratio == sum(end - start for start, end in spans) / (segment.end - segment.start)


@settings(max_examples=300)
@given(levels, st.integers(0, FRAME - 1), st.sampled_from([0.1, 0.5, 2.0, 5.0]))
def test_speech_segments_are_ordered_and_short_enough_and_cover_all_speech(levels, short, longest):
    pcm = written(levels, short)
    segments = cut(SegmentSettings(by="speech", max_seconds=longest), [pcm], Written())
    for segment in segments:
        assert 0 < segment.end - segment.start <= longest * SAMPLE_RATE
        assert 0 < segment.speech_ratio <= 1
        np.testing.assert_array_equal(segment.pcm, pcm[segment.start : segment.end])
    assert all(earlier.end <= later.start for earlier, later in pairwise(segments))
    covered = np.zeros(len(pcm), bool)
    for segment in segments:
        covered[segment.start : segment.end] = True
    assert all(covered[start:end].all() for start, end in spans_of(pcm))


@settings(max_examples=100)
@given(levels, st.lists(st.floats(0, 1), max_size=20), st.sampled_from(["speech", "windows", "whole"]))
def test_segments_do_not_depend_on_how_the_recording_is_pushed(levels, cuts, by):
    pcm = written(levels)
    how = SegmentSettings(by=by, max_seconds=2.0, hop_seconds=0.7 if by == "windows" else None)
    pieces = np.split(pcm, sorted(int(at * len(pcm)) for at in cuts))
    assert_same(cut(how, pieces, Written()), cut(how, [pcm], Written()))


@settings(max_examples=6)
@given(st.lists(st.integers(0, 20 * SAMPLE_RATE), max_size=12))
def test_segments_of_real_speech_do_not_depend_on_how_it_is_pushed(cuts):
    pcm = speech(20)
    how = SegmentSettings(by="speech", max_seconds=6)
    assert_same(cut(how, np.split(pcm, sorted(cuts))), cut(how, [pcm]))


def test_real_speech_pushed_in_telephone_packets_gives_the_same_segments():
    pcm = speech(20)
    how = SegmentSettings(by="speech", max_seconds=6)
    assert_same(cut(how, np.split(pcm, range(320, len(pcm), 320))), cut(how, [pcm]))


@pytest.mark.filterwarnings("ignore")
def test_without_joining_segments_are_the_timestamps_of_the_stock_library():
    import silero_vad
    import torch

    stock = silero_vad.load_silero_vad(onnx=True)
    how = SegmentSettings(by="speech", max_seconds=60, max_pause_seconds=0)
    for pcm in [*clips(), speech(45)]:
        expected = silero_vad.get_speech_timestamps(torch.from_numpy(pcm.astype(np.float32) / 32768), stock)
        assert [{"start": s.start, "end": s.end} for s in cut(how, [pcm])] == expected


def test_segments_of_real_speech_hold_several_sentences_and_leave_out_long_pauses():
    pcm = speech(45)
    segments = cut(SegmentSettings(by="speech", max_seconds=10), [pcm])
    assert all(segment.end - segment.start <= 10 * SAMPLE_RATE for segment in segments)
    assert np.mean([segment.end - segment.start for segment in segments]) > 3 * SAMPLE_RATE
    assert all(segment.speech_ratio > 0.5 for segment in segments)
    heard = np.concatenate([segment.pcm for segment in segments])
    assert np.square(heard, dtype=np.float64).sum() > 0.98 * np.square(pcm, dtype=np.float64).sum()


def test_a_cut_goes_into_a_pause_where_there_is_one():
    pcm = written([(0.0, 5), (1.0, 40), (0.0, 10), (1.0, 40), (0.0, 10), (1.0, 40), (0.0, 5)])
    segments = cut(SegmentSettings(by="speech", max_seconds=3.0), [pcm], Written())
    assert [(s.start, s.end) for s in segments] == [
        (5 * FRAME - 480, 95 * FRAME + 480),
        (105 * FRAME - 480, 145 * FRAME + 480),
    ]
    assert segments[0].speech_ratio == pytest.approx((80 * FRAME + 4 * 480) / (90 * FRAME + 2 * 480))


def test_speech_without_a_pause_is_cut_where_speech_is_least_likely_in_the_second_half():
    pcm = written([(0.9, 20), (0.5, 1), (0.9, 60), (0.6, 1), (0.9, 60)])
    segments = cut(SegmentSettings(by="speech", max_seconds=3.2), [pcm], Written())
    middle = 81 * FRAME + FRAME // 2
    assert [(s.start, s.end) for s in segments] == [(0, middle), (middle, 142 * FRAME)]
    assert [s.speech_ratio for s in segments] == [1.0, 1.0]


@settings(max_examples=200)
@given(st.integers(0, 9000), st.integers(1600, 4000), st.integers(16, 4000))
def test_windows_cover_every_sample_and_the_last_one_brings_something_new(length, window, hop):
    hop = min(window, hop)
    pcm = np.arange(length, dtype=np.int16)
    how = SegmentSettings(by="windows", max_seconds=window / SAMPLE_RATE, hop_seconds=hop / SAMPLE_RATE)
    segments = cut(how, [pcm])
    assert [s.start for s in segments] == [hop * k for k in range(len(segments))]
    assert all(s.end == min(s.start + window, length) and s.speech_ratio is None for s in segments)
    assert all((s.pcm == pcm[s.start : s.end]).all() for s in segments)
    assert (segments[-1].end if segments else 0) == length
    assert all(earlier.end < later.end for earlier, later in pairwise(segments))


def test_windows_follow_each_other_unless_a_hop_is_given():
    segments = cut(SegmentSettings(by="windows", max_seconds=1), [np.zeros(40_000, np.int16)])
    assert [(s.start, s.end) for s in segments] == [(0, 16_000), (16_000, 32_000), (32_000, 40_000)]


def test_a_whole_recording_is_one_segment_up_to_the_limit_and_cut_at_its_multiples_beyond():
    how = SegmentSettings(by="whole", max_seconds=2)
    for length, ends in {1: [1], 32_000: [32_000], 32_001: [32_000, 32_001], 70_000: [32_000, 64_000, 70_000]}.items():
        assert [s.end for s in cut(how, [np.zeros(length, np.int16)])] == ends


@pytest.mark.parametrize("by", ["speech", "windows", "whole"])
@pytest.mark.parametrize("pieces", [[], [np.zeros(0, np.int16)]])
def test_an_empty_recording_has_no_segments(by, pieces):
    assert cut(SegmentSettings(by=by, max_seconds=5), pieces) == []


def test_silence_has_no_speech_segments():
    assert cut(SegmentSettings(by="speech", max_seconds=5), [np.zeros(12 * SAMPLE_RATE, np.int16)]) == []


@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("by", ["speech", "windows", "whole"])
def test_ten_hours_pass_in_flat_memory(by, level):
    four_seconds = written([(level, 125)])
    how = SegmentSettings(by=by, max_seconds=5.0)
    cutter = segmenter(how, Written(), SAMPLE_RATE)
    cutter.push(written([(1.0, 20), (0.1, 1), (0.4, 104)]))
    tracemalloc.start()
    emitted = sum(segment.end - segment.start for _ in range(9000) for segment in cutter.push(four_seconds))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6
    assert math.isclose(emitted / SAMPLE_RATE, 36_000 * (by != "speech" or level == 1.0), rel_tol=0.01, abs_tol=20)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"by": "words"}, "speech, windows or whole"),
        ({"max_seconds": 0}, "max_seconds must be"),
        ({"max_seconds": math.inf}, "max_seconds must be"),
        ({"hop_seconds": 1.0}, "hop_seconds belongs to"),
        ({"by": "windows", "hop_seconds": 0}, "hop_seconds must be"),
        ({"by": "windows", "hop_seconds": 31}, "hop_seconds must be"),
        ({"threshold": 1.0}, "threshold is a probability"),
        ({"pad_seconds": -0.1}, "pad_seconds must be"),
        ({"max_pause_seconds": math.nan}, "max_pause_seconds must be"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        SegmentSettings(**{"by": "speech", "max_seconds": 30, **wrong})


def test_speech_needs_a_detector_and_its_sampling_rate():
    how = SegmentSettings(by="speech", max_seconds=30)
    for detector, rate in [(None, 16_000), (SpeechDetector(), 8_000)]:
        with pytest.raises(ValueError, match="need a detector and a multiple of 16000 Hz"):
            segmenter(how, detector, rate)


@pytest.mark.parametrize("by", ["speech", "windows"])
def test_what_is_not_int16_is_refused(by):
    with pytest.raises(ValueError, match="one axis of int16"):
        cut(SegmentSettings(by=by, max_seconds=30), [np.zeros(5, np.float32)])
