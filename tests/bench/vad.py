"""bench vad: finding speech, against Silero's own loop of one 32-ms chunk after the other, on one core.

The rival is silero_vad.get_speech_timestamps with its ONNX model and its defaults; ours is what Ingester has: the
packaged graph that hears many frames in a call, and our spans. Real prompts, one after the other, each on its own.
Reported too is in how many clips both find the same spans.
"""

import argparse
import os
import time

import numpy as np
import soundfile
import soxr
import torch
from silero_vad import get_speech_timestamps, load_silero_vad

from tests.real_corpus import english_prompts
from workers.vad import SAMPLE_RATE, SpanFinder, SpeechDetector

Spans = list[tuple[int, int]]


def clips(count: int) -> list[np.ndarray]:
    """Return real prompts, spread over the corpus, int16 at 16 kHz."""
    paths = sorted((english_prompts() / "en").rglob("*.wav"))
    found = []
    for path in paths[:: max(1, len(paths) // count)][:count]:
        samples, rate = soundfile.read(path, dtype="float32")
        wave = soxr.resample(samples, rate, SAMPLE_RATE)
        found.append(np.clip(np.rint(wave * 32768), -32768, 32767).astype(np.int16))
    return found


def ours(detector: SpeechDetector, pcm: np.ndarray) -> Spans:
    """Find spans as Ingester does."""
    stream = detector.stream()
    finder = SpanFinder(0.5, min_speech=4000, min_silence=1600, pad=480)
    spans = finder.feed(np.concatenate([stream.push(pcm), stream.finish()])) + finder.finish(len(pcm))
    return [(span.start, span.end) for span in spans]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    pcm = clips(options.clips)
    waves = [torch.from_numpy(one.astype(np.float32) / 32768) for one in pcm]
    seconds = sum(map(len, pcm)) / SAMPLE_RATE
    model, detector = load_silero_vad(onnx=True), SpeechDetector()
    taken: dict[str, list[float]] = {"stock": [], "phonolake": []}
    for _ in range(options.rounds):
        started = time.perf_counter()
        stock = [[(one["start"], one["end"]) for one in get_speech_timestamps(wave, model)] for wave in waves]
        between = time.perf_counter()
        found = [ours(detector, one) for one in pcm]
        taken["stock"].append(between - started)
        taken["phonolake"].append(time.perf_counter() - between)
    rates = {name: seconds / min(times) for name, times in taken.items()}
    same = sum(a == b for a, b in zip(stock, found, strict=True))
    ratio = rates["phonolake"] / rates["stock"]
    print(
        f"bench vad: {rates['phonolake']:,.0f} s of audio a second on one core, {ratio:.1f} times the stock loop "
        f"({rates['stock']:,.0f}); the same spans in {same} of {len(pcm)} clips, {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
