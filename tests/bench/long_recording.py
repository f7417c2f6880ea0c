"""bench long recording: three hours of speech as one file, and the resident memory of every process of the node.

Real prompts are joined to three hours (`--hours`) and encoded as FLAC, MP3 and M4A, and if asked for as an RF64 WAV of
24 bits at 16 kHz, which passes 4 GB at 25 hours; each goes through decode, voice activity detection, log-mel, YAMNet
(but for `--ingest-only`) and Parquet. Reports the highest resident memory of any worker process, its decoder child
apart, and of all together.
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path

import av
import numpy as np
import psutil
import soundfile

from pipelines.recipe import parse_recipe
from pipelines.run import connect, run
from tests.real_corpus import english_prompts

RATE = 8000
CODECS = {"flac": "flac", "mp3": "libmp3lame", "m4a": "aac", "wav": "rf64"}


def joined(seconds: float, gap_seconds: float = 0.7) -> np.ndarray:
    """Return real prompts with pauses between them, int16 at 8 kHz."""
    gap = np.zeros(int(gap_seconds * RATE), np.int16)
    clips = [soundfile.read(path, dtype="int16")[0] for path in sorted((english_prompts() / "en").rglob("*.wav"))]
    once = np.concatenate([part for clip in clips for part in (clip, gap)])
    return np.resize(once, int(seconds * RATE))


def encode(samples: np.ndarray, path: Path, codec: str) -> None:
    """Encode with FFmpeg's encoder `codec`, or as RF64."""
    if codec == "rf64":
        with soundfile.SoundFile(path, "w", 2 * RATE, 1, format="RF64", subtype="PCM_24") as sound:
            for start in range(0, len(samples), RATE * 600):
                sound.write(np.repeat(samples[start : start + RATE * 600], 2))
        return
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=RATE, layout="mono")
        for start in range(0, len(samples), RATE * 10):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + RATE * 10], format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, start
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


class MemoryWatch:
    """Samples the resident memory of this process's descendants."""

    def __init__(self) -> None:
        self.child_peak = self.total_peak = 0
        self.workers: dict[str, tuple[int, int]] = {}  # by what Ray calls the task or actor: resident, own
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stopped.wait(0.25):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    memory, name = process.memory_info(), " ".join(process.cmdline()[:3])
                except psutil.Error:
                    continue
                size, total = memory.rss, total + memory.rss - memory.shared
                if "decoder_child" in name:
                    self.child_peak = max(self.child_peak, size)
                elif name.startswith("ray::"):
                    self._saw_worker(name.split("(")[0], size, size - memory.shared)
            self.total_peak = max(self.total_peak, total)

    def _saw_worker(self, name: str, resident: int, own: int) -> None:
        most, most_own = self.workers.get(name, (0, 0))
        self.workers[name] = max(most, resident), max(most_own, own)

    def largest(self) -> str:
        """Return the three largest workers as text."""
        ranked = sorted(self.workers.items(), key=lambda item: -item[1][0])[:3]
        return ", ".join(f"{name} {size / 1e6:.0f} MB ({own / 1e6:.0f} its own)" for name, (size, own) in ranked)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--formats", nargs="*", default=["flac", "mp3", "m4a"])
    parser.add_argument("--ingest-only", action="store_true", help="without YAMNet")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="phonolake-bench-") as folder:
        samples = joined(options.hours * 3600)
        connect()
        for name, codec in CODECS.items():
            if name not in options.formats:
                continue
            source = Path(folder) / name / f"long.{name}"
            source.parent.mkdir()
            encode(samples, source, codec)
            content = {
                "corpus": "long",
                "source": {"uri": str(source)},
                "lake": {"uri": f"{folder}/lake-{name}"},
                "spectrograms": [{"kind": "log_mel"}],
                "embeddings": [] if options.ingest_only else [{"model": "yamnet"}],
            }
            started = time.perf_counter()
            with MemoryWatch() as memory:
                seal = run(parse_recipe(content, "bench"))
            assert seal is not None
            assert abs(seal.audio_seconds - options.hours * 3600) < 1
            print(
                f"bench long recording, {options.hours:g} h of {name}: {time.perf_counter() - started:.0f} s; largest "
                f"workers, resident: {memory.largest()}; decoder child {memory.child_peak / 1e6:.0f} MB; all "
                f"processes' own {memory.total_peak / 1e6:.0f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
