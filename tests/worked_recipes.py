"""The worked recipes of docs/recipes at small scale: real speech laid out as each user's, models as small as they come.

Only what must be smaller is replaced, by the `--set` of the command line: the source's place, the lake's, model names.
"""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import soxr
import yaml

from tests.real_corpus import english_prompts

RECIPES = Path(__file__).resolve().parents[1] / "docs" / "recipes"
DEMO = Path(__file__).resolve().parents[1] / "pipelines" / "demo" / "corpus"
RATE = 16_000
MUSIC_RATE = 48_000


def overrides(name: str, source: str, lake: str, models: Mapping[str, str]) -> list[str]:
    """What to `--set` so that a shipped recipe reads `source`, writes `lake` and uses `models` for those it names."""
    content = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    [kind] = {"uri", "manifest", "tar", "parquet"} & content["source"].keys()
    sets = [f"source.{kind}={source}", f"lake.uri={lake}"]
    if "warehouse" in content:
        sets.append(f"warehouse.iceberg.catalog=sqlite:///{lake}-catalog.db")
    for table in ("embeddings", "tags", "transcripts"):
        if table in content:
            sections = [{**one, "model": models.get(one["model"], one["model"])} for one in content[table]]
            sets.append(f"{table}={sections}")
    return [part for one in sets for part in ("--set", one)]


@dataclass(frozen=True)
class Question:
    """A question that a page asks: its SQL, and the columns of the answer that it shows."""

    sql: str
    columns: list[str]


def questions(name: str) -> list[Question]:
    """The SQL blocks of a page, each followed by a block with its answer; columns are two spaces or more apart."""
    page = (RECIPES / f"{name}.md").read_text()
    pairs = re.findall(r"```sql\n(.*?)```\n+```\n(.*?)```", page, re.DOTALL)
    assert len(pairs) == page.count("```sql")
    return [Question(sql, re.split(r"\s{2,}", answer.splitlines()[0].strip())) for sql, answer in pairs]


def commands(name: str) -> Iterator[list[str]]:
    """The phonolake commands that a page shows."""
    page = (RECIPES / f"{name}.md").read_text()
    for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("phonolake "):
                yield line.partition("#")[0].split()[1:]


def speech(path: Path) -> np.ndarray:
    """A file of speech as float32 at RATE."""
    samples, rate = soundfile.read(path, dtype="float32")
    resampled: np.ndarray = soxr.resample(samples, rate, RATE)
    return resampled


def prompt(name: str) -> np.ndarray:
    """One of the English prompts."""
    return speech(english_prompts() / "en" / f"{name}.wav")


def in_turn(*turns: np.ndarray | float) -> np.ndarray:
    """Sounds and silences (in seconds), one after the other."""
    silent = [np.zeros(round(one * RATE), np.float32) if isinstance(one, float | int) else one for one in turns]
    return np.concatenate(silent)


def write_calls(folder: Path) -> Path:
    """Three calls, an agent on the left and a caller on the right, and their manifest."""
    calls = {
        "c-001": ("ada", "billing", ("queue-youarenext", 8.0, "pbx-invalidpark"), (6.5, "vm-nobox", 7.0, "vm-goodbye")),
        "c-002": ("ada", "support", ("agent-incorrect", 9.0), (6.0, "ss-noservice", 4.0)),
        "c-003": ("bob", "support", ("queue-periodic-announce", 2.0, "auth-incorrect"), (4.0, "vm-mismatch", 5.0)),
    }
    (folder / "calls").mkdir()
    with open(folder / "calls.csv", "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["path", "call_id", "agent", "queue"])
        for call, (agent, queue, *sides) in calls.items():
            left, right = (in_turn(*(prompt(one) if isinstance(one, str) else one for one in side)) for side in sides)
            both = np.zeros((max(len(left), len(right)), 2), np.float32)
            both[: len(left), 0], both[: len(right), 1] = left, right
            soundfile.write(folder / "calls" / f"{call}.wav", both, RATE, subtype="PCM_16")
            out.writerow([f"calls/{call}.wav", call, agent, queue])
    return folder / "calls.csv"


def music(seconds: float) -> np.ndarray:
    """Broken chords of plucked strings, at MUSIC_RATE."""
    notes = [261.6, 329.6, 392.0, 523.3, 440.0, 349.2, 293.7, 392.0]
    length = round(0.25 * MUSIC_RATE)
    time = np.arange(2 * length) / MUSIC_RATE
    out = np.zeros(round(seconds * MUSIC_RATE) + 2 * length, np.float32)
    for number, start in enumerate(range(0, round(seconds * MUSIC_RATE), length)):
        tone = sum(np.sin(2 * np.pi * notes[number % 8] * h * time) / h**1.5 for h in range(1, 8)) * np.exp(-4 * time)
        out[start : start + 2 * length] += 0.15 * tone
    return out[: round(seconds * MUSIC_RATE)]


def write_videos(folder: Path) -> dict[str, Path]:
    """Five MP4s: speech in two languages, music, both together, and one of them posted again."""

    def talk(path: str) -> np.ndarray:
        samples: np.ndarray = soxr.resample(speech(DEMO / path), RATE, MUSIC_RATE)
        return samples

    queue, weasels = talk("es/queue-periodic-announce.wav"), talk("en/tt-weasels.wav")
    sounds = {
        "queue": queue,
        "urgent": talk("es/vm-marked-urgent.wav"),
        "dance": music(6),
        "weasels": weasels + 0.5 * music(len(weasels) / MUSIC_RATE)[: len(weasels)],
        "dance-again": music(6),
    }
    folder.mkdir()
    return {name: _write_video(folder / f"{name}.mp4", sound) for name, sound in sounds.items()}


def _write_video(path: Path, sound: np.ndarray) -> Path:
    """An MP4 with a moving picture and AAC sound."""
    with av.open(str(path), "w") as out:
        picture = out.add_stream("mpeg4", rate=10)
        picture.width, picture.height, picture.pix_fmt = 160, 120, "yuv420p"
        track = out.add_stream("aac", rate=MUSIC_RATE, layout="mono")
        for number in range(round(len(sound) / MUSIC_RATE * 10)):
            image = np.full((120, 160, 3), 20 * number % 256, np.uint8)
            out.mux(picture.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        for start in range(0, len(sound), 1024):
            frame = av.AudioFrame.from_ndarray(sound[None, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = MUSIC_RATE, start
            out.mux(track.encode(frame))
        for stream in (picture, track):
            out.mux(stream.encode(None))
    return path


def write_episodes(folder: Path) -> Path:
    """Three episodes of two shows as MP3, and their manifest, in Parquet."""
    shows = {
        "pbx-1": ("The PBX Hour", "CC BY 4.0", ("demo-congrats", "demo-moreinfo")),
        "pbx-2": ("The PBX Hour", "CC BY 4.0", ("demo-abouttotry", "demo-nogo", "demo-thanks")),
        "desk-1": ("Front Desk", "all rights reserved", ("basic-pbx-ivr-main", "dir-intro", "vm-msginstruct")),
    }
    rows: list[dict[str, Any]] = []
    for name, (show, licence, prompts) in shows.items():
        sound = in_turn(*(part for one in prompts for part in (prompt(one), 2.5)))
        soundfile.write(folder / f"{name}.mp3", sound, RATE, format="MP3")
        rows.append({"uri": f"{name}.mp3", "show": show, "title": name, "licence": licence})
    pq.write_table(pa.Table.from_pylist(rows), folder / "episodes.parquet")
    return folder / "episodes.parquet"
