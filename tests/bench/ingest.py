"""bench ingest: recordings -> decode -> 16 kHz -> log-mel -> Parquet, against the same library calls without Ray.

The rival is two plain processes that share out the files and call soundfile.read, soxr.resample HQ,
torchaudio.transforms.MelSpectrogram and log, and write zstd Parquet with the same columns. It has no decoder child, no
content hashes, no failures, no receipts and no commit. A second, stricter rival calls our own log-mel function, which
is faster than torchaudio's module. Steady state is the slope between a small and a large corpus, so that start-up is
in neither.
"""

import argparse
import io
import shutil
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import soxr
import torch
import torchaudio

from pipelines.recipe import Recipe, parse_recipe
from pipelines.run import connect, run
from schemas.tables import SPECTROGRAMS
from tests.real_corpus import repeated
from workers.spectrogram import Spectrogrammer
from workers.spectrogram_settings import SpectrogramSettings

PROCESSES = 2
FILES_A_PARQUET = 1024


def library_mel() -> Callable[[np.ndarray], np.ndarray]:
    """Return log-mel as torchaudio computes it."""
    transform = torchaudio.transforms.MelSpectrogram(
        16000, 512, 400, 160, n_mels=80, norm="slaney", mel_scale="slaney", pad_mode="constant"
    )
    return lambda wave: transform(torch.from_numpy(wave)).clamp_(min=1e-10).log_().T.contiguous().numpy()


def our_mel() -> Callable[[np.ndarray], np.ndarray]:
    """Return log-mel as our workers compute it."""
    return Spectrogrammer(SpectrogramSettings("log_mel", n_bins=80), 16000).compute


RIVALS = {"torchaudio": library_mel, "strict": our_mel}


def plain(paths: list[str], out: Path, rival: str) -> None:
    """The rival: what an engineer writes without a framework, run by each of two processes on its share."""
    torch.set_num_threads(1)
    log_mel = RIVALS[rival]()
    for start in range(0, len(paths), FILES_A_PARQUET):
        ids, frames, values = [], [], []
        for path in paths[start : start + FILES_A_PARQUET]:
            samples, rate = soundfile.read(io.BytesIO(Path(path).read_bytes()), dtype="float32", always_2d=True)
            wave = soxr.resample(samples.mean(axis=1), rate, 16000, quality="HQ")
            pcm = np.clip(np.rint(wave * 32768), -32768, 32767).astype(np.int16)
            mel = log_mel(pcm.astype(np.float32) / 32768)
            ids.append(uuid.uuid5(uuid.NAMESPACE_URL, path).hex)
            frames.append(len(mel))
            values.append(mel.ravel())
        _write(ids, frames, values, out / f"{uuid.uuid4().hex}.parquet")


def _write(ids: list[str], frames: list[int], values: list[np.ndarray], path: Path) -> None:
    offsets = np.cumsum([0] + [len(one) for one in values])
    columns = {
        "recording_id": pa.array(ids),
        "segment_id": pa.array([f"{one}-00000" for one in ids]),
        "kind": pa.array(["log_mel"] * len(ids)),
        "n_frames": pa.array(frames, pa.int32()),
        "n_bins": pa.array([80] * len(ids), pa.int32()),
        "hop_seconds": pa.array([0.01] * len(ids)),
        "values": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(np.concatenate(values))),
    }
    assert set(columns) <= set(SPECTROGRAMS.names)
    pq.write_table(pa.table(columns), path, compression="zstd", use_dictionary=["recording_id", "segment_id", "kind"])


def time_plain(corpus: Path, scratch: Path, rival: str) -> float:
    """Return seconds of two plain processes, from when both stand ready (imports done) to when both have ended."""
    paths = sorted(str(path) for path in corpus.rglob("*.wav"))
    out = Path(tempfile.mkdtemp(dir=scratch))
    with get_context("spawn").Pool(PROCESSES) as pool:
        pool.map(_warm, [rival] * PROCESSES, chunksize=1)
        started = time.perf_counter()
        pool.starmap(plain, [(paths[part::PROCESSES], out, rival) for part in range(PROCESSES)], chunksize=1)
        seconds = time.perf_counter() - started
    shutil.rmtree(out)
    return seconds


def _warm(rival: str) -> None:
    RIVALS[rival]()(np.zeros(16000, np.float32))
    time.sleep(0.5)


def recipe(corpus: Path, lake: Path) -> Recipe:
    """Return the recipe of this benchmark."""
    content = {
        "corpus": "bench",
        "source": {"uri": str(corpus)},
        "lake": {"uri": str(lake)},
        "segments": {"by": "whole"},
        "spectrograms": [{"kind": "log_mel", "n_bins": 80}],
    }
    return parse_recipe(content, "bench")


def time_ours(corpus: Path, scratch: Path) -> float:
    """Return seconds of a whole run on a cluster that stands: listing, plan, attempt, verdict, publish, seal."""
    lake = Path(tempfile.mkdtemp(dir=scratch))
    started = time.perf_counter()
    seal = run(recipe(corpus, lake))
    seconds = time.perf_counter() - started
    assert seal is not None
    assert seal.failed == 0
    shutil.rmtree(lake)
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=8, help="copies of the 25-minute corpus")
    parser.add_argument("--large", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="phonolake-bench-") as folder:
        scratch = Path(folder)
        small, large = repeated(options.small, scratch / "small"), repeated(options.large, scratch / "large")
        connect()
        time_ours(small, scratch)  # workers started, torch imported
        measures: dict[str, Callable[[Path, Path], float]] = {
            "torchaudio": partial(time_plain, rival="torchaudio"),
            "strict": partial(time_plain, rival="strict"),
            "phonolake": time_ours,
        }
        slopes: dict[str, list[float]] = {name: [] for name in measures}
        wholes: dict[str, list[float]] = {name: [] for name in measures}
        for _ in range(options.rounds):
            for name, measure in measures.items():
                low, high = measure(small, scratch), measure(large, scratch)
                slopes[name].append(high - low)
                wholes[name].append(high)
                print(f"  {name}: {low:.1f} s for {options.small}, {high:.1f} s for {options.large} copies", flush=True)
    hours = 0.4246 * options.large
    for rival in RIVALS:
        for title, times in (("whole run", wholes), ("steady state", slopes)):
            ratio = statistics.median(a / b for a, b in zip(times[rival], times["phonolake"], strict=True))
            print(
                f"bench ingest, {title}: {ratio:.2f} of the throughput of two plain processes ({rival}), {hours:.1f} h"
            )


if __name__ == "__main__":
    main()
