"""The worked example of docs/own_models.md runs as its page says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.end_to_end.test_command_line import DEMO
from workers.models.own import CODE_FOLDER

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "own_models.md"


def phonolake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as its script does: the folder it is started in is not where Python looks for modules."""
    command = [sys.executable, "-P", "-c", "from pipelines.cli import main; main()", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), CODE_FOLDER: "/elsewhere"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return done


def test_the_example_of_the_page_runs_from_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "examples"
    (folder / "clips").mkdir(parents=True)
    (folder / "loudness.py").write_bytes((ROOT / "docs" / "examples" / "loudness.py").read_bytes())
    for name in ("beep.wav", "vm-goodbye.wav"):
        (folder / "clips" / name).write_bytes((DEMO / "en" / name).read_bytes())
    text = PAGE.read_text().partition("```yaml\n")[2].partition("```")[0]
    assert yaml.safe_load(text)["embeddings"][0]["model"] == "loudness:Loudness"
    (folder / "recipe.yaml").write_text(text)
    assert phonolake(folder, "run", "recipe.yaml").returncode == 0
    found = phonolake(folder, "query", "lake", "SELECT model, dim, vector FROM embeddings", "--json")
    rows = json.loads(found.stdout)
    assert {(row["model"], row["dim"]) for row in rows} == {("loudness:Loudness", 2)}
    for row in rows:
        loudness, peak = row["vector"]
        assert -60 < loudness < peak <= 0
