"""Recordings of one made-up voice in every format: how they are encoded, heard, and compared with the voice."""

import io
import struct
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import av
import numpy as np
import pytest
import soundfile
import soxr

from schemas.failures import CODES
from tests.hearing import Heard
from workers.decode import decode
from workers.decode_settings import DecodeLimits, DecodeSettings
from workers.decoded import DecodeError

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


APE = struct.pack("<8sIIII8s", b"APETAGEX", 2000, 20_032, 1, 1 << 31 | 1 << 29, bytes(8))
APE += np.random.default_rng(5).bytes(20_000)
APE += struct.pack("<8sIIII8s", b"APETAGEX", 2000, 20_032, 1, 1 << 31, bytes(8))
ID3V1 = b"TAG" + b"a title".ljust(125, b"\0")
