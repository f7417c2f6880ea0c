"""What must hold of the answers to any bytes whatever."""

import math
from collections.abc import Sequence

import numpy as np

from schemas.failures import CODES
from workers.decode_settings import LOWEST_RATE, DecodeSettings
from workers.decoded import AudioInfo, Ending
from workers.decoder import Answer, Failed

LONGEST_MESSAGE = 2_000
RESAMPLED_WITHIN = 2  # samples


def broken_rules(answers: Sequence[Answer], settings: DecodeSettings) -> list[str]:
    """Return what is wrong with the answers to one request."""
    *before, last = answers
    wrong = []
    if not isinstance(last, Ending | Failed):
        wrong.append(f"ends with {last!r}")
    if before and not isinstance(before[0], AudioInfo):
        wrong.append(f"begins with {before[0]!r}")
    if any(not isinstance(one, np.ndarray) for one in before[1:]):
        wrong.append("something other than samples stands in the middle")
    if isinstance(last, Ending) and not before:
        wrong.append("an ending without a beginning")
    pcm = [one for one in before[1:] if isinstance(one, np.ndarray)]
    info = before[0] if before and isinstance(before[0], AudioInfo) else None
    return wrong + _of_the_info(info, settings) + _of_the_samples(pcm, info, last, settings) + _of_the_last(last)


def _of_the_info(info: AudioInfo | None, settings: DecodeSettings) -> list[str]:
    if info is None:
        return []
    wrong, limits = [], settings.limits
    if not 1 <= info.channels <= limits.max_channels or not LOWEST_RATE <= info.sample_rate <= limits.max_rate:
        wrong.append(f"a limit does not hold: {info}")
    if info.declared_seconds is not None and not (math.isfinite(info.declared_seconds) and info.declared_seconds >= 0):
        wrong.append(f"declares {info.declared_seconds} s")
    return wrong + _unprintable(info.container, info.codec, info.decoder)


def _of_the_samples(pcm: list[np.ndarray], info: AudioInfo | None, last: Answer, settings: DecodeSettings) -> list[str]:
    wrong, count = [], sum(len(block) for block in pcm)
    if count > settings.limits.max_seconds * settings.sample_rate + RESAMPLED_WITHIN:
        wrong.append(f"{count} samples, more than limits.max_seconds allows")
    if info and sum(block.nbytes for block in pcm) > settings.limits.max_decoded_bytes:
        wrong.append("more than limits.max_decoded_bytes came out")
    wide = info.channels if info and settings.channels == "each" else 1
    if any(block.dtype != np.int16 or (1 if block.ndim == 1 else block.shape[1]) != wide for block in pcm):
        wrong.append(f"blocks are not int16 of {wide} channels: {[(block.dtype, block.shape) for block in pcm][:3]}")
    if isinstance(last, Ending) and abs(count - last.decoded_seconds * settings.sample_rate) > RESAMPLED_WITHIN:
        wrong.append(f"{count} samples are not the {last.decoded_seconds} s that decoded")
    return wrong


def _of_the_last(last: Answer) -> list[str]:
    if isinstance(last, Ending):
        wrong = [] if 0 < last.decoded_seconds < math.inf else [f"{last.decoded_seconds} s decoded"]
        return wrong + _unprintable(last.damage or "none")
    if isinstance(last, Failed):
        wrong = [] if last.code in CODES else [f"the code {last.code} is not in CODES"]
        return wrong + _unprintable(last.message)
    return []


def _unprintable(*texts: str) -> list[str]:
    """Return what Parquet would not take, or no reader would want."""
    wrong = []
    for text in texts:
        if not isinstance(text, str) or not 0 < len(text) <= LONGEST_MESSAGE:
            wrong.append(f"a text is empty, no text or too long: {text!r:.200}")
        elif "\0" in text or text != text.encode(errors="replace").decode():
            wrong.append(f"a text is not UTF-8: {text!r:.200}")
    return wrong
