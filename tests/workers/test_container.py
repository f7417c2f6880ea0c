"""Containers are told by their first bytes: real clips, real muxers' output, and bytes that only look like audio."""

import io
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from workers import container
from workers.container import sniff

CORPUS = Path(__file__).parents[2] / "pipelines" / "demo" / "corpus"
BY_SUFFIX = {".wav": "wav", ".flac": "flac", ".mp3": "mp3", ".ogg": "ogg", ".opus": "ogg", ".m4a": "mp4", ".mp4": "mp4"}
CLIPS = sorted(path for path in CORPUS.rglob("*") if path.suffix in BY_SUFFIX and path.parent.name != "broken")
RATE = 16000


def head_of(path: Path) -> bytes:
    return path.read_bytes()[: container.HEAD_BYTES]


def muxed(muxer: str, codec: str) -> bytes:
    """A second of a sine, as FFmpeg's muxer writes it."""
    file = io.BytesIO()
    with av.open(file, "w", format=muxer) as output:
        stream = output.add_stream(codec, rate=RATE, layout="mono")
        sine = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
        frame = av.AudioFrame.from_ndarray((sine * 8000).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        for resampled in (*av.AudioResampler(stream.format, "mono", RATE).resample(frame), None):
            output.mux(stream.encode(resampled))
    return file.getvalue()


def test_the_demo_has_clips_of_every_suffix():
    assert {clip.suffix for clip in CLIPS} == set(BY_SUFFIX)


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.name)
def test_every_demo_clip_is_told_by_its_magic(clip):
    assert sniff(head_of(clip)).name == BY_SUFFIX[clip.suffix]


@pytest.mark.parametrize(
    ("muxer", "codec", "expected"),
    [
        ("wav", "pcm_s16le", container.WAV),
        ("aiff", "pcm_s16be", container.AIFF),
        ("flac", "flac", container.FLAC),
        ("mp3", "libmp3lame", container.MP3),
        ("mp4", "aac", container.MP4),
        ("mov", "pcm_s16le", container.MP4),
        ("ipod", "aac", container.MP4),
        ("matroska", "pcm_s16le", container.MATROSKA),
        ("webm", "libopus", container.MATROSKA),
        ("ogg", "libopus", container.OGG),
        ("adts", "aac", container.AAC_ADTS),
        ("latm", "aac", container.AAC_LOAS),
        ("flv", "aac", container.FLV),
        ("avi", "pcm_s16le", container.AVI),
        ("asf", "pcm_s16le", container.ASF),
        ("mpegts", "aac", container.MPEG_TS),
        ("caf", "pcm_s16le", container.CAF),
        ("au", "pcm_s16be", container.AU),
        ("voc", "pcm_s16le", container.VOC),
    ],
)
def test_what_a_muxer_writes_is_told_from_every_other(muxer, codec, expected):
    assert sniff(muxed(muxer, codec)[: container.HEAD_BYTES]) == expected


def test_every_demuxer_we_pin_is_one_that_ffmpeg_has():
    kinds = [value for value in vars(container).values() if isinstance(value, container.Container)]
    assert len(kinds) == 24
    for kind in kinds:
        assert av.ContainerFormat(kind.demuxer, "r").is_input


def test_ogg_goes_to_ffmpeg_which_hears_every_link_of_a_chain():
    assert not sniff(head_of(CORPUS / "en/tt-monkeys.ogg")).soundfile
    assert not sniff(head_of(CORPUS / "en/priv-introsaved.opus")).soundfile


def test_an_mp3_is_an_mp3_with_and_without_its_id3_tag():
    tagged = (CORPUS / "en/demo-echotest.mp3").read_bytes()
    assert tagged[:3] == b"ID3"
    bare = tagged[tagged.index(b"\xff\xe3") :]
    assert sniff(tagged[:4096]) == sniff(bare[:4096]) == container.MP3


def test_an_id3_tag_longer_than_the_head_is_taken_for_an_mp3():
    picture = b"ID3\x04\x00\x00" + bytes([0, 0, 100, 0]) + bytes(12_800)
    assert sniff(picture[: container.HEAD_BYTES]) == container.MP3


@pytest.mark.parametrize(("muxer", "codec"), [("adts", "aac"), ("flac", "flac")])
def test_what_follows_a_short_id3_tag_counts_not_the_tag(muxer, codec):
    audio = muxed(muxer, codec)
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 1, 2]) + bytes(130)
    assert sniff((tag + audio)[:4096]) == sniff(audio[:4096]) != container.MP3


def test_a_head_full_of_id3_tags_ends():
    assert sniff(b"ID3\x04\x00\x00\x00\x00\x00\x00" * 100) == container.MP3


def test_adts_and_mp3_differ_in_their_layer_bits():
    assert sniff(bytes.fromhex("fff15080")) == container.AAC_ADTS
    assert sniff(bytes.fromhex("fff95080")) == container.AAC_ADTS
    assert sniff(bytes.fromhex("fffb9064")) == container.MP3
    assert sniff(bytes.fromhex("fff38064")) == container.MP3  # MPEG-2
    assert sniff(bytes.fromhex("ffe338c0")) == container.MP3  # MPEG-2.5, as the demo's


@pytest.mark.parametrize("header", ["ffebff00", "fffb0064", "fffbf064", "fffb9c64"])
def test_a_sync_word_with_reserved_values_is_no_mp3(header):
    assert sniff(bytes.fromhex(header)) is None


def test_riff_is_wave_avi_or_nothing_we_know():
    assert sniff(b"RIFF\x24\x00\x00\x00WAVEfmt ") == container.WAV
    assert sniff(b"RF64\xff\xff\xff\xffWAVEds64") == container.WAV
    assert sniff(b"RIFF\x24\x00\x00\x00AVI LIST") == container.AVI
    assert sniff(b"RIFF\x24\x00\x00\x00WEBPVP8 ") is None


@pytest.mark.parametrize(
    "text",
    [
        (CORPUS / "broken/notes.wav").read_bytes(),
        (CORPUS / "manifest.csv").read_bytes()[:4096],
        "Field notes, kept as UTF-16".encode("utf-16"),
        "Feldnotizen, größer".encode("utf-8-sig"),
        b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        b"<?xml version='1.0'?><smil/>",
        b"%PDF-1.7\n",
        b"PK\x03\x04",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0\x00\x10JFIF",
        b"\x00" * 4096,
        b"\xff" * 4096,
        b"",
        b"R",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_what_is_not_audio_has_no_container(text):
    assert sniff(text) is None


def test_one_loas_sync_word_is_no_loas():
    frames = muxed("latm", "aac")
    assert sniff(frames[:4] + bytes(4092)) is None
    assert sniff("Vénus".encode("latin-1") * 800) is None


@pytest.mark.parametrize("box", [b"ftyp", b"mdat", b"pnot", b"uuid", b"styp", b"moof"])
def test_an_mp4_may_begin_with_any_of_its_boxes(box):
    assert sniff(b"\0\0\0\x18" + box + bytes(16)) == container.MP4


def test_a_table_with_a_column_uuid_is_no_mp4():
    assert sniff(b"row,uuid,name\n1,2,3\n") is None


def test_a_video_under_an_mp3_name_is_an_mp4(tmp_path):
    misnamed = tmp_path / "song.mp3"
    misnamed.write_bytes((CORPUS / "en/vm-newuser.mp4").read_bytes())
    assert sniff(head_of(misnamed)) == container.MP4


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64", "AIFF", "FLAC", "AU", "CAF", "W64", "NIST", "MP3"])
def test_what_is_said_to_be_libsndfiles_opens_with_it(kind):
    file = io.BytesIO()
    soundfile.write(file, np.zeros(RATE), RATE, format=kind)
    assert sniff(file.getvalue()[:4096]).soundfile
    file.seek(0)
    with soundfile.SoundFile(file) as sound:
        assert sound.samplerate == RATE
