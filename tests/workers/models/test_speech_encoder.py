"""A clip in a batch gets the hidden states that transformers' own class gives it alone."""

import numpy as np
import pytest
import torch

from tests.tiny_speech_models import VARIANTS, loading, noise, outputs, reference, save, stage
from workers.models.speech_checkpoint import load_network
from workers.models.speech_encoder import Reading, SpeechEncoder, valid_frames

LENGTHS = (6_000, 60_000, 400, 8_111, 24_000, 719, 720)  # samples: one frame, 150 times as much, and edges of frames
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def encoder_of(folder, **settings):
    wanted = loading(folder, stage("embeddings", **settings))
    return SpeechEncoder.load(load_network(folder, "speech"), wanted)


def hidden_states(encoder, waveforms, *mixes):
    """For each waveform, for each mix, frames (n_frames, dim)."""
    found = encoder.encode(waveforms, [Reading(mix, valid_frames) for mix in mixes])
    return [[np.concatenate(windows) for windows in one] for one in found]


@pytest.fixture(scope="module", params=VARIANTS)
def folder(request, tmp_path_factory):
    return save(tmp_path_factory.mktemp("speech"), request.param)


def test_every_hidden_state_of_a_batch_is_that_of_the_clip_alone(folder):
    encoder, network = encoder_of(folder), reference(folder)
    waveforms = [noise(length, seed) for seed, length in enumerate(LENGTHS)]
    mixes = [None, *({layer: 1.0} for layer in range(4))]
    for waveform, found in zip(waveforms, hidden_states(encoder, waveforms, *mixes), strict=True):
        alone = outputs(network, folder, waveform)
        for mine, expected in zip(found, (alone.last_hidden_state, *alone.hidden_states), strict=True):
            np.testing.assert_allclose(mine, expected[0], **TOLERANCE)


@pytest.mark.parametrize("variant", ["wav2vec2 with group norm", "wavlm with layer norms"])
def test_a_checkpoint_may_leave_samples_as_they_are(variant, tmp_path):
    folder = save(tmp_path, variant, normalises=False)
    encoder, network = encoder_of(folder), reference(folder)
    waveforms = [noise(16_000), noise(1_600, 1)]
    for waveform, (found,) in zip(waveforms, hidden_states(encoder, waveforms, None), strict=True):
        np.testing.assert_allclose(found, outputs(network, folder, waveform).last_hidden_state[0], **TOLERANCE)


@pytest.fixture(scope="module")
def group_folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("group"), "wav2vec2 with group norm")


@pytest.fixture(scope="module")
def stable_folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("stable"), "wavlm with layer norms")


def test_half_a_minute_is_as_exact_as_a_second(group_folder):
    waveforms = [noise(480_000), noise(16_000, 1)]
    network = reference(group_folder)
    for waveform, (found,) in zip(waveforms, hidden_states(encoder_of(group_folder), waveforms, None), strict=True):
        alone = outputs(network, group_folder, waveform).last_hidden_state[0]
        np.testing.assert_allclose(found, alone, **TOLERANCE)


@pytest.mark.parametrize("variant", ["wav2vec2 with group norm", "wavlm with layer norms", "data2vec"])
def test_neither_company_nor_order_changes_a_result(variant, tmp_path):
    encoder = encoder_of(save(tmp_path, variant))
    waveforms = [noise(length, seed) for seed, length in enumerate((50_000, 500, 5_000, 16_000, 4_999, 15_999))]
    together = hidden_states(encoder, waveforms, None)
    backwards = hidden_states(encoder, waveforms[::-1], None)[::-1]
    for waveform, (found,), (other,) in zip(waveforms, together, backwards, strict=True):
        ((alone,),) = hidden_states(encoder, [waveform], None)
        np.testing.assert_allclose(found, alone, **TOLERANCE)
        np.testing.assert_allclose(found, other, **TOLERANCE)


@pytest.mark.parametrize("samples", [0, 1, 399])
def test_a_clip_shorter_than_a_frame_is_heard_with_zeros_behind_it(samples, group_folder):
    encoder, waveform = encoder_of(group_folder), noise(samples)
    ((found,), _) = hidden_states(encoder, [waveform, noise(9_000, 1)], None)
    with torch.inference_mode():
        heard = np.zeros((1, 400), np.float32)
        if samples:
            heard[0, :samples] = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
        alone = reference(group_folder)(torch.from_numpy(heard)).last_hidden_state[0]
    assert found.shape == (1, 32)
    np.testing.assert_allclose(found, alone, **TOLERANCE)


ODD = {
    "nothing": np.zeros(0),
    "one sample": np.ones(1),
    "silence": np.zeros(16_000),
    "constant": np.full(16_000, 0.7),
    "clipped": np.sign(noise(16_000)),
    "a click": np.eye(1, 16_000, 8_000)[0],
    "a tone of 30 s": 0.5 * np.sin(np.arange(480_000) * 0.17),
}


@pytest.mark.parametrize(
    "variant", ["wav2vec2 with group norm", "conformer, relative positions", "wavlm with layer norms"]
)
def test_odd_clips_have_finite_results_that_are_theirs_alone(variant, tmp_path):
    encoder = encoder_of(save(tmp_path, variant))
    waveforms = [waveform.astype(np.float32) for waveform in ODD.values()]
    for waveform, (found,) in zip(waveforms, hidden_states(encoder, waveforms, None), strict=True):
        ((alone,),) = hidden_states(encoder, [waveform], None)
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, alone, **TOLERANCE)


def test_a_nan_stays_in_its_clip(group_folder):
    encoder, clean, broken = encoder_of(group_folder), noise(8_000), noise(9_000, 1)
    broken[[0, -1]] = np.nan
    (before, after) = (hidden_states(encoder, [clean, other], None)[0][0] for other in (noise(9_000, 1), broken))
    np.testing.assert_allclose(after, before, **TOLERANCE)


def test_a_waveform_with_two_channels_is_refused(group_folder):
    with pytest.raises(ValueError, match=r"waveform 1 has shape \(2, 500\)"):
        encoder_of(group_folder).encode([noise(500), np.zeros((2, 500), np.float32)], [Reading(None, valid_frames)])


def test_layers_above_the_highest_that_is_wanted_are_not_run(stable_folder):
    network = load_network(stable_folder, "speech")
    calls = []
    for number, layer in enumerate(network.encoder.layers):
        layer.feed_forward.register_forward_hook(lambda *_, number=number: calls.append(number + 1))
    wanted = loading(stable_folder)
    encoder = SpeechEncoder.load(network, wanted)
    hidden_states(encoder, [noise(2_000)], {0: 1.0}, {0: 0.5, 2: 0.5})
    assert calls == [1, 2]


def test_layers_are_mixed_by_their_weights(stable_folder):
    encoder = encoder_of(stable_folder)
    waveforms = [noise(3_000), noise(30_000, 1)]
    for mixed, first, third in hidden_states(encoder, waveforms, {1: 0.25, 3: -2.0}, {1: 1.0}, {3: 1.0}):
        np.testing.assert_allclose(mixed, 0.25 * first - 2.0 * third, **TOLERANCE)


def test_a_long_clip_gives_the_frames_of_the_clip_in_one_piece(stable_folder):
    whole, cut = encoder_of(stable_folder), encoder_of(stable_folder, options={"max_window_seconds": 1.5})
    waveform = noise(16_000 * 7 + 123)
    seen = []
    inner = cut._encoder
    cut._encoder = lambda samples, *rest: seen.append(samples.shape) or inner(samples, *rest)
    ((expected,),), ((found,),) = (hidden_states(one, [waveform], {0: 1.0}) for one in (whole, cut))
    assert found.shape == expected.shape == (whole.grid.frames(len(waveform)), 32)
    # What the transformer is given depends on its 128 neighbours: away from the seams, which see 6 frames of context,
    # both are the same but for normalising; here they differ little, and a frame out of place would differ much.
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.95
    assert np.corrcoef(np.roll(found, 1, axis=0).ravel(), expected.ravel())[0, 1] < 0.9
    assert max(width for _, width in seen) <= 1.25 * 24_000
