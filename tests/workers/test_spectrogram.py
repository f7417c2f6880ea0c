import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.spectrogram import LOG_FLOOR, Spectrogrammer
from workers.spectrogram_settings import SpectrogramSettings

CORPUS = Path(__file__).parents[2] / "pipelines" / "demo" / "corpus" / "en"
RATE = 16_000
KINDS = [
    SpectrogramSettings("log_mel"),
    SpectrogramSettings("mfcc"),
    SpectrogramSettings("power"),
    SpectrogramSettings("log_mel", preset="whisper"),
]


def speech() -> np.ndarray:
    """All English wav clips of the corpus, some 40 s, float32 at 16 kHz."""
    files = sorted(CORPUS.glob("*.wav"))
    if not files:
        pytest.skip(f"no speech in {CORPUS}")
    parts = []
    for file in files:
        samples, rate = soundfile.read(file, dtype="float32")
        parts.append(soxr.resample(samples, rate, RATE))
    return np.concatenate(parts)


def sine(hertz: float, seconds: float = 1.0, amplitude: float = 0.25) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def noise(samples: int, amplitude: float = 0.1) -> np.ndarray:
    return (amplitude * np.random.default_rng(7).standard_normal(samples)).astype(np.float32)


def compute(waveform: np.ndarray, kind: str = "log_mel", **settings) -> np.ndarray:
    return Spectrogrammer(SpectrogramSettings(kind, **settings), RATE).compute(waveform)


def slaney_mel(hertz: float) -> float:
    return hertz / (200 / 3) if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)


@pytest.mark.parametrize("hertz", [250, 1000, 3000])
def test_a_sine_peaks_in_its_bin(hertz):
    power = compute(sine(hertz), "power")
    assert set(power[5:-5].argmax(axis=1)) == {round(hertz / (RATE / 512))}
    log_mel = compute(sine(hertz))
    band = slaney_mel(hertz) / slaney_mel(8000) * 81 - 1
    assert set(log_mel[5:-5].argmax(axis=1)) <= {math.floor(band), math.ceil(band)}


def test_doubling_the_amplitude_adds_log_4_to_log_mel():
    np.testing.assert_allclose(compute(noise(RATE, 0.2)) - compute(noise(RATE, 0.1)), math.log(4), atol=1e-4)


def test_doubling_the_amplitude_moves_only_the_first_mfcc_by_6_decibels_in_every_band():
    change = compute(noise(RATE, 0.2), "mfcc") - compute(noise(RATE, 0.1), "mfcc")
    np.testing.assert_allclose(change[:, 0], 20 * math.log10(2) * math.sqrt(80), atol=1e-2)
    np.testing.assert_allclose(change[:, 1:], 0, atol=1e-2)


def test_the_power_spectrum_obeys_parseval():
    waveform = noise(RATE)
    power = compute(waveform, "power")
    two_sided = power[:, 0] + power[:, -1] + 2 * power[:, 1:-1].sum(axis=1)
    window = torch.hann_window(400).numpy()
    for frame in range(2, 98):
        energy = np.square(window * waveform[frame * 160 - 200 : frame * 160 + 200]).sum()
        assert two_sided[frame] / 512 == pytest.approx(energy, rel=1e-4)


def test_silence_is_the_floor():
    np.testing.assert_allclose(compute(np.zeros(RATE, np.float32)), math.log(LOG_FLOOR), rtol=1e-6)
    assert not compute(np.zeros(RATE, np.float32), "power").any()


def test_a_click_is_in_the_frames_around_its_time():
    click = np.zeros(RATE, np.float32)
    click[8000] = 1.0
    energy = compute(click, "power").sum(axis=1)
    assert energy.argmax() == 8000 // 160
    assert set(np.flatnonzero(energy > 1e-6)) == {49, 50, 51}


@pytest.mark.parametrize("bins", [40, 80, 128])
def test_log_mel_is_torchaudios_mel_spectrogram(bins):
    import torchaudio

    waveform = speech()[: 5 * RATE]
    mel = torchaudio.transforms.MelSpectrogram(
        RATE, 512, 400, 160, n_mels=bins, pad_mode="constant", norm="slaney", mel_scale="slaney"
    )
    expected = mel(torch.from_numpy(waveform)).clamp(min=LOG_FLOOR).log().T.numpy()
    np.testing.assert_allclose(compute(waveform, n_bins=bins), expected, atol=1e-3)


@pytest.mark.parametrize("coefficients", [13, 40])
def test_mfcc_is_torchaudios_mfcc(coefficients):
    import torchaudio

    waveform = speech()[: 5 * RATE]
    shape = {"n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 80, "pad_mode": "constant"}
    expected = torchaudio.transforms.MFCC(RATE, coefficients, melkwargs=shape)(torch.from_numpy(waveform)).T.numpy()
    np.testing.assert_allclose(compute(waveform, "mfcc", n_bins=coefficients), expected, atol=1e-2)


@pytest.mark.parametrize("bins", [80, 128])
@pytest.mark.parametrize("samples", [1, 399, 16_000, 3 * RATE + 77, 30 * RATE])
def test_the_whisper_preset_is_the_start_of_what_transformers_computes(bins, samples):
    from transformers import WhisperFeatureExtractor

    waveform = speech()[:samples]
    padded = WhisperFeatureExtractor(feature_size=bins)(waveform, sampling_rate=RATE, return_tensors="np")
    expected = padded["input_features"][0].T[: -(-samples // 160)]
    found = compute(waveform, preset="whisper", n_bins=bins)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("bins", [80, 128])
def test_the_whisper_preset_goes_on_beyond_30_seconds(bins):
    from transformers import WhisperFeatureExtractor

    waveform = speech()[: 33 * RATE + 77]
    assert len(waveform) > 30 * RATE
    extract = WhisperFeatureExtractor(feature_size=bins, chunk_length=40)  # pads to 40 s: the same formula over more
    features = extract(waveform, sampling_rate=RATE, return_tensors="np")
    expected = features["input_features"][0].T[: -(-len(waveform) // 160)]
    np.testing.assert_allclose(compute(waveform, preset="whisper", n_bins=bins), expected, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_an_empty_clip_has_no_frames(kind):
    spectrogrammer = Spectrogrammer(kind, RATE)
    features = spectrogrammer.compute(np.zeros(0, np.float32))
    assert features.shape == (0, spectrogrammer.n_bins)
    assert features.dtype == np.float32


SPECTROGRAMMERS = [Spectrogrammer(kind, RATE) for kind in KINDS]


@settings(max_examples=60)
@given(samples=st.integers(1, 2000), amplitude=st.sampled_from([0.0, 1e-5, 1.0]), which=st.sampled_from([0, 1, 2, 3]))
def test_a_clip_however_short_or_quiet_gives_finite_frames(samples, amplitude, which):
    features = SPECTROGRAMMERS[which].compute(noise(samples, amplitude).clip(-1, 1))
    frames = -(-samples // 160) if KINDS[which].preset else 1 + samples // 160
    assert features.shape == (frames, SPECTROGRAMMERS[which].n_bins)
    assert features.dtype == np.float32
    assert features.flags.c_contiguous
    assert np.isfinite(features).all()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_memory_that_is_read_only_strided_or_double_gives_the_same(kind):
    waveform = noise(4000)
    frozen = waveform.copy()
    frozen.flags.writeable = False
    spectrogrammer = Spectrogrammer(kind, RATE)
    expected = spectrogrammer.compute(waveform)
    for other in (frozen, np.repeat(waveform, 2)[::2], waveform.astype(np.float64)):
        np.testing.assert_array_equal(spectrogrammer.compute(other), expected)


def test_bins_and_hop_are_known_before_anything_is_computed():
    found = [(s.n_bins, s.hop_seconds) for s in SPECTROGRAMMERS]
    assert found == [(80, 0.01), (40, 0.01), (257, 0.01), (80, 0.01)]


def test_a_longer_window_has_finer_bins_and_another_hop_another_number_of_frames():
    spectrogrammer = Spectrogrammer(SpectrogramSettings("power", window_seconds=0.064, hop_seconds=0.032), RATE)
    features = spectrogrammer.compute(sine(1000))
    assert features.shape == (1 + RATE // 512, 513)
    assert features[10].argmax() == 64


def test_bands_are_within_their_limits():
    low, high = sine(200), sine(6000)
    features = [compute(waveform, n_bins=20, f_min=1000, f_max=4000)[50].max() for waveform in (low, high, sine(2000))]
    assert features[2] - max(features[:2]) > 8


def test_the_number_of_torch_threads_is_left_as_it_was():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        compute(noise(RATE))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "cqt"}, "of kind log_mel, mfcc or power"),
        ({"n_bins": 0}, "n_bins must be"),
        ({"hop_seconds": 0.0}, "hop_seconds <= window_seconds"),
        ({"hop_seconds": 0.05}, "hop_seconds <= window_seconds"),
        ({"f_min": 4000, "f_max": 3000}, "f_min < f_max"),
        ({"kind": "power", "n_bins": 80}, "takes no n_bins"),
        ({"kind": "mfcc", "n_bins": 81}, "at most 80 MFCCs"),
        ({"preset": "kaldi"}, "only preset"),
        ({"preset": "whisper", "kind": "mfcc"}, "only preset"),
        ({"preset": "whisper", "n_bins": 64}, "only preset"),
        ({"preset": "whisper", "f_min": 20.0}, "fixes f_min"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        SpectrogramSettings(**{"kind": "log_mel", **wrong})


@pytest.mark.parametrize(
    ("settings", "rate", "message"),
    [
        (SpectrogramSettings("log_mel", f_max=7000), 8000, "do not fit in 0 to 4000"),
        (SpectrogramSettings("log_mel", n_bins=400), 16_000, "narrower than the FFT's bins"),
        (SpectrogramSettings("log_mel", preset="whisper"), 8000, "needs 16000 Hz"),
        (SpectrogramSettings("log_mel", hop_seconds=1e-6), 16_000, "1 and 2 samples or more"),
    ],
)
def test_settings_that_a_sampling_rate_cannot_serve_are_refused(settings, rate, message):
    with pytest.raises(ValueError, match=message):
        Spectrogrammer(settings, rate)


@pytest.mark.parametrize("waveform", [np.zeros(5, np.int16), np.zeros((2, 5), np.float32)])
def test_a_waveform_of_another_form_is_refused(waveform):
    with pytest.raises(ValueError, match="one axis of floats"):
        compute(waveform)


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("kind", KINDS[:3], ids=str)
def test_the_defaults_serve_every_usual_sampling_rate(kind, rate):
    assert np.isfinite(Spectrogrammer(kind, rate).compute(noise(rate))).all()
