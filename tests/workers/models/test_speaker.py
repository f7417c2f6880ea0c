"""The GE2E speaker encoder with its real weights, on real clips, and against plain readings of Resemblyzer 0.1.4."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soxr
import torch
from batch_independence import check_batch_independence
from safetensors.torch import load_file
from transformers.audio_utils import mel_filter_bank

from workers.decode_settings import DecodeLimits, DecodeSettings
from workers.decoder import Decoder, Request
from workers.models import speaker_weights
from workers.models.kinds import KINDS
from workers.models.model import Clip, Loading, ModelStage
from workers.models.speaker import SpeakerModel, gain, partial_count
from workers.models.speaker_weights import convert_packaged
from workers.packaged import PACKAGED
from workers.weights import ModelError, resolve

CORPUS = Path(__file__).parents[3] / "pipelines/demo/corpus"
RATE = 16_000
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def package():
    spec = find_spec("resemblyzer")
    if spec is None or spec.origin is None:
        pytest.skip("the package Resemblyzer is not installed: pip install --no-deps Resemblyzer==0.1.4")
    return Path(spec.origin).parent


@pytest.fixture(scope="module")
def folder(package, tmp_path_factory):
    made = tmp_path_factory.mktemp("ge2e")
    convert_packaged(package, made)
    return made


def model(folder, pooling="mean", batch_seconds=120.0):
    stage = ModelStage("embeddings/ge2e", "embeddings", {"pooling": pooling})
    return SpeakerModel.load(Loading(folder, CPU, torch.float32, (stage,), 16, batch_seconds))


@pytest.fixture(scope="module")
def prompts():
    """Samples of the demo's clips of 1.6 s and more, by language."""
    decoder = Decoder(DecodeSettings(RATE, DecodeLimits(60, 2)))
    found = {"en": [], "es": []}
    for path in sorted(CORPUS.glob("e[ns]/**/*.*")):
        if path.stem in ("beep", "tt-monkeys"):  # no speech
            continue
        answers = decoder.stream([Request(path.read_bytes())])
        parts = [answer for answer in answers if isinstance(answer, np.ndarray)]
        pcm = np.concatenate(parts) if parts else np.zeros(0)
        if len(pcm) >= 1.6 * RATE:
            found[path.relative_to(CORPUS).parts[0]].append(pcm.astype(np.float32) / 32768)
    decoder.close()
    return found


def plain_mel(waveform):
    """librosa.feature.melspectrogram(n_fft=400, hop_length=160, n_mels=40) in float64: (frames, 40), of the power."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    padded = np.pad(waveform.astype(np.float64), 200)
    frames = np.array([padded[start : start + 400] * hann for start in range(0, len(waveform) + 1, 160)])
    bank = mel_filter_bank(201, 40, 0, 8_000, RATE, norm="slaney", mel_scale="slaney")
    return np.abs(np.fft.rfft(frames)) ** 2 @ bank


def plain_lstm(mels, state):
    """The last hidden state of three LSTM layers over (frames, 40), gate by gate."""
    sequence = mels
    for layer in range(3):
        to_gates, back, *biases = (
            state[f"lstm.{name}_l{layer}"].double().numpy() for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        hidden, cell, seen = np.zeros(256), np.zeros(256), []
        for step in sequence:
            gates = to_gates @ step + back @ hidden + sum(biases)
            take, forget, show = (1 / (1 + np.exp(-gates[start : start + 256])) for start in (0, 256, 768))
            cell = forget * cell + take * np.tanh(gates[512:768])
            hidden = show * np.tanh(cell)
            seen.append(hidden)
        sequence = np.array(seen)
    return hidden


def plain_slices(samples):
    """VoiceEncoder.compute_partial_slices at a rate of 1.3 and a coverage of 0.75: first frames of the partials."""
    frames = int(np.ceil((samples + 1) / 160))
    step = int(np.round((RATE / 1.3) / 160))
    starts = list(range(0, max(1, frames - 160 + step + 1), step))
    if (samples - starts[-1] * 160) / (160 * 160) < 0.75 and len(starts) > 1:
        starts.pop()
    return starts


def plain_utterance(waveform, folder):
    """Resemblyzer without its trimming: (partials, 256), and their mean at length 1."""
    state = load_file(folder / "model.safetensors")
    loudness = 20 * np.log10(np.sqrt(np.mean(waveform.astype(np.float64) ** 2)))
    louder = waveform * 10 ** (max(0.0, -30 - loudness) / 20)
    starts = plain_slices(len(waveform))
    end = (starts[-1] + 160) * 160
    mel = plain_mel(np.pad(louder, (0, max(0, end - len(louder)))))
    hidden = np.array([plain_lstm(mel[start : start + 160], state) for start in starts])
    raw = np.maximum(hidden @ state["linear.weight"].double().numpy().T + state["linear.bias"].double().numpy(), 0)
    partials = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    mean = partials.mean(axis=0)
    return partials, mean / np.linalg.norm(mean)


@pytest.mark.parametrize("level", [1.0, 0.01])
def test_embeddings_equal_the_description(folder, prompts, level):
    for waveform in (prompts["en"][0][: 4 * RATE], prompts["es"][0][:20_000]):
        waveform = waveform * np.float32(level)
        partials, utterance = plain_utterance(waveform, folder)
        (found,) = model(folder, "frames").run([Clip(waveform)])
        np.testing.assert_allclose(found, partials, rtol=0, atol=1e-4)
        (found,) = model(folder).run([Clip(waveform)])
        np.testing.assert_allclose(found, utterance, rtol=0, atol=1e-4)


@pytest.mark.parametrize("samples", [*range(0, 80_000, 997), 12_320, 25_600, 25_599, 31_520, 31_519, 3_600 * RATE])
def test_partials_are_those_of_the_reference(samples):
    assert partial_count(samples) == len(plain_slices(samples))


def test_only_faint_clips_get_louder():
    sine = np.sin(np.arange(RATE) / 3).astype(np.float32)
    assert gain(sine) == gain(np.zeros(9, np.float32)) == gain(np.zeros(0, np.float32)) == 1
    faint = 0.001 * sine
    assert np.sqrt(np.mean((faint * gain(faint)) ** 2)) == pytest.approx(10 ** (-30 / 20), rel=1e-4)


def test_english_prompts_are_nearer_to_each_other_than_to_the_spanish_ones(folder, prompts):
    """One narrator read both languages, so similarities are high all over; her English is nearest to her English."""
    english, spanish = ([Clip(waveform) for waveform in prompts[language]] for language in ("en", "es"))
    assert len(english) >= 8
    assert len(spanish) >= 3
    ours, theirs = (np.array(model(folder).run(clips)) for clips in (english, spanish))
    for position, vector in enumerate(ours):
        others = np.delete(ours, position, axis=0) @ vector
        assert others.max() > (theirs @ vector).max()
        assert others.mean() > (theirs @ vector).mean() + 0.03


def test_another_voice_is_further_away_than_other_words(folder, prompts):
    """A voice a fifth deeper, formants and all, is another speaker though it says the same words."""
    originals = prompts["en"]
    deeper = [soxr.resample(waveform, RATE, RATE / 0.8) for waveform in originals]
    ours, theirs = (np.array(model(folder).run([Clip(one) for one in some])) for some in (originals, deeper))
    same_voice = (ours @ ours.T)[~np.eye(len(ours), dtype=bool)]
    same_words = np.diag(ours @ theirs.T)
    assert np.median(same_voice) > np.median(same_words) + 0.1
    assert np.median(same_voice) > np.median(ours @ theirs.T) + 0.15
    for vectors, strangers in ((ours, theirs), (theirs, ours)):
        among = vectors @ vectors.T - 2 * np.eye(len(vectors))
        assert (among.max(axis=1) > (vectors @ strangers.T).max(axis=1)).all()


@pytest.mark.parametrize("pooling", ["mean", "mean_std", "max", "first", "frames"])
def test_what_else_is_in_a_call_does_not_change_an_embedding(folder, pooling):
    check_batch_independence(model(folder, pooling, batch_seconds=5.0), pooling, rtol=0, atol=1e-4)


def test_a_mean_has_length_one_and_frames_come_every_770_milliseconds(folder):
    noise = Clip((0.1 * np.random.default_rng(0).standard_normal(5 * RATE)).astype(np.float32))
    (mean,), (frames,) = model(folder).run([noise]), model(folder, "frames").run([noise])
    assert np.linalg.norm(mean) == pytest.approx(1)
    (row,) = model(folder, "frames").rows(frames, None)
    assert (row["n_frames"], row["dim"], row["hop_seconds"]) == (len(plain_slices(5 * RATE)), 256, 0.77)


def test_an_hour_goes_through_in_small_batches(folder):
    chosen = model(folder, batch_seconds=50.0)
    sizes = []

    class Nothing(torch.nn.Module):
        def forward(self, mels):
            sizes.append(len(mels))
            return torch.zeros(len(mels), 256)

    chosen._network = Nothing()
    (vector,) = chosen.run([Clip(np.zeros(3_600 * RATE, np.float32))])
    assert np.array_equal(vector, np.zeros(256))
    assert sum(sizes) == partial_count(3_600 * RATE)
    assert max(sizes) == 31


def test_the_name_is_converted_once_and_has_no_options(package, tmp_path, monkeypatch):
    monkeypatch.setenv("PHONOLAKE_CACHE", str(tmp_path))
    found = resolve("ge2e")
    assert (found.kind, [path.name for path in found.folder.iterdir()]) == ("ge2e", ["model.safetensors"])
    KINDS["ge2e"].check(found.folder, "embeddings", {"layer": None, "options": {}})
    with pytest.raises(ValueError, match="has no options"):
        KINDS["ge2e"].check(found.folder, "embeddings", {"options": {"rate": 2}})


def test_other_bytes_than_those_reviewed_are_refused(package, tmp_path, monkeypatch):
    monkeypatch.setenv("PHONOLAKE_CACHE", str(tmp_path))
    monkeypatch.setattr(speaker_weights, "PACKAGED_SHA256", "0" * 64)
    with pytest.raises(ModelError, match=r"has sha256 .*, not 0{64}; reinstall with pip install --no-deps Resemblyzer"):
        resolve("ge2e")


def test_a_missing_package_is_named_with_how_to_install_it_alone(monkeypatch):
    assert PACKAGED["ge2e"].install == "--no-deps Resemblyzer==0.1.4"
    monkeypatch.setattr("workers.weights.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install --no-deps Resemblyzer==0\.1\.4"):
        resolve("ge2e")
