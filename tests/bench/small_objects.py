"""bench small objects: four-second clips on a real S3 server, ingest only, and what each costs beyond its decoding.

The rival is nothing but the decoding: the same clips, in memory already, decoded to 16 kHz in two plain processes. What
a run takes longer, from listing to seal, divided by the clips, is the price of a clip. The server runs on the same
cores, as no store of a real run does: what it takes of them is told too. Objects are real speech, 8 kHz, WAV, 64 kB.
"""

import argparse
import io
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import obstore
import psutil
import soundfile

from pipelines.recipe import parse_recipe
from pipelines.run import connect, run
from tests.end_to_end.conftest import s3
from tests.real_corpus import english_prompts
from workers.decode import decode
from workers.decode_settings import DecodeLimits, DecodeSettings
from workers.decoded import AudioInfo
from workers.stores import s3_store

PROCESSES, RATE, SECONDS = 2, 8000, 4
DISTINCT = 500
UPLOADS = 16


class Folders:
    """Gives folders, as pytest's tmp_path_factory does to the server's fixture."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def mktemp(self, name: str) -> Path:
        """Make a folder."""
        folder = self._root / name
        folder.mkdir()
        return folder


class Nowhere:
    """A sink that keeps nothing."""

    def opened(self, info: AudioInfo) -> None:
        """Nothing."""

    def samples(self, pcm: np.ndarray) -> None:
        """Nothing."""


def distinct_clips() -> list[bytes]:
    """Return clips of real speech as WAV files."""
    paths = sorted((english_prompts() / "en").rglob("*.wav"))
    speech = np.concatenate([soundfile.read(path, dtype="int16")[0] for path in paths])
    clips = []
    for number in range(DISTINCT):
        out = io.BytesIO()
        start = number * RATE % (len(speech) - SECONDS * RATE)
        soundfile.write(out, speech[start : start + SECONDS * RATE], RATE, format="WAV", subtype="PCM_16")
        clips.append(out.getvalue())
    return clips


def decode_all(clips: list[bytes], count: int) -> None:
    """Decode `count` clips."""
    settings, sink = DecodeSettings(16_000, DecodeLimits(60, 2)), Nowhere()
    for number in range(count):
        decode(io.BytesIO(clips[number % len(clips)]), settings, sink)


def time_decoding(clips: list[bytes], count: int) -> float:
    """Return seconds of two plain processes that decode half the clips each."""
    with get_context("spawn").Pool(PROCESSES) as pool:
        pool.starmap(decode_all, [(clips, 50)] * PROCESSES, chunksize=1)
        started = time.perf_counter()
        pool.starmap(decode_all, [(clips, count // PROCESSES)] * PROCESSES, chunksize=1)
        return time.perf_counter() - started


def upload(clips: list[bytes], count: int) -> None:
    """Put the clips, a thousand under a prefix."""
    store = s3_store("clips", ())

    def put(number: int) -> None:
        obstore.put(store, f"c/{number // 1000:03d}/{number:06d}.wav", clips[number % len(clips)])

    with ThreadPoolExecutor(UPLOADS) as uploaders:
        list(uploaders.map(put, range(count)))


def cpu_seconds(pid: int) -> float:
    """Return what a process has taken of the processor."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=100_000)
    options = parser.parse_args()
    clips = distinct_clips()
    decoding = time_decoding(clips, options.clips)
    with tempfile.TemporaryDirectory(prefix="phonolake-bench-") as folder:
        serving = s3.__wrapped__(Folders(Path(folder)))
        server = next(serving)
        for bucket in ("clips", "lakes"):
            server.filesystem().mkdir(bucket)
        upload(clips, options.clips)
        connect()
        few = {"corpus": "few", "source": {"uri": "s3://clips/c/000/"}, "lake": {"uri": "s3://lakes/few"}}
        run(parse_recipe({**few, "segments": {"by": "whole"}}, "bench"))  # workers started, libraries imported
        content = {"corpus": "clips", "source": {"uri": "s3://clips/c/"}, "lake": {"uri": "s3://lakes/l"}}
        started, served = time.perf_counter(), cpu_seconds(server.pid)
        seal = run(parse_recipe({**content, "segments": {"by": "whole"}}, "bench"))
        seconds, served = time.perf_counter() - started, cpu_seconds(server.pid) - served
        assert seal is not None
        assert (seal.recordings, seal.failed) == (options.clips, 0)
        serving.close()
    price, of_server = (1000 * spent / options.clips for spent in (seconds - decoding, served / PROCESSES))
    print(
        f"bench small objects: {options.clips:,} clips in {seconds:.1f} s, their decoding alone {decoding:.1f} s in "
        f"two processes: {price:.2f} ms of wall time a clip beyond it, {of_server:.2f} ms of which the "
        f"server takes on the same cores"
    )


if __name__ == "__main__":
    main()
