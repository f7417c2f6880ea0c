"""Whether the decoder's child process lives and decodes: a tone, made here, in formats of both libraries."""

import io
from typing import Final

import numpy as np
import soundfile

from pipelines.doctor.check import Check, failed, ok
from workers.decode_settings import DecodeLimits, DecodeSettings
from workers.decoded import Ending
from workers.decoder import Decoder, Failed, Request

RATE: Final = 16_000
FORMATS: Final = (("WAV", "PCM_24"), ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("OGG", "OPUS"))
OFF_BY_SECONDS: Final = 0.2  # lossy codecs pad


def check_decoder(command: list[str] | None = None) -> Check:
    """Decode a second of a tone in each format; `command` starts another child than our own (a test's)."""
    decoder = Decoder(DecodeSettings(RATE, DecodeLimits(60.0, 2)), command)
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    try:
        wrong = [f"{kind}/{codec}: {said}" for kind, codec in FORMATS if (said := _problem(decoder, tone, kind, codec))]
    finally:
        decoder.close()
    names = ", ".join(f"{kind}/{codec}".lower() for kind, codec in FORMATS)
    if wrong:
        do = "reinstall soundfile and av; see that this machine lets processes start and limit their memory"
        return failed("decoder", "; ".join(wrong), do)
    return ok("decoder", f"its child decodes {names}")


def _problem(decoder: Decoder, tone: np.ndarray, kind: str, codec: str) -> str:
    """Return what went wrong with a format, or nothing."""
    clip = io.BytesIO()
    soundfile.write(clip, tone, RATE, format=kind, subtype=codec)
    answers = list(decoder.stream([Request(clip.getvalue())]))
    if isinstance(answers[-1], Failed):
        return answers[-1].message
    samples = np.concatenate([one for one in answers if isinstance(one, np.ndarray)])
    level = float(np.sqrt(np.mean((samples / 32768.0) ** 2)))
    assert isinstance(answers[-1], Ending)
    if abs(answers[-1].decoded_seconds - 1) > OFF_BY_SECONDS or not 0.25 < level < 0.45:
        return f"a second of a tone came out as {answers[-1].decoded_seconds:.2f} s at level {level:.2f}"
    return ""
