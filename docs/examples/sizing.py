"""Cores, GPUs, hours and money for so much audio: the arithmetic behind docs/sizing.md. Prints its tables.

    python docs/examples/sizing.py

Change the figures to your own: seconds of audio that one core or GPU does in a second, prices, how long recordings are.
"""

from dataclasses import dataclass
from math import ceil

DECODE = 1_212  # MP3, one core; docs/benchmarks.md, Decode
SPEECH = 498  # voice activity, one core; docs/benchmarks.md, Voice activity
LOG_MEL_AND_WRITING = 24_000 / (14.7 - 5.5) / 2  # 16 copies of 25 minutes on two cores; docs/benchmarks.md, Ingest
WHISPER_TURBO = 200  # one A100, published by others: Open ASR Leaderboard, short-form, transformers
HUBERT_BASE = 686  # one A100, published by others: the leaderboard's wav2vec2-base, which has the same shape

CORE_HOUR, GPU_HOUR = 0.05, 3.00  # dollars: a sixteenth of an m7i.4xlarge; an A100. List prices of the day to replace
GIGABYTE_MONTH, THOUSAND_PUTS = 0.023, 0.005  # dollars, S3 standard

MINUTES = 5  # of a recording, in the mean
SEGMENT_SECONDS = 10  # of speech, in the mean; a segment has 30 at most
GPU_BLOCK_SEGMENTS = 256  # pipelines/worker_settings.py, GPU_BATCH_ROWS: what one receipt proves
TABLES = 6  # recordings, segments, spectrograms, embeddings, tags, transcripts: a fragment of each in a block
LOG_MEL_BYTES = 100 * 80 * 4  # a second
VECTOR_BYTES = 768 * 4  # a segment
RUN_ROWS = 30_000_000  # of recordings and segments: as far as a run was measured; docs/benchmarks.md, The driver


@dataclass(frozen=True)
class Size:
    """What so many hours take."""

    hours: int
    days: float  # in which they are to be done

    @property
    def core_hours(self) -> float:
        """Of reading, decoding, cutting, log-mel and writing."""
        return self.hours * (1 / DECODE + 1 / SPEECH + 1 / LOG_MEL_AND_WRITING)

    @property
    def gpu_hours(self) -> float:
        """Of Whisper large-v3-turbo and HuBERT base."""
        return self.hours * (1 / WHISPER_TURBO + 1 / HUBERT_BASE)

    @property
    def recordings(self) -> int:
        """How many there are."""
        return self.hours * 60 // MINUTES

    @property
    def segments(self) -> int:
        """How many there are, if all is speech."""
        return self.hours * 3600 // SEGMENT_SECONDS

    @property
    def runs(self) -> int:
        """Over how many runs they are to be spread."""
        return ceil((self.recordings + self.segments) / RUN_ROWS)

    @property
    def receipts(self) -> int:
        """How many there are, in all runs."""
        return ceil(self.segments / GPU_BLOCK_SEGMENTS)

    @property
    def terabytes(self) -> float:
        """Of log-mel and vectors, before compression."""
        return (self.hours * 3600 * LOG_MEL_BYTES + self.segments * VECTOR_BYTES) / 1e12


SIZES = (Size(1_000, 8 / 24), Size(100_000, 7), Size(10_000_000, 30))


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def work() -> str:
    """Return what is computed: cores, GPUs, hours, money."""
    rows = []
    for size in SIZES:
        wall = size.days * 24
        cores, gpus = ceil(size.core_hours / wall), ceil(size.gpu_hours / wall)
        money = size.core_hours * CORE_HOUR + size.gpu_hours * GPU_HOUR
        within = f"{size.days:g} days" if size.days >= 1 else f"{wall:g} hours"
        figures = (
            f"{size.core_hours:,.0f}",
            f"{size.gpu_hours:,.0f}",
            within,
            f"{cores:,}",
            f"{gpus:,}",
            f"{money:,.0f} $",
        )
        rows.append([f"{size.hours:,}", *figures])
    return table(["hours", "core-hours", "GPU-hours", "to be done in", "cores", "GPUs", "computing"], rows)


def counts() -> str:
    """Return what there is to list, to prove and to keep."""
    rows = []
    for size in SIZES:
        staged = size.receipts * (1 + TABLES)
        puts, keeping = staged / 1000 * THOUSAND_PUTS, size.terabytes * 1000 * GIGABYTE_MONTH
        listed = f"{size.hours:,}", f"{size.recordings:,}", f"{size.segments:,}", f"{size.runs:,}", f"{size.receipts:,}"
        rows.append([*listed, f"{staged:,}", f"{puts:,.0f} $", f"{size.terabytes:,.1f} TB", f"{keeping:,.0f} $"])
    heads = ["hours", "recordings", "segments", "runs", "receipts", "staged objects", "their PUTs"]
    return table([*heads, "log-mel and vectors", "a month of them"], rows)


if __name__ == "__main__":
    print(work(), counts(), sep="\n\n")
