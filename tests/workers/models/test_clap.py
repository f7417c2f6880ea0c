"""CLAP against transformers' own class and feature extractor, on tiny random checkpoints and real clips."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import soxr
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

from schemas import wire
from tests.tiny_sound_models import write_clap
from workers.actors import PoolMember, PoolSpec
from workers.models.clap import Clap, clap_features, fill_window, text_embedding
from workers.models.clap_settings import ClapSettings, check
from workers.models.model import Clip, Loading, ModelStage
from workers.weights import resolve

ROOT = Path(__file__).parents[3]
RATE = 48_000
WINDOW = 10 * RATE
DIM = 24


def embeddings(pooling="mean"):
    settings = {"layer": None, "pooling": pooling, "options": {}}
    return ModelStage("embeddings/clap", "embeddings", settings)


def loaded(folder, batch_size=4):
    loading = Loading(folder, torch.device("cpu"), torch.float32, (embeddings(),), batch_size, batch_seconds=60.0)
    return Clap.load(loading)


def noise(samples, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def prompt(name, rate=RATE):
    samples, theirs = soundfile.read(ROOT / "pipelines/demo/corpus" / name, dtype="float32")
    return soxr.resample(samples, theirs, rate, quality="HQ").astype(np.float32)[: 10 * rate]


def vector(model, waveform):
    (result,) = model.run([Clip(waveform)])
    (row,) = model.rows(result, embeddings())
    return row["vector"]


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "fusion"])
def folder(request, tmp_path_factory):
    return write_clap(tmp_path_factory.mktemp("models") / "clap", fusion=request.param)


@pytest.fixture(scope="module")
def model(folder):
    return loaded(folder)


def extractor_of(folder):
    """The checkpoint's feature extractor, as transformers reads it."""
    return ClapFeatureExtractor(**json.loads((folder / "processor_config.json").read_text())["feature_extractor"])


def expected(folder, waveform):
    """The embedding of a clip of at most 10 s, by transformers, which is not told that the clip is longer."""
    features = extractor_of(folder)(waveform, sampling_rate=RATE, return_tensors="pt")["input_features"]
    network = ClapModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        found = network.get_audio_features(input_features=features.float(), is_longer=torch.tensor([[False]]))
    return found.pooler_output[0].numpy()


def signals():
    """Real prompts and made signals, none longer than ten seconds."""
    ticks = np.arange(3 * RATE) / RATE
    made = {
        "tone": 0.9 * np.sin(2 * np.pi * 440 * ticks),
        "clipped": np.sign(np.sin(2 * np.pi * 440 * ticks)),
        "silence": np.zeros(RATE),
        "faint": noise(RATE) / 3_000,
        "one sample": np.full(1, 0.5),
        "ten seconds": noise(WINDOW),
    }
    prompts = ("en/beep.wav", "en/tt-monkeys.ogg", "en/vm-goodbye.wav")
    return {**{name: prompt(name) for name in prompts}, **{name: one.astype(np.float32) for name, one in made.items()}}


@pytest.mark.parametrize("padding", ["repeatpad", "repeat", "pad"])
def test_the_features_equal_the_extractors(folder, padding):
    extractor, settings = extractor_of(folder), ClapSettings.read(folder)
    settings = ClapSettings(**{name: getattr(settings, name) for name in settings.__slots__} | {"padding": padding})
    for name, waveform in signals().items():
        theirs = extractor(waveform, padding=padding, sampling_rate=RATE, return_tensors="np")["input_features"][0]
        (ours,) = clap_features(torch.from_numpy(fill_window(waveform, settings))[None], settings).numpy()
        assert len(theirs) == (4 if settings.fusion else 1)
        for channel in theirs:  # of a fusion checkpoint four alike
            np.testing.assert_allclose(ours[0], channel, rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", ["en/beep.wav", "tone", "ten seconds", "one sample"])
def test_a_clip_of_one_window_gets_what_transformers_gives_it(folder, model, name):
    waveform = signals()[name]
    ours = vector(model, waveform)
    np.testing.assert_allclose(ours, expected(folder, waveform), rtol=0, atol=1e-4)
    assert ours.dtype == np.float32
    assert np.linalg.norm(ours) == pytest.approx(1, abs=1e-6)


def test_a_long_clip_is_the_mean_of_all_its_windows_each_by_its_length(folder, model):
    waveform = np.concatenate([noise(WINDOW), prompt("en/tt-monkeys.ogg")[: 2 * RATE], noise(9 * RATE, 2)])
    parts = [waveform[:WINDOW], waveform[WINDOW : 2 * WINDOW], waveform[2 * WINDOW :]]
    each = np.stack([expected(folder, part) for part in parts])
    mean = np.average(each, axis=0, weights=[len(part) for part in parts])
    np.testing.assert_allclose(vector(model, waveform), mean / np.linalg.norm(mean), rtol=0, atol=1e-4)
    (result,) = model.run([Clip(waveform)])
    (row,) = model.rows(result, embeddings("frames"))
    assert (row["n_frames"], row["dim"], row["hop_seconds"], row["layer"]) == (3, DIM, 10.0, "audio_projection")
    np.testing.assert_allclose(row["vector"].reshape(3, DIM), each, rtol=0, atol=1e-4)


def test_a_result_is_the_same_every_time_whatever_else_is_in_the_call(model):
    clips = [Clip(noise(length, seed)) for seed, length in enumerate((0, 1, 50_000, WINDOW, WINDOW + 1, 25 * RATE))]
    together, reverse = model.run(clips), model.run(clips[::-1])[::-1]
    for clip, result, other in zip(clips, together, reverse, strict=True):
        (alone,) = model.run([clip])
        np.testing.assert_allclose(result.embeddings, alone.embeddings, rtol=0, atol=1e-4)
        np.testing.assert_allclose(other.embeddings, alone.embeddings, rtol=0, atol=1e-4)


def test_any_clip_has_an_embedding_of_length_one(model):
    odd = [np.zeros(0), np.ones(1), np.full(RATE, 0.5), np.sign(noise(RATE)), np.zeros(RATE)]
    for waveform in odd:
        assert np.linalg.norm(vector(model, waveform.astype(np.float32))) == pytest.approx(1, abs=1e-6)
    assert model.run([]) == []


def test_texts_get_what_transformers_gives_them_alone_and_together(folder):
    texts = ["crowd chanting", "a man speaking", "the beep"]
    found = text_embedding(folder, texts)
    network, tokenizer = ClapModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        padded = tokenizer(texts, padding=True, return_tensors="pt")
        theirs = network.get_text_features(padded["input_ids"], padded["attention_mask"]).pooler_output
    np.testing.assert_allclose(found, theirs.numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(text_embedding(folder, texts[1:2])[0], found[1], rtol=0, atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 0.01


def test_a_text_that_is_too_long_is_refused_and_one_that_just_fits_is_not(folder):
    text_embedding(folder, [" ".join(["crowd"] * 30)])
    with pytest.raises(ValueError, match="has 33 tokens; it can read 32"):
        text_embedding(folder, [" ".join(["crowd"] * 31)])


@pytest.mark.parametrize("gone", ["audio_projection.linear1.weight", "text_projection.linear1.weight"])
def test_a_half_whose_weights_are_missing_is_refused_and_the_other_is_not(tmp_path, gone):
    folder = write_clap(tmp_path / "clap")
    tensors = load_file(folder / "model.safetensors")
    rest = {name: tensor for name, tensor in tensors.items() if name != gone}
    save_file(rest, folder / "model.safetensors", {"format": "pt"})
    halves = {"audio": lambda: loaded(folder), "text": lambda: text_embedding(folder, ["beep"])}
    broken = gone.partition("_")[0]
    with pytest.raises(ValueError, match=f"missing: {gone}"):
        halves.pop(broken)()
    (intact,) = halves.values()
    intact()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"layer": 3}, "leave `layer` out"),
        ({"pooling": "max"}, "pooling max would leave the space of its texts"),
        ({"options": {"a": 1}}, "no options, not a"),
    ],
)
def test_settings_that_it_cannot_follow_are_refused(folder, settings, said):
    check(folder, "embeddings", embeddings().settings)
    with pytest.raises(ValueError, match=said):
        check(folder, "embeddings", {**embeddings().settings, **settings})


def test_a_checkpoint_without_its_preprocessor_is_refused(tmp_path):
    folder = write_clap(tmp_path / "clap")
    (folder / "processor_config.json").unlink()
    with pytest.raises(ValueError, match=r"holds no preprocessor_config\.json"):
        check(folder, "embeddings", embeddings().settings)


def test_the_older_file_of_the_preprocessor_is_read_too(tmp_path):
    folder = write_clap(tmp_path / "clap", fusion=True)
    extractor_of(folder).save_pretrained(folder)
    before = ClapSettings.read(folder)
    (folder / "processor_config.json").unlink()
    assert ClapSettings.read(folder) == before
    assert before == ClapSettings(RATE, WINDOW, 1024, 480, 64, 50, 14_000, "repeatpad", fusion=True)


def test_a_pool_hears_the_wires_samples_at_the_models_rate(folder, model):
    checkpoint = resolve(str(folder))
    assert checkpoint.kind == "clap"
    stage = embeddings()
    member = PoolMember(PoolSpec(str(folder), "clap", checkpoint.digest, (stage,), threads=1, batch_size=4))
    pcm = (prompt("en/vm-goodbye.wav", 16_000) * 32_767).astype(np.int16)
    row = {"recording_id": "r", "uri": "/r", "stages": [stage.id], "segment_index": 0, "pcm": pcm.tobytes()}
    table = member(pa.Table.from_pylist([row], wire.WIRE))
    assert table[wire.error_column(stage.id)].to_pylist() == [None]
    ((found,),) = table[wire.rows_column(stage.id)].to_pylist()
    heard = soxr.resample(pcm.astype(np.float32) / 32_768, 16_000, RATE, quality="HQ")
    np.testing.assert_allclose(found["vector"], vector(model, heard), rtol=0, atol=1e-5)
    assert (found["dim"], found["pooling"], found["revision"]) == (DIM, "mean", checkpoint.revision)
