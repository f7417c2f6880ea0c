"""From planned recordings to wire tables: every recording once, in order, whole, and closed."""

import shutil
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from schemas import ids, wire
from schemas.failures import CODES, TRANSIENT
from workers import objects
from workers.decode_settings import DecodeLimits, DecodeSettings
from workers.ingest import Ingester, IngestSettings
from workers.loading import SourceSettings
from workers.recording import Recording
from workers.segments import SegmentSettings
from workers.source import Source

CORPUS = Path(__file__).parents[2] / "pipelines" / "demo" / "corpus"
SUFFIXES = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".mp4"}
FILES = sorted(path for path in CORPUS.rglob("*") if path.suffix in SUFFIXES)
BROKEN = {"empty.wav": "empty", "notes.wav": "not_audio"}
RATE = 16_000
SETTINGS = {
    "speech": SegmentSettings("speech", 10.0),
    "windows": SegmentSettings("windows", 2.0, hop_seconds=1.0),
    "whole": SegmentSettings("whole", 30.0),
}


def settings(by, **changes):
    plain = IngestSettings(
        DecodeSettings(RATE, DecodeLimits(3600, 8)), SETTINGS[by], SourceSettings((), 100 << 20), 20.0
    )
    return replace(plain, **changes)


def planned(path):
    stat = path.stat()
    source = Source(str(path), None, stat.st_size, stat.st_mtime_ns)
    return planned_at(source)


def planned_at(source):
    return Recording(
        ids.recording_id("demo", source.uri, source.etag, source.size_bytes, source.modified_ns),
        source,
        ["base", "embeddings/yamnet"],
        [("language", "en")],
    )


def ingested(recordings, how):
    ingester = Ingester(how)
    try:
        return list(ingester.ingest(recordings))
    finally:
        ingester.close()


@pytest.fixture(scope="module", params=SETTINGS)
def demo(request):
    """The blocks of the demo, cut each way."""
    return request.param, ingested(map(planned, FILES), settings(request.param))


def rows_by_recording(blocks):
    rows = pa.concat_tables(blocks).to_pylist()
    return [(recording_id, list(group)) for recording_id, group in groupby(rows, key=lambda row: row["recording_id"])]


def test_every_block_has_exactly_the_wires_schema(demo):
    _, blocks = demo
    assert len(blocks) > 1
    for block in blocks:
        assert block.schema.equals(wire.WIRE)
        block.validate(full=True)


def test_recordings_come_in_the_order_they_go_in_each_with_one_closing_row_at_its_end(demo):
    _, blocks = demo
    found = rows_by_recording(blocks)
    assert [recording_id for recording_id, _ in found] == [planned(path).recording_id for path in FILES]
    for _, rows in found:
        assert [row["closing"] is not None for row in rows] == [False] * (len(rows) - 1) + [True]
        assert [row["segment_index"] for row in rows] == [*range(len(rows) - 1), None]
        assert rows[-1]["closing"]["n_segments"] == len(rows) - 1
        assert rows[-1]["pcm"] is None


def test_broken_recordings_close_with_a_failure_and_no_segments(demo):
    _, blocks = demo
    closings = {Path(rows[0]["uri"]).name: rows[-1]["closing"] for _, rows in rows_by_recording(blocks)}
    failed = {name: closing["failure"]["code"] for name, closing in closings.items() if closing["failure"]}
    assert failed == BROKEN
    assert failed.keys() == {name for name, closing in closings.items() if closing["status"] == "failed"}
    for name in BROKEN:
        assert closings[name]["failure"]["stage"] == "decode"
        assert name in closings[name]["failure"]["message"]
        assert closings[name]["n_segments"] == 0
    assert [name for name, closing in closings.items() if closing["status"] == "partial"] == ["truncated.mp3"]


def test_times_and_samples_agree_and_lie_within_what_was_decoded(demo):
    _, blocks = demo
    for _, rows in rows_by_recording(blocks):
        decoded = rows[-1]["closing"]["decoded_seconds"]
        for row in rows[:-1]:
            assert 0 <= row["start_seconds"] < row["end_seconds"] <= decoded + 1 / RATE
            assert len(row["pcm"]) == 2 * round((row["end_seconds"] - row["start_seconds"]) * RATE)
            assert row["stages"] == ["base", "embeddings/yamnet"]


def test_segments_tell_how_much_of_them_is_speech_only_where_somebody_listened(demo):
    by, blocks = demo
    for _, rows in rows_by_recording(blocks):
        closing = rows[-1]["closing"]
        if closing["failure"]:
            continue
        if by != "speech":
            assert closing["speech_seconds"] is None
            assert all(row["speech_ratio"] is None for row in rows[:-1])
        else:
            spoken = sum((row["end_seconds"] - row["start_seconds"]) * row["speech_ratio"] for row in rows[:-1])
            assert closing["speech_seconds"] == pytest.approx(spoken, abs=1e-3)
            assert closing["speech_seconds"] <= closing["decoded_seconds"]


def test_most_of_a_prompt_is_speech_and_a_beep_is_not():
    voice, beep = CORPUS / "en/confbridge-pin-bad.wav", CORPUS / "en/beep.wav"
    found = rows_by_recording(ingested(map(planned, [voice, beep]), settings("speech")))
    closings = [rows[-1]["closing"] for _, rows in found]
    assert closings[0]["speech_seconds"] > 0.7 * closings[0]["decoded_seconds"]
    assert (closings[1]["speech_seconds"], closings[1]["n_segments"]) == (0, 0)


def test_windows_cover_all_of_the_audio():
    for _, rows in rows_by_recording(ingested(map(planned, FILES), settings("windows"))):
        closing, segments = rows[-1]["closing"], rows[:-1]
        if closing["failure"]:
            continue
        assert [row["start_seconds"] for row in segments] == [float(index) for index in range(len(segments))]
        assert segments[-1]["end_seconds"] == pytest.approx(closing["decoded_seconds"], abs=1 / RATE)
        assert all(row["end_seconds"] - row["start_seconds"] == 2 for row in segments[:-1])


def test_whole_is_the_whole_recording():
    clip = CORPUS / "en/invalid.wav"
    (_, rows), *others = rows_by_recording(
        ingested([planned(clip)], settings("whole", decode=DecodeSettings(8000, DecodeLimits(3600, 8))))
    )
    assert not others
    assert rows[0]["pcm"] == clip.read_bytes()[44:]
    assert rows[1]["closing"]["decoded_seconds"] == rows[0]["end_seconds"]


def test_a_closing_row_says_what_the_object_was():
    clip = CORPUS / "en/vm-newuser.mp4"
    closing = rows_by_recording(ingested([planned(clip)], settings("whole")))[0][1][-1]["closing"]
    assert (closing["container"], closing["codec"], closing["sample_rate"], closing["channels"]) == (
        "mp4",
        "aac",
        44100,
        2,
    )
    assert closing["size_bytes"] == clip.stat().st_size
    assert closing["metadata"] == [("language", "en")]
    assert closing["content_sha256"] == objects.fetch(planned(clip).source, {}).sha256


@pytest.mark.parametrize("by", SETTINGS)
def test_order_and_content_do_not_depend_on_the_blocks(by):
    files = FILES[:8]
    large, small = (ingested(map(planned, files), settings(by, block_seconds=seconds)) for seconds in (1e9, 0.01))
    assert len(large) == 1
    assert len(small) > 4
    assert pa.concat_tables(small).combine_chunks().equals(large[0].combine_chunks())


def test_blocks_are_cut_once_they_hold_their_seconds(demo):
    by, blocks = demo
    longest = SETTINGS[by].max_seconds
    seconds = [sum(len(pcm or b"") for pcm in block["pcm"].to_pylist()) / 2 / RATE for block in blocks]
    assert all(length >= 20 for length in seconds[:-1])
    assert all(length < 20 + longest for length in seconds)  # a table has room for 2 GiB, however much comes at once


def test_an_object_larger_than_the_limit_is_refused_unread():
    clips = [CORPUS / "en/beep.wav", CORPUS / "en/demo-echotest.mp3", CORPUS / "en/vm-goodbye.wav"]
    found = rows_by_recording(ingested(map(planned, clips), settings("whole", source=SourceSettings((), 20_000))))
    closings = [rows[-1]["closing"] for _, rows in found]
    assert [closing["status"] for closing in closings] == ["ok", "failed", "ok"]
    failure = closings[1]["failure"]
    assert (failure["stage"], failure["code"], failure["transient"]) == ("fetch", "limit_bytes", False)
    assert "66764" in failure["message"]
    assert "20000" in failure["message"]


def test_a_recording_longer_than_the_limit_fails_whole():
    found = rows_by_recording(
        ingested(
            [planned(CORPUS / "en/tt-monkeys.ogg")],
            settings("windows", decode=DecodeSettings(RATE, DecodeLimits(5, 8))),
        )
    )
    closing = found[0][1][-1]["closing"]
    assert closing["failure"]["code"] == "limit_seconds"
    assert closing["n_segments"] == 0  # segments that came before do not count


@pytest.mark.parametrize("place", [0, 1, 5])
def test_what_cannot_be_fetched_keeps_its_place_in_the_order(place, tmp_path):
    files = [tmp_path / path.name for path in FILES[3:9]]
    for copy, path in zip(files, FILES[3:9], strict=True):
        shutil.copy(path, copy)
    recordings = [planned(path) for path in files]
    files[place].unlink()
    found = rows_by_recording(ingested(recordings, settings("windows")))
    assert [recording_id for recording_id, _ in found] == [recording.recording_id for recording in recordings]
    failures = [rows[-1]["closing"]["failure"] for _, rows in found]
    assert [failure is not None for failure in failures] == [number == place for number in range(6)]
    assert (failures[place]["stage"], failures[place]["code"]) == ("fetch", "source_missing")


def test_what_changed_since_it_was_planned_may_be_tried_again(tmp_path):
    clip = tmp_path / "clip.wav"
    shutil.copy(FILES[3], clip)
    recording = planned(clip)
    clip.write_bytes(clip.read_bytes() + b"more")
    failure = rows_by_recording(ingested([recording], settings("whole")))[0][1][-1]["closing"]["failure"]
    assert failure["code"] == "source_changed"
    assert failure["code"] in TRANSIENT <= CODES.keys()
    assert failure["transient"]


def test_remote_recordings_give_what_local_ones_give():
    filesystem = fsspec.filesystem("memory")
    try:
        for path in FILES[:10]:
            filesystem.pipe(f"/ingest/{path.name}", path.read_bytes())
        remote = [planned_at(Source(f"memory://ingest/{p.name}", None, p.stat().st_size, None)) for p in FILES[:10]]
        there = pa.concat_tables(ingested(remote, settings("windows")))
    finally:
        filesystem.rm("/ingest", recursive=True)
    here = pa.concat_tables(ingested(map(planned, FILES[:10]), settings("windows")))
    assert there["uri"].to_pylist() == [f"memory://ingest/{Path(uri).name}" for uri in here["uri"].to_pylist()]
    for column in ("segment_index", "start_seconds", "end_seconds", "pcm"):
        assert there[column].combine_chunks().equals(here[column].combine_chunks())


def test_a_long_local_object_goes_by_path_to_the_same_samples(monkeypatch):
    clips = [planned(CORPUS / "en/tt-monkeys.ogg"), planned(CORPUS / "en/basic-pbx-ivr-main.flac")]
    by_bytes = pa.concat_tables(ingested(clips, settings("windows")))
    monkeypatch.setattr(objects, "SPOOL_BYTES", 1000)
    by_path = pa.concat_tables(ingested(clips, settings("windows")))
    assert by_path.combine_chunks().equals(by_bytes.combine_chunks())


def test_nothing_planned_gives_no_blocks():
    assert ingested([], settings("whole")) == []


def test_one_ingester_takes_one_list_after_the_other():
    ingester = Ingester(settings("speech"))
    try:
        first, second = (pa.concat_tables(ingester.ingest(map(planned, FILES[:6]))) for _ in range(2))
    finally:
        ingester.close()
    assert first.equals(second)
    assert np.frombuffer(b"".join(first["pcm"].drop_null().to_pylist()), np.int16).any()
