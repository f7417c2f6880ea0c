"""Heads of FLAC's frames are found where they are, and nowhere in noise."""

import io
import re

import numpy as np
import pytest
import soundfile

from tests.fuzz import flac
from tests.recordings import RATE, pcm
from workers.flac_frames import starts_flac_frame

SYNC = re.compile(rb"\xff[\xf8\xf9]")


@pytest.mark.parametrize("rate", [8_000, RATE, 22_050, 37_123])
def test_every_frame_of_a_flac_is_found(rate):
    out = io.BytesIO()
    samples = np.tile(pcm(), 40)
    soundfile.write(out, samples, rate, format="FLAC")
    content = out.getvalue()
    found = [one.start() for one in SYNC.finditer(content) if starts_flac_frame(content, one.start())]
    assert len(found) == -(-len(samples) // 4096)  # libsndfile's frames
    assert not starts_flac_frame(content[: found[1] + 5], found[1])


def test_frames_that_are_written_by_hand_are_frames():
    content = flac.silence(300)
    starts = [one.start() for one in SYNC.finditer(content)]
    assert [starts_flac_frame(content, at) for at in starts] == [True] * 300


def test_hardly_any_noise_is_taken_for_a_frame():
    content = np.random.default_rng(1).bytes(16 << 20)
    syncs = [one.start() for one in SYNC.finditer(content)]
    assert len(syncs) > 300
    assert sum(starts_flac_frame(content, at) for at in syncs) < len(syncs) / 100
