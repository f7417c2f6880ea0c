"""bench transcribe: whisper-tiny.en on real clips, against the stages of the public Ray example and faster-whisper.

The baseline is our own code with the stages of ray-project/ray's audio transcription benchmark: read Parquet of audio
bytes -> map, one row at a time: decode and resample -> map_batches: the Whisper processor on CPU, features padded to
30 s -> an actor pool of `generate`, batch 64 -> map_batches: decode tokens -> write_parquet. It differs in two places:
it decodes with soundfile and soxr, and runs in float32 on the CPU, with as many threads as ours. Same weights, same
clips, greedy decoding in all. Both run on a Ray that stands and end when their Parquet is written; word error rates
are over the clips with at least four words, after Whisper's own text normalisation.

Two more rows compare the same weights on CTranslate2 in 8 bits: our pipeline with faster-whisper-tiny.en, and
faster-whisper's own BatchedInferencePipeline in one process, as many threads, batch 8, no voice detection: each clip is
one call, with the whole clip as its only timestamp, for its batches are made of one recording. `--pack` lets our two
rows put several clips into one window.
"""

import argparse
import csv
import io
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import jiwer
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import soundfile
import soxr
import torch
from ray.data import ActorPoolStrategy
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

from pipelines.lake import open_lake
from pipelines.recipe import Recipe, parse_recipe
from pipelines.run import connect, run
from pipelines.store import Store
from tests.real_corpus import english_prompts
from workers.weights import resolve

THREADS = 2
BATCH = 64
LEAST_WORDS = 4
WINDOW_SECONDS = 30  # the baseline, like its model, drops what a clip holds beyond this
MODEL = "whisper-tiny.en"
CTRANSLATE2_MODEL = "faster-whisper-tiny.en"
RIVAL_BATCH = 8


def decode_row(row: dict[str, Any]) -> dict[str, Any]:
    """Decode and resample one clip."""
    samples, rate = soundfile.read(io.BytesIO(row["bytes"]), dtype="float32")
    return {"uri": row["uri"], "audio": soxr.resample(samples, rate, 16000)}


def preprocess(batch: dict[str, Any]) -> dict[str, Any]:
    """Compute features padded to 30 s."""
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor.from_pretrained(resolve(MODEL).folder)
    features = extractor(list(batch["audio"]), sampling_rate=16000, return_tensors="np").input_features
    return {"uri": batch["uri"], "features": features}


class Generator:
    """The baseline's model actor."""

    def __init__(self) -> None:
        from transformers import WhisperForConditionalGeneration

        torch.set_num_threads(THREADS)
        self.model = WhisperForConditionalGeneration.from_pretrained(resolve(MODEL).folder, dtype=torch.float32)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Generate tokens."""
        with torch.inference_mode():
            tokens = self.model.generate(torch.from_numpy(np.stack(batch["features"])))
        return {"uri": batch["uri"], "tokens": list(tokens.numpy())}


def decode_tokens(batch: dict[str, Any]) -> dict[str, Any]:
    """Turn tokens into text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve(MODEL).folder)
    tokens = [one.tolist() for one in batch["tokens"]]
    return {"uri": batch["uri"], "text": tokenizer.batch_decode(tokens, skip_special_tokens=True)}


def baseline(clips: Path, out: Path) -> dict[str, str]:
    """Run the baseline and return its texts by uri."""
    paths = sorted(clips.rglob("*.wav"))
    columns = {"uri": [str(path) for path in paths], "bytes": [path.read_bytes() for path in paths]}
    pq.write_table(pa.table(columns), out / "input.parquet", row_group_size=128)
    (
        ray.data.read_parquet(str(out / "input.parquet"))
        .repartition(target_num_rows_per_block=BATCH)
        .map(decode_row, num_cpus=0.25)
        .map_batches(preprocess, batch_size=BATCH, num_cpus=0.25)
        .map_batches(Generator, batch_size=BATCH, compute=ActorPoolStrategy(size=1), num_cpus=1)
        .map_batches(decode_tokens, batch_size=BATCH, num_cpus=0.25)
        .write_parquet(str(out / "texts"))
    )
    rows = duckdb.sql(f"SELECT uri, text FROM read_parquet('{out}/texts/*.parquet')").fetchall()
    return dict(rows)


def rival(clips: Path, out: Path) -> dict[str, str]:
    """Run faster-whisper on every clip and return its texts by uri."""
    from faster_whisper import BatchedInferencePipeline, WhisperModel, decode_audio

    folder = str(resolve(CTRANSLATE2_MODEL).folder)
    model = BatchedInferencePipeline(WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=THREADS))
    texts = {}
    for path in sorted(clips.rglob("*.wav")):
        audio = decode_audio(str(path))
        whole = [{"start": 0.0, "end": len(audio) / 16000}]
        segments, _ = model.transcribe(
            audio, language="en", beam_size=1, batch_size=RIVAL_BATCH, vad_filter=False, clip_timestamps=whole
        )
        texts[str(path)] = "".join(segment.text for segment in segments)
    pq.write_table(pa.table({"uri": list(texts), "text": list(texts.values())}), out / "texts.parquet")
    return texts


def recipe(clips: Path, lake: Path, model: str, pack: bool) -> Recipe:
    """Return our recipe: every clip as one segment, transcripts only."""
    content = {
        "corpus": "bench",
        "source": {"uri": str(clips)},
        "lake": {"uri": str(lake)},
        "segments": {"by": "whole", "max_seconds": 30},
        "transcripts": [{"model": model, "pack": pack}],
    }
    return parse_recipe(content, "bench")


def ours(clips: Path, out: Path, model: str = MODEL, pack: bool = False) -> dict[str, str]:
    """Run our pipeline and return its texts by uri."""
    run(recipe(clips, out / "lake", model, pack))
    sql = "SELECT uri, string_agg(text, ' ' ORDER BY segment_id) FROM transcripts JOIN recordings USING (recording_id)"
    return dict(open_lake(Store(str(out / "lake"))).sql(f"{sql} GROUP BY uri").fetchall())


def word_error_rate(texts: dict[str, str], references: dict[str, str]) -> float:
    """Return the word error rate over clips with enough words, in percent."""
    normalise = EnglishTextNormalizer({})
    pairs = [(normalise(said), normalise(texts.get(uri, ""))) for uri, said in references.items()]
    pairs = [(said, heard) for said, heard in pairs if len(said.split()) >= LEAST_WORDS]
    return 100 * float(jiwer.wer([said for said, _ in pairs], [heard for _, heard in pairs]))


def chosen_clips(count: int, folder: Path) -> tuple[Path, dict[str, str]]:
    """Copy clips with at least four words, spread over the corpus, into `folder`; return it and their texts."""
    source = english_prompts()
    with open(source / "transcripts.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if "[" not in row["text"]]
    rows = [row for row in rows if len(row["text"].split()) >= LEAST_WORDS]
    rows = [row for row in rows if soundfile.info(source / row["path"]).duration <= WINDOW_SECONDS]
    rows = rows[:: max(1, len(rows) // count)][:count]
    references = {}
    for row in rows:
        target = folder / row["path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / row["path"], target)
        references[str(target)] = row["text"]
    return folder, references


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=251, help="there are 251 with enough words")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pack", action="store_true", help="several clips in one window, in our two rows")
    options = parser.parse_args()
    rows: dict[str, Callable[[Path, Path], dict[str, str]]] = {
        "baseline": baseline,
        "phonolake": partial(ours, pack=options.pack),
        "phonolake on ctranslate2": partial(ours, model=CTRANSLATE2_MODEL, pack=options.pack),
        "faster-whisper": rival,
    }
    with tempfile.TemporaryDirectory(prefix="phonolake-bench-") as folder:
        clips, references = chosen_clips(options.clips, Path(folder) / "clips")
        connect()
        rates: dict[str, list[float]] = {name: [] for name in rows}
        for round_number in range(options.rounds):
            for name, measure in rows.items():
                out = Path(tempfile.mkdtemp(dir=folder))
                started = time.perf_counter()
                texts = measure(clips, out)
                rates[name].append(len(references) / (time.perf_counter() - started))
                wer = word_error_rate(texts, references)
                print(f"  {round_number} {name}: {rates[name][-1]:.2f} clips/s, WER {wer:.2f} %", flush=True)
    packed = ", packed," if options.pack else ""
    for name, other, what in (
        ("phonolake", "baseline", f"phonolake{packed} against the Ray baseline"),
        ("phonolake on ctranslate2", "baseline", f"phonolake on ctranslate2{packed} against the Ray baseline"),
        ("phonolake on ctranslate2", "faster-whisper", f"phonolake on ctranslate2{packed} against faster-whisper"),
    ):
        ratio = statistics.median(a / b for a, b in zip(rates[name], rates[other], strict=True))
        print(f"bench transcribe: {what}: {ratio:.2f} times the clips per second ({len(references)} clips)")


if __name__ == "__main__":
    main()
