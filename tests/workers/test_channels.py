"""Which channels are kept, and how the segments of several are numbered, from a file's bytes to the wire."""

import io
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import ids
from workers.channels import ChannelSegmenter
from workers.decode import decode
from workers.decode_settings import DecodeLimits, DecodeSettings
from workers.decoded import DecodeError
from workers.ingest import Ingester, IngestSettings
from workers.loading import SourceSettings
from workers.recording import Recording
from workers.segments import Segment, SegmentSettings, segmenter
from workers.source import Source
from workers.vad import FRAME, SpeechDetector

CORPUS = Path(__file__).parents[2] / "pipelines" / "demo" / "corpus"
RATE = 16_000
LIMITS = DecodeLimits(max_seconds=3600, max_channels=8)
HOW = {
    "speech": SegmentSettings("speech", 4.0, max_pause_seconds=0.5),
    "windows": SegmentSettings("windows", 2.0, hop_seconds=0.7),
    "whole": SegmentSettings("whole", 5.0),
}
BY = pytest.mark.parametrize("by", HOW)


def clip(name: str) -> np.ndarray:
    samples, rate = soundfile.read(CORPUS / "en" / name, dtype="int16")
    return soxr.resample(samples, rate, RATE)


@cache
def call() -> np.ndarray:
    """A call of some 20 s, shape (n, 2): two sides that speak in turn and at once, with pauses of their own."""

    def side(*parts: str | float) -> np.ndarray:
        pieces = [clip(part) if isinstance(part, str) else np.zeros(round(part * RATE), np.int16) for part in parts]
        return np.concatenate(pieces)

    agent = side(0.3, "confbridge-pin-bad.wav", 3.0, "invalid.wav", 1.1, "vm-goodbye.wav", 0.2)
    caller = side(2.2, "tt-weasels.wav", 0.7, "cannot-complete-as-dialed.wav", 4.0, "privacy-unident.wav")
    length = max(len(agent), len(caller))
    return np.stack([np.pad(one, (0, length - len(one))) for one in (agent, caller)], axis=1)


# Decoding


class Heard:
    """A sink that keeps what it is given."""

    def __init__(self):
        self.blocks = []

    def opened(self, info):
        self.info = info

    def samples(self, pcm):
        assert pcm.dtype == np.int16
        assert pcm.flags.c_contiguous
        self.blocks.append(pcm)


def heard(content, channels, rate=RATE):
    sink = Heard()
    ending = decode(io.BytesIO(content), DecodeSettings(rate, LIMITS, channels), sink)
    return sink.info, ending, np.concatenate(sink.blocks)


def written(samples, rate=RATE, kind="WAV"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind)
    return file.getvalue()


def muxed(samples, muxer, codec, rate=RATE, layout=None, options=None):
    """Int16 samples as FFmpeg encodes them, so that FFmpeg decodes them."""
    file, layout = io.BytesIO(), layout or ("mono" if samples.ndim == 1 else "stereo")
    with av.open(file, "w", format=muxer) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout, options=options or {})
        stream.codec_context.open()
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        resampler = av.AudioResampler(stream.format, layout, rate, stream.codec_context.frame_size or 1024)
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            output.mux(stream.encode(part))
    return file.getvalue()


ENCODED: dict[str, Callable[[np.ndarray], bytes]] = {
    "libsndfile": written,
    "libsndfile's FLAC": lambda samples: written(samples, kind="FLAC"),
    "FFmpeg, interleaved": lambda samples: muxed(samples, "mov", "pcm_s16le"),
    "FFmpeg, planar": lambda samples: muxed(samples, "ipod", "alac"),
}
DECODERS = pytest.mark.parametrize("encode", ENCODED.values(), ids=ENCODED)


@DECODERS
def test_each_side_of_a_call_can_be_had_alone_or_beside_the_other(encode):
    content = encode(call())
    np.testing.assert_array_equal(heard(content, "left")[2], call()[:, 0])
    np.testing.assert_array_equal(heard(content, "right")[2], call()[:, 1])
    np.testing.assert_array_equal(heard(content, "each")[2], call())
    mean = (call()[:, 0].astype(int) + call()[:, 1]) / 2
    assert np.abs(heard(content, "mono")[2] - mean).max() <= 0.5


@DECODERS
@pytest.mark.parametrize("channels", ["mono", "left", "each"])
def test_of_one_channel_every_choice_but_the_second_is_that_channel(encode, channels):
    info, _, pcm = heard(encode(call()[:, 0].copy()), channels)
    assert info.channels == 1
    np.testing.assert_array_equal(pcm, call()[:, 0])


@DECODERS
def test_the_second_channel_of_one_is_refused_before_anything_is_heard(encode):
    sink = Heard()
    with pytest.raises(DecodeError) as caught:
        decode(io.BytesIO(encode(call()[:, 0].copy())), DecodeSettings(RATE, LIMITS, "right"), sink)
    assert caught.value.code == "no_channel"
    assert "audio.channels: right" in caught.value.message
    assert not sink.blocks


def test_eight_channels_are_eight():
    """Behind eight pointers to channels FFmpeg's frame has others, which PyAV 18 takes for more channels."""
    eight = np.random.default_rng(8).integers(-9000, 9000, (RATE, 8), dtype=np.int16)
    content = muxed(eight, "ipod", "alac", layout="7.1(wide)")
    np.testing.assert_array_equal(heard(content, "each")[2], eight)
    np.testing.assert_array_equal(heard(content, "right")[2], eight[:, 1])
    assert np.abs(heard(content, "mono")[2] - eight.mean(axis=1)).max() <= 0.6


def test_twelve_channels_are_twelve():
    waves = np.stack(
        [(channel + 1) * np.sin(np.arange(48_000) * 0.01 * (channel + 1)) for channel in range(12)], axis=1
    )
    twelve = (500 * waves).astype(np.int16)
    content = muxed(twelve, "ogg", "libopus", 48_000, "12 channels", {"mapping_family": "255"})
    for channels, expected in [("each", twelve), ("mono", twelve.mean(axis=1))]:
        settings = DecodeSettings(48_000, DecodeLimits(max_seconds=3600, max_channels=12), channels)
        sink = Heard()
        decode(io.BytesIO(content), settings, sink)
        pcm = np.concatenate(sink.blocks)
        assert pcm.shape == expected.shape
        np.testing.assert_allclose(pcm.std(axis=0), expected.std(axis=0), rtol=0.05)


def test_of_three_channels_the_first_two_are_left_and_right():
    three = np.concatenate([call(), call()[::-1, :1]], axis=1)
    content = written(three)
    for channels, expected in [("left", three[:, 0]), ("right", three[:, 1]), ("each", three)]:
        np.testing.assert_array_equal(heard(content, channels)[2], expected)
    assert np.abs(heard(content, "mono")[2] - three.mean(axis=1)).max() <= 0.6


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_resampling_leaves_channels_apart(rate):
    sides = soxr.resample(call().astype(np.float32) / 32768, RATE, rate)
    together = heard(written(sides, rate), "each")[2]
    assert together.shape == (len(heard(written(sides[:, 0], rate), "mono")[2]), 2)
    for channel, name in enumerate(["left", "right"]):
        alone = heard(written(sides[:, channel], rate), "mono")[2].astype(int)
        assert np.abs(together[:, channel] - alone).max() <= 1
        assert np.abs(heard(written(sides, rate), name)[2] - alone).max() <= 1


def test_a_stream_that_turns_to_stereo_breaks_off_where_each_channel_is_wanted_and_goes_on_elsewhere():
    one, two = call()[: 4 * RATE, 0].copy(), call()[: 4 * RATE].copy()
    content = muxed(one, "adts", "aac") + muxed(two, "adts", "aac")
    info, ending, pcm = heard(content, "each")
    assert info.channels == 1
    assert pcm.ndim == 1
    assert "number of channels changes from 1 to 2" in ending.damage
    assert len(pcm) / RATE == pytest.approx(4, abs=0.2)
    for channels in ("mono", "left"):
        _, ending, pcm = heard(content, channels)
        assert ending.damage is None
        assert len(pcm) / RATE == pytest.approx(8, abs=0.4)


# Segmenting


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


@cache
def detector() -> SpeechDetector:
    return SpeechDetector()


def facts(segments: list[Segment]) -> list:
    return [(s.index, s.channel, s.start, s.end, s.speech_ratio, s.pcm.tobytes()) for s in segments]


def alone(how: SegmentSettings, pcm: np.ndarray, listener) -> list[Segment]:
    """One channel's segments, cut with nothing beside it."""
    cutter = segmenter(how, listener, RATE)
    return cutter.push(pcm) + cutter.finish()


def expected(how: SegmentSettings, pcm: np.ndarray, numbers: list[int], listener) -> list:
    """What must come out: each channel cut alone, then all of it sorted by start and channel."""
    cut = [
        (segment.start, number, segment.end, segment.speech_ratio, segment.pcm.tobytes())
        for number, side in zip(numbers, pcm.T, strict=True)
        for segment in alone(how, side, listener)
    ]
    return [
        (index, channel, start, end, ratio, samples)
        for index, (start, channel, end, ratio, samples) in enumerate(sorted(cut, key=lambda one: one[:2]))
    ]


def found(how: SegmentSettings, pieces: list[np.ndarray], numbers: list[int], listener) -> list:
    """What comes out of pieces; checks on the way that nothing starts before it was said that it could."""
    cutter = ChannelSegmenter(lambda: segmenter(how, listener, RATE), numbers)
    segments, earliest = [], 0
    for piece in [*pieces, None]:
        new = cutter.finish() if piece is None else cutter.push(piece)
        assert all(segment.start >= earliest for segment in new)
        segments += new
        assert cutter.next_start >= earliest or piece is None
        earliest = cutter.next_start
    speech = sum(round((segment.speech_ratio or 0) * len(segment.pcm)) for segment in segments)
    assert cutter.speech_samples == (speech if how.by == "speech" else None)
    return facts(segments)


@BY
def test_a_calls_segments_are_each_sides_own_numbered_by_start_and_channel(by):
    listener = detector() if by == "speech" else None
    segments = expected(HOW[by], call(), [0, 1], listener)
    assert found(HOW[by], [call()], [0, 1], listener) == segments
    assert {channel for _, channel, *_ in segments} == {0, 1}
    if by == "speech":  # in turns, not one side after the other
        order = [channel for _, channel, *_ in segments]
        assert order != sorted(order)
        assert len(segments) > 5
    else:
        assert [channel for _, channel, *_ in segments] == [0, 1] * (len(segments) // 2)


@BY
@settings(max_examples=12)
@given(st.lists(st.integers(0, 22 * RATE), max_size=12))
def test_a_calls_segments_do_not_depend_on_how_it_is_pushed(by, cuts):
    listener = detector() if by == "speech" else None
    pieces = np.split(call(), sorted(min(cut, len(call())) for cut in cuts))
    assert found(HOW[by], pieces, [0, 1], listener) == in_one_piece(by)


@cache
def in_one_piece(by: str) -> list:
    return expected(HOW[by], call(), [0, 1], detector() if by == "speech" else None)


def test_a_call_pushed_in_telephone_packets_gives_the_same_segments():
    pieces = np.split(call(), range(320, len(call()), 320))
    assert found(HOW["speech"], pieces, [0, 1], detector()) == in_one_piece("speech")


levels = st.lists(st.tuples(st.sampled_from([0, 100, 400, 600, 1000]), st.integers(1, 90)), min_size=1, max_size=15)


@BY
@settings(max_examples=60)
@given(st.lists(levels, min_size=1, max_size=4), st.lists(st.floats(0, 1), max_size=15), st.integers(0, FRAME - 1))
def test_segments_of_any_channels_come_by_start_and_then_channel_however_they_are_pushed(by, sides, cuts, short):
    length = max(FRAME * min(sum(frames for _, frames in side) for side in sides) - short, 1)
    pcm = np.stack(
        [np.repeat([level for level, _ in side], [FRAME * n for _, n in side])[:length] for side in sides], axis=1
    ).astype(np.int16)
    how = SegmentSettings(by, 2.0, 0.7 if by == "windows" else None)
    listener = Written() if by == "speech" else None
    numbers = list(range(len(sides)))
    pieces = np.split(pcm, sorted(int(cut * length) for cut in cuts))
    assert found(how, pieces, numbers, listener) == expected(how, pcm, numbers, listener)


def test_of_two_that_begin_at_once_the_first_channel_comes_first_even_if_it_ends_last():
    long, short = [(1000, 700), (0, 300)], [(1000, 40), (0, 960)]
    pcm = np.stack([np.repeat([level for level, _ in side], [FRAME * n for _, n in side]) for side in (long, short)], 1)
    pcm = pcm.astype(np.int16)
    how = SegmentSettings("speech", 30.0)
    segments = found(how, np.split(pcm, range(FRAME, len(pcm), FRAME)), [0, 1], Written())
    assert [(channel, start) for _, channel, start, *_ in segments] == [(0, 0), (1, 0)]
    assert segments == expected(how, pcm, [0, 1], Written())


def test_one_side_keeps_the_number_it_has_in_the_file():
    segments = found(HOW["whole"], [call()[:, 1].copy()], [1], None)
    assert {channel for _, channel, *_ in segments} == {1}
    assert segments == expected(HOW["whole"], call()[:, 1:], [1], None)


def test_a_silent_side_holds_nobody_back_and_has_no_segments():
    pcm = call().copy()
    pcm[:, 1] = 0
    cutter = ChannelSegmenter(lambda: segmenter(HOW["speech"], detector(), RATE), [0, 1])
    early = cutter.push(pcm)
    segments = early + cutter.finish()
    assert {segment.channel for segment in segments} == {0}
    assert early  # before the end, though the silent side has said nothing


# Through an ingester


def ingested(content: bytes, folder: Path, by="whole", on_partial="keep", **choice):
    """A recording's segment rows and its closing row."""
    path = folder / "recording"
    path.write_bytes(content)
    stat = path.stat()
    source = Source(str(path), None, stat.st_size, stat.st_mtime_ns)
    recording_id = ids.recording_id("channels", source.uri, source.etag, source.size_bytes, source.modified_ns)
    how = IngestSettings(
        DecodeSettings(RATE, LIMITS, **choice), HOW[by], SourceSettings((), 100 << 20), 1000.0, on_partial
    )
    ingester = Ingester(how)
    try:
        rows = pa.concat_tables(ingester.ingest([Recording(recording_id, source, ["base"], [])])).to_pylist()
    finally:
        ingester.close()
    assert [row["closing"] is None for row in rows] == [True] * (len(rows) - 1) + [False]
    return rows[:-1], rows[-1]["closing"]


@BY
def test_the_wire_has_each_sides_segments_with_its_channel(by, tmp_path):
    rows, closing = ingested(written(call()), tmp_path, by, channels="each")
    assert (closing["status"], closing["channels"], closing["n_segments"]) == ("ok", 2, len(rows))
    wire = [
        (
            row["segment_index"],
            row["channel"],
            round(row["start_seconds"] * RATE),
            round(row["end_seconds"] * RATE),
            row["pcm"],
        )
        for row in rows
    ]
    assert wire == [(index, channel, start, end, pcm) for index, channel, start, end, _, pcm in in_one_piece(by)]
    for _, channel, start, end, pcm in wire:
        np.testing.assert_array_equal(np.frombuffer(pcm, np.int16), call()[start:end, channel])
    if by == "speech":
        spoken = sum(ratio * (end - start) for _, _, start, end, ratio, _ in in_one_piece(by))
        assert closing["speech_seconds"] == pytest.approx(spoken / RATE, abs=1e-3)


@pytest.mark.parametrize(("channels", "number"), [("left", 0), ("right", 1), ("mono", None)])
def test_the_wire_says_which_side_was_kept_and_nothing_where_sides_were_mixed(channels, number, tmp_path):
    rows, closing = ingested(written(call()), tmp_path, channels=channels)
    assert closing["channels"] == 2
    assert {row["channel"] for row in rows} == {number}
    pcm = np.frombuffer(b"".join(row["pcm"] for row in rows), np.int16)
    kept = call().mean(axis=1) if number is None else call()[:, number]
    assert np.abs(pcm - kept).max() <= 0.5


@pytest.mark.parametrize("channels", ["each", "left"])
def test_a_recording_of_one_channel_has_channel_0(channels, tmp_path):
    rows, closing = ingested(written(call()[:, 0].copy()), tmp_path, channels=channels)
    assert (closing["status"], closing["channels"]) == ("ok", 1)
    assert rows
    assert {row["channel"] for row in rows} == {0}


def test_the_second_channel_of_one_is_a_failure_that_names_the_setting(tmp_path):
    rows, closing = ingested(written(call()[:, 0].copy()), tmp_path, channels="right")
    failure = closing["failure"]
    assert not rows
    assert (closing["status"], failure["stage"], failure["code"]) == ("failed", "decode", "no_channel")
    assert not failure["transient"]
    assert "audio.channels: right" in failure["message"]
    assert str(tmp_path) in failure["message"]


def cut_wav():
    content = written(call()[: 8 * RATE])
    return content[: len(content) // 2], "8.00 s", "4.00 s"


def cut_mp3():
    return (CORPUS / "broken/truncated.mp3").read_bytes(), "7.84 s", "4.61 s"


@pytest.mark.parametrize("damaged", [cut_wav, cut_mp3])
def test_a_recording_that_is_cut_short_is_kept_or_fails_with_both_lengths_as_one_wishes(damaged, tmp_path):
    content, declared, decoded = damaged()
    rows, closing = ingested(content, tmp_path, on_partial="keep")
    assert (closing["status"], closing["failure"]) == ("partial", None)
    assert closing["n_segments"] == len(rows) > 0
    assert f"{closing['declared_seconds']:.2f} s" == declared
    assert f"{closing['decoded_seconds']:.2f} s" == decoded
    _, closing = ingested(content, tmp_path, on_partial="fail")
    failure = closing["failure"]
    assert (closing["status"], closing["n_segments"]) == ("failed", 0)
    assert (failure["stage"], failure["code"], failure["transient"]) == ("decode", "partial", False)
    for word in (declared, decoded, "audio.on_partial", str(tmp_path)):
        assert word in failure["message"]


def test_a_whole_recording_does_not_fail_for_being_partial(tmp_path):
    rows, closing = ingested(written(call()), tmp_path, on_partial="fail", channels="each")
    assert (closing["status"], closing["n_segments"]) == ("ok", len(rows))
