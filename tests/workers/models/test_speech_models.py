"""Embeddings, labels and speaker vectors are those of transformers' own classes, through the path of a pool."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.numpy import load_file, save_file

from schemas import wire
from tests.tiny_speech_models import loading, noise, outputs, reference, save, stage
from workers.actors import PoolMember, PoolSpec
from workers.models.kinds import KINDS
from workers.models.model import Clip
from workers.models.pooling import POOLINGS, embedding_row
from workers.models.speech_checkpoint import load_network
from workers.weights import ModelError, resolve

LENGTHS = (6_000, 60_000, 5_200, 24_000)  # samples: 5,200 are the fewest that an x-vector head takes
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
TDNN = {"tdnn_dim": (24, 24, 24, 24, 40), "xvector_output_dim": 20}
LABELS = {"id2label": {0: "anger", 1: "joy", 2: "calm"}, "label2id": {"anger": 0, "joy": 1, "calm": 2}}
WAVLM = "wavlm with layer norms"
GROUP = "wav2vec2 with group norm"
ROTARY = "conformer, rotary positions"


@pytest.fixture(scope="module")
def waveforms():
    return [noise(length, seed) for seed, length in enumerate(LENGTHS)]


def model_of(folder, *stages, **more):
    return KINDS[resolve(str(folder)).kind].load(loading(folder, *stages, **more))


def rows_of(model, waveforms, wanted):
    results = model.run([Clip(waveform) for waveform in waveforms])
    return [model.rows(result, wanted) for result in results]


def through_a_pool(folder, waveforms, *stages):
    """For each stage, for each waveform, rows, as the columns of a wire table that went through a pool's member."""
    checkpoint = resolve(str(folder))
    member = PoolMember(PoolSpec(str(folder), checkpoint.kind, checkpoint.digest, stages, threads=1, batch_size=16))
    rows = [
        {"recording_id": "r", "uri": "/r", "stages": [one.id for one in stages], "segment_index": index, "pcm": pcm}
        for index, pcm in enumerate((waveform * 32_768).astype(np.int16).tobytes() for waveform in waveforms)
    ]
    table = member(pa.Table.from_pylist(rows, wire.WIRE))
    assert [table[wire.error_column(one.id)].null_count for one in stages] == [len(waveforms)] * len(stages)
    return [table[wire.rows_column(one.id)].to_pylist() for one in stages]


def as_pcm(waveforms):
    return [(waveform * 32_768).astype(np.int16).astype(np.float32) / 32_768 for waveform in waveforms]


@pytest.mark.parametrize("head", ["Model", "ForCTC", "ForPreTraining"])
def test_embeddings_come_from_encoders_whatever_stands_behind_them(head, waveforms, tmp_path):
    folder = save(tmp_path, GROUP, head)
    wanted = stage("embeddings", layer=-2, pooling="mean")
    (found,) = through_a_pool(folder, waveforms, wanted)
    network = reference(folder)
    for waveform, (row,) in zip(as_pcm(waveforms), found, strict=True):
        expected = outputs(network, folder, waveform).hidden_states[2][0].mean(dim=0)
        assert (row["layer"], row["pooling"], row["dim"]) == ("2", "mean", 32)
        np.testing.assert_allclose(row["vector"], expected, **TOLERANCE)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("layer", [None, 1, {1: 0.5, -1: 0.25}])
def test_a_row_is_that_of_the_frames_of_the_clip_alone(layer, pooling, waveforms, tmp_path):
    folder = save(tmp_path, WAVLM)
    wanted = stage("embeddings", layer=layer, pooling=pooling)
    found = rows_of(model_of(folder, wanted), waveforms, wanted)
    network = reference(folder)
    for waveform, (row,) in zip(waveforms, found, strict=True):
        alone = outputs(network, folder, waveform)
        frames, name = {
            "None": (alone.last_hidden_state, "last_hidden_state"),
            "1": (alone.hidden_states[1], "1"),
            "{1: 0.5, -1: 0.25}": (0.5 * alone.hidden_states[1] + 0.25 * alone.hidden_states[3], "0.5*1+0.25*3"),
        }[str(layer)]
        expected = embedding_row(frames[0].numpy(), pooling, name, 0.02)
        np.testing.assert_allclose(row.pop("vector"), expected.pop("vector"), **TOLERANCE)
        assert row == expected


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_over_windows_is_pooling_over_all_their_frames(pooling, tmp_path):
    folder = save(tmp_path, GROUP)
    options = {"max_window_seconds": 1}
    kept, pooled = (stage("embeddings", pooling=one, options=options) for one in ("frames", pooling))
    waveform = noise(70_000)
    ((frames,),), ((row,),) = (rows_of(model_of(folder, one), [waveform], one) for one in (kept, pooled))
    assert frames["n_frames"] == (70_000 - 400) // 320 + 1
    expected = embedding_row(frames["vector"].reshape(-1, 32), pooling, "last_hidden_state", 0.02)
    np.testing.assert_allclose(row["vector"], expected["vector"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "variant", [GROUP, WAVLM, "hubert with layer norms", "data2vec", "conformer, rotary positions"]
)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
def test_labels_have_the_scores_of_the_clip_alone(variant, weighted, problem, waveforms, tmp_path):
    head = "ForSequenceClassification"
    folder = save(
        tmp_path,
        variant,
        head,
        use_weighted_layer_sum=weighted,
        problem_type=problem,
        classifier_proj_size=24,
        **LABELS,
    )
    tags, embeddings = stage("tags", top_k=2), stage("embeddings", layer=1)
    scored, embedded = through_a_pool(folder, waveforms, tags, embeddings)
    network = reference(folder, head)
    for waveform, rows, (row,) in zip(as_pcm(waveforms), scored, embedded, strict=True):
        alone = outputs(network, folder, waveform)
        scores = alone.logits[0].sigmoid() if problem.startswith("multi") else alone.logits[0].softmax(dim=0)
        best = scores.sort(descending=True)
        assert [one["label"] for one in rows] == [LABELS["id2label"][int(place)] for place in best.indices[:2]]
        np.testing.assert_allclose([one["score"] for one in rows], best.values[:2], **TOLERANCE)
        np.testing.assert_allclose(row["vector"], alone.hidden_states[1][0].mean(dim=0), **TOLERANCE)


@pytest.mark.parametrize("variant", [GROUP, WAVLM, "data2vec", ROTARY, "unispeech-sat"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_speaker_has_the_vector_of_the_clip_alone(variant, weighted, waveforms, tmp_path):
    folder = save(tmp_path, variant, "ForXVector", use_weighted_layer_sum=weighted, **TDNN)
    wanted = stage("embeddings")
    (found,) = through_a_pool(folder, waveforms, wanted)
    network = reference(folder, "ForXVector")
    for waveform, (row,) in zip(as_pcm(waveforms), found, strict=True):
        assert (row["layer"], row["pooling"], row["dim"]) == ("xvector", "mean_std", 20)
        np.testing.assert_allclose(row["vector"], outputs(network, folder, waveform).embeddings[0], **TOLERANCE)


@pytest.mark.parametrize("samples", [1, 700, 5_199])
def test_a_clip_too_short_for_a_speaker_is_repeated(samples, tmp_path):
    folder = save(tmp_path, GROUP, "ForXVector", **TDNN)
    wanted, waveform = stage("embeddings"), noise(samples)
    ((row,), _) = rows_of(model_of(folder, wanted), [waveform, noise(20_000, 1)], wanted)
    expected = outputs(reference(folder, "ForXVector"), folder, np.resize(waveform, 5_200)).embeddings[0]
    np.testing.assert_allclose(row["vector"], expected, **TOLERANCE)


def test_silence_and_nothing_have_a_speaker_vector_all_the_same(tmp_path):
    wanted = stage("embeddings")
    model = model_of(save(tmp_path, WAVLM, "ForXVector", **TDNN), wanted)
    ((silence,), (nothing,)) = rows_of(model, [np.zeros(n, np.float32) for n in (5_200, 0)], wanted)
    assert np.isfinite(silence["vector"]).all()
    np.testing.assert_allclose(nothing["vector"], silence["vector"], **TOLERANCE)


def test_a_long_clip_has_labels_and_a_speaker_of_all_its_windows(tmp_path):
    options = {"max_window_seconds": 1}
    clip = np.tile(noise(16_000), 5)
    for head, wanted in (("ForSequenceClassification", stage("tags")), ("ForXVector", stage("embeddings"))):
        folder = save(tmp_path / head, WAVLM, head, **LABELS, **TDNN)
        cut = type(wanted)(wanted.id, wanted.table, wanted.settings | {"options": options})
        (whole,), (joined,) = (rows_of(model_of(folder, one), [clip], one) for one in (wanted, cut))
        key = "score" if head == "ForSequenceClassification" else "vector"
        whole, joined = (np.ravel([row[key] for row in rows]) for rows in (whole, joined))
        assert joined.shape == whole.shape
        assert np.abs(joined - whole).max() < 0.2 * np.abs(whole).max()  # five times the same second


def test_windows_too_short_for_a_speaker_are_refused(tmp_path):
    folder = save(tmp_path, GROUP, "ForXVector", **TDNN | {"tdnn_dilation": (1, 2, 30, 1, 1)})
    with pytest.raises(ValueError, match="max_window_seconds is too short for its x-vector head"):
        model_of(folder, stage("embeddings", options={"max_window_seconds": 1}))


def test_tables_that_share_a_pass_share_its_windows(tmp_path):
    folder = save(tmp_path, GROUP, "ForSequenceClassification")
    with pytest.raises(ValueError, match="give all one max_window_seconds"):
        model_of(folder, stage("embeddings", options={"max_window_seconds": 5}), stage("tags"))


def rewritten(folder, change):
    """The checkpoint, with `change` applied to its tensors."""
    tensors = load_file(folder / "model.safetensors")
    save_file(change(dict(tensors)), folder / "model.safetensors", {"format": "pt"})
    return folder


def without(*endings):
    return lambda tensors: {name: one for name, one in tensors.items() if not name.endswith(endings)}


def renamed(tensors):
    """Names as checkpoints from before PyTorch 2.1 have them."""
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    for new, former in old.items():
        tensors = {name.replace(new, former): one for name, one in tensors.items()}
    assert any(name.endswith("weight_g") for name in tensors)
    return tensors


def test_checkpoints_with_older_names_are_read(tmp_path, waveforms):
    wanted = stage("embeddings")
    folder = save(tmp_path, GROUP)
    (expected, found) = (
        rows_of(model_of(one, wanted), waveforms[:1], wanted)[0][0]["vector"]
        for one in (folder, rewritten(folder, renamed))
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("ending", ["masked_spec_embed", "objective.weight"])
def test_what_only_training_needs_may_be_missing(ending, tmp_path):
    folder = rewritten(save(tmp_path, GROUP, "ForXVector", **TDNN), without(ending))
    load_network(folder, "xvector")


@pytest.mark.parametrize(
    ("head", "kind", "ending"),
    [
        ("Model", "speech", "encoder.layers.1.attention.q_proj.weight"),
        ("Model", "speech", "pos_conv_embed.conv.parametrizations.weight.original0"),
        ("ForSequenceClassification", "classifier", "classifier.weight"),
        ("ForXVector", "xvector", "tdnn.2.kernel.bias"),
    ],
)
def test_a_checkpoint_that_lacks_a_weight_is_refused(head, kind, ending, tmp_path):
    folder = rewritten(save(tmp_path, GROUP, head, **TDNN), without(ending))
    with pytest.raises(ValueError, match="lacks 1 weights, .*" + ending.rpartition(".")[2]):
        load_network(folder, kind)


def test_a_checkpoint_with_more_layers_than_its_config_is_refused(tmp_path):
    folder = save(tmp_path, GROUP, "ForCTC")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    with pytest.raises(ValueError, match=r"has no place for \d+ weights, .*encoder\.layers\.2\."):
        load_network(folder, "speech")


def test_a_pickle_is_not_read(tmp_path):
    folder = save(tmp_path, GROUP)
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        load_network(folder, "speech")


def test_a_pool_says_why_a_checkpoint_cannot_be_loaded(tmp_path):
    folder = rewritten(save(tmp_path, GROUP), without("encoder.layer_norm.bias"))
    checkpoint = resolve(str(folder))
    with pytest.raises(ModelError, match=r"lacks 1 weights, encoder\.layer_norm\.bias"):
        PoolMember(PoolSpec(str(folder), "speech", checkpoint.digest, (stage("embeddings"),), threads=1, batch_size=1))


def test_an_adapter_behind_the_encoder_is_refused(tmp_path):
    folder = save(tmp_path, GROUP, add_adapter=True)
    with pytest.raises(ValueError, match="has an adapter behind its encoder"):
        load_network(folder, "speech")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near(dtype, waveforms, tmp_path):
    folder = save(tmp_path, WAVLM, "ForSequenceClassification", use_weighted_layer_sum=True, **LABELS)
    wanted = stage("tags")
    exact = loading(folder, wanted)
    half = type(exact)(folder, exact.device, dtype, exact.stages, 16, 10.0)
    found, expected = (
        [row["score"] for rows in rows_of(KINDS["classifier"].load(one), waveforms, wanted) for row in rows]
        for one in (half, exact)
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-2)


def test_a_checkpoint_s_kind_is_what_its_network_ends_in(tmp_path):
    folder = save(tmp_path, GROUP)
    config = json.loads((folder / "config.json").read_text())
    for architecture, kind in {
        "HubertForCTC": "ctc",
        "WavLMForXVector": "xvector",
        "Wav2Vec2ForSequenceClassification": "classifier",
        "Wav2Vec2ForPreTraining": "speech",
        "WavLMForAudioFrameClassification": "speech",
        "HubertModel": "speech",
    }.items():
        (folder / "config.json").write_text(json.dumps(config | {"architectures": [architecture]}))
        assert resolve(str(folder)).kind == kind
    (folder / "config.json").write_text(json.dumps({"model_type": "wavlm"}))
    assert resolve(str(folder)).kind == "speech"
