"""A real speech corpus for tests and benchmarks: 568 English telephone prompts with their texts, 8 kHz, 25 minutes.

From the Debian packages asterisk-core-sounds-en-wav and -en (CC BY-SA 3.0), fetched with apt where the machine has it
and kept in the cache folder. Set PHONOLAKE_REAL_CORPUS to a folder laid out the same way to do without apt.
"""

import csv
import gzip
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from filelock import FileLock

from workers.weights import cache_root

PACKAGES = ("asterisk-core-sounds-en-wav", "asterisk-core-sounds-en")
ENGLISH_FILES = 568


class NoCorpus(Exception):
    """The corpus cannot be had on this machine; the message says why."""


def english_prompts() -> Path:
    """Return a folder with en/**.wav and transcripts.csv (path, text)."""
    given = os.environ.get("PHONOLAKE_REAL_CORPUS")
    if given:
        return Path(given)
    folder = cache_root() / "corpora" / "asterisk-en"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # of two test processes that start together
        if not folder.exists():
            _lay_out(folder)
    return folder


def _lay_out(folder: Path) -> None:
    if shutil.which("apt-get") is None:
        raise NoCorpus("this machine has no apt-get; set PHONOLAKE_REAL_CORPUS")
    with tempfile.TemporaryDirectory() as scratch:
        _download(Path(scratch))
        for package in Path(scratch).glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, f"{scratch}/x"], check=True)
        unpacked = Path(scratch) / "x" / "usr" / "share"
        side = folder.with_name(f".{folder.name}-{os.getpid()}")
        shutil.copytree(next((unpacked / "asterisk" / "sounds").glob("en_*")), side / "en")
        _write_texts(unpacked / "doc" / "asterisk-core-sounds-en" / "core-sounds-en.txt.gz", side)
    side.rename(folder)


def _download(scratch: Path) -> None:
    command = ["apt-get", "download", "-q", *PACKAGES]
    if subprocess.run(command, cwd=scratch, capture_output=True).returncode:
        subprocess.run(["apt-get", "update", "-qq"], capture_output=True)
        again = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
        if again.returncode:
            raise NoCorpus(f"apt-get download failed: {again.stderr.strip()[-200:]}; set PHONOLAKE_REAL_CORPUS")


def _write_texts(source: Path, folder: Path) -> None:
    with gzip.open(source, "rt") as lines, open(folder / "transcripts.csv", "w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["path", "text"])
        for line in lines:
            name, colon, text = line.rstrip().partition(": ")
            if colon and not name.startswith(";") and (folder / "en" / f"{name}.wav").exists():
                writer.writerow([f"en/{name}.wav", text])


def repeated(times: int, folder: Path) -> Path:
    """Copy the English prompts `times` times into `folder` and return it."""
    source = english_prompts() / "en"
    for copy in range(times):
        shutil.copytree(source, folder / f"{copy:03d}")
    return folder
