"""What is decoded does not depend on where blocks end, and resampling keeps length and energy at any rate."""

import io
from fractions import Fraction
from functools import cache

import av
import numpy as np
import pytest
import soundfile
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from workers import ffmpeg, libsndfile
from workers.decode import decode
from workers.decode_settings import DecodeLimits, DecodeSettings

RATE = 16_000
SECONDS = 1.5
LIMITS = DecodeLimits(max_seconds=3600, max_channels=8)
HIGHEST_KEPT = 0.45  # of the lower of two rates: what resampling must leave alone


class Heard:
    """A sink that keeps what it is given."""

    def __init__(self):
        self.blocks = [np.zeros(0, np.int16)]

    def opened(self, info):
        self.blocks = []

    def samples(self, pcm):
        self.blocks.append(pcm)


def heard(content, channels="mono", rate=RATE):
    sink = Heard()
    ending = decode(io.BytesIO(content), DecodeSettings(rate, LIMITS, channels), sink)
    return ending, np.concatenate(sink.blocks or [np.zeros(0, np.int16)]), len(sink.blocks)


@cache
def sides(rate: int) -> np.ndarray:
    """Int16 noise and a glide, shape (n, 2)."""
    count = round(rate * SECONDS)
    at = np.arange(count) / rate
    noise = np.random.default_rng(5).standard_normal(count) * 3000
    glide = 12_000 * np.sin(2 * np.pi * (200 * at + 900 * at**2))
    return np.stack([noise, glide], axis=1).clip(-32768, 32767).astype(np.int16)


def written(samples, rate, kind, subtype="PCM_16"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype, format=kind)
    return file.getvalue()


def muxed(samples, rate, muxer, codec):
    file = io.BytesIO()
    with av.open(file, "w", format=muxer) as output:
        stream = output.add_stream(codec, rate=rate, layout="stereo")
        stream.codec_context.open()
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        resampler = av.AudioResampler(stream.format, "stereo", rate, stream.codec_context.frame_size or 777)
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            output.mux(stream.encode(part))
    return file.getvalue()


CONTENTS = {
    "WAV at the wire's rate": lambda: written(sides(RATE), RATE, "WAV"),
    "WAV": lambda: written(sides(44_100), 44_100, "WAV"),
    "FLAC": lambda: written(sides(48_000), 48_000, "FLAC"),
    "MP3": lambda: written(sides(44_100), 44_100, "MP3", "MPEG_LAYER_III"),
    "Ogg Vorbis": lambda: written(sides(22_050), 22_050, "OGG", "VORBIS"),
    "half a FLAC": lambda: half(written(sides(48_000), 48_000, "FLAC")),
    "PCM in MOV at the wire's rate": lambda: muxed(sides(RATE), RATE, "mov", "pcm_s16le"),
    "PCM in Matroska": lambda: muxed(sides(44_100), 44_100, "matroska", "pcm_s16le"),
    "AAC in M4A": lambda: muxed(sides(44_100), 44_100, "ipod", "aac"),
    "Ogg Opus": lambda: muxed(sides(48_000), 48_000, "ogg", "libopus"),
    "half a Matroska": lambda: half(muxed(sides(44_100), 44_100, "matroska", "pcm_s16le")),
}
"""What libsndfile decodes, and what FFmpeg does; some of it damaged."""


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


@cache
def content_of(name: str) -> bytes:
    return CONTENTS[name]()


@cache
def in_one_block(name: str, channels: str) -> tuple:
    """The recording as it is where a block is longer than all of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(libsndfile, "BLOCK_FRAMES", 1 << 20)
        patch.setattr(ffmpeg, "BLOCK_FRAMES", 1 << 20)
        ending, pcm, blocks = heard(content_of(name), channels)
    assert blocks == 1
    return ending, pcm


@pytest.mark.parametrize("name", CONTENTS)
@settings(max_examples=12)
@given(st.integers(100, 30_000), st.sampled_from(["mono", "right", "each"]))
@example(128, "mono")  # 4096 samples, a FLAC frame, are whole blocks: one ends where the damage begins
def test_a_recording_in_pieces_is_the_recording_in_one_piece(name, block_frames, channels):
    whole_ending, whole = in_one_block(name, channels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(libsndfile, "BLOCK_FRAMES", block_frames)
        patch.setattr(ffmpeg, "BLOCK_FRAMES", block_frames)
        ending, pcm, blocks = heard(content_of(name), channels)
    assert ending == whole_ending
    assert blocks > 1 or block_frames > 20_000
    assert pcm.shape == whole.shape
    assert np.abs(pcm.astype(int) - whole).max() <= (0 if "wire's rate" in name else 1)


def test_a_cut_flac_keeps_every_frame_before_the_cut_wherever_that_is():
    """Also where the cut follows a whole block: libsndfile tells of damage there before the block is handed out."""
    noise = np.random.default_rng(1).integers(-8000, 8000, 2 * libsndfile.BLOCK_FRAMES).astype(np.int16)
    content = written(noise, RATE, "FLAC")
    frame = 4096 * len(content) // len(noise)
    most = 0
    for cut in range(len(content) * 2 // 5, len(content) * 3 // 5, frame // 3):
        ending, pcm, _ = heard(content[:cut])
        assert "damaged after" in ending.damage
        assert most <= len(pcm) < len(noise)
        assert len(pcm) > len(noise) * cut / len(content) - 3 * 4096
        np.testing.assert_array_equal(pcm, noise[: len(pcm)])
        most = len(pcm)


def at_the_rate(rate: int, count: int, hertz: list[float]) -> bytes:
    at = np.arange(count) / rate
    tones = sum(0.2 * np.sin(2 * np.pi * each * at + number) for number, each in enumerate(hertz))
    return written(np.asarray(tones, np.float32), rate, "WAV", "FLOAT")


def rms(samples):
    return float(np.sqrt(np.mean(np.square(np.asarray(samples, np.float64)))))


@settings(max_examples=150)
@given(st.integers(1_000, 200_000), st.integers(1, 30_000), st.sampled_from([8_000, 16_000, 48_000]))
def test_a_recording_of_any_rate_keeps_its_length_to_a_sample(rate, count, target):
    assume(1 <= count * target / rate < 500_000)
    ending, pcm, _ = heard(at_the_rate(rate, count, [rate / 50]), rate=target)
    assert ending.decoded_seconds == count / rate
    assert abs(len(pcm) - count * target / rate) <= 1


@settings(max_examples=100)
@given(
    st.integers(2_000, 200_000),
    st.lists(st.floats(0.05, HIGHEST_KEPT), min_size=1, max_size=3, unique_by=lambda share: round(share, 2)),
    st.integers(5_000, 70_000),
)
def test_a_recording_of_any_rate_keeps_the_energy_of_what_both_rates_can_hold(rate, shares, block_frames):
    hertz = [share * min(rate, RATE) for share in shares]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(libsndfile, "BLOCK_FRAMES", block_frames)
        _, pcm, _ = heard(at_the_rate(rate, rate, hertz))
    at = np.arange(RATE) / RATE
    expected = 32768 * sum(0.2 * np.sin(2 * np.pi * each * at + number) for number, each in enumerate(hertz))
    inner = slice(RATE // 10, RATE * 9 // 10)
    assert rms(pcm[inner]) == pytest.approx(rms(expected[inner]), rel=0.005)
    assert rms(pcm[inner] - expected[inner]) < 0.005 * rms(expected[inner])  # in phase, too: nothing is late


@settings(max_examples=60)
@given(st.integers(20_000, 200_000), st.floats(0.55, 0.99))
def test_what_the_wire_cannot_hold_is_not_heard(rate, share):
    """From a tenth above half the wire's rate up to half the recording's."""
    hertz = RATE * 0.55 + (rate / 2 - RATE * 0.55) * share
    assume(hertz < rate / 2)
    _, pcm, _ = heard(at_the_rate(rate, rate, [hertz]))
    assert rms(pcm[RATE // 10 : RATE * 9 // 10]) < 3  # 64 dB below what went in
