"""What is not as it should be on the way through a recording, and is heard past: lost packets, pauses, tags."""

import io
import struct

import av
import numpy as np
import pytest
import soxr

from tests.fuzz import flac
from tests.recordings import (
    APE,
    BARE,
    BARER,
    ID3V1,
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


@pytest.mark.parametrize("bytes_lost", [1, 3000])
def test_a_flac_damaged_in_the_middle_is_heard_to_its_end(bytes_lost):
    """libsndfile gives up there; FFmpeg finds the next frame."""
    whole = written(pcm(), RATE, "FLAC")
    middle = len(whole) // 2
    content = whole[:middle] + bytes(byte ^ 0x55 for byte in whole[middle : middle + bytes_lost])
    _, ending, found = heard(content + whole[middle + bytes_lost :])
    assert SECONDS - 1 < ending.decoded_seconds <= SECONDS
    assert ending.damage.startswith("damaged")
    np.testing.assert_array_equal(found[: LENGTH // 3], pcm()[: LENGTH // 3])
    np.testing.assert_array_equal(found[-LENGTH // 6 :], pcm()[-LENGTH // 6 :])


def test_an_mp3_with_a_length_damaged_in_the_middle_is_heard_to_its_end():
    whole = mp3()
    assert heard(whole)[0].decoder.startswith("libsndfile")
    middle = len(whole) // 2
    _, clean, all_of_it = heard(whole)
    _, ending, found = heard(whole[:middle] + bytes(1500) + whole[middle + 1500 :])
    assert clean.damage is None
    assert clean.decoded_seconds - 0.5 < ending.decoded_seconds < clean.decoded_seconds
    assert "did not decode" in ending.damage
    np.testing.assert_allclose(found[: LENGTH // 3], all_of_it[: LENGTH // 3], atol=1)  # of another decoder
    tail = found[-LENGTH // 4 :]
    assert delay_and_likeness(tail, all_of_it[-LENGTH // 4 :])[1] > 0.99


@pytest.mark.parametrize("tag", [ID3V1, APE, APE + ID3V1], ids=["ID3v1", "APEv2", "both"])
@pytest.mark.parametrize("name", ["FLAC", "MP3", "MP3 without its length", "AAC in ADTS"])
def test_a_tag_at_the_end_is_no_damage(name, tag):
    content = {
        "FLAC": lambda: written(pcm(), RATE, "FLAC"),
        "MP3": mp3,
        "MP3 without its length": lambda: mp3(BARER),
        "AAC in ADTS": lambda: muxed("adts", "aac", RATE, 64_000),
    }[name]()
    _, clean, expected = heard(content)
    _, ending, found = heard(content + tag)
    assert clean.damage is None
    assert ending == clean
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["MP3 without its length", "AAC in ADTS"])
@pytest.mark.parametrize("before", [b"", bytes(512)], ids=["in a frame", "behind zeros"])
def test_a_stream_cut_in_the_middle_of_a_frame_is_heard(name, before):
    content = mp3(BARER) if "MP3" in name else muxed("adts", "aac", RATE, 64_000)
    content = before + content if before else content[777:]
    info, ending, found = heard(content)
    assert info.container == ("mp3" if "MP3" in name else "aac")
    assert len(found) > LENGTH - 4 * 1152
    assert ending.damage is None


@pytest.mark.parametrize("n_bytes", [32, 1_000, "all but one", "all"])
def test_a_tag_that_is_not_where_its_footer_says_takes_nothing_away(n_bytes):
    content = mp3(BARER)
    said = {"all but one": len(content) - 1, "all": len(content)}.get(n_bytes, n_bytes)
    footer = struct.pack("<8sIIII8s", b"APETAGEX", 2000, said, 1, 1 << 31, bytes(8))
    assert len(heard(content + footer)[2]) == len(heard(content)[2])


def test_samples_that_are_no_numbers_are_told_of():
    samples = pcm() / np.float32(32768)
    samples[1000:2000] = np.nan
    _, ending, found = heard(written(samples, RATE, "WAV", "FLOAT"))
    assert "no numbers" in ending.damage
    assert not found[1000:2000].any()
    samples[1000:2000] = np.inf
    assert "infinite" in heard(written(samples, RATE, "WAV", "FLOAT"))[1].damage
    assert heard(written(samples[2000:], RATE, "WAV", "FLOAT"))[1].damage is None


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


def test_amr_without_pauses_is_what_ffmpegs_own_decoder_gives_and_so_it_is_up_to_the_first_one():
    plain, paused = muxed("amr", "libopencore_amrnb", 8000, 12_200), with_pauses_left_out("amr")
    for content, samples in ((plain, LENGTH), (paused, LENGTH)):
        with av.open(io.BytesIO(content)) as file:
            frames = [
                frame.to_ndarray()[0] for _, frame in zip(range(SECONDS * 50), file.decode(audio=0), strict=False)
            ]
        reference = soxr.resample(np.concatenate(frames), 8000, RATE, quality="HQ")
        _, _, found = heard(content)
        np.testing.assert_array_equal(found[: samples - RATE // 10], rounded(reference)[: samples - RATE // 10])


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
@pytest.mark.parametrize("rates", [(44_100, 48_000), (48_000, 32_000), (8_000, 44_100)])
def test_a_recording_goes_on_at_another_rate(muxer, codec, rates):
    """As an advertisement before a show; FFmpeg's command line gives both too."""
    options = BARER if muxer == "mp3" else {}
    parts = [
        filmed(muxer, Track(voices(rate)[number], rate, codec, 96_000), options=options)
        for number, rate in enumerate(rates)
    ]
    info, ending, found = heard(b"".join(parts * 3))
    assert ending.damage is None
    assert info.sample_rate == rates[0]
    alone = sum(len(heard(part)[2]) for part in parts)
    assert len(found) / RATE == pytest.approx(3 * alone / RATE, abs=0.02)
    assert delay_and_likeness(found[:LENGTH])[1] > 0.95
    assert delay_and_likeness(found[-LENGTH:], rounded(OTHER))[1] > 0.95


def flac_of(rates: list[int]) -> bytes:
    """Frames of these rates, behind a header that counts the first two: libsndfile would hear all at one rate."""
    info = flac.block(0, flac.stream_info(rates[0], 1, 2 * 4096, 4096), last=True)
    frames = (flac.frame(number, 4096, value=1000, rate=rate) for number, rate in enumerate(rates))
    return b"fLaC" + info + b"".join(frames)


def test_a_stream_whose_rate_changes_now_and_then_is_heard():
    _, ending, found = heard(flac_of([8_000] * 400 + [16_000] * 400 + [8_000] * 600))
    assert ending.damage is None
    assert len(found) / RATE == pytest.approx(4096 * (1000 / 8_000 + 400 / 16_000), abs=0.01)


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ([8_000] * 10 + [655_350, 655_340] * 600, "from 8000 to 655350 Hz"),
        ([48_000] * 10 + [16] * 1_500, "from 48000 to 16 Hz"),
        ([8_000] * 10 + [44_100, 8_000] * 1_000, "again and again"),
    ],
)
def test_rates_that_nobody_records_at_end_the_recording_soon(rates, said):
    """A frame of 15 bytes may say that it is five hours long, or ask for a filter that takes a second to make."""
    _, ending, found = heard(flac_of(rates))
    assert said in ending.damage
    assert len(found) >= 10 * 4096 * RATE // rates[0]


LYING = {
    "longer than the file": b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + bytes(20),
    "no size": b"ID3\x03\0\0\0\0\xff\xff" + bytes(100),
    "noise": b"ID3\x04\0\0\x12\x34\x56\x78" + np.random.default_rng(4).bytes(400),
    "APEv2": struct.pack("<8sIIII8s", b"APETAGEX", 2000, 0xFFFF_FF00, 1, 1 << 31 | 1 << 29, bytes(8)),
}
"""What begins as tags do, and claims more than there is."""


@pytest.mark.parametrize("options", [BARE, BARER], ids=["with a length", "without"])
@pytest.mark.parametrize("lie", LYING)
def test_a_tag_that_claims_the_rest_of_an_mp3_takes_nothing_away(options, lie):
    encoded = mp3(options)
    _, _, found = heard(encoded + LYING[lie] + encoded)
    assert len(found) > 2 * LENGTH - 4 * 1152
    assert delay_and_likeness(found[-LENGTH // 2 :], pcm()[-LENGTH // 2 :])[1] > 0.9


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


def test_a_codec_whose_name_is_no_text_is_heard():
    """AVI names AAC by the number 0xFF."""
    _, ending, found = heard(muxed("avi", "aac", 44_100, 96_000, picture="mpeg4"))
    assert ending.damage is None
    assert delay_and_likeness(found)[1] > 0.98
