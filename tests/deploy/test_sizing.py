import re
import runpy
import subprocess
import sys

import pytest
from manifests import ROOT

from pipelines.worker_settings import GPU_BATCH_ROWS
from schemas.tables import TABLES

SCRIPT = ROOT / "docs" / "examples" / "sizing.py"
GUIDE = (ROOT / "docs" / "sizing.md").read_text()
BENCHMARKS = (ROOT / "docs" / "benchmarks.md").read_text()
FIGURES = runpy.run_path(str(SCRIPT))


def test_the_tables_of_the_guide_are_those_that_the_script_prints() -> None:
    printed = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=True).stdout.strip()
    assert printed.count("10,000,000") == 2
    for table in printed.split("\n\n"):
        assert table in GUIDE


def test_rates_that_are_called_ours_are_those_of_the_benchmarks() -> None:
    mp3 = re.findall(r"^\| MP3 \| ([\d,]+) \|", BENCHMARKS, re.MULTILINE)[0]
    [speech] = re.findall(r"(\d+) s of audio a second on one core", BENCHMARKS)
    assert (FIGURES["DECODE"], FIGURES["SPEECH"]) == (int(mp3.replace(",", "")), int(speech))
    rounds = re.findall(r"^\| 0 \|.*\| ([\d.]+) / ([\d.]+) \|$", BENCHMARKS, re.MULTILINE)
    eight, twenty_four = (float(one) for one in rounds[0])
    assert FIGURES["LOG_MEL_AND_WRITING"] == pytest.approx(16 * 25 * 60 / (twenty_four - eight) / 2)
    for name in ("DECODE", "SPEECH", "WHISPER_TURBO", "HUBERT_BASE"):
        assert f"| {FIGURES[name]:,} a" in GUIDE


def test_what_the_script_takes_from_the_code_is_there() -> None:
    assert FIGURES["GPU_BLOCK_SEGMENTS"] == GPU_BATCH_ROWS
    assert FIGURES["TABLES"] == len(TABLES) - 2  # no failures, in a good night, and no clips


def test_money_and_time_are_in_proportion() -> None:
    small, middle, _ = FIGURES["SIZES"]
    assert middle.hours == 100 * small.hours
    assert middle.core_hours == pytest.approx(100 * small.core_hours)
    assert middle.gpu_hours == pytest.approx(100 * small.gpu_hours)
    assert (middle.recordings, middle.segments) == (100 * small.recordings, 100 * small.segments)
