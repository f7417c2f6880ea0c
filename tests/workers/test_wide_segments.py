"""Segments at 48 kHz: the same spans as at 16 kHz, however the recording comes in."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import wire
from workers.actors import PoolMember, PoolSpec
from workers.channels import ChannelSegmenter
from workers.decode_settings import DecodeLimits, DecodeSettings
from workers.ingest import Ingester, IngestSettings
from workers.loading import SourceSettings
from workers.models.model import ModelStage
from workers.recording import Recording
from workers.samples import resampler, to_int16
from workers.segments import Segment, SegmentSettings, segmenter
from workers.source import Source
from workers.vad import SpeechDetector
from workers.weights import resolve

CORPUS = Path(__file__).parents[2] / "pipelines" / "demo" / "corpus"
RATE, WIDE = 16_000, 48_000
SPEECH = SegmentSettings("speech", 30.0)
FILES = sorted([*CORPUS.glob("en/*.wav"), *CORPUS.glob("e*/*.flac")])
NEAR = 0.05  # seconds


def clip(path: Path, rate: int) -> np.ndarray:
    samples, own = soundfile.read(path, dtype="float32")  # in int16 soxr would add dither
    return to_int16(soxr.resample(samples, own, rate))


def talk(rate: int) -> np.ndarray:
    """Real speech, half a minute, with a pause of 3 s after every second clip."""
    parts = []
    for number, path in enumerate(FILES[:8]):
        parts += [clip(path, rate), np.zeros((number % 2) * 3 * rate, np.int16)]
    return np.concatenate(parts)


@pytest.fixture(scope="module")
def wide() -> np.ndarray:
    return talk(WIDE)


def cut(how: SegmentSettings, pieces: list[np.ndarray], rate: int) -> list[Segment]:
    cutter = segmenter(how, SpeechDetector() if how.by == "speech" else None, rate)
    segments = [segment for piece in pieces for segment in cutter.push(piece)] + cutter.finish()
    if how.by == "speech":
        assert cutter.speech_samples == sum(round((one.speech_ratio or 0) * len(one.pcm)) for one in segments)
    return segments


def facts(segments: list[Segment]) -> list:
    return [(one.index, one.start, one.end, one.speech_ratio, one.pcm.tobytes()) for one in segments]


def assert_near(found: list[Segment], expected: list[Segment]) -> None:
    """Segments at 48 kHz begin and end where those at 16 kHz do."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.start / WIDE == pytest.approx(other.start / RATE, abs=NEAR)
        assert one.end / WIDE == pytest.approx(other.end / RATE, abs=NEAR)
        assert one.speech_ratio == pytest.approx(other.speech_ratio, abs=0.05)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_same_clip_gives_the_same_spans(path):
    assert_near(cut(SPEECH, [clip(path, WIDE)], WIDE), cut(SPEECH, [clip(path, RATE)], RATE))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_detector_hears_the_same_by_way_of_48_khz(path):
    narrow = clip(path, RATE)
    wide = to_int16(resampler(WIDE, RATE)(clip(path, WIDE).astype(np.float32) / np.float32(32768), True))
    probabilities = []
    for pcm in (narrow, wide):
        stream = SpeechDetector().stream()
        probabilities.append(np.concatenate([stream.push(pcm), stream.finish()]))
    assert np.abs(narrow.astype(int) - wide).max() <= 12  # steps of int16; 8 found
    np.testing.assert_allclose(*probabilities, rtol=0, atol=0.01)  # 0.0054 found


@pytest.mark.parametrize("pause", [0.1, 0.5, 2.0])
def test_a_recording_with_many_pauses_gives_the_same_spans(wide, pause):
    how = SegmentSettings("speech", 30.0, max_pause_seconds=pause)
    found = cut(how, [wide], WIDE)
    assert_near(found, cut(how, [talk(RATE)], RATE))
    assert len(found) > 2


def test_a_segment_holds_the_samples_that_it_says(wide):
    found = cut(SegmentSettings("speech", 2.0), [wide], WIDE)
    assert len(found) > 10
    for one in found:
        assert np.array_equal(one.pcm, wide[one.start : one.end])
        assert 0 < len(one.pcm) <= 2 * WIDE
        assert 0 < one.speech_ratio <= 1
    assert all(one.end <= other.start for one, other in pairwise(found))


@settings(max_examples=10)
@given(st.lists(st.integers(0, 14 * WIDE), max_size=10), st.sampled_from([2.0, 30.0]))
def test_streaming_gives_what_one_piece_gives(cuts, longest):
    pcm = np.concatenate([clip(path, WIDE) for path in FILES[:3]])
    how = SegmentSettings("speech", longest, max_pause_seconds=0.2)
    assert facts(cut(how, np.split(pcm, sorted(cuts)), WIDE)) == facts(cut(how, [pcm], WIDE))


@pytest.mark.parametrize("more", [0, 1, 2])
def test_speech_at_the_very_end_is_kept_to_the_sample_or_two(more):
    whole = clip(CORPUS / "en" / "tt-weasels.wav", WIDE)
    pcm = whole[: WIDE + more]  # in the middle of a word
    (found,) = cut(SPEECH, [pcm], WIDE)
    assert len(pcm) - 2 <= found.end <= len(pcm)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 500, 1535, 1537])
def test_hardly_any_samples_give_no_segment(length):
    assert cut(SPEECH, [np.full(length, 500, np.int16)], WIDE) == []


def test_only_what_may_still_be_needed_is_kept(wide):
    cutter = segmenter(SPEECH, SpeechDetector(), WIDE)
    for _ in range(10):  # five minutes and more
        cutter.push(wide)
    assert len(cutter._samples._memory) < 2 * (30 + 20 + 2 * 25) * WIDE
    assert len(cutter._sound._memory) < 60 * RATE


def test_windows_and_whole_are_exact_in_seconds():
    pcm = np.arange(10 * WIDE + 4801, dtype=np.int64).astype(np.int16)
    windows = cut(SegmentSettings("windows", 2.5, hop_seconds=1.25), [pcm[:777], pcm[777:]], WIDE)
    assert [one.start / WIDE for one in windows] == [1.25 * number for number in range(8)]
    assert [one.end / WIDE for one in windows] == [1.25 * number + 2.5 for number in range(7)] + [len(pcm) / WIDE]
    (whole,) = cut(SegmentSettings("whole", 60.0), [pcm], WIDE)
    assert (whole.start, whole.end / WIDE, whole.pcm.tobytes()) == (0, len(pcm) / WIDE, pcm.tobytes())


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 0])
def test_speech_at_a_rate_that_is_no_multiple_of_16_khz_is_refused(rate):
    with pytest.raises(ValueError, match=f"a multiple of 16000 Hz, not .* and {rate}"):
        segmenter(SPEECH, SpeechDetector(), rate)


def test_channels_are_cut_each_for_itself(wide):
    left, right = wide[: 12 * WIDE], wide[12 * WIDE : 24 * WIDE]
    both = ChannelSegmenter(lambda: segmenter(SPEECH, SpeechDetector(), WIDE), [0, 1])
    call = np.column_stack([left, right])
    found = [one for part in np.array_split(call, 7) for one in both.push(part)] + both.finish()
    for channel, side in enumerate((left, right)):
        alone = cut(SPEECH, [side], WIDE)
        assert [(one.start, one.end) for one in found if one.channel == channel] == [(o.start, o.end) for o in alone]


def ingested(paths: list[Path], rate: int, how: SegmentSettings, stages: list[str]):
    """One wire table of some objects."""
    decode = DecodeSettings(rate, DecodeLimits(600, 2))
    ingester = Ingester(IngestSettings(decode, how, SourceSettings((), 1 << 30, None), block_seconds=1e9))
    recordings = [
        Recording(str(number), Source(str(path), "", path.stat().st_size, None), stages, [])
        for number, path in enumerate(paths)
    ]
    (table,) = list(ingester.ingest(recordings))
    ingester.close()
    return table


def test_the_wire_tells_the_same_times_at_both_rates():
    narrow, broad = (ingested(FILES[:3], rate, SegmentSettings("whole", 60.0), []) for rate in (RATE, WIDE))
    for name in ("start_seconds", "end_seconds"):
        assert narrow[name].to_pylist() == broad[name].to_pylist()
    for one, other in zip(narrow["pcm"].to_pylist(), broad["pcm"].to_pylist(), strict=True):
        assert (one is None) == (other is None)
        assert other is None or len(other) == 3 * len(one)
    closed = [[row["decoded_seconds"] for row in table["closing"].to_pylist() if row] for table in (narrow, broad)]
    assert closed[0] == closed[1]


def test_a_model_gets_its_own_rate_and_says_the_same():
    checkpoint, stage = resolve("yamnet"), ModelStage("tags/yamnet", "tags", {"top_k": 521})
    threads = torch.get_num_threads()
    paths = [CORPUS / "en" / name for name in ("beep.wav", "invalid.wav", "tt-weasels.wav")]
    scores = []
    for rate in (RATE, WIDE):
        spec = PoolSpec("yamnet", checkpoint.kind, checkpoint.digest, (stage,), 1, 16, sample_rate=rate)
        done = PoolMember(spec)(ingested(paths, rate, SegmentSettings("whole", 60.0), [stage.id]))
        rows = [one for one in done[wire.rows_column(stage.id)].to_pylist() if one]
        scores.append([{row["label"]: row["score"] for row in of_clip} for of_clip in rows])
    torch.set_num_threads(threads)
    for narrow, broad in zip(*scores, strict=True):
        assert max(narrow, key=narrow.get) == max(broad, key=broad.get)
        assert max(abs(narrow[label] - broad[label]) for label in narrow) < 0.02
