"""A night on a real Ray head with a metrics port: what it exports, logs, sends and records is what happened."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from ray.cluster_utils import Cluster

from pipelines.meter import COUNTERS, GAUGES
from pipelines.run_record import load_run_record
from pipelines.store import Store
from tests.end_to_end.conftest import free_ports
from tests.pipelines.test_dashboards import INTERVAL, dashboard, rules
from tests.promql import exported, names

ROOT = Path(__file__).parents[2]
MODEL = """
from workers.models.batching import Budget, run_batched

class Peak:
    sample_rate, version = 16_000, 1

    @classmethod
    def load(cls, loading):
        return cls()

    def run(self, clips):
        waves = [clip.waveform for clip in clips]
        read = lambda some, width: [float(abs(waves[one]).max(initial=0)) for one in some]
        return run_batched([len(wave) for wave in waves], Budget(64_000), read)

    def rows(self, result, stage):
        return [{"label": "peak", "score": result}]
"""
SECONDS = (1.0, 2.0, 3.0)
SCRAPE_TRIES, SCRAPE_PAUSE_SECONDS = 40, 0.5


@dataclass(frozen=True)
class Night:
    """A run that was carried out, and what was seen of it.

    Attributes:
        lake: its lake.
        series: what Ray exported when it had ended, and a second command had found nothing new.
        log: the lines of its event log.
        lineage: the events it sent.
        said: standard error of the first command.
    """

    lake: Path
    series: dict[str, list[tuple[dict[str, str], float]]]
    log: list[dict[str, Any]]
    lineage: list[dict[str, Any]]
    said: str


def phonolake(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines", *map(str, arguments)]
    settings = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=settings, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    """Three tones and a file that is none, on a head of its own; then the same command once more."""
    folder = tmp_path_factory.mktemp("night")
    (folder / "clips").mkdir()
    for number, seconds in enumerate(SECONDS):
        tone = np.sin(np.arange(int(16_000 * seconds)) * 0.2 * (number + 1)) / 2
        soundfile.write(folder / "clips" / f"{number}.wav", tone, 16_000)
    (folder / "clips" / "notes.wav").write_text("no audio at all")
    (folder / "peak.py").write_text(MODEL)
    content = {"corpus": "tones", "source": {"uri": "clips/"}, "lake": {"uri": "lake"}}
    content |= {"segments": {"by": "whole"}, "spectrograms": [{"kind": "log_mel"}], "tags": [{"model": "peak:Peak"}]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    [port] = free_ports(1)
    environment = {"PYTHONPATH": f"{ROOT}:{folder}", "PHONOLAKE_LOG_JSON": str(folder / "events.jsonl")}
    lineage = {"TYPE": "file", "LOG_FILE_PATH": str(folder / "lineage.jsonl"), "APPEND": "true"}
    environment |= {f"OPENLINEAGE__TRANSPORT__{name}": value for name, value in lineage.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", environment["PYTHONPATH"])  # of the workers too
        head = {"num_cpus": 2, "include_dashboard": False, "metrics_export_port": port}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            done = phonolake("run", folder / "recipe.yaml", RAY_ADDRESS=cluster.address, **environment)
            gauges = scraped(port, f"ray_phonolake_{next(iter(GAUGES))}")  # they end with their driver
            phonolake("run", folder / "recipe.yaml", RAY_ADDRESS=cluster.address, **environment)
            series = {**gauges, **scraped(port, "ray_phonolake_runs_total", outcome="nothing_new")}
        finally:
            cluster.shutdown()
    log, sent = ((folder / name).read_text().splitlines() for name in ("events.jsonl", "lineage.jsonl"))
    return Night(folder / "lake", series, list(map(json.loads, log)), list(map(json.loads, sent)), done.stderr)


def scraped(port: int, wanted: str, **labels: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Scrape a head as Prometheus does, until a series is there that is waited for."""
    for _ in range(SCRAPE_TRIES):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            found = exported(answer.read().decode())
        if any(labels.items() <= own.items() for own, _ in found.get(wanted, [])):
            return found
        time.sleep(SCRAPE_PAUSE_SECONDS)
    raise AssertionError(f"{wanted} was not exported; there are {sorted(one for one in found if 'phonolake' in one)}")


def total(night: Night, metric: str, **labels: str) -> float:
    """The sum of a counter's series with these labels."""
    series = night.series[f"ray_phonolake_{metric}_total"]
    return sum(value for own, value in series if labels.items() <= own.items())


def test_every_metric_is_exported_under_its_name_with_its_labels(night: Night) -> None:
    kinds = ((COUNTERS, "_total"), (GAUGES, ""))
    for (name, (_, labels)), end in ((metric, end) for metrics, end in kinds for metric in metrics.items()):
        for own, _ in night.series[f"ray_phonolake_{name}{end}"]:
            assert set(labels) <= own.keys()
            assert own["corpus"] == "tones"


def test_dashboard_and_alerts_ask_for_what_a_run_exports(night: Night) -> None:
    asked = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]
    for expression in [*asked, *(rule["expr"] for rule in rules())]:
        for metric, labels in names(expression.replace("$__rate_interval", INTERVAL)).items():
            assert any(labels <= own.keys() for own, _ in night.series[metric]), (metric, labels)


def test_what_is_counted_is_what_happened(night: Night) -> None:
    assert total(night, "recordings", outcome="ok") == 3
    assert total(night, "recordings", outcome="failed") == 1
    assert total(night, "failures", stage="decode", code="not_audio") == 1
    assert total(night, "decoded_audio_seconds") == pytest.approx(sum(SECONDS))
    assert total(night, "staged_audio_seconds") == pytest.approx(sum(SECONDS))
    assert total(night, "segment_audio_seconds") == pytest.approx(sum(SECONDS))
    assert total(night, "model_audio_seconds", model="peak:Peak") == pytest.approx(sum(SECONDS))
    assert total(night, "batch_used_units", model="peak:Peak") == 16_000 * sum(SECONDS)
    clips = night.lake.parent / "clips"
    assert total(night, "source_bytes") == sum(path.stat().st_size for path in clips.iterdir())
    published = sum(path.stat().st_size for path in (night.lake / "data").rglob("*.parquet"))
    assert total(night, "published_bytes") == published
    assert total(night, "runs", outcome="sealed") == total(night, "runs", outcome="nothing_new") == 1
    for stage in ("ingest", "model/peak:Peak", "spectrograms", "write"):
        assert total(night, "stage_seconds", stage=stage) > 0


def test_the_log_tells_the_night_in_order_a_line_an_event(night: Night) -> None:
    assert [line["event"] for line in night.log] == [
        *("source_listed", "run_planned", "attempt_started", "attempt_ended", "verdict_reached"),
        *("files_published", "run_sealed", "source_listed", "nothing_new"),
    ]
    sealed = next(line for line in night.log if line["event"] == "run_sealed")
    assert (sealed["corpus"], sealed["run"], sealed["counts"]["ok"], sealed["counts"]["failed"]) == (
        *("tones", "00001", 3, 1),
    )
    assert [line["time"] for line in night.log] == sorted(line["time"] for line in night.log)


def test_lineage_tells_of_the_run_and_not_of_the_night_without_one(night: Night) -> None:
    assert [one["eventType"] for one in night.lineage] == ["START", "COMPLETE"]
    rows = {
        one["name"].rpartition("/")[2]: one["outputFacets"]["outputStatistics"]["rowCount"]
        for one in night.lineage[1]["outputs"]
    }
    assert rows == {"recordings": 3, "segments": 3, "spectrograms": 3, "tags": 3, "failures": 1}


def test_the_record_says_what_the_metrics_say_and_status_shows_it(night: Night) -> None:
    record = load_run_record(Store(str(night.lake)), "tones", "00001")
    assert record is not None
    [attempt] = record.attempts
    assert (attempt.outcome, attempt.cpus, attempt.nodes) == ("ended", 2.0, 1)
    assert attempt.counts["audio_seconds"] == pytest.approx(sum(SECONDS))
    assert attempt.failures == {"not_audio": 1.0}
    assert record.stage_seconds == {
        stage: pytest.approx(total(night, "stage_seconds", stage=stage)) for stage in record.stage_seconds
    }
    assert {"ingest", "model/peak:Peak", "spectrograms", "write"} == record.stage_seconds.keys()
    assert {"list", "plan", "attempt", "verdict", "publish", "seal"} == record.step_seconds.keys()
    [status] = json.loads(phonolake("status", night.lake, "--json").stdout)
    assert status["last_run"]["run"] == "00001"
    assert status["last_run"]["audio_hours_per_core_hour"] == pytest.approx(record.audio_hours_per_core_hour)


def test_a_lake_with_records_is_sound_and_gc_leaves_them(night: Night) -> None:
    assert json.loads(phonolake("verify", night.lake, "--json").stdout)["findings"] == []
    phonolake("gc", night.lake)
    assert load_run_record(Store(str(night.lake)), "tones", "00001") is not None


def test_measuring_says_nothing_on_the_way(night: Night) -> None:
    assert "not noted" not in night.said
    assert "metric" not in night.said.lower()
