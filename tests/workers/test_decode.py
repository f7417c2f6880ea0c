"""Decoding in this process: lengths, levels and pitches come out as they went in; damage and limits are said."""

import io
import os
import struct
import tracemalloc
import wave
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import soxr

from schemas.failures import CODES
from tests.hearing import Heard
from workers import container, libsndfile
from workers.container import Container
from workers.decode import decode
from workers.decode_settings import DecodeLimits, DecodeSettings
from workers.decoded import AudioInfo, DecodeError, Ending
from workers.samples import to_int16

CORPUS = Path(__file__).parents[2] / "pipelines" / "demo" / "corpus"
SUFFIXES = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".mp4"}
CLIPS = sorted(path for path in CORPUS.rglob("*") if path.suffix in SUFFIXES and path.parent.name != "broken")
RATE = 16_000
LIMITS = DecodeLimits(max_seconds=3600, max_channels=8)
CODEC_DELAY_SECONDS = 0.15  # AAC at 16 kHz: 1024 samples of priming, and the last frame filled up


def heard(content, rate=RATE, limits=LIMITS, raw=None, **choice):
    sink = Heard()
    ending = decode(io.BytesIO(content), DecodeSettings(rate, limits, **choice), sink, raw)
    return sink.info, ending, sink.pcm


def refusal(content, rate=RATE, limits=LIMITS, raw=None, **choice):
    sink = Heard()
    with pytest.raises(DecodeError) as caught:
        decode(io.BytesIO(content), DecodeSettings(rate, limits, **choice), sink, raw)
    assert caught.value.code in CODES
    return caught.value


def sine(hertz, rate, seconds=2.0, level=0.5):
    return level * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def written(samples, rate, kind="WAV", subtype="PCM_16"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def muxed(samples, rate, muxer, codec, options=None):
    """Samples of shape (n,) or (n, 2), encoded by FFmpeg."""
    file, layout = io.BytesIO(), "mono" if samples.ndim == 1 else "stereo"
    with av.open(file, "w", format=muxer, options=options or {}) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 96_000
        stream.codec_context.open()
        pcm = np.ascontiguousarray(to_int16(samples.astype(np.float32).reshape(-1)).reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout=layout)
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.format, layout, rate, stream.codec_context.frame_size or 1024)
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            output.mux(stream.encode(part))
    return file.getvalue()


def silent_film(muxer):
    """A container with a video track and nothing to hear."""
    file = io.BytesIO()
    with av.open(file, "w", format=muxer) as output:
        stream = output.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        for number in range(5):
            picture = np.full((64, 64, 3), number * 40, np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))
    return file.getvalue()


def speech():
    """A real clip at 16 kHz, float64."""
    samples, rate = soundfile.read(CORPUS / "en/confbridge-pin-bad.wav")
    return soxr.resample(samples, rate, RATE)


def rms(samples):
    return float(np.sqrt(np.mean(np.square(np.asarray(samples, np.float64)))))


def pitch(pcm, rate):
    spectrum = np.abs(np.fft.rfft(pcm * np.hanning(len(pcm))))
    return float(np.argmax(spectrum) * rate / len(pcm))


def likeness(one, other):
    """The highest normalised correlation at any delay."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    size = 1 << (len(one) + len(other)).bit_length()
    lagged = np.fft.irfft(np.fft.rfft(one, size) * np.fft.rfft(other, size).conj(), size)
    return float(lagged.max() / np.sqrt(np.dot(one, one) * np.dot(other, other)))


# The demo's clips


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.name)
def test_a_demo_clip_decodes_to_the_length_its_header_declares(clip):
    info, ending, pcm = heard(clip.read_bytes())
    assert ending.damage is None
    assert ending.decoded_seconds == pytest.approx(info.declared_seconds, abs=CODEC_DELAY_SECONDS)
    assert len(pcm) / RATE == pytest.approx(ending.decoded_seconds, abs=1 / RATE)
    assert 300 < rms(pcm) < 12_000  # a voice at a sane level, not silence and not noise at full scale


@pytest.mark.parametrize(
    ("name", "container", "codec", "rate", "channels"),
    [
        ("en/invalid.wav", "wav", "pcm_16", 8000, 1),
        ("en/basic-pbx-ivr-main.flac", "flac", "pcm_16", 8000, 1),
        ("en/demo-echotest.mp3", "mp3", "mp3", 8000, 1),
        ("en/tt-monkeys.ogg", "ogg", "vorbis", 8000, 1),
        ("en/priv-introsaved.opus", "ogg", "opus", 48000, 1),
        ("en/tt-allbusy.m4a", "mp4", "aac", 16000, 1),
        ("en/vm-newuser.mp4", "mp4", "aac", 44100, 2),
    ],
)
def test_a_demo_clip_is_described_as_what_it_is(name, container, codec, rate, channels):
    info, _, _ = heard((CORPUS / name).read_bytes())
    assert (info.container, info.codec, info.sample_rate, info.channels) == (container, codec, rate, channels)
    assert info.decoder.startswith(("libsndfile ", "PyAV "))


# What goes in comes out


@pytest.mark.parametrize(
    ("muxer", "codec"),
    [
        ("mp3", "libmp3lame"),
        ("adts", "aac"),
        ("mp4", "aac"),
        ("ogg", "libopus"),
        ("webm", "libopus"),
        ("matroska", "pcm_s24le"),
        ("mov", "pcm_s16be"),
        ("mpegts", "aac"),
        ("flv", "aac"),
        ("avi", "pcm_s16le"),
        ("asf", "wmav2"),
        ("caf", "pcm_s16be"),
        ("au", "pcm_mulaw"),
    ],
)
def test_an_encoded_clip_is_the_clip_it_was_made_from(muxer, codec):
    original = to_int16(speech().astype(np.float32))
    info, ending, pcm = heard(muxed(speech(), RATE, muxer, codec))
    assert ending.damage is None
    assert info.channels == 1
    assert len(pcm) == pytest.approx(len(original), abs=CODEC_DELAY_SECONDS * RATE)
    assert rms(pcm) == pytest.approx(rms(original), rel=0.1)
    assert likeness(pcm, original) > 0.97


@pytest.mark.parametrize(("kind", "subtype"), [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")])
def test_what_libsndfile_encodes_is_the_clip_it_was_made_from(kind, subtype):
    original = to_int16(speech().astype(np.float32))
    _, ending, pcm = heard(written(speech(), RATE, kind, subtype))
    assert ending.damage is None
    assert len(pcm) == pytest.approx(len(original), abs=CODEC_DELAY_SECONDS * RATE)
    assert rms(pcm) == pytest.approx(rms(original), rel=0.1)
    assert likeness(pcm, original) > 0.97


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64", "AIFF", "FLAC"])
def test_16_bit_audio_at_the_wires_rate_passes_bit_exact(kind):
    noise = np.random.default_rng(7).integers(-32768, 32768, 5 * RATE).astype(np.int16)
    noise[:4] = [-32768, 32767, 0, -1]
    info, ending, pcm = heard(written(noise, RATE, kind))
    np.testing.assert_array_equal(pcm, noise)
    assert info.declared_seconds == ending.decoded_seconds == 5.0


@pytest.mark.parametrize(
    ("subtype", "step"), [("PCM_U8", 256), ("PCM_24", 1), ("PCM_32", 1), ("FLOAT", 1), ("DOUBLE", 1)]
)
def test_wav_of_any_depth_keeps_its_samples(subtype, step):
    tone = sine(440, RATE)
    _, _, pcm = heard(written(tone, RATE, subtype=subtype))
    assert np.abs(pcm - tone * 32768).max() <= step
    assert rms(pcm) == pytest.approx(rms(tone) * 32768, rel=0.01)


@pytest.mark.parametrize("subtype", ["ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610"])
def test_telephone_wav_keeps_pitch_and_level(subtype):
    _, _, pcm = heard(written(sine(1000, 8000), 8000, subtype=subtype))
    assert pitch(pcm, RATE) == pytest.approx(1000, abs=1)
    assert rms(pcm) == pytest.approx(0.5 / np.sqrt(2) * 32768, rel=0.05)


@pytest.mark.parametrize("source", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_resampling_keeps_length_pitch_and_level(source):
    tone = sine(1000, source, seconds=3.0)
    _, ending, pcm = heard(written(tone, source, subtype="FLOAT"))
    assert ending.decoded_seconds == 3.0
    assert abs(len(pcm) - 3 * RATE) <= 1
    inner = pcm[RATE // 2 : -RATE // 2]
    assert pitch(inner, RATE) == pytest.approx(1000, abs=1)
    assert rms(inner) == pytest.approx(0.5 / np.sqrt(2) * 32768, rel=0.002)


def test_what_is_above_the_wires_band_does_not_fold_back_into_it():
    _, _, pcm = heard(written(sine(11_000, 48_000), 48_000, subtype="FLOAT"))
    assert rms(pcm[1000:-1000]) < 2  # -80 dB of what went in


def test_resampling_does_not_depend_on_where_blocks_end(monkeypatch):
    content = written(sine(1000, 44_100), 44_100)
    _, _, whole = heard(content)
    monkeypatch.setattr(libsndfile, "BLOCK_FRAMES", 777)
    _, _, pieces = heard(content)
    assert len(pieces) == len(whole)
    assert np.abs(pieces.astype(int) - whole).max() <= 1


def test_channels_are_averaged():
    left, right = sine(440, RATE, level=0.8), sine(1000, RATE, level=0.4)
    _, _, pcm = heard(written(np.stack([left, right], axis=1), RATE))
    assert np.abs(pcm - (left + right) / 2 * 32768).max() <= 1.5


def test_one_sided_stereo_comes_out_at_half_level():
    tone = sine(440, RATE)
    _, _, pcm = heard(written(np.stack([tone, 0 * tone], axis=1), RATE))
    assert rms(pcm) == pytest.approx(rms(tone) * 32768 / 2, rel=0.001)


def test_opposite_channels_cancel():
    tone = sine(440, RATE)
    _, _, pcm = heard(written(np.stack([tone, -tone], axis=1), RATE))
    assert np.abs(pcm).max() <= 1


@pytest.mark.parametrize(("muxer", "codec"), [("mov", "pcm_s16le"), ("matroska", "pcm_s24le"), ("mp4", "aac")])
def test_ffmpegs_stereo_is_averaged_like_libsndfiles(muxer, codec):
    tone = sine(440, 44_100, level=0.6)
    info, _, pcm = heard(muxed(np.stack([tone, 0 * tone], axis=1), 44_100, muxer, codec))
    assert info.channels == 2
    inner = pcm[RATE // 2 : -RATE // 2]
    assert pitch(inner, RATE) == pytest.approx(440, abs=1)
    assert rms(inner) == pytest.approx(0.3 / np.sqrt(2) * 32768, rel=0.03)


def test_the_demos_video_has_its_voice_on_both_channels_at_full_level():
    content = (CORPUS / "en/vm-newuser.mp4").read_bytes()
    with av.open(io.BytesIO(content)) as film:
        planes = np.concatenate([frame.to_ndarray() for frame in film.decode(audio=0)], axis=1)
    _, _, pcm = heard(content)
    assert rms(pcm) == pytest.approx(rms(planes[0]) * 32768, rel=0.1)


def test_samples_out_of_range_are_clipped_and_not_numbers_are_silence():
    np.testing.assert_array_equal(
        to_int16(np.array([2.0, -2.0, np.nan, np.inf, -np.inf, 0.25], np.float32)),
        [32767, -32768, 0, 32767, -32768, 8192],
    )


def test_a_float_wav_with_not_a_number_in_it_keeps_the_rest():
    tone = sine(440, RATE).astype(np.float32)
    broken = tone.copy()
    broken[100:200] = np.nan
    _, _, pcm = heard(written(broken, RATE, subtype="FLOAT"))
    assert not pcm[100:200].any()
    np.testing.assert_array_equal(pcm[200:], to_int16(tone[200:]))


# Damage


def test_the_demos_truncated_mp3_is_partial_and_says_why():
    info, ending, pcm = heard((CORPUS / "broken/truncated.mp3").read_bytes())
    assert ending.damage == "the header declares 7.84 s, 4.61 s decoded: cut short, or with gaps"
    assert info.declared_seconds == pytest.approx(7.84, abs=0.01)
    assert len(pcm) / RATE == pytest.approx(4.61, abs=0.01)
    assert rms(pcm) > 300


@pytest.mark.parametrize(
    ("kind", "subtype"), [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "IMA_ADPCM"), ("AIFF", "PCM_16")]
)
def test_a_file_shorter_than_its_header_declares_is_partial(kind, subtype):
    content = written(sine(440, RATE, seconds=4), RATE, kind, subtype)
    info, ending, pcm = heard(content[: len(content) // 2])
    assert info.declared_seconds == pytest.approx(4, abs=0.1)
    assert ending.decoded_seconds == pytest.approx(2, abs=0.1)
    assert "declares 4." in ending.damage
    assert "cut short" in ending.damage
    assert pitch(pcm, RATE) == pytest.approx(440, abs=1)


def test_a_truncated_demo_wav_is_partial_with_the_samples_that_are_there():
    content = (CORPUS / "en/invalid.wav").read_bytes()
    whole, _, all_of_it = heard(content, rate=8000)
    info, ending, pcm = heard(content[:30_000], rate=8000)
    assert info.declared_seconds == whole.declared_seconds
    assert ending.decoded_seconds == (30_000 - 44) / 2 / 8000
    assert ending.damage
    np.testing.assert_array_equal(pcm, all_of_it[: len(pcm)])


def test_a_last_few_samples_missing_is_no_damage():
    content = (CORPUS / "en/invalid.wav").read_bytes()
    assert heard(content[:-1000])[1].damage is None


@pytest.mark.parametrize("name", ["en/followme/status.flac", "en/basic-pbx-ivr-main.flac"])
def test_a_truncated_flac_keeps_what_came_before_the_damage(name):
    content = (CORPUS / name).read_bytes()
    _, _, all_of_it = heard(content, rate=8000)
    info, ending, pcm = heard(content[: len(content) // 2], rate=8000)
    assert "damaged after" in ending.damage
    assert 0.3 * info.declared_seconds < ending.decoded_seconds < 0.7 * info.declared_seconds
    np.testing.assert_array_equal(pcm, all_of_it[: len(pcm)])


@pytest.mark.parametrize(
    ("muxer", "codec", "options"),
    [("mp4", "aac", {"movflags": "frag_keyframe+empty_moov"}), ("matroska", "pcm_s16le", {})],
)
def test_a_truncated_film_keeps_what_came_before_the_damage(muxer, codec, options):
    content = muxed(np.tile(speech(), 3), RATE, muxer, codec, options)
    info, ending, _ = heard(content[: len(content) // 2])
    assert info.declared_seconds == pytest.approx(3 * len(speech()) / RATE, abs=0.2)
    assert 0.3 * info.declared_seconds < ending.decoded_seconds < 0.7 * info.declared_seconds
    assert ending.damage


def test_an_mp4_without_its_index_is_unreadable():
    content = (CORPUS / "en/tt-allbusy.m4a").read_bytes()
    assert refusal(content[: len(content) // 2]).code == "unreadable"


def quiet_then_loud():
    """What a guess from the first frames' bit rate takes for a far longer recording."""
    return np.concatenate([np.full(20 * RATE, 1e-5), np.random.default_rng(1).uniform(-0.5, 0.5, 10 * RATE)])


def test_raw_aac_declares_no_length_and_is_not_partial_for_starting_quietly():
    info, ending, _ = heard(muxed(quiet_then_loud(), RATE, "adts", "aac"))
    assert info.declared_seconds is None
    assert ending == Ending(pytest.approx(30, abs=CODEC_DELAY_SECONDS), None)


def test_a_variable_mp3_without_its_xing_frame_declares_no_length():
    file = io.BytesIO()
    soundfile.write(file, quiet_then_loud(), RATE, format="MP3", bitrate_mode="VARIABLE")
    content = file.getvalue()
    assert heard(content)[0].declared_seconds == 30
    second_frame = content.index(content[:2], 8)
    assert b"Xing" in content[:second_frame]
    info, ending, _ = heard(content[second_frame:])
    assert info.declared_seconds is None
    assert ending == Ending(pytest.approx(30, abs=CODEC_DELAY_SECONDS), None)


# What a header claims


def riff_claiming(size, samples):
    """A WAV whose header says that it holds `size` bytes of samples."""
    content = bytearray(written(samples, RATE))
    content[4:8] = content[40:44] = struct.pack("<I", size)
    assert content[36:40] == b"data"
    return bytes(content)


@pytest.mark.parametrize("size", [2**32 - 1, 2**32 - 37, 2**31 - 1])
def test_a_length_left_open_by_who_wrote_to_a_pipe_is_no_damage(size):
    tone = to_int16(sine(440, RATE).astype(np.float32))
    info, ending, pcm = heard(riff_claiming(size, tone))
    np.testing.assert_array_equal(pcm, tone)
    assert info.declared_seconds is None
    assert ending.damage is None


def test_a_wav_that_claims_four_gigabytes_costs_no_more_than_what_it_holds():
    content = riff_claiming(2**32 - 1, np.zeros(RATE, np.int16))
    heard(content)  # the first call imports and warms
    tracemalloc.start()
    try:
        heard(content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 << 20


def test_a_long_wav_streams_through_in_flat_memory():
    content = written(np.zeros(20 * 60 * RATE, np.int16), RATE)  # 38 MB

    class Forgetful:
        seconds = 0.0

        def opened(self, info):
            pass

        def samples(self, pcm):
            self.seconds += len(pcm) / RATE

    sink = Forgetful()
    file = io.BytesIO(content)
    tracemalloc.start()
    try:
        decode(file, DecodeSettings(RATE, LIMITS), sink)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sink.seconds == pytest.approx(1200)
    assert peak < 4 << 20


# Refusals


def test_no_bytes_are_empty():
    assert refusal((CORPUS / "broken/empty.wav").read_bytes()).code == "empty"


def test_a_header_without_samples_is_empty():
    assert refusal(written(np.zeros(0, np.int16), RATE)).code == "empty"


def test_notes_under_an_audio_name_are_not_audio():
    error = refusal((CORPUS / "broken/notes.wav").read_bytes())
    assert error.code == "not_audio"
    assert "Field no" in error.message


@pytest.mark.parametrize("muxer", ["mp4", "matroska", "avi", "mpegts"])
def test_a_silent_film_has_no_audio_track(muxer):
    assert refusal(silent_film(muxer)).code == "no_audio_track"


@pytest.mark.parametrize(
    "head", [b"RIFF\x24\x00\x00\x00WAVE", b"OggS", b"fLaC", b"\x1a\x45\xdf\xa3", b"ID3\x04\x00\x00\x00\x00\x00\x00"]
)
def test_a_good_magic_with_noise_behind_it_is_unreadable(head):
    noise = np.random.default_rng(3).bytes(20_000)
    assert refusal(head + noise).code in ("unreadable", "empty")


@pytest.mark.parametrize(
    "name", ["en/invalid.wav", "en/demo-echotest.mp3", "en/tt-allbusy.m4a", "en/priv-introsaved.opus"]
)
def test_a_recording_longer_than_the_limit_is_refused(name):
    content = (CORPUS / name).read_bytes()
    error = refusal(content, limits=DecodeLimits(max_seconds=2, max_channels=8))
    assert error.code == "limit_seconds"
    assert "limits.max_seconds" in error.message


def test_a_recording_as_long_as_the_limit_is_taken():
    content = written(sine(440, RATE, seconds=2), RATE)
    assert heard(content, limits=DecodeLimits(2, 1))[1].decoded_seconds == 2


def test_a_header_that_lies_about_its_length_does_not_pass_the_limit():
    content = bytearray(muxed(np.tile(speech(), 2), RATE, "matroska", "pcm_s16le"))
    error = refusal(bytes(content), limits=DecodeLimits(5, 8))
    assert error.code == "limit_seconds"


@pytest.mark.parametrize(
    "content",
    [
        written(np.zeros((RATE, 3)), RATE),
        muxed(np.zeros((RATE, 2)), RATE, "mp4", "aac"),
    ],
    ids=["libsndfile", "ffmpeg"],
)
def test_more_channels_than_the_limit_are_refused(content):
    error = refusal(content, limits=DecodeLimits(3600, 1))
    assert error.code == "limit_channels"
    assert "limits.max_channels" in error.message


def test_a_thousand_channels_are_refused_before_memory_is_taken_for_them():
    file = io.BytesIO()
    with wave.open(file, "wb") as output:
        output.setparams((1000, 2, RATE, 0, "NONE", ""))
        output.writeframes(bytes(2000 * 100))
    tracemalloc.start()
    try:
        assert refusal(file.getvalue()).code == "limit_channels"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20  # a block of it would be 262 MB


@pytest.mark.parametrize("rate", [100, 999, 768_001, 2_000_000])
def test_an_absurd_sampling_rate_is_refused(rate):
    error = refusal(written(np.zeros(1000), rate))
    assert error.code == "limit_rate"
    assert str(rate) in error.message


@pytest.mark.parametrize("rate", [1_000, 768_000])
def test_the_outermost_rates_are_taken(rate):
    assert heard(written(np.zeros(rate), rate))[1].decoded_seconds == 1


# Nested opens


def hls_playlist(target):
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n".encode()


def concat_script(target):
    return f"ffconcat version 1.0\nfile '{target}'\n".encode()


PLAYLISTS = pytest.mark.parametrize(("demuxer", "playlist"), [("hls", hls_playlist), ("concat", concat_script)])


@PLAYLISTS
def test_a_playlist_under_an_audio_name_is_not_audio(demuxer, playlist):
    assert refusal(playlist(CORPUS / "en/invalid.wav")).code == "not_audio"


@PLAYLISTS
def test_even_a_demuxer_that_opens_other_files_is_kept_from_it(demuxer, playlist, tmp_path, monkeypatch):
    target = tmp_path / "target.ts"
    target.write_bytes(muxed(speech(), RATE, "mpegts", "aac"))
    script = tmp_path / "list"
    script.write_bytes(playlist(target))
    with av.open(str(script), format=demuxer, options={"safe": "0"} if demuxer == "concat" else {}) as opened:
        assert next(opened.decode(audio=0)).samples  # FFmpeg does open it, left to itself
    os.utime(target, ns=(0, 0))
    monkeypatch.setattr(container, "by_signature", lambda head: Container("playlist", demuxer))
    assert refusal(script.read_bytes()).code in ("unreadable", "no_audio_track")
    assert target.stat().st_atime_ns == 0  # nobody read it


def test_an_info_is_what_the_wire_says():
    told = {"container", "codec", "sample_rate", "channels", "declared_seconds", "decoder"}
    assert set(AudioInfo.__slots__) == told | {"counts_samples"}
