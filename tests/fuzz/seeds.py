"""Small valid recordings in every container, encoded anew: what the mutations start from."""

import io
from dataclasses import dataclass
from functools import cache

import av
import numpy as np
import soundfile

from tests.fuzz import flac, ogg
from workers.headerless import RawAudio

RATE = 16_000
SECONDS = 0.25
BITEXACT = {"fflags": "+bitexact"}  # no random identifiers and no dates: a seed is the same bytes each time


@dataclass(frozen=True, slots=True)
class Seed:
    """A valid recording; `raw` says what it is where it has no header."""

    name: str
    content: bytes
    raw: RawAudio | None = None


SOUNDFILE = {
    "wav": ("WAV", "PCM_16", 1),
    "wav-24": ("WAV", "PCM_24", 2),
    "wav-float": ("WAV", "DOUBLE", 1),
    "wav-adpcm": ("WAV", "MS_ADPCM", 1),
    "wav-ima": ("WAV", "IMA_ADPCM", 2),
    "wav-gsm": ("WAV", "GSM610", 1),
    "wav-mulaw": ("WAV", "ULAW", 1),
    "wavex": ("WAVEX", "PCM_16", 2),
    "rf64": ("RF64", "PCM_16", 1),
    "w64": ("W64", "PCM_16", 1),
    "aiff": ("AIFF", "PCM_16", 1),
    "aifc": ("AIFF", "IMA_ADPCM", 1),
    "au": ("AU", "PCM_16", 1),
    "caf": ("CAF", "PCM_16", 1),
    "caf-alac": ("CAF", "ALAC_16", 1),
    "flac": ("FLAC", "PCM_16", 2),
    "mp3": ("MP3", "MPEG_LAYER_III", 1),
    "ogg-vorbis": ("OGG", "VORBIS", 1),
    "nist": ("NIST", "PCM_16", 1),
}
FFMPEG = {
    "ogg-opus": ("ogg", "libopus", 1),
    "mp3-id3": ("mp3", "libmp3lame", 2),
    "adts": ("adts", "aac", 1),
    "m4a": ("ipod", "aac", 1),
    "m4a-alac": ("ipod", "alac", 2),
    "mp4-fragments": ("mp4", "aac", 1),
    "mov-pcm": ("mov", "pcm_s16be", 2),
    "asf-wma": ("asf", "wmav2", 1),
    "webm": ("webm", "libopus", 1),
    "mkv": ("matroska", "pcm_s24le", 2),
    "mpegts": ("mpegts", "aac", 1),
    "mpegps": ("mpeg", "mp2", 1),
    "avi": ("avi", "libmp3lame", 1),
    "flv": ("flv", "aac", 1),
    "ac3": ("ac3", "ac3", 1),
    "wavpack": ("wv", "wavpack", 1),
    "tta": ("tta", "tta", 1),
    "amr": ("amr", "libopencore_amrnb", 1),
    "loas": ("latm", "aac", 1),
    "voc": ("voc", "pcm_s16le", 1),
}
RATES = {"amr": 8_000, "avi": 16_000, "ac3": 32_000}
OPTIONS = {"mp4-fragments": {"movflags": "frag_keyframe+empty_moov"}, "mpegps": {"muxrate": "0"}}


@cache
def seeds() -> dict[str, Seed]:
    """Return the seeds by name."""
    made = [Seed(name, _written(*how)) for name, how in SOUNDFILE.items()]
    made += [Seed(name, _muxed(name, *how)) for name, how in FFMPEG.items()]
    made += [
        Seed("ogg-flac", _ogg_flac()),
        Seed("mp4-video", _film("mp4")),
        Seed("mkv-video", _film("matroska")),
        Seed("raw-gsm", _written("RAW", "GSM610", 1), RawAudio("gsm", 8_000)),
        Seed("raw-g722", _muxed("g722", "g722", "g722", 1), RawAudio("g722", 16_000)),
        Seed("raw-mulaw", _written("RAW", "ULAW", 1), RawAudio("mulaw", 8_000)),
    ]
    return {seed.name: seed for seed in made}


def sound(rate: int, channels: int, seconds: float = SECONDS) -> np.ndarray:
    """Return int16 samples of a chord in a little noise, shape (n, channels)."""
    at = np.arange(round(rate * seconds)) / rate
    chord = sum(np.sin(2 * np.pi * hertz * at) for hertz in (220.0, 330.0, 1250.0)) / 6
    noise = np.random.default_rng(11).normal(0, 0.01, (len(at), channels))
    return np.round((chord[:, None] + noise) * 32767).astype(np.int16)


def _written(kind: str, subtype: str, channels: int) -> bytes:
    file = io.BytesIO()
    rate = 8_000 if subtype in ("GSM610", "ULAW") else RATE
    soundfile.write(file, sound(rate, channels), rate, format=kind, subtype=subtype)
    content = file.getvalue()
    return ogg.renumbered(content) if kind == "OGG" else content


def _muxed(name: str, muxer: str, codec: str, channels: int) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=muxer, options=OPTIONS.get(name, {}), container_options=BITEXACT) as output:
        _encode(output, codec, RATES.get(name, RATE), channels)
    return file.getvalue()


def _ogg_flac() -> bytes:
    packets = flac.in_ogg_packets(2)
    kinds = [2, 0, 0, 4]  # begins, ends
    return b"".join(
        ogg.page([packet], max(0, number - 1) * 4096, number, kind)
        for number, (packet, kind) in enumerate(zip(packets, kinds, strict=True))
    )


def _film(muxer: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=muxer, container_options=BITEXACT) as output:
        pictures = output.add_stream("mpeg4", rate=25)
        pictures.width = pictures.height = 32
        _encode(output, "aac", RATE, 1)
        for number in range(5):
            picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), number * 40, np.uint8), format="rgb24")
            output.mux(pictures.encode(picture))
        output.mux(pictures.encode(None))
    return file.getvalue()


def _encode(output: "av.container.OutputContainer", codec: str, rate: int, channels: int) -> None:
    layout = "mono" if channels == 1 else "stereo"
    stream = output.add_stream(codec, rate=rate, layout=layout)
    stream.bit_rate = 12_200 if "amr" in codec else 32_000
    stream.codec_context.flags |= 1 << 23  # AV_CODEC_FLAG_BITEXACT
    stream.codec_context.open()
    frame = av.AudioFrame.from_ndarray(sound(rate, channels).reshape(1, -1), format="s16", layout=layout)
    frame.sample_rate = rate
    resampler = av.AudioResampler(stream.format, layout, rate, stream.codec_context.frame_size or 1024)
    for part in (*resampler.resample(frame), *resampler.resample(None), None):
        output.mux(stream.encode(part))
