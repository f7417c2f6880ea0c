"""A clip in a batch gets the hidden states that transformers' own class gives it alone."""

import numpy as np
import pytest
import torch

from tests.workers.models.speech_checkpoints import VARIANTS, loading, noise, outputs, reference, save, stage
from workers.models.speech_checkpoint import load_network
from workers.models.speech_encoder import Reading, SpeechEncoder, valid_frames

LENGTHS = (6_000, 60_000, 400, 8_111, 24_000, 719, 720)  # samples: one frame, 150 times as much, and edges of frames
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
