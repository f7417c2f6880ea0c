"""Recordings that are longer or shorter than their header, or another track, says: joined, stale, cut short, live."""

import struct

import numpy as np
import pytest

from tests.fuzz import ogg
from tests.recordings import (
    ALIGNED,
    APE,
    BARE,
    BARER,
    FARTHEST,
    ID3V1,
    LENGTH,
    PCM_FMT,
    RATE,
    SECONDS,
    UNTOLD,
    Track,
    album_art,
    chunk,
    delay_and_likeness,
    filmed,
    heard,
    id3_tag,
    mp3,
    muxed,
    pcm,
    refusal,
    rf64,
    riff,
    variable_mp3_without_its_length,
    written,
)
from workers import opening

JOINED = {
    "Ogg Vorbis": (lambda: written(pcm(), RATE, "OGG", "VORBIS"), 1024),
    "Ogg Opus": (lambda: muxed("ogg", "libopus", 48_000, 64_000), 640),
    "FLAC in Ogg": (lambda: muxed("ogg", "flac"), 0),
    "FLAC": (lambda: written(pcm(), RATE, "FLAC"), 0),
    "MP3": (mp3, 2 * 1105 + 1152),
    "MP3 without tags": (lambda: mp3(BARER), 2 * 1105 + 1152),
    "AAC in ADTS": (lambda: muxed("adts", "aac", RATE, 64_000), 2 * 1024 + 1024),
}


"""What may be joined, with how many samples its encoder adds at most to both together."""


@pytest.mark.parametrize("name", JOINED)
def test_recordings_one_behind_the_other_are_heard_to_the_end(name):
    """As a radio's recorder begins a new Ogg stream for each title, and as people join MP3s with cat."""
    encoded, added = JOINED[name]
    _, _, found = heard(encoded() * 2)
    assert 2 * LENGTH <= len(found) <= 2 * LENGTH + added
    late, alike = delay_and_likeness(found[LENGTH:])
    assert 0 <= late <= added
    assert alike > 0.9


@pytest.mark.parametrize("louder_first", [True, False])
def test_a_variable_mp3_that_tells_no_length_is_heard_to_the_end(louder_first):
    """libsndfile takes the first frame's bit rate for that of all."""
    fade = np.linspace(1, 0, LENGTH) ** 4
    source = np.rint(pcm() * (fade if louder_first else fade[::-1])).astype(np.int16)
    _, ending, found = heard(variable_mp3_without_its_length(source))
    assert ending.damage is None
    assert abs(len(found) - LENGTH - 1105) <= 576
    late, alike = delay_and_likeness(found, source)
    assert abs(late - 1105) <= ALIGNED
    assert alike > 0.99


TELLING = {
    **{
        kind: lambda kind=kind: written(pcm(), RATE, kind)
        for kind in ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "FLAC")
    },
    "RF64 by hand": lambda: rf64(pcm().tobytes()),
    "ALAC in CAF": lambda: written(pcm(), RATE, "CAF", "ALAC_16"),
    "TTA": lambda: muxed("tta", "tta", sample_format="s16"),
    "PCM in Matroska": lambda: muxed("matroska", "pcm_s16le"),
    "AAC in FLV": lambda: muxed("flv", "aac", 44_100, 64_000),
    "MP3": mp3,
}


"""Formats whose header tells how much follows."""


@pytest.mark.parametrize("name", TELLING)
def test_half_of_a_file_whose_header_tells_the_length_is_partial(name):
    content = TELLING[name]()
    info, ending, found = heard(content[: len(content) // 2])
    assert 0.3 * SECONDS < ending.decoded_seconds < 0.6 * SECONDS
    assert ending.damage
    if "damaged after" not in ending.damage:  # the damage is not told by the data, so it must be by the header
        assert info.declared_seconds == pytest.approx(SECONDS, rel=0.03)
    assert len(found) / RATE == pytest.approx(ending.decoded_seconds, abs=1 / RATE)


@pytest.mark.parametrize("size", [0, UNTOLD])
def test_a_wav_whose_recorder_never_filled_in_its_sizes_is_heard_whole(size):
    _, ending, found = heard(riff(PCM_FMT, pcm().tobytes(), size=size, riff_size=size))
    assert ending.damage is None
    np.testing.assert_array_equal(found, pcm())


INFO = chunk(b"LIST", b"INFOISFT\x0e\0\0\0Lavf60.16.100\0")


@pytest.mark.parametrize("behind", [INFO, INFO + chunk(b"_PMX", b"<?xpacket?>" * 300)], ids=["LIST", "LIST and XMP"])
def test_an_empty_wav_with_chunks_behind_its_samples_is_empty(behind):
    error = refusal(riff(PCM_FMT, b"", behind=behind))
    assert error.code == "empty"
    assert "no samples" in error.message


def test_an_empty_wav_says_that_it_has_no_samples():
    error = refusal(riff(PCM_FMT, b""))
    assert error.code == "empty"
    assert "no samples by its header" in error.message
    assert "Garbled" not in error.message


def test_a_recorders_samples_that_resemble_a_chunk_are_heard():
    samples = b"LIST" + pcm().tobytes()
    np.testing.assert_array_equal(
        heard(riff(PCM_FMT, samples, size=0, riff_size=0))[2], np.frombuffer(samples, np.int16)
    )


SEAMS = {
    "ID3v1": ID3V1,
    "APEv2": APE,
    "zeros": bytes(300),
    "tags": ID3V1 + id3_tag(bytes(2_000_000)),
    "a short tag": id3_tag(bytes(2000)),
    "a picture": ID3V1 + album_art(),
    "all of them": APE + ID3V1 + album_art(),
}


"""What may stand where one MP3 ends and the next begins."""


@pytest.mark.parametrize("seam", SEAMS)
def test_mp3s_with_something_between_them_are_heard_to_the_end(seam):
    """As cat joins files that have tags of their own."""
    _, ending, found = heard(SEAMS[seam].join([mp3()] * 3))
    assert ending.damage is None
    assert 3 * LENGTH <= len(found) <= 3 * (LENGTH + 1105 + 1152)
    late, alike = delay_and_likeness(found[LENGTH : 2 * LENGTH + FARTHEST])
    assert 0 <= late <= FARTHEST
    assert alike > 0.9


@pytest.mark.parametrize(("frames", "n_bytes"), [(20, 4000), (1, 1), (20, None)])
def test_an_mp3_that_is_longer_than_its_first_frame_says_is_heard_to_its_end(frames, n_bytes):
    """As recorders and editors leave it that do not count again."""
    content = bytearray(mp3())
    at = content.index(b"Info")
    content[at + 8 : at + 12] = struct.pack(">I", frames)
    if n_bytes is not None:
        content[at + 12 : at + 16] = struct.pack(">I", n_bytes)
    _, ending, found = heard(bytes(content))
    assert ending.damage is None
    assert LENGTH <= len(found) <= LENGTH + 576


def flac_counting(samples):
    """A FLAC of the voice whose header says that it has so many samples: the lower 36 bits of 8 bytes."""
    content = written(pcm(), RATE, "FLAC")
    told = int.from_bytes(content[18:26], "big") >> 36 << 36 | samples
    return content[:18] + told.to_bytes(8, "big") + content[26:]


@pytest.mark.parametrize("samples", [0, 1, 24_000, 40_000])
def test_a_flac_that_is_longer_than_its_header_says_is_heard_to_its_end(samples):
    _, ending, found = heard(flac_counting(samples))
    assert ending.damage is None
    np.testing.assert_array_equal(found, pcm())


def test_short_flacs_that_were_joined_are_all_heard():
    """libFLAC has read the second one's beginning before the first one's end."""
    short = written(pcm()[:4_000], RATE, "FLAC")
    _, ending, found = heard(short * 3)
    assert ending.damage is None
    np.testing.assert_array_equal(found, np.tile(pcm()[:4_000], 3))


def test_what_follows_a_long_flac_that_does_not_count_it_makes_it_partial(monkeypatch):
    monkeypatch.setattr(opening, "READ_ON_WITHIN", 1)
    _, ending, found = heard(written(pcm(), RATE, "FLAC") * 2)
    assert "does not count" in ending.damage
    assert len(found) == LENGTH


def test_a_picture_behind_a_flac_is_not_taken_for_frames(monkeypatch):
    monkeypatch.setattr(opening, "open_media", None)
    for seed in range(4):
        noise = id3_tag(np.random.default_rng(seed).bytes(200_000))
        assert len(heard(written(pcm(), RATE, "FLAC") + noise)[2]) == LENGTH


@pytest.mark.parametrize("behind", [b"", ID3V1, bytes(40_000)], ids=["nothing", "ID3v1", "zeros"])
@pytest.mark.parametrize("name", ["FLAC", "MP3"])
def test_what_tells_its_length_is_read_once(name, behind, monkeypatch):
    monkeypatch.setattr(opening, "open_media", None)
    content = mp3() if name == "MP3" else written(pcm(), RATE, "FLAC")
    assert len(heard(content + behind)[2]) == LENGTH


FILMS = [
    *(("matroska", "aac", "mpeg4"), ("flv", "aac", "flv"), ("asf", "wmav2", "wmv2")),
    *(("mpegts", "aac", "mpeg2video"), ("avi", "mp2", "mpeg4")),
]


@pytest.mark.parametrize(("muxer", "codec", "picture"), FILMS)
def test_a_film_whose_sound_ends_before_its_pictures_is_whole(muxer, codec, picture):
    rate = 44_100
    sound = Track(pcm(rate)[: rate * SECONDS // 2], rate, codec, 96_000)
    info, ending, _ = heard(filmed(muxer, sound, picture=picture))
    assert ending.damage is None
    assert info.declared_seconds in (None, pytest.approx(SECONDS / 2, abs=0.1))
    assert ending.decoded_seconds == pytest.approx(SECONDS / 2, abs=0.1)


@pytest.mark.parametrize(("muxer", "codec", "picture"), FILMS[:3])
def test_a_film_that_is_cut_short_says_so_though_only_all_tracks_have_a_length(muxer, codec, picture):
    content = filmed(muxer, Track(pcm(44_100), 44_100, codec, 96_000), picture=picture)
    info, ending, _ = heard(content[: len(content) // 2])
    assert info.declared_seconds is None
    assert ending.decoded_seconds < 0.8 * SECONDS
    assert "cut short" in ending.damage


def test_a_short_prompt_that_lost_most_of_its_samples_is_partial():
    content = filmed("mp3", Track(pcm()[: RATE // 4], RATE, "libmp3lame", 64_000), options=BARE)
    assert heard(content)[1].damage is None
    assert "cut short" in heard(content[: len(content) // 2])[1].damage


def test_a_short_file_that_lost_most_of_its_samples_is_partial():
    half_a_second = written(pcm()[: RATE // 2], RATE, "WAV")
    assert "cut short" in heard(half_a_second[: 44 + 640])[1].damage
    assert heard(half_a_second)[1].damage is None


def test_a_file_too_short_for_a_sample_is_empty():
    assert refusal(written(pcm(48_000)[:1], 48_000, "WAV")).code == "empty"


def on_air(content: bytes, samples: int) -> bytes:
    """An Ogg whose recorder joined a broadcast that was so many samples old."""
    late = bytearray(content)
    for start, _ in ogg.pages(content):
        [told] = struct.unpack_from("<q", late, start + 6)
        struct.pack_into("<q", late, start + 6, told + samples if told > 0 else told)
    return ogg.repaired(bytes(late))


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


@pytest.mark.parametrize("picture", [None, "wmv2"])
def test_half_of_an_asf_is_partial(picture):
    content = filmed("asf", Track(pcm(44_100), 44_100, "wmav2", 96_000), picture=picture)
    info, clean, _ = heard(content)
    assert clean.damage is None
    _, ending, _ = heard(content[: len(content) // 2])
    assert "cut short" in ending.damage or "did not decode" in ending.damage
    assert info.declared_seconds == (None if picture else pytest.approx(SECONDS, abs=0.1))


def test_an_asf_of_a_broadcast_does_not_know_how_long_it_is():
    content = bytearray(filmed("asf", Track(pcm(44_100), 44_100, "wmav2", 96_000), picture="wmv2"))
    properties = content.index(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    content[properties + 64 : properties + 72] = struct.pack("<Q", 36_000 * 10**7)
    assert "cut short" in heard(bytes(content))[1].damage
    content[properties + 88] |= 1
    assert heard(bytes(content))[1].damage is None
