"""Every format we say we read: one voice, encoded many ways, comes back as that voice, at its length and in its place.

Lengths and delays are in samples at 16 kHz. What an encoder puts in front stays where no header says how much it is.
"""

import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import soxr

from schemas import ids
from schemas.failures import CODES
from tests.hearing import Heard
from workers import opening
from workers.decode import decode
from workers.decode_settings import DecodeLimits, DecodeSettings
from workers.decoded import DecodeError
from workers.headerless import RawAudio
from workers.ingest import Ingester, IngestSettings
from workers.loading import SourceSettings
from workers.recording import Recording
from workers.segments import SegmentSettings
from workers.source import Source

CORPUS = Path(__file__).parents[2] / "pipelines" / "demo" / "corpus"
RATE = 16_000
SECONDS = 3
LENGTH = SECONDS * RATE
LIMITS = DecodeLimits(max_seconds=3600, max_channels=8)
FARTHEST = 4000  # samples that a codec may be late or early
ALIGNED = 2  # samples within which a delay is the one we expect: a filter's may be no whole number of them


# The voice


def voice(seed: int, pitch: float) -> np.ndarray:
    """A made-up voice in [-1, 1]: harmonics of a gliding pitch under moving formants, syllables, hisses, pauses.

    No part of it resembles another, so that it correlates with itself in one place only; nothing is above 3.4 kHz.
    """
    rng = np.random.default_rng(seed)
    at = np.arange(LENGTH) / RATE

    def wander(low: float, high: float, knots: int) -> np.ndarray:
        return np.interp(at, np.linspace(0, SECONDS, knots), rng.uniform(low, high, knots))

    hertz = pitch * wander(0.8, 1.4, 14)
    phase = 2 * np.pi * np.cumsum(hertz) / RATE
    first, second = wander(350, 800, 16), wander(1000, 2000, 16)
    voiced = np.zeros(LENGTH)
    for harmonic in range(1, int(3200 / pitch / 0.8)):
        frequency = harmonic * hertz
        level = np.exp(-(((frequency - first) / 220) ** 2)) + 0.4 * np.exp(-(((frequency - second) / 250) ** 2))
        voiced += np.where(frequency < 3200, level, 0) * np.sin(harmonic * phase + rng.uniform(0, 2 * np.pi))
    lowpass = np.sinc(np.arange(-64, 65) * 2 * 3000 / RATE) * np.hanning(129)
    hiss = np.convolve(rng.standard_normal(LENGTH), lowpass / lowpass.sum(), "same")
    syllables = np.clip(wander(-0.3, 1.0, 26), 0, None)
    samples = syllables * voiced / np.abs(voiced).max() + 0.08 * np.clip(wander(-1, 1, 30), 0, None) * hiss
    fade = np.minimum(1, np.minimum(np.arange(LENGTH), np.arange(LENGTH)[::-1]) / (RATE // 100))
    return 0.7 * samples * fade / np.abs(samples).max()


VOICE, OTHER = voice(11, 115), voice(23, 210)


@cache
def pcm(rate: int = RATE) -> np.ndarray:
    """The voice as int16 at `rate` Hz."""
    return np.rint(soxr.resample(VOICE, RATE, rate, quality="VHQ") * 32768).astype(np.int16)


def deep(bits: int) -> np.ndarray:
    """The voice as int32 whose upper `bits` are used: finer than int16 can hold."""
    return (np.rint(VOICE * 2 ** (bits - 1)).astype(np.int64) << (32 - bits)).astype(np.int32)


def rounded(samples: np.ndarray) -> np.ndarray:
    """Samples in [-1, 1), which float32 holds first, as int16."""
    return np.rint(np.asarray(samples, np.float32) * np.float32(32768)).astype(np.int16)


def heard_of(bits: int) -> np.ndarray:
    """What int16 keeps of `deep`."""
    return rounded(deep(bits).astype(np.float32) / np.float32(2**31))


def at_16_khz(samples: np.ndarray, rate: int) -> np.ndarray:
    """What int16 samples of `rate` Hz are on the wire."""
    return rounded(soxr.resample(samples.astype(np.float32) / np.float32(32768), rate, RATE, quality="HQ"))


def stereo(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.stack([left, right], axis=1)


# Encoders


def written(samples, rate, kind, subtype=None, endian=None, **options):
    """Samples as libsndfile writes them."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype, endian, kind, **options)
    return file.getvalue()


@dataclass(frozen=True)
class Track:
    """Audio of a film: int16 samples, how they are encoded, and what its language tag says."""

    samples: np.ndarray
    rate: int
    codec: str
    bit_rate: int | None = None
    sample_format: str | None = None
    language: str | None = None

    @property
    def layout(self):
        return "mono" if self.samples.ndim == 1 else "stereo"

    def add_to(self, output):
        stream = output.add_stream(self.codec, rate=self.rate, layout=self.layout, options={"strict": "-2"})
        if self.bit_rate:
            stream.bit_rate = self.bit_rate
        if self.sample_format:
            stream.codec_context.format = self.sample_format
        if self.language:
            stream.metadata["language"] = self.language
        return stream

    def packets(self, stream):
        frame = av.AudioFrame.from_ndarray(self.samples.reshape(1, -1), format="s16", layout=self.layout)
        frame.sample_rate, frame.pts, frame.time_base = self.rate, 0, Fraction(1, self.rate)
        whole = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(stream.format, self.layout, self.rate, whole)
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            yield from stream.encode(part)


def filmed(muxer, *tracks, picture=None, options=None):
    """Tracks as FFmpeg writes them, below a picture track that `picture` encodes if that is given."""
    file = io.BytesIO()
    with av.open(file, "w", format=muxer, options=options or {}) as output:
        pictures = output.add_stream(picture, rate=25) if picture else None
        if pictures:
            pictures.width, pictures.height = 64, 48
            pictures.pix_fmt = "yuvj420p" if picture == "mjpeg" else "yuv420p"
        streams = [track.add_to(output) for track in tracks]
        for stream in streams:
            stream.codec_context.open()
        for number in range(25 * SECONDS if pictures else 0):
            picture_frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 3 * number, np.uint8), format="rgb24")
            output.mux(pictures.encode(picture_frame))
        if pictures:
            output.mux(pictures.encode(None))
        for track, stream in zip(tracks, streams, strict=True):
            for packet in track.packets(stream):
                output.mux(packet)
    return file.getvalue()


def muxed(muxer, codec, rate=RATE, bit_rate=None, sample_format=None, options=None, picture=None):
    """The voice as FFmpeg writes it."""
    return filmed(muxer, Track(pcm(rate), rate, codec, bit_rate, sample_format), options=options, picture=picture)


def id3_tag(payload: bytes) -> bytes:
    size = len(payload)
    return b"ID3\x03\0\0" + bytes(size >> shift & 127 for shift in (21, 14, 7, 0)) + payload


def id3_tag_with_footer(payload: bytes) -> bytes:
    """An ID3v2.4 tag whose header stands once more behind it."""
    tag = bytearray(id3_tag(payload))
    tag[3], tag[5] = 4, 1 << 4
    return bytes(tag + b"3DI" + tag[3:10])


def album_art() -> bytes:
    """An ID3v2.3 tag that holds 300 kB of picture, in which many a frame seems to start."""
    picture = b"\0image/jpeg\0\x03\0\xff\xd8\xff\xe0" + b"\xff\xfb\x90\x64" * 75_000
    return id3_tag(b"APIC" + struct.pack(">IH", len(picture), 0) + picture)


BARE = {"id3v2_version": "0"}  # an MP3 that starts with its first frame
BARER = {**BARE, "write_xing": "0"}  # and that is sound, not the length


def mp3(options=BARE):
    return muxed("mp3", "libmp3lame", bit_rate=64_000, options=options)


def variable_mp3_without_its_length(source=None):
    """A VBR MP3 at 16 kHz less its Xing frame, as one finds it cut from a stream."""
    content = written(pcm() if source is None else source, RATE, "MP3", bitrate_mode="VARIABLE", compression_level=0.3)
    starts, position = [], 0
    while position < len(content):
        starts.append(position)
        assert content[position : position + 2] == content[:2]
        kilobits, padding = MPEG_2_KILOBITS[content[position + 2] >> 4], content[position + 2] >> 1 & 1
        position += 72_000 * kilobits // RATE + padding
    assert b"Xing" in content[: starts[1]]
    assert len({content[start + 2] >> 4 for start in starts}) > 4  # it does vary
    return content[starts[1] :]


MPEG_2_KILOBITS = [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160]  # of layer III, by index


def riff(fmt: bytes, data: bytes, form=b"RIFF", before=b"", behind=b"", size=None, riff_size=None) -> bytes:
    """A WAV built by hand; `size` and `riff_size` are what it claims, where that is not the truth."""
    body = b"WAVE" + before + chunk(b"fmt ", fmt) + chunk(b"data", data, size) + behind
    return form + struct.pack("<I", len(body) if riff_size is None else riff_size) + body


def chunk(name: bytes, content: bytes, size=None) -> bytes:
    return name + struct.pack("<I", len(content) if size is None else size) + content + b"\0" * (len(content) % 2)


PCM_FMT = struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
PCM_GUID = bytes.fromhex("0100000000001000800000aa00389b71")
UNTOLD = 0xFFFF_FFFF


def extensible(bits: int, container_bits: int, samples: np.ndarray, channels: int = 1) -> bytes:
    """WAVE_FORMAT_EXTENSIBLE, whose samples may use fewer bits than they take."""
    frame = channels * container_bits // 8
    fmt = struct.pack("<HHIIHHHHI", 0xFFFE, channels, RATE, RATE * frame, frame, container_bits, 22, bits, 0)
    return riff(fmt + PCM_GUID, samples.tobytes())


def rf64(data: bytes, form=b"RF64") -> bytes:
    """What a recorder writes that may pass 4 GiB: both sizes stand in ds64."""
    sizes = struct.pack("<QQQI", 4 + 36 + 24 + 8 + 2 * LENGTH, 2 * LENGTH, LENGTH, 0)
    return riff(PCM_FMT, data, form, chunk(b"ds64", sizes), size=UNTOLD, riff_size=UNTOLD)


def sphere(data: bytes, coding="pcm") -> bytes:
    """A NIST SPHERE file of big-endian samples, as the LDC's corpora are."""
    fields = [f"sample_count -i {LENGTH}", "sample_n_bytes -i 2", "channel_count -i 1", "sample_byte_format -s2 10"]
    fields += [f"sample_rate -i {RATE}", f"sample_coding -s{len(coding)} {coding}", "end_head", ""]
    return "\n".join(["NIST_1A", "   1024", *fields]).encode().ljust(1024) + data


# Cases


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


# Hearing


def heard(content, raw=None, **choice):
    sink = Heard()
    ending = decode(io.BytesIO(content), DecodeSettings(RATE, LIMITS, **choice), sink, raw)
    return sink.info, ending, np.concatenate(sink.blocks)


def refusal(content, **choice):
    with pytest.raises(DecodeError) as caught:
        heard(content, **choice)
    assert caught.value.code in CODES
    return caught.value


def rms(samples):
    return float(np.sqrt(np.mean(np.square(np.asarray(samples, np.float64)))))


def delay_and_likeness(found, source=None):
    """By how many samples `found` comes after the voice, and their normalised correlation there."""
    one, other = found.astype(np.float64), (pcm() if source is None else source).astype(np.float64)
    size = 1 << (len(one) + len(other)).bit_length()
    lagged = np.fft.irfft(np.fft.rfft(one, size) * np.fft.rfft(other, size).conj(), size)
    lags = np.arange(-FARTHEST, FARTHEST + 1)
    late = int(lags[np.argmax(lagged[lags])])
    one, other = one[max(late, 0) :], other[max(-late, 0) :]
    length = min(len(one), len(other))
    one, other = one[:length], other[:length]
    return late, float(np.dot(one, other) / np.sqrt(np.dot(one, one) * np.dot(other, other)))


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


# What is longer or shorter than its beginning says


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


# Tracks


def two_tracks(muxer="mp4", codec="aac"):
    """A film in which a low voice speaks English and a high one German."""
    english = Track(pcm(), RATE, codec, 64_000, language="eng")
    german = Track(rounded(OTHER), RATE, codec, 64_000, language="deu")
    return filmed(muxer, english, german, picture="mpeg4")


@pytest.mark.parametrize(
    ("muxer", "codec", "track", "spoken", "silent"),
    [
        ("mp4", "aac", 0, VOICE, OTHER),
        ("mp4", "aac", 1, OTHER, VOICE),
        ("mp4", "aac", "eng", VOICE, OTHER),
        ("mp4", "aac", "deu", OTHER, VOICE),
        ("matroska", "flac", 1, OTHER, VOICE),
        ("matroska", "flac", "deu", OTHER, VOICE),
        ("mov", "pcm_s16le", 1, OTHER, VOICE),  # QuickTime's codes know no deu
        ("avi", "pcm_s16le", 1, OTHER, VOICE),  # and AVI has no languages
    ],
    ids=lambda value: str(value) if isinstance(value, str | int) else "",
)
def test_a_track_is_chosen_by_place_or_by_language(muxer, codec, track, spoken, silent):
    _, ending, found = heard(two_tracks(muxer, codec), track=track)
    assert ending.damage is None
    late, alike = delay_and_likeness(found, rounded(spoken))
    assert abs(late) <= ALIGNED
    assert alike > 0.99
    assert delay_and_likeness(found, rounded(silent))[1] < 0.3


def test_the_first_track_is_heard_where_none_is_asked_for():
    assert delay_and_likeness(heard(two_tracks())[2])[1] > 0.95


@pytest.mark.parametrize("track", ["fra", 2, -1])
def test_a_track_that_is_not_there_is_refused_with_what_is(track):
    error = refusal(two_tracks(), track=track)
    assert error.code == "no_audio_track"
    for word in ("mp4", "2 audio tracks", "eng", "deu", "audio.track", repr(track)):
        assert word in error.message


def test_a_film_with_one_track_is_heard_whatever_track_is_asked_for():
    film = filmed("mp4", Track(pcm(), RATE, "aac", 64_000, language="eng"), picture="mpeg4")
    for track in (0, 5, "deu"):
        assert delay_and_likeness(heard(film, track=track)[2])[1] > 0.95


# Through an ingester: a name tells of nothing but what has no header


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


# Damage on the way, and what only looks like it


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


APE = struct.pack("<8sIIII8s", b"APETAGEX", 2000, 20_032, 1, 1 << 31 | 1 << 29, bytes(8))
APE += np.random.default_rng(5).bytes(20_000)
APE += struct.pack("<8sIIII8s", b"APETAGEX", 2000, 20_032, 1, 1 << 31, bytes(8))
ID3V1 = b"TAG" + b"a title".ljust(125, b"\0")


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


@pytest.mark.parametrize("behind", [b"", ID3V1, bytes(40_000)], ids=["nothing", "ID3v1", "zeros"])
@pytest.mark.parametrize("name", ["FLAC", "MP3"])
def test_what_tells_its_length_is_read_once(name, behind, monkeypatch):
    monkeypatch.setattr(opening, "open_media", None)
    content = mp3() if name == "MP3" else written(pcm(), RATE, "FLAC")
    assert len(heard(content + behind)[2]) == LENGTH


def m4a(sample_entry=b"mp4a", first=b""):
    """An M4A whose index is at its end, before which `first` stands."""
    content = muxed("ipod", "aac", 44_100, 64_000)
    samples = content.index(b"mdat") - 4
    offsets = content.index(b"stco") + 12
    told = struct.unpack_from(">I", content, offsets)[0]
    assert told == samples + 8
    content = content[:offsets] + struct.pack(">I", told + len(first)) + content[offsets + 4 :]
    return first + content.replace(b"mp4a", sample_entry)


@pytest.mark.parametrize("box", [b"pnot", b"uuid", b"styp"])
def test_an_mp4_that_begins_with_another_box_is_heard(box):
    _, ending, found = heard(m4a(first=struct.pack(">I4s", 24, box) + bytes(16)))
    assert ending.damage is None
    assert delay_and_likeness(found)[1] > 0.99


@pytest.mark.parametrize("entry", [b"drms", b"enca", b"aavd"])
def test_an_encrypted_mp4_is_refused_as_such(entry):
    content = bytearray(m4a(entry))
    samples, index = content.index(b"mdat") + 4, content.index(b"moov") - 4
    content[samples:index] = np.random.default_rng(1).bytes(index - samples)
    error = refusal(bytes(content))
    assert error.code == "unreadable"
    assert "encrypted" in error.message
    assert entry.decode() in error.message


def test_an_mp4_without_its_index_is_refused_as_such():
    content = m4a()
    fragments = muxed("mp4", "aac", RATE, 64_000, options={"movflags": "frag_keyframe+empty_moov"})
    endless = struct.pack(">I4sI4s", 16, b"ftyp", 0, b"M4A ") + struct.pack(">I4sQ", 1, b"mdat", 2**64 - 1) + bytes(99)
    for part in (content[: content.index(b"moov") - 4], fragments[fragments.index(b"moof") - 4 :], endless):
        error = refusal(part)
        assert error.code == "unreadable"
        assert "index (moov)" in error.message


@pytest.mark.parametrize("coding", ["pcm,embedded-shorten-v2.00", "ulaw,embedded-wavpack-v1.0"])
def test_a_compressed_sphere_is_refused_with_what_unpacks_it(coding):
    error = refusal(sphere(b"ajkg\x02" + bytes(30_000), coding))
    assert error.code == "unreadable"
    assert "sph2pipe" in error.message
    assert coding.split("-")[1] in error.message


def test_a_picture_in_an_mp4s_boxes_is_called_one():
    assert "picture" in refusal(struct.pack(">I4s4sI4s", 24, b"ftyp", b"heic", 0, b"mif1") + bytes(500)).message


@pytest.mark.parametrize("name", ["MP3 without its length", "AAC in ADTS"])
@pytest.mark.parametrize("before", [b"", bytes(512)], ids=["in a frame", "behind zeros"])
def test_a_stream_cut_in_the_middle_of_a_frame_is_heard(name, before):
    content = mp3(BARER) if "MP3" in name else muxed("adts", "aac", RATE, 64_000)
    content = before + content if before else content[777:]
    info, ending, found = heard(content)
    assert info.container == ("mp3" if "MP3" in name else "aac")
    assert len(found) > LENGTH - 4 * 1152
    assert ending.damage is None


@pytest.mark.parametrize("form", ["tar", "zip", "pdf", "parquet"])
def test_what_holds_recordings_is_none_itself(form):
    """And the failure names the source that reads an archive."""
    out, clips = io.BytesIO(), {f"{number}.mp3": mp3(BARER) for number in range(3)}
    if form == "tar":
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name, content in clips.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    elif form == "zip":
        with zipfile.ZipFile(out, "w") as archive:
            for name, content in clips.items():
                archive.writestr(name, content)
    elif form == "parquet":
        pq.write_table(pa.table({"audio": list(clips.values())}), out, compression="none")
    else:
        out.write(b"%PDF-1.4\n" + clips["0.mp3"])
    assert refusal(out.getvalue()).code == "not_audio"


def test_frames_far_from_the_beginning_are_no_recording():
    assert refusal(bytes(range(1, 200)) * 12 + mp3(BARER)).code == "not_audio"


@pytest.mark.parametrize("n_bytes", [32, 1_000, "all but one", "all"])
def test_a_tag_that_is_not_where_its_footer_says_takes_nothing_away(n_bytes):
    content = mp3(BARER)
    said = {"all but one": len(content) - 1, "all": len(content)}.get(n_bytes, n_bytes)
    footer = struct.pack("<8sIIII8s", b"APETAGEX", 2000, said, 1, 1 << 31, bytes(8))
    assert len(heard(content + footer)[2]) == len(heard(content)[2])


@pytest.mark.parametrize("text", [b"\xff\xfe" + "Grüße\n".encode("utf-16-le") * 400, b"\xff" * 4096, bytes(4096)])
def test_what_has_sync_words_without_frames_is_no_audio(text):
    assert refusal(text).code == "not_audio"


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


def test_samples_that_are_no_numbers_are_told_of():
    samples = pcm() / np.float32(32768)
    samples[1000:2000] = np.nan
    _, ending, found = heard(written(samples, RATE, "WAV", "FLOAT"))
    assert "no numbers" in ending.damage
    assert not found[1000:2000].any()
    samples[1000:2000] = np.inf
    assert "infinite" in heard(written(samples, RATE, "WAV", "FLOAT"))[1].damage
    assert heard(written(samples[2000:], RATE, "WAV", "FLOAT"))[1].damage is None


def test_a_file_too_short_for_a_sample_is_empty():
    assert refusal(written(pcm(48_000)[:1], 48_000, "WAV")).code == "empty"
