"""The report: what it says is what the lake holds, it can be asked again, and nothing in a lake becomes script."""

import base64
import datetime
import hashlib
import io
import json
import os
import re
import shlex
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from report_lake import RATE, READING, add_plan, add_run, log_mel, tone
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.errors import RecipeError
from pipelines.page.page import make_report, render
from pipelines.parquet import to_parquet
from pipelines.store import Store
from schemas import layout, records
from schemas.tables import SEGMENTS

HOSTILE = "\"><script>alert('x')</script><img src=x onerror=alert(1)>{{ 7*7 }}"


@pytest.fixture
def lake(store) -> Store:
    """Two corpora; `calls` has two nights, and two words for the same rows of the second."""
    add_run(
        *(store, "calls", "00001", "2026-03-01", [{"uri": "/audio/a.wav", "decoded_seconds": 90.0}]),
        [{"uri": "/audio/b.wav", "code": "empty", "message": "/audio/b.wav: the object has 0 bytes"}],
        transcripts=[{"of": 0, "text": "hello", "language": "en", "language_probability": 0.9, "flags": ["loop"]}],
        tags=[{"of": 0, "label": "Speech", "score": 0.9}, {"of": 0, "label": "Dog", "score": 0.1}],
        spectrograms=[{"of": 0, **log_mel(tone(0.5))}],
    )
    add_run(store, "calls", "00002", "2026-03-03", [{"uri": "/audio/c.wav", "decoded_seconds": 3.0}])
    add_run(
        *(store, "pods", "00001", "2026-03-02", [{"uri": "/audio/d.wav", "decoded_seconds": 7200.0}]),
        transcripts=[{"of": 0, "text": "hola", "language": "es", "language_probability": 0.8}],
    )
    return store


def rows(store: Store, name: str) -> list[dict]:
    report = make_report(store, store.uri, None, most_clips=6, sound=False)
    return report.answers[name].rows


def page(store: Store, *, sound: bool = False) -> str:
    return render(make_report(store, store.uri, None, most_clips=6, sound=sound))


class Page(HTMLParser):
    """What a browser would see of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.text, self.style = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data):
        if self.tags and self.tags[-1] == "style" and not self.style:
            self.style = data
        self.text.append(data)


def test_every_query_runs_as_the_page_prints_it_and_gives_the_figures_rows(lake):
    facts = json.loads(CliRunner().invoke(app, ["report", lake.uri, "--json"]).stdout)
    assert len(facts["figures"]) == 14
    for name, figure in facts["figures"].items():
        program, *arguments = shlex.split(figure["command"])
        assert program == "phonolake"
        answered = CliRunner().invoke(app, [*arguments, "--json"])
        assert answered.exit_code == 0, (name, answered.output, answered.exception)
        assert json.loads(answered.stdout) == figure["rows"], name


def test_every_command_on_the_page_is_one_of_those(lake):
    shown = re.findall(r"phonolake query .*?(?=</code>)", page(lake), re.DOTALL)
    assert len(shown) == 14


def test_the_figures_are_what_the_lake_holds(lake):
    report = make_report(lake, lake.uri, None, most_clips=6, sound=False)
    found = {name: answer.rows for name, answer in report.answers.items()}
    [totals] = found["totals"]
    assert (totals["recordings"], totals["segments"], totals["failed_recordings"]) == (3, 3, 1)
    assert totals["hours"] == pytest.approx((90 + 3 + 7200) / 3600)
    assert [(row["corpus"], row["recordings"]) for row in found["corpora"]] == [("pods", 1), ("calls", 2)]
    nights = [(str(row["night"]), row["corpus"], row["ok"], row["failed"]) for row in found["nights"]]
    assert nights == [("2026-03-01", "calls", 1, 1), ("2026-03-02", "pods", 1, 0), ("2026-03-03", "calls", 1, 0)]
    assert {(row["from_seconds"], row["recordings"]) for row in found["durations"]} == {(2, 1), (60, 1), (7200, 1)}
    assert [(row["language"], row["segments"]) for row in found["languages"]] == [("es", 1), ("en", 1)]
    assert [(row["label"], row["segments"]) for row in found["tags"]] == [("Speech", 1)]
    assert [(row["flag"], row["segments"]) for row in found["doubts"]] == [("loop", 1)]
    [failure] = found["failures"]
    assert (failure["code"], failure["examples"], failure["may_pass"]) == ("empty", ["/audio/b.wav"], False)
    assert [(row["stage"], row["seconds"]) for row in found["stages"]] == [("tags/toy", 90.0), ("ingest", 30.0)]
    assert [row["seconds"] for row in found["runs"]] == [30.0, 30.0, 30.0]
    assert found["runs"][0]["core_hours"] == pytest.approx(2 * 20 / 3600)
    assert {row["name"]: row["rows"] for row in found["tables"]}["recordings"] == 3


@pytest.mark.parametrize("amplitude", [0.5, 0.02])
def test_a_level_read_off_a_spectrogram_is_that_of_the_samples(store, amplitude):
    uri = {"uri": "/audio/a.wav", "decoded_seconds": 1.0}
    noise = amplitude * np.random.default_rng(1).standard_normal(RATE).clip(-2, 2).astype(np.float32)
    loud, wide = tone(amplitude, hertz=440), noise
    sounds = [{"of": 0, **log_mel(loud)}, {"of": 1, **log_mel(wide)}]
    add_run(store, "calls", "00001", "2026-03-01", [uri, uri], spectrograms=sounds)
    found = [row["from_db"] for row in rows(store, "levels") for _ in range(row["segments"])]
    truth = sorted(10 * np.log10(np.mean(one**2)) for one in (loud, wide))
    assert found == pytest.approx([level - 1 for level in truth], abs=1.3)  # bins of 2 dB, named by their lower edge


def test_the_page_asks_nothing_of_anybody_and_its_style_is_the_one_it_allows(lake):
    seen = Page(page(lake))
    assert not {"script", "link", "iframe", "object", "form", "base"} & set(seen.tags)
    assert all(value.startswith("data:") for _, name, value in seen.attributes if name in ("src", "href", "srcset"))
    assert not [one for one in seen.attributes if one[1].startswith("on") or one[1] == "style"]
    contents = [value for tag, name, value in seen.attributes if (tag, name) == ("meta", "content")]
    [policy] = [value for value in contents if "default-src" in value]
    digest = base64.b64encode(hashlib.sha256(seen.style.encode()).digest()).decode()
    sources = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; media-src data:"
    assert policy == f"{sources}; base-uri 'none'; form-action 'none'"
    assert not re.search(r"url\(|@import", seen.style)


def test_every_chart_has_a_title_a_description_and_its_numbers_in_a_table(lake):
    seen = Page(page(lake))
    charts = [value for tag, name, value in seen.attributes if (tag, name) == ("svg", "aria-labelledby")]
    ids = [value for _, name, value in seen.attributes if name == "id"]
    assert charts
    assert len(ids) == len(set(ids))
    assert {one for chart in charts for one in chart.split()} <= set(ids)
    assert seen.tags.count("table") >= len({chart.rsplit("-", 3)[0] for chart in charts}) - 1  # nights draw two charts


def test_nothing_that_a_lake_holds_becomes_markup(store):
    recording = {"uri": f"/audio/{HOSTILE}/{HOSTILE}.wav", "decoded_seconds": 2.0}
    add_run(
        *(store, "calls", "00001", "2026-03-01", [recording]),
        [{"uri": HOSTILE, "code": HOSTILE, "stage": HOSTILE, "message": HOSTILE}],
        transcripts=[{"of": 0, "text": HOSTILE, "language": HOSTILE, "model": HOSTILE, "flags": [HOSTILE]}],
        tags=[{"of": 0, "label": HOSTILE, "model": HOSTILE, "score": 0.9}],
        spectrograms=[{"of": 0, **log_mel(tone(0.1))}],
    )
    text = page(store, sound=True)
    seen = Page(text)
    assert "<script" not in text
    assert "script" not in seen.tags
    assert not [one for one in seen.attributes if one[1].startswith("on")]
    assert all(value.startswith("data:") for _, name, value in seen.attributes if name == "src")
    assert sum(HOSTILE in one for one in seen.text) >= 5  # it is there, as words


def test_nothing_that_a_lake_holds_becomes_sql(store):
    recording = {"uri": "/audio/a.wav", "decoded_seconds": 2.0}
    add_run(*(store, "it's", "00001", "2026-03-01", [recording], []), spectrograms=[{"of": 0, **log_mel(tone(0.1))}])
    assert "a.wav" in page(store)  # ids and the corpus go from the lake's files into the report's queries


def test_a_lake_with_nothing_but_an_open_run_has_a_page_that_says_so(store):
    add_plan(store, "calls", "00001", datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC), READING)
    done = CliRunner().invoke(app, ["report", store.uri, "--out", store.full("page.html")])
    assert done.exit_code == 0, done.exception
    text = Page(Path(store.full("page.html")).read_text()).text
    for said in ("No run is sealed yet", "Nothing has failed", "There are no transcripts", "There are no segments"):
        assert any(said in one for one in text), said


@pytest.mark.parametrize("name", ["it's a lake", "lake [2024] *", 'a "$HOME" `lake`'])
def test_a_lake_may_be_called_what_it_likes(tmp_path, name):
    store = Store(str(tmp_path / name))
    add_run(store, "calls", "00001", "2026-03-01", [{"uri": "/audio/a.wav", "decoded_seconds": 90.0}])
    report = make_report(store, store.uri, "http://store:9000", most_clips=0, sound=False)
    assert [row["ok"] for row in report.answers["nights"].rows] == [1]
    printed = report.command(report.answers["nights"].figure.sql).replace("phonolake query", "printf '%s\\0'")
    taken = subprocess.run(["/bin/sh", "-c", printed], capture_output=True, text=True, check=True).stdout
    lake, sql, option, url = taken.rstrip("\0").split("\0")
    assert (lake, sql) == (store.uri, report.answers["nights"].figure.sql)
    assert (option, url) == ("--endpoint-url", "http://store:9000")


def test_many_nights_are_gathered_to_weeks(store):
    for number in range(1, 51):
        day = f"2026-{3 + (number - 1) // 28:02d}-{1 + (number - 1) % 28:02d}"
        add_run(store, "calls", f"{number:05d}", day, [{"uri": f"/audio/{number}.wav", "decoded_seconds": 60.0}])
    report = make_report(store, store.uri, None, most_clips=0, sound=False)
    assert report.unit == "week"
    assert sum(row["ok"] for row in report.answers["nights"].rows) == 50
    assert len(report.answers["nights"].rows) < 12


def test_a_page_that_cannot_be_written_is_refused_before_the_lake_is_asked(lake, tmp_path):
    done = CliRunner().invoke(app, ["report", lake.uri, "--out", str(tmp_path / "no" / "page.html")])
    assert isinstance(done.exception, RecipeError)
    assert "there is no folder" in str(done.exception)


# Sound


def plan_of(store: Store, path: str, corpus: str = "calls", run: str = "00001") -> None:
    """Let the plan of a run name a file as its first recording."""
    source = {"uri": path, "size_bytes": os.stat(path).st_size, "modified_ns": os.stat(path).st_mtime_ns}
    row = {"recording_id": f"{corpus}-{run}-0", "etag": None, "metadata": None, "stages": [], "only": None, **source}
    store.put(
        f"{layout.run_folder(corpus, run)}/plan-x.parquet",
        to_parquet(pa.Table.from_pylist([row], records.PLAN)),
    )


def sounds(store: Store) -> list[tuple[str | None, str | None]]:
    report = make_report(store, store.uri, None, most_clips=6, sound=True)
    return [(clip.sound, clip.silence) for clip in report.clips]


def heard(uri: str) -> np.ndarray:
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    assert rate == RATE
    return samples


def test_a_clip_is_the_segments_seconds_and_channel_and_no_others(store, tmp_path):
    left = np.concatenate([tone(0.5, 1, 300), tone(0.5, 1.5, 300)])
    right = np.concatenate([tone(0.0, 1), tone(0.5, 1.5, 2000)])
    path = str(tmp_path / "call.wav")
    soundfile.write(path, np.stack([left, right], axis=1), RATE)
    add_run(store, "calls", "00001", "2026-03-01", [{"uri": path, "decoded_seconds": 2.5}])
    plan_of(store, path)
    segments = layout.data_file("segments", "calls", "2026-03-01", "00001", 0)
    table = pq.read_table(store.full(segments)).to_pylist()
    changed = [{**row, "start_seconds": 1.25, "end_seconds": 2.25, "channel": 1} for row in table]
    store.put(segments, to_parquet(pa.Table.from_pylist(changed, SEGMENTS)))
    [(sound, silence)] = sounds(store)
    assert silence is None
    samples = heard(sound)
    assert len(samples) == pytest.approx(RATE, abs=RATE // 50)
    spectrum = np.abs(np.fft.rfft(samples[2000:14000]))
    assert np.argmax(spectrum) * RATE / 12000 == pytest.approx(2000, abs=5)


def test_a_source_that_is_gone_leaves_a_clip_without_sound_and_says_why(store, tmp_path):
    path = tmp_path / "call.wav"
    soundfile.write(path, tone(0.5), RATE)
    add_run(store, "calls", "00001", "2026-03-01", [{"uri": str(path), "decoded_seconds": 1.0}])
    plan_of(store, str(path))
    path.unlink()
    [(sound, silence)] = sounds(store)
    assert sound is None
    assert "is gone since it was listed" in silence
    assert "is gone since it was listed" in page(store, sound=True)


def test_sound_beyond_the_limit_of_the_page_is_left_out(store, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.page.clips.SOUND_BYTES", 100)
    path = tmp_path / "call.wav"
    soundfile.write(path, tone(0.5), RATE)
    add_run(store, "calls", "00001", "2026-03-01", [{"uri": str(path), "decoded_seconds": 1.0}])
    plan_of(store, str(path))
    assert sounds(store) == [(None, "the page would grow too big")]
