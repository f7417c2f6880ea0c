"""Every format we say we read: one voice, encoded many ways, comes back as that voice, at its length and in its place.

Lengths and delays are in samples at 16 kHz. What an encoder puts in front stays where no header says how much it is.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from schemas import ids
from tests.recordings import (
    ALIGNED,
    APE,
    BARER,
    FARTHEST,
    LENGTH,
    LIMITS,
    OTHER,
    PCM_FMT,
    RATE,
    SECONDS,
    VOICE,
    Track,
    album_art,
    at_16_khz,
    chunk,
    deep,
    delay_and_likeness,
    extensible,
    filmed,
    heard,
    heard_of,
    id3_tag,
    id3_tag_with_footer,
    mp3,
    muxed,
    pcm,
    rf64,
    riff,
    rms,
    rounded,
    sphere,
    stereo,
    written,
)
from workers.decode_settings import DecodeSettings
from workers.headerless import RawAudio
from workers.ingest import Ingester, IngestSettings
from workers.loading import SourceSettings
from workers.recording import Recording
from workers.segments import SegmentSettings
from workers.source import Source

CORPUS = Path(__file__).parents[2] / "pipelines" / "demo" / "corpus"


@dataclass(frozen=True)
class Lossless:
    """An encoding that keeps every bit of `expected`, which is what must be heard."""

    name: str
    content: Callable[[], bytes]
    container: str
    codec: str
    expected: Callable[[], np.ndarray] = pcm
    rate: int = RATE
    channels: int = 1
    raw: RawAudio | None = None


@dataclass(frozen=True)
class Lossy:
    """An encoding that keeps the voice alike; `late` is the delay that stays, `frame` the length of a codec's frame."""

    name: str
    content: Callable[[], bytes]
    container: str
    codec: str
    rate: int = RATE
    frame: int = 0
    late: int = 0
    alike: float = 0.99
    raw: RawAudio | None = None


def sf_exact(name, container, kind, subtype, bits, endian=None):
    """PCM of `bits` in a container that libsndfile writes."""
    source = {8: lambda: pcm() & -256, 16: pcm}.get(bits, lambda: deep(bits))
    expected = source if bits <= 16 else lambda: heard_of(bits)
    return Lossless(
        name, lambda: written(source(), RATE, kind, subtype, endian), container, subtype.lower(), expected=expected
    )


def sf_float(name, container, kind, subtype):
    return Lossless(
        name, lambda: written(VOICE, RATE, kind, subtype), container, subtype.lower(), lambda: rounded(VOICE)
    )


LOSSLESS = [
    *(
        sf_exact(f"{kind} {subtype}", container, kind, subtype, bits)
        for kind, container in [
            ("WAV", "wav"),
            ("WAVEX", "wav"),
            ("RF64", "wav"),
            ("W64", "w64"),
            ("AIFF", "aiff"),
            ("AU", "au"),
            ("CAF", "caf"),
            ("NIST", "nist"),
        ]
        for subtype, bits in [("PCM_16", 16), ("PCM_24", 24), ("PCM_32", 32)]
    ),
    *(
        sf_float(f"{kind} {subtype}", container, kind, subtype)
        for kind, container in [("WAV", "wav"), ("W64", "w64"), ("AIFF", "aiff"), ("AU", "au"), ("CAF", "caf")]
        for subtype in ("FLOAT", "DOUBLE")
    ),
    sf_exact("WAV PCM_U8", "wav", "WAV", "PCM_U8", 8),
    sf_exact("AIFF PCM_S8", "aiff", "AIFF", "PCM_S8", 8),
    sf_exact("RIFX PCM_16", "wav", "WAV", "PCM_16", 16, "BIG"),
    sf_exact("AIFF-C sowt", "aiff", "AIFF", "PCM_16", 16, "LITTLE"),
    sf_exact("CAF ALAC_16", "caf", "CAF", "ALAC_16", 16),
    sf_exact("CAF ALAC_24", "caf", "CAF", "ALAC_24", 24),
    sf_exact("FLAC 16 bit", "flac", "FLAC", "PCM_16", 16),
    sf_exact("FLAC 24 bit", "flac", "FLAC", "PCM_24", 24),
    Lossless("FLAC in Ogg", lambda: muxed("ogg", "flac"), "ogg", "flac"),
    Lossless("ALAC in M4A", lambda: muxed("ipod", "alac"), "mp4", "alac"),
    Lossless(
        "ALAC in M4A at 44.1 kHz",
        lambda: muxed("ipod", "alac", 44_100),
        "mp4",
        "alac",
        lambda: at_16_khz(pcm(44_100), 44_100),
        rate=44_100,
    ),
    Lossless(
        "FLAC at 48 kHz",
        lambda: written(pcm(48_000), 48_000, "FLAC"),
        "flac",
        "pcm_16",
        lambda: at_16_khz(pcm(48_000), 48_000),
        rate=48_000,
    ),
    Lossless("WavPack", lambda: muxed("wv", "wavpack", sample_format="s16p"), "wv", "wavpack"),
    Lossless("TTA", lambda: muxed("tta", "tta", sample_format="s16"), "tta", "tta"),
    Lossless("PCM in MOV", lambda: muxed("mov", "pcm_s16be", picture="mjpeg"), "mp4", "pcm_s16be"),
    Lossless("PCM in AVI", lambda: muxed("avi", "pcm_s16le", picture="mpeg4"), "avi", "pcm_s16le"),
    Lossless("FLAC in Matroska", lambda: muxed("matroska", "flac", picture="mpeg4"), "matroska", "flac"),
    Lossless("raw s16le", lambda: pcm().tobytes(), "s16le", "pcm_s16le", raw=RawAudio("s16le", RATE)),
    Lossless(
        "raw s16le stereo at 44.1 kHz",
        lambda: stereo(pcm(44_100), pcm(44_100)).tobytes(),
        "s16le",
        "pcm_s16le",
        lambda: at_16_khz(pcm(44_100), 44_100),
        rate=44_100,
        channels=2,
        raw=RawAudio("s16le", 44_100, 2),
    ),
    # As others write them
    Lossless("RF64 with its sizes in ds64", lambda: rf64(pcm().tobytes()), "wav", "pcm_16"),
    Lossless("extensible, 24 bits in 32", lambda: extensible(24, 32, deep(24)), "wav", "pcm_32", lambda: heard_of(24)),
    Lossless("extensible stereo", lambda: extensible(16, 16, stereo(pcm(), pcm()), 2), "wav", "pcm_16", channels=2),
    Lossless(
        "a chunk of odd length and a large one before the format, and a tag behind the samples",
        lambda: riff(
            PCM_FMT,
            pcm().tobytes(),
            before=chunk(b"bext", bytes(603)) + chunk(b"JUNK", bytes(100_000)),
            behind=chunk(b"LIST", b"INFOISFT\x04\0\0\0sox\0"),
        ),
        "wav",
        "pcm_16",
    ),
    Lossless("half a sample at the end", lambda: riff(PCM_FMT, pcm().tobytes() + b"\x55"), "wav", "pcm_16"),
    Lossless("NIST SPHERE as the LDC has it", lambda: sphere(pcm().astype(">i2").tobytes()), "nist", "pcm_16"),
    Lossless("Creative VOC", lambda: muxed("voc", "pcm_s16le"), "voc", "pcm_s16le"),
    Lossless("FLAC behind a tag", lambda: id3_tag(bytes(500)) + written(pcm(), RATE, "FLAC"), "flac", "pcm_16"),
    Lossless("WAV behind a tag", lambda: id3_tag(bytes(40_000)) + written(pcm(), RATE, "WAV"), "wav", "pcm_16"),
    Lossless("WAV behind a short tag", lambda: id3_tag(bytes(2000)) + written(pcm(), RATE, "WAV"), "wav", "pcm_16"),
    Lossless("AIFF behind a picture", lambda: album_art() + written(pcm(), RATE, "AIFF"), "aiff", "pcm_16"),
    Lossless("W64 behind two tags", lambda: id3_tag(b"") + APE + written(pcm(), RATE, "W64"), "w64", "pcm_16"),
    Lossless("ALAC in M4A behind a tag", lambda: id3_tag(bytes(40_000)) + muxed("ipod", "alac"), "mp4", "alac"),
    Lossless("FLAC behind a picture", lambda: album_art() + written(pcm(), RATE, "FLAC"), "flac", "pcm_16"),
]


LOSSY = [
    *(
        Lossy(f"{kind} {subtype}", lambda k=kind, s=subtype: written(pcm(), RATE, k, s), container, subtype.lower())
        for kind, container in [
            ("WAV", "wav"),
            ("W64", "w64"),
            ("AIFF", "aiff"),
            ("AU", "au"),
            ("CAF", "caf"),
            ("NIST", "nist"),
        ]
        for subtype in ("ULAW", "ALAW")
    ),
    Lossy("WAV IMA_ADPCM", lambda: written(pcm(), RATE, "WAV", "IMA_ADPCM"), "wav", "ima_adpcm", frame=1017),
    Lossy("WAV MS_ADPCM", lambda: written(pcm(), RATE, "WAV", "MS_ADPCM"), "wav", "ms_adpcm", frame=1012),
    Lossy("WAV GSM 6.10", lambda: written(pcm(8000), 8000, "WAV", "GSM610"), "wav", "gsm610", 8000, 640, alike=0.95),
    Lossy("WAV G.721", lambda: written(pcm(8000), 8000, "WAV", "G721_32"), "wav", "g721_32", 8000, 240),
    Lossy("WAV MP3", lambda: muxed("wav", "libmp3lame", bit_rate=64_000), "wav", "mp3", frame=1152, late=1105),
    Lossy("MP3 CBR", mp3, "mp3", "mp3"),
    Lossy("MP3 CBR at 44.1 kHz", lambda: muxed("mp3", "libmp3lame", 44_100, 64_000), "mp3", "mp3", 44_100),
    Lossy("MP3 CBR at 8 kHz", lambda: muxed("mp3", "libmp3lame", 8000, 32_000), "mp3", "mp3", 8000),
    # LAME's delay and the decoder's, 576 + 529: nothing says so without the Info frame
    Lossy("MP3 without tags", lambda: mp3(BARER), "mp3", "mp3", frame=576, late=1105),
    Lossy("MP3 behind a picture", lambda: album_art() + mp3(), "mp3", "mp3"),
    Lossy(
        "MP3 without tags behind a picture",
        lambda: album_art() + mp3(BARER),
        "mp3",
        "mp3",
        frame=576,
        late=1105,
    ),
    Lossy("MP3 behind an APEv2 tag", lambda: APE + mp3(), "mp3", "mp3"),
    Lossy("MP3 behind a tag with a footer", lambda: id3_tag_with_footer(bytes(500)) + mp3(), "mp3", "mp3"),
    Lossy("MP3 before an ID3v1 tag", lambda: mp3() + b"TAG" + bytes(125), "mp3", "mp3"),
    # 481 samples at 48 kHz of the polyphase filters
    Lossy("MP2", lambda: muxed("mp2", "mp2", 48_000, 128_000), "mp3", "mp2", 48_000, 384, 160),
    Lossy("Ogg Vorbis", lambda: written(pcm(), RATE, "OGG", "VORBIS"), "ogg", "vorbis"),
    Lossy("Ogg Opus, music", lambda: muxed("ogg", "libopus", 48_000, 64_000), "ogg", "opus", 48_000, 320),
    Lossy("Ogg Opus, speech", lambda: written(pcm(), RATE, "OGG", "OPUS"), "ogg", "opus", 48_000, 320, alike=0.95),
    # Raw AAC and fragments have no edit list, which would tell of the encoder's first 1024 samples
    Lossy("AAC in ADTS", lambda: muxed("adts", "aac", RATE, 64_000), "aac", "aac", frame=1024, late=1024),
    Lossy(
        "AAC in ADTS behind a tag",
        lambda: id3_tag(bytes(500)) + muxed("adts", "aac", RATE, 64_000),
        "aac",
        "aac",
        frame=1024,
        late=1024,
    ),
    Lossy(
        "AAC in ADTS behind a picture",
        lambda: album_art() + muxed("adts", "aac", RATE, 64_000),
        "aac",
        "aac",
        frame=1024,
        late=1024,
    ),
    Lossy("AAC in LOAS", lambda: muxed("latm", "aac", 48_000, 64_000), "loas", "aac_latm", 48_000, frame=342, late=341),
    Lossy("AAC in M4A", lambda: muxed("ipod", "aac", RATE, 64_000), "mp4", "aac", frame=1024),
    Lossy("AAC in M4A at 44.1 kHz", lambda: muxed("ipod", "aac", 44_100, 64_000), "mp4", "aac", 44_100, 372),
    Lossy(
        "AAC in a fragmented MP4",
        lambda: muxed("mp4", "aac", RATE, 64_000, options={"movflags": "frag_keyframe+empty_moov"}),
        "mp4",
        "aac",
        frame=1024,
        late=1024,
    ),
    # FFmpeg's decoder drops two frames of 512, as Microsoft's encoder needs; FFmpeg's own puts only one in front
    Lossy("WMA 2", lambda: muxed("asf", "wmav2", RATE, 64_000), "asf", "wmav2", frame=512, late=-512),
    Lossy("WMA 1", lambda: muxed("asf", "wmav1", RATE, 64_000), "asf", "wmav1", frame=512, late=-512),
    # 5 ms of look-ahead
    Lossy(
        "AMR-NB", lambda: muxed("amr", "libopencore_amrnb", 8000, 12_200), "amr", "amr_nb", 8000, 320, 80, alike=0.95
    ),
    Lossy("AC-3", lambda: muxed("ac3", "ac3", 48_000, 128_000), "ac3", "ac3", 48_000, 512, 85),
    Lossy("E-AC-3", lambda: muxed("eac3", "eac3", 48_000, 128_000), "ac3", "eac3", 48_000, 512, 85),
    Lossy("film MP4", lambda: muxed("mp4", "aac", RATE, 64_000, picture="mpeg4"), "mp4", "aac", frame=1024),
    Lossy("film MOV", lambda: muxed("mov", "aac", RATE, 64_000, picture="mjpeg"), "mp4", "aac", frame=1024),
    Lossy(
        "film 3GP",
        lambda: filmed("3gp", Track(pcm(8000), 8000, "libopencore_amrnb", 12_200), picture="mpeg4"),
        "mp4",
        "amr_nb",
        8000,
        320,
        -20,
        alike=0.95,
    ),
    Lossy(
        "film WebM", lambda: muxed("webm", "libopus", 48_000, 64_000, picture="libvpx"), "matroska", "opus", 48_000, 320
    ),
    Lossy(
        "film WebM as a browser streams it",
        lambda: muxed("webm", "libopus", 48_000, 64_000, options={"live": "1"}, picture="libvpx"),
        "matroska",
        "opus",
        48_000,
        320,
    ),
    Lossy(
        "film Matroska",
        lambda: muxed("matroska", "ac3", 48_000, 128_000, picture="mpeg4"),
        "matroska",
        "ac3",
        48_000,
        512,
    ),
    Lossy(
        "film MPEG-TS",
        lambda: muxed("mpegts", "aac", 48_000, 96_000, picture="mpeg2video"),
        "mpegts",
        "aac",
        48_000,
        342,
        341,
    ),
    Lossy(
        "film of a Blu-ray",
        lambda: muxed("mpegts", "ac3", 48_000, 128_000, options={"mpegts_m2ts_mode": "1"}, picture="mpeg2video"),
        "mpegts",
        "ac3",
        48_000,
        512,
        85,
    ),
    Lossy(
        "film MPEG-PS",
        lambda: muxed("vob", "mp2", 48_000, 128_000, picture="mpeg2video"),
        "mpeg",
        "mp2",
        48_000,
        384,
        160,
    ),
    Lossy(
        "film AVI",
        lambda: muxed("avi", "libmp3lame", 44_100, 64_000, picture="mpeg4"),
        "avi",
        "mp3",
        44_100,
        418,
        401,
    ),
    Lossy(
        "film FLV",
        lambda: muxed("flv", "libmp3lame", 44_100, 64_000, picture="flv"),
        "flv",
        "mp3",
        44_100,
        418,
        401,
    ),
    Lossy(
        "film ASF", lambda: muxed("asf", "wmav2", RATE, 64_000, picture="wmv2"), "asf", "wmav2", frame=512, late=-512
    ),
    Lossy(
        "raw GSM 6.10",
        lambda: written(pcm(8000), 8000, "RAW", "GSM610"),
        "gsm",
        "gsm",
        8000,
        320,
        alike=0.95,
        raw=RawAudio("gsm", 8000),
    ),
    # 22 samples of its two filter banks
    Lossy(
        "raw G.722", lambda: muxed("g722", "g722"), "g722", "adpcm_g722", late=22, frame=22, raw=RawAudio("g722", RATE)
    ),
    Lossy(
        "raw mu-law",
        lambda: written(pcm(8000), 8000, "RAW", "ULAW"),
        "mulaw",
        "pcm_mulaw",
        8000,
        raw=RawAudio("mulaw", 8000),
    ),
    Lossy(
        "raw A-law",
        lambda: written(pcm(8000), 8000, "RAW", "ALAW"),
        "alaw",
        "pcm_alaw",
        8000,
        raw=RawAudio("alaw", 8000),
    ),
]


def named(case):
    return case.name.replace(" ", "_")


@pytest.mark.parametrize("case", LOSSLESS, ids=named)
def test_a_lossless_format_gives_back_every_sample(case):
    info, ending, found = heard(case.content(), case.raw)
    assert (info.container, info.codec) == (case.container, case.codec)
    assert (info.sample_rate, info.channels) == (case.rate, case.channels)
    assert ending.damage is None
    assert ending.decoded_seconds == SECONDS
    np.testing.assert_array_equal(found, case.expected())


@pytest.mark.parametrize("case", LOSSY, ids=named)
def test_a_lossy_format_gives_back_the_voice_in_its_place(case):
    info, ending, found = heard(case.content(), case.raw)
    assert (info.container, info.codec, info.sample_rate, info.channels) == (case.container, case.codec, case.rate, 1)
    assert ending.damage is None
    assert abs(len(found) - LENGTH - case.late) <= case.frame
    assert len(found) / RATE == pytest.approx(ending.decoded_seconds, abs=1 / RATE)
    late, alike = delay_and_likeness(found)
    assert abs(late - case.late) <= ALIGNED
    assert alike > case.alike
    assert rms(found) == pytest.approx(rms(pcm()), rel=0.12)


def test_the_voice_is_unlike_itself_anywhere_else():
    """Or delays and likenesses above would mean little."""
    late, alike = delay_and_likeness(pcm())
    assert (late, alike) == (0, pytest.approx(1))
    shifted = np.roll(pcm(), 2 * FARTHEST)
    assert delay_and_likeness(shifted)[1] < 0.7
    assert delay_and_likeness(rounded(OTHER))[1] < 0.5


OPUS_CLIPS = sorted(CORPUS.rglob("*.opus"))


@pytest.mark.parametrize("content", [*(clip.read_bytes() for clip in OPUS_CLIPS), "sweep"], ids=["en", "es", "sweep"])
def test_opus_in_its_speech_mode_sounds_as_its_reference_decoder_has_it(content):
    """libsndfile decodes with libopus, which RFC 6716 makes the reference; decoders differ by less than a sample."""
    content = written(sweep(), RATE, "OGG", "OPUS") if content == "sweep" else content
    samples, rate = soundfile.read(io.BytesIO(content), dtype="int16")
    reference = at_16_khz(samples, rate)
    _, _, found = heard(content)
    assert abs(len(found) - len(reference)) <= 1
    late, alike = delay_and_likeness(found, reference)
    assert abs(late) <= ALIGNED
    assert alike > 0.98


def sweep():
    """A tone that glides thrice from 250 to 2600 Hz and swells at 3 Hz: what a speech codec predicts with care."""
    at = np.arange(LENGTH) / RATE
    hertz = 250 * (2600 / 250) ** (0.9 * at % 1) * (1 + 0.05 * np.sin(2 * np.pi * 5.3 * at))
    return rounded(
        0.35 * (0.55 + 0.45 * np.sin(2 * np.pi * 3.1 * at + 11)) * np.sin(2 * np.pi * np.cumsum(hertz) / RATE)
    )


def ingested(objects, folder):
    """Closing rows and samples of (name, content, metadata) by name."""
    how = IngestSettings(
        DecodeSettings(RATE, LIMITS), SegmentSettings("whole", 30.0), SourceSettings((), 100 << 20), 1000.0
    )
    ingester = Ingester(how)
    try:
        rows = pa.concat_tables(ingester.ingest([planned(folder, *each) for each in objects])).to_pylist()
    finally:
        ingester.close()
    pcm = {row["uri"].rpartition("/")[2]: np.frombuffer(row["pcm"], np.int16) for row in rows if row["pcm"]}
    closings = {row["uri"].rpartition("/")[2]: row["closing"] for row in rows if row["closing"]}
    assert closings.keys() == {name for name, _, _ in objects}
    return closings, pcm


def planned(folder, name, content, metadata):
    path = folder / name
    path.write_bytes(content)
    stat = path.stat()
    source = Source(str(path), None, stat.st_size, stat.st_mtime_ns)
    recording_id = ids.recording_id("formats", source.uri, source.etag, source.size_bytes, source.modified_ns)
    return Recording(recording_id, source, ["base"], list(metadata.items()))


def test_a_format_is_told_by_content_whatever_the_name_says(tmp_path):
    objects = [
        ("wav.mp3", written(pcm(), RATE, "WAV"), {}),
        ("flac.wav", written(pcm(), RATE, "FLAC"), {}),
        ("m4a.wav", muxed("ipod", "alac"), {}),
        ("wav.gsm", written(pcm(), RATE, "WAV"), {}),
        ("wav.ul", written(pcm(), RATE, "WAV"), {"format": "mulaw"}),
        ("no-suffix", written(pcm(), RATE, "W64"), {"format": "s16le", "sample_rate": "8000"}),
        ("wav.jpg", written(pcm(), RATE, "WAV"), {}),
    ]
    closings, found = ingested(objects, tmp_path)
    assert {name: (row["status"], row["container"]) for name, row in closings.items()} == {
        "wav.mp3": ("ok", "wav"),
        "flac.wav": ("ok", "flac"),
        "m4a.wav": ("ok", "mp4"),
        "wav.gsm": ("ok", "wav"),
        "wav.ul": ("ok", "wav"),
        "no-suffix": ("ok", "w64"),
        "wav.jpg": ("ok", "wav"),
    }
    for name in closings:
        np.testing.assert_array_equal(found[name], pcm())


def test_headerless_audio_is_what_its_name_or_its_manifest_says(tmp_path):
    mulaw, alaw = (written(pcm(8000), 8000, "RAW", subtype) for subtype in ("ULAW", "ALAW"))
    gsm, g722 = written(pcm(8000), 8000, "RAW", "GSM610"), muxed("g722", "g722")
    low, high = pcm(8000).tobytes(), pcm().tobytes()
    both = stereo(pcm(48_000), pcm(48_000)).tobytes()
    objects = [
        *[(f"a{suffix}", mulaw, {}) for suffix in (".ul", ".ulaw", ".mulaw", ".PCMU")],
        *[(f"b{suffix}", alaw, {}) for suffix in (".al", ".alaw", ".pcma")],
        ("c.gsm", gsm, {}),
        ("d.g722", g722, {}),
        ("e.sln", low, {}),
        ("f.sln16", high, {}),
        ("g.sln48", pcm(48_000).tobytes(), {}),
        ("h.raw", mulaw, {"format": "mulaw"}),
        ("i.bin", alaw, {"format": "ALAW", "sample_rate": "8000", "channels": "1"}),
        ("j", gsm, {"format": "gsm", "sample_rate": "44100", "channels": "2"}),  # which GSM cannot be
        ("k.dat", g722, {"format": "g722"}),
        ("l.raw", both, {"format": "s16le", "sample_rate": "48000", "channels": "2"}),
        ("m.ul", high, {"format": "s16le", "sample_rate": "16000"}),  # a manifest knows better than a name
        ("n.sln", high, {"sample_rate": "16000"}),
    ]
    closings, found = ingested(objects, tmp_path)
    for name, closing in closings.items():
        assert closing["status"] == "ok", name
        late, alike = delay_and_likeness(found[name])
        assert abs(late - (22 if closing["container"] == "g722" else 0)) <= ALIGNED, name
        assert abs(len(found[name]) - LENGTH) <= 320, name
        assert alike > 0.95, name
    kinds = {name: (row["container"], row["sample_rate"], row["channels"]) for name, row in closings.items()}
    assert kinds["j"] == ("gsm", 8000, 1)
    assert kinds["l.raw"] == ("s16le", 48_000, 2)
    assert kinds["m.ul"] == ("s16le", 16_000, 1)
    np.testing.assert_array_equal(found["f.sln16"], pcm())
    np.testing.assert_array_equal(found["n.sln"], pcm())


@pytest.mark.parametrize(
    "metadata",
    [{}, {"format": "s24be"}, {"format": "mulaw", "sample_rate": "fast"}, {"format": "s16le", "channels": "-1"}],
)
def test_headerless_audio_that_nobody_explains_is_not_guessed_at(metadata, tmp_path):
    mulaw = written(pcm(8000), 8000, "RAW", "ULAW")
    closings, found = ingested([("call.raw", mulaw, metadata)], tmp_path)
    assert closings["call.raw"]["failure"]["code"] == "not_audio"
    assert not found
