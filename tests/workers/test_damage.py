"""What is not as it should be on the way through a recording, and is heard past: lost packets, pauses, joints."""

import io
import struct

import av
import numpy as np
import pytest
import soxr
from test_formats import (
    BARER,
    LENGTH,
    OTHER,
    RATE,
    SECONDS,
    Track,
    album_art,
    delay_and_likeness,
    filmed,
    heard,
    id3_tag,
    mp3,
    muxed,
    pcm,
    rounded,
    written,
)

LONG = 10  # times the voice


def long(rate: int) -> np.ndarray:
    return np.tile(pcm(rate), LONG)


@pytest.mark.parametrize(
    ("muxer", "codec", "options"),
    [
        ("ipod", "aac", {}),
        ("adts", "aac", {}),
        ("mpegts", "aac", {}),
        ("mpegts", "aac", {"mpegts_flags": "latm"}),
        ("mpegts", "ac3", {}),
        ("mpegts", "mp2", {}),
    ],
)
def test_what_follows_packets_that_do_not_decode_is_heard(muxer, codec, options):
    """Decoders answer nonsense with many errors, of which none is the end of the recording."""
    whole = filmed(muxer, Track(long(48_000), 48_000, codec, 128_000), options=options)
    for seed in range(3):
        chance, content = np.random.default_rng(seed), bytearray(whole)
        for start in chance.integers(len(whole) // 10, len(whole) * 9 // 10, 10):
            content[start : start + 100] = chance.bytes(100)
        _, ending, found = heard(bytes(content))
        if codec != "mp2":  # which has nothing to tell nonsense by
            assert "did not decode" in ending.damage
            assert "permitted" not in ending.damage
        assert ending.decoded_seconds > 0.9 * LONG * SECONDS
        assert delay_and_likeness(found[-LENGTH // 2 :], pcm()[-LENGTH // 2 :])[1] > 0.9


def with_pauses_left_out(muxer: str) -> bytes:
    """The voice twice with a pause between, as a phone sends it: in pauses nothing but now and then how they hiss."""
    spoken, out = np.concatenate([pcm(8000), np.zeros(16_000, np.int16), pcm(8000)]), io.BytesIO()
    with av.open(out, "w", format=muxer) as file:
        stream = file.add_stream("libopencore_amrnb", rate=8000, layout="mono", options={"dtx": "1"})
        stream.bit_rate = 12_200
        stream.codec_context.open()
        for packet in Track(spoken, 8000, "").packets(stream):
            file.mux(packet)
    return out.getvalue()


@pytest.mark.parametrize("muxer", ["amr", "3gp"])
def test_a_phone_that_sends_nothing_in_pauses_is_heard_behind_them(muxer):
    _, ending, found = heard(with_pauses_left_out(muxer))
    assert ending.damage is None
    assert len(found) / RATE == pytest.approx(2 * SECONDS + 2, abs=0.05)
    assert delay_and_likeness(found, np.concatenate([pcm(), np.zeros(2 * RATE, np.int16), pcm()]))[1] > 0.95


def test_amr_that_begins_with_nothing_keeps_its_time():
    content = muxed("amr", "libopencore_amrnb", 8000, 12_200)
    _, _, expected = heard(content)
    _, ending, found = heard(content[:6] + bytes([0x7C]) * 50 + content[6:])
    assert ending.damage is None
    assert len(found) == len(expected) + RATE
    assert delay_and_likeness(found[RATE:], expected)[0] == 0


def test_pauses_in_wideband_amr_are_passed_over():
    """Speech of noise at 23.85 kbit/s (frame type 8), a pause (9, and 15 for nothing), and speech again."""
    chance = np.random.default_rng(2)
    speech = [bytes([8 << 3 | 4]) + chance.bytes(60) for _ in range(100)]
    pause = [bytes([9 << 3 | 4]) + chance.bytes(5) + bytes([15 << 3 | 4]) * 7 for _ in range(10)]
    _, ending, found = heard(b"#!AMR-WB\n" + b"".join([*speech[:50], *pause, *speech[50:]]))
    assert ending.damage is None
    assert len(found) == (50 + 80 + 50) * RATE // 50


def voices(rate: int) -> tuple[np.ndarray, np.ndarray]:
    """The voice and the other one as int16 at `rate` Hz."""
    return pcm(rate), rounded(soxr.resample(OTHER, RATE, rate, quality="VHQ"))


@pytest.mark.parametrize(("muxer", "codec"), [("adts", "aac"), ("mp3", "libmp3lame"), ("mpegts", "aac")])
@pytest.mark.parametrize("rates", [(44_100, 48_000), (48_000, 32_000)])
def test_a_recording_goes_on_at_another_rate(muxer, codec, rates):
    """As an advertisement before a show; FFmpeg's command line gives both too."""
    options = BARER if muxer == "mp3" else {}
    parts = [
        filmed(muxer, Track(voices(rate)[number], rate, codec, 96_000), options=options)
        for number, rate in enumerate(rates)
    ]
    info, ending, found = heard(b"".join(parts))
    assert ending.damage is None
    assert info.sample_rate == rates[0]
    assert len(found) / RATE == pytest.approx(2 * SECONDS, abs=0.25)
    assert delay_and_likeness(found[:LENGTH])[1] > 0.95
    assert delay_and_likeness(found[-LENGTH:], rounded(OTHER))[1] > 0.95


@pytest.mark.parametrize(
    "between",
    [
        id3_tag(b"PRIV" + struct.pack(">IH", 53, 0) + b"com.apple.streaming.transportStreamTimestamp\0" + bytes(8)),
        album_art(),
        id3_tag(np.random.default_rng(1).bytes(100_000)),
        b"TAG" + b"a title".ljust(125, b"\0"),
        b"TAG" + b"a title".ljust(125, b"\0") + album_art(),
    ],
    ids=["ID3v2", "art", "noise", "ID3v1", "both"],
)
def test_tags_between_the_frames_of_an_mp3_are_no_damage_and_not_heard(between):
    """Where files were joined, and in every piece of a stream over HTTP.

    A picture that is full of frames' heads may swallow some frames behind it.
    """
    encoded = mp3(BARER)
    _, clean, expected = heard(encoded + encoded)
    _, ending, found = heard(encoded + between + encoded)
    assert clean.damage is None
    assert ending.damage is None
    assert abs(len(found) - len(expected)) <= 8 * 1152 * RATE // 44_100
    assert delay_and_likeness(found[-LENGTH // 2 :], expected[-LENGTH // 2 :])[1] > 0.99


# What a header says that is not so, or not all


def checksum(page: bytes) -> int:
    """Of an Ogg page (RFC 3533, 6)."""
    found = 0
    for byte in page:
        found ^= byte << 24
        for _ in range(8):
            found = (found << 1 ^ (0x04C11DB7 if found >> 31 else 0)) & 0xFFFF_FFFF
    return found


def on_air(content: bytes, samples: int) -> bytes:
    """An Ogg whose recorder joined a broadcast that was so many samples old."""
    pages, position = [], 0
    while position < len(content):
        sizes = content[position + 27 : position + 27 + content[position + 26]]
        page = bytearray(content[position : position + 27 + len(sizes) + sum(sizes)])
        position += len(page)
        [told] = struct.unpack_from("<q", page, 6)
        if told > 0:
            struct.pack_into("<q", page, 6, told + samples)
            page[22:26] = bytes(4)
            struct.pack_into("<I", page, 22, checksum(page))
        pages.append(bytes(page))
    return b"".join(pages)


BROADCASTS = {
    "opus": (lambda: muxed("ogg", "libopus", 48_000, 64_000), 48_000),
    "flac": (lambda: muxed("ogg", "flac"), RATE),
    "vorbis": (lambda: written(pcm(), RATE, "OGG", "VORBIS"), RATE),
}


@pytest.mark.parametrize("codec", BROADCASTS)
def test_a_recording_of_a_broadcast_is_as_long_as_it_is(codec):
    encoded, rate = BROADCASTS[codec]
    content = encoded()
    _, _, expected = heard(content)
    info, ending, found = heard(on_air(content, 10 * 3600 * rate))
    assert ending.damage is None
    assert info.declared_seconds in (None, pytest.approx(SECONDS, abs=0.05))
    np.testing.assert_array_equal(found, expected)


def test_a_codec_whose_name_is_no_text_is_heard():
    """AVI names AAC by the number 0xFF."""
    _, ending, found = heard(muxed("avi", "aac", 44_100, 96_000, picture="mpeg4"))
    assert ending.damage is None
    assert delay_and_likeness(found)[1] > 0.98


@pytest.mark.parametrize("picture", [None, "wmv2"])
def test_half_of_an_asf_is_partial(picture):
    content = filmed("asf", Track(pcm(44_100), 44_100, "wmav2", 96_000), picture=picture)
    info, clean, _ = heard(content)
    assert clean.damage is None
    _, ending, _ = heard(content[: len(content) // 2])
    assert "cut short" in ending.damage or "did not decode" in ending.damage
    assert info.declared_seconds == (None if picture else pytest.approx(SECONDS, abs=0.1))
