"""WAV files that need no decoder: the same samples as libsndfile's, and nothing out of the ordinary."""

import io
import struct
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from tests.hearing import Heard
from workers.decode import decode
from workers.decode_settings import DecodeLimits, DecodeSettings
from workers.decoded import Ending
from workers.decoder import Decoder, Failed, Request
from workers.plain_wav import BLOCK_FRAMES, DECODER, plain_wav

SETTINGS = DecodeSettings(16_000, DecodeLimits(3600, 4))


def wav(samples, rate=8000, subtype="PCM_16", form="WAV"):
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=form, subtype=subtype)
    return out.getvalue()


def noise(frames, channels=1, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (frames, channels)).astype(np.float32)


@given(
    st.integers(3, 30_000),  # of a single sample nothing is left at a lower rate
    st.integers(1, 4),
    st.sampled_from([8000, 11_025, 16_000, 44_100]),
    st.sampled_from(["PCM_16", "ULAW", "ALAW"]),
    st.sampled_from(["WAV", "WAVEX"]),
    st.sampled_from(["mono", "left", "each"]),
)
def test_samples_and_facts_are_those_of_libsndfile_without_a_child(frames, channels, rate, subtype, form, kept):
    choice = replace(SETTINGS, channels=kept)
    content = wav(noise(frames, channels), rate, subtype, form)
    sink = Heard()
    ending = decode(io.BytesIO(content), choice, sink)
    decoder = Decoder(choice)
    info, *blocks, last = decoder.stream([Request(content)])
    assert decoder._child is None
    assert info == replace(sink.info, decoder=DECODER)
    assert last == ending
    assert len(blocks) == len(sink.blocks)
    for block, expected in zip(blocks, sink.blocks, strict=True):
        np.testing.assert_array_equal(block, expected)


def test_several_blocks_are_resampled_as_one():
    content = wav(noise(2 * BLOCK_FRAMES + 7, 2), 44_100)
    sink = Heard()
    decode(io.BytesIO(content), SETTINGS, sink)
    _, *blocks, _ = Decoder(SETTINGS).stream([Request(content)])
    np.testing.assert_array_equal(np.concatenate(blocks), np.concatenate(sink.blocks))


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "IMA_ADPCM", "GSM610"])
def test_other_codecs_go_to_the_child(subtype):
    assert plain_wav(wav(noise(4000), subtype=subtype)) is None


def test_lengths_that_are_not_true_go_to_the_child():
    content = wav(noise(4000))
    assert plain_wav(content).frames == 4000
    assert plain_wav(content[:-1]) is None
    assert plain_wav(content[:44]) is None
    longer, none, odd = bytearray(content), bytearray(content), bytearray(content)
    struct.pack_into("<I", longer, 40, 8002)
    struct.pack_into("<I", none, 40, 0)
    struct.pack_into("<I", odd, 40, 7999)
    assert [plain_wav(bytes(one)) for one in (longer, none, odd)] == [None] * 3


def test_a_header_beyond_a_limit_is_refused_as_the_child_would():
    decoder = Decoder(SETTINGS)
    [many] = decoder.stream([Request(wav(noise(10, 5)))])
    assert (type(many), many.code) == (Failed, "limit_channels")
    _, long = Decoder(replace(SETTINGS, limits=DecodeLimits(0.5, 4))).stream([Request(wav(noise(8000)))])
    assert (type(long), long.code) == (Failed, "limit_seconds")
    assert decoder._child is None


@given(st.integers(0, 59), st.binary(min_size=1, max_size=8))
def test_whatever_stands_in_the_header_is_within_the_bytes_or_nothing(place, patch):
    content = bytearray(wav(noise(50, 2), form="WAVEX"))
    content[place : place + len(patch)] = patch
    found = plain_wav(bytes(content))
    if found is None:
        return
    assert found.n_bytes > 0
    assert found.start + found.n_bytes <= len(content)
    *_, last = Decoder(SETTINGS).stream([Request(bytes(content))])
    assert isinstance(last, Ending | Failed)


def test_answers_keep_their_order_among_those_of_the_child():
    plain, flac = wav(noise(800)), io.BytesIO()
    soundfile.write(flac, noise(1600), 8000, format="FLAC")
    contents = [plain, flac.getvalue(), plain, plain, flac.getvalue(), b"", plain, flac.getvalue()]
    decoder = Decoder(SETTINGS)
    ends = [one for one in decoder.stream(map(Request, contents)) if isinstance(one, Ending | Failed)]
    decoder.close()
    found = [getattr(one, "decoded_seconds", None) for one in ends]
    assert found == [0.1, 0.2, 0.1, 0.1, 0.2, None, 0.1, 0.2]
