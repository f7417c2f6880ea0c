"""The Audio Spectrogram Transformer against transformers' own classes, on tiny random checkpoints and real clips."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import soxr
import torch
from safetensors.torch import load_file, save_file
from transformers import ASTFeatureExtractor, ASTForAudioClassification, ASTModel
from transformers.models.audio_spectrogram_transformer import feature_extraction_audio_spectrogram_transformer

from schemas import wire
from tests.tiny_sound_models import AST_FRAMES, write_ast
from workers.actors import PoolMember, PoolSpec
from workers.models.ast_settings import AstSettings, check
from workers.models.audio_spectrogram_transformer import AudioSpectrogramTransformer, ast_features
from workers.models.kaldi_fbank import frame_count, kaldi_fbank
from workers.models.model import Clip, Loading, ModelStage
from workers.weights import resolve

ROOT = Path(__file__).parents[3]
RATE = 16_000
WINDOW = AST_FRAMES * 160  # samples from one window to the next
PROMPTS = ("en/beep.wav", "en/tt-monkeys.ogg", "en/vm-goodbye.wav")
TAGS = ModelStage("tags/ast", "tags", {"top_k": 3, "options": {}})


def embeddings(pooling="mean"):
    settings = {"layer": None, "pooling": pooling, "options": {}}
    return ModelStage("embeddings/ast", "embeddings", settings)


def loaded(folder, batch_size=4, dtype=torch.float32):
    return AudioSpectrogramTransformer.load(
        Loading(folder, torch.device("cpu"), dtype, (TAGS,), batch_size=batch_size, batch_seconds=60.0)
    )


def noise(samples, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def prompt(name):
    samples, rate = soundfile.read(ROOT / "pipelines/demo/corpus" / name, dtype="float32")
    return soxr.resample(samples, rate, RATE, quality="HQ").astype(np.float32)[: 10 * RATE]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_ast(tmp_path_factory.mktemp("models") / "ast")


@pytest.fixture(scope="module")
def model(folder):
    return loaded(folder)


@pytest.fixture(scope="module")
def reference(folder):
    """The network and the feature extractor of transformers, loaded as its documentation says."""
    return ASTForAudioClassification.from_pretrained(folder).eval(), ASTFeatureExtractor.from_pretrained(folder)


def expected(reference, waveform, act="softmax"):
    """Scores and pooled output of one clip, by transformers."""
    network, extractor = reference
    inputs = extractor(waveform, sampling_rate=RATE, return_tensors="pt")
    with torch.inference_mode():
        (logits,) = network(**inputs).logits
        (pooled,) = network.audio_spectrogram_transformer(**inputs).pooler_output
    return (logits.softmax(-1) if act == "softmax" else logits.sigmoid()).numpy(), pooled.numpy()


def signals():
    """Real prompts and made signals, none longer than ten seconds."""
    ticks = np.arange(3 * RATE) / RATE
    made = {
        "tone": 0.9 * np.sin(2 * np.pi * 440 * ticks),
        "clipped": np.sign(np.sin(2 * np.pi * 440 * ticks)),
        "constant": np.full(RATE, 0.5),
        "silence": np.zeros(RATE),
        "faint": noise(RATE) / 3_000,
        "one frame": noise(400),
        "ten seconds": noise(10 * RATE),
    }
    return {**{name: prompt(name) for name in PROMPTS}, **{name: one.astype(np.float32) for name, one in made.items()}}


# In its numpy path two of the lowest filters are narrower than the distance of two bins, and it says so.
@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values")
@pytest.mark.parametrize(("torchaudio", "tolerance"), [(True, 1e-5), (False, 2e-4)], ids=["torchaudio", "numpy"])
def test_the_features_equal_both_of_the_extractors_paths(torchaudio, tolerance, monkeypatch):
    # Its two paths are up to 1.02e-4 apart on these clips.
    monkeypatch.setattr(feature_extraction_audio_spectrogram_transformer, "is_speech_available", lambda: torchaudio)
    extractor = ASTFeatureExtractor()
    settings = AstSettings("ASTModel", RATE, 128, 1024, extractor.mean, extractor.std, (), "softmax")
    for name, waveform in signals().items():
        (theirs,) = extractor(waveform, sampling_rate=RATE, return_tensors="np")["input_values"]
        counts = torch.tensor([frame_count(len(waveform), RATE)])
        (ours,) = ast_features(torch.from_numpy(waveform)[None], counts, settings).numpy()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance, err_msg=name)


def test_the_features_of_a_batch_are_those_of_each_alone():
    settings = AstSettings("ASTModel", RATE, 128, 1024, None, 1.0, (), "softmax")
    short, long = noise(3_000), noise(9_000, 1)
    together = torch.zeros(2, 9_000)
    together[0, :3_000], together[1] = torch.from_numpy(short), torch.from_numpy(long)
    counts = torch.tensor([frame_count(3_000, RATE), frame_count(9_000, RATE)])
    features = ast_features(together, counts, settings)
    alone = kaldi_fbank(torch.from_numpy(short)[None], 128, RATE)[0]
    torch.testing.assert_close(features[0, : counts[0]], alone, rtol=0, atol=1e-5)
    assert not features[0, counts[0] :].any()


@pytest.mark.parametrize("seconds", [0.03, 0.5, 1.28])
def test_a_clip_of_one_window_gets_what_transformers_gives_it(model, reference, seconds):
    waveform = noise(round(seconds * RATE))
    (result,) = model.run([Clip(waveform)])
    scores, pooled = expected(reference, waveform)
    np.testing.assert_allclose(result.scores, scores, rtol=0, atol=1e-4)
    np.testing.assert_allclose(result.embeddings, pooled[None], rtol=0, atol=1e-4)


def test_clips_of_ten_seconds_get_what_transformers_gives_them(tmp_path):
    folder = write_ast(tmp_path / "ast", labels=527, frames=1024)
    reference = ASTForAudioClassification.from_pretrained(folder).eval(), ASTFeatureExtractor.from_pretrained(folder)
    chosen = [signals()[name] for name in ("en/beep.wav", "en/vm-goodbye.wav", "tone", "ten seconds")]
    for waveform, result in zip(chosen, loaded(folder).run([Clip(one) for one in chosen]), strict=True):
        scores, pooled = expected(reference, waveform, "sigmoid")
        np.testing.assert_allclose(result.scores, scores, rtol=0, atol=1e-4)
        np.testing.assert_allclose(result.embeddings, pooled[None], rtol=0, atol=1e-4)


def test_a_long_clip_is_heard_to_its_end_in_windows_that_count_by_their_length(model, reference):
    waveform = noise(3 * WINDOW + 8_000)
    (result,) = model.run([Clip(waveform)])
    ends = [WINDOW + 240, WINDOW + 240, WINDOW + 240, 8_000]  # the last frame of a window sees 240 samples of the next
    parts = [waveform[number * WINDOW :][:end] for number, end in enumerate(ends)]
    scores, pooled = zip(*(expected(reference, part) for part in parts), strict=True)
    np.testing.assert_array_equal(result.frames, [AST_FRAMES] * 3 + [48])
    np.testing.assert_allclose(result.embeddings, np.stack(pooled), rtol=0, atol=1e-4)
    weighted = np.average(np.stack(scores), axis=0, weights=[AST_FRAMES] * 3 + [48])
    np.testing.assert_allclose(result.scores, weighted, rtol=0, atol=1e-5)
    (row,) = model.rows(result, embeddings())
    np.testing.assert_allclose(
        row["vector"], np.average(np.stack(pooled), axis=0, weights=[AST_FRAMES] * 3 + [48]), rtol=0, atol=1e-4
    )


def test_what_else_is_in_a_call_does_not_change_a_result(model):
    lengths = (0, 1, 399, 400, 7_000, WINDOW, WINDOW + 241, 5 * WINDOW + 17)
    clips = [Clip(noise(length, seed)) for seed, length in enumerate(lengths)]
    together, reverse = model.run(clips), model.run(clips[::-1])[::-1]
    for clip, result, other in zip(clips, together, reverse, strict=True):
        (alone,) = model.run([clip])
        for one in (result, other):
            np.testing.assert_allclose(one.embeddings, alone.embeddings, rtol=0, atol=1e-4)
            np.testing.assert_allclose(one.scores, alone.scores, rtol=0, atol=1e-4)


def test_no_more_windows_than_allowed_are_on_the_device_at_once(folder):
    model, sizes = loaded(folder, batch_size=3), []
    encoder = model._network.audio_spectrogram_transformer
    hook = encoder.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    model.run([Clip(noise(7 * WINDOW))])
    hook.remove()
    assert sizes == [3, 3, 1]


def test_any_clip_has_a_finite_result(model):
    odd = [np.zeros(0), np.ones(1), np.full(RATE, 0.5), np.sign(noise(RATE)), np.zeros(3 * WINDOW), noise(60 * RATE)]
    for result in model.run([Clip(one.astype(np.float32)) for one in odd]):
        assert np.isfinite(result.embeddings).all()
        assert np.isfinite(result.scores).all()
        assert 0 <= result.scores.min() <= result.scores.max() <= 1
    assert model.run([]) == []


def test_frames_are_one_vector_a_window(model):
    (result,) = model.run([Clip(noise(2 * WINDOW + 400))])
    (row,) = model.rows(result, embeddings("frames"))
    assert (row["n_frames"], row["dim"], row["hop_seconds"], row["layer"]) == (3, 32, 1.28, "pooler_output")
    np.testing.assert_array_equal(row["vector"].reshape(3, 32), result.embeddings)


def test_an_encoder_without_a_classifier_embeds_and_is_refused_for_tags(tmp_path):
    folder = write_ast(tmp_path / "ast", encoder=True)
    waveform = noise(WINDOW)
    (result,) = loaded(folder).run([Clip(waveform)])
    inputs = ASTFeatureExtractor.from_pretrained(folder)(waveform, sampling_rate=RATE, return_tensors="pt")
    with torch.inference_mode():
        pooled = ASTModel.from_pretrained(folder).eval()(**inputs).pooler_output
    np.testing.assert_allclose(result.embeddings, pooled, rtol=0, atol=1e-4)
    check(folder, "embeddings", {"layer": None, "options": {}})
    with pytest.raises(ValueError, match="has no labels"):
        check(folder, "tags", {"top_k": 3, "options": {}})


@pytest.mark.parametrize(
    ("labels", "problem", "scores"),
    [
        (5, None, "softmax"),
        (527, None, "sigmoid"),
        (5, "multi_label_classification", "sigmoid"),
        (527, "single_label_classification", "softmax"),
        (1, None, "sigmoid"),
    ],
)
def test_labels_exclude_each_other_unless_the_checkpoint_says_or_is_audiosets(tmp_path, labels, problem, scores):
    settings = AstSettings.read(write_ast(tmp_path / "ast", labels, problem_type=problem))
    assert settings.scores == scores
    assert settings.labels == tuple(f"sound {number}" for number in range(labels))


def change(folder, name, **values):
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**content, **values}))


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("config.json", {"architectures": ["ASTForSomethingElse"]}, "an ASTForSomethingElse"),
        ("config.json", {"problem_type": "regression"}, "regression"),
        ("config.json", {"id2label": {"1": "a"}}, "id2label"),
        ("preprocessor_config.json", {"max_length": 1024}, "makes 1024 frames of 128 bins"),
    ],
)
def test_a_checkpoint_that_cannot_be_followed_is_refused_before_it_is_loaded(tmp_path, name, values, said):
    folder = write_ast(tmp_path / "ast")
    change(folder, name, **values)
    with pytest.raises(ValueError, match=said):
        check(folder, "tags", {"top_k": 3, "options": {}})


@pytest.mark.parametrize(("settings", "said"), [({"layer": 3}, "leave `layer` out"), ({"options": {"a": 1}}, "not a")])
def test_settings_that_it_cannot_follow_are_refused(folder, settings, said):
    with pytest.raises(ValueError, match=said):
        check(folder, "embeddings", settings)


def test_weights_that_are_missing_or_too_many_are_refused(tmp_path):
    folder = write_ast(tmp_path / "ast")
    tensors = load_file(folder / "model.safetensors")
    rest = {name: tensor for name, tensor in tensors.items() if name != "classifier.dense.weight"}
    save_file(rest, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"missing: classifier\.dense\.weight \(1\)"):
        loaded(folder)
    save_file({**tensors, "surplus": torch.zeros(1)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"unexpected: surplus \(1\)"):
        loaded(folder)


def test_a_pool_fills_tags_and_embeddings_from_one_pass(folder):
    checkpoint = resolve(str(folder))
    assert checkpoint.kind == "ast"
    stages = (TAGS, embeddings())
    member = PoolMember(PoolSpec(str(folder), "ast", checkpoint.digest, stages, threads=1, batch_size=4))
    pcm = (prompt("en/vm-goodbye.wav") * 32_767).astype(np.int16)
    row = {"recording_id": "r", "uri": "/r", "stages": [one.id for one in stages], "segment_index": 0}
    table = member(pa.Table.from_pylist([{**row, "pcm": pcm.tobytes()}], wire.WIRE))
    assert table[wire.error_column("tags/ast")].to_pylist() == [None]
    (tags,) = table[wire.rows_column("tags/ast")].to_pylist()
    ((vector,),) = table[wire.rows_column("embeddings/ast")].to_pylist()
    assert [tag["score"] for tag in tags] == sorted((tag["score"] for tag in tags), reverse=True)
    assert len(tags) == 3
    assert (vector["dim"], len(vector["vector"]), vector["revision"]) == (32, 32, checkpoint.revision)
