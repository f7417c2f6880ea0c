"""Manifests: CSV, JSON Lines and Parquet say the same thing in three ways."""

import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import PhonolakeError, RecipeError
from pipelines.manifest import ENTRIES, read_manifest

ROWS = [{"uri": "s3://b/a.wav", "speaker": "007", "take": "1"}, {"uri": "s3://b/c.wav", "speaker": "x", "take": "2"}]


def as_csv(rows: list[dict]) -> bytes:
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    return "\n".join(lines).encode() + b"\n"


def as_jsonl(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_parquet(rows: list[dict]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


WRITERS = {"csv": as_csv, "jsonl": as_jsonl, "ndjson": as_jsonl, "json": as_jsonl, "parquet": as_parquet}


def entries(folder: Path, name: str, content: bytes | str) -> list[tuple[str, dict]]:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    table = read_manifest(str(path), {})
    assert table.schema == ENTRIES
    return [(row["uri"], dict(row["metadata"])) for row in table.to_pylist()]


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("zipped", ["", ".gz", ".GZ"])
def test_every_kind_of_manifest_says_the_same_zipped_or_not(tmp_path, kind, zipped):
    content = WRITERS[kind](ROWS)
    found = entries(tmp_path, f"list.{kind}{zipped}", gzip.compress(content) if zipped else content)
    assert found == [
        ("s3://b/a.wav", {"speaker": "007", "take": "1"}),
        ("s3://b/c.wav", {"speaker": "x", "take": "2"}),
    ]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_column_path_is_as_good_as_uri(tmp_path, kind):
    rows = [{"take": "1", "path": "/x/a.wav"}]
    assert entries(tmp_path, f"list.{kind}", WRITERS[kind](rows)) == [("/x/a.wav", {"take": "1"})]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_where_there_are_both_uri_counts_and_path_is_metadata(tmp_path, kind):
    rows = [{"path": "old/a.wav", "uri": "/x/a.wav"}]
    assert entries(tmp_path, f"list.{kind}", WRITERS[kind](rows)) == [("/x/a.wav", {"path": "old/a.wav"})]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_manifest_of_names_alone_has_empty_metadata(tmp_path, kind):
    rows = [{"uri": "/x/a.wav"}, {"uri": "/x/b.wav"}]
    assert entries(tmp_path, f"list.{kind}", WRITERS[kind](rows)) == [("/x/a.wav", {}), ("/x/b.wav", {})]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("a.wav", "{folder}/a.wav"),
        ("deep/a.wav", "{folder}/deep/a.wav"),
        ("./a.wav", "{folder}/a.wav"),
        ("../a.wav", "{parent}/a.wav"),
        ("/abs/a.wav", "/abs/a.wav"),
        ("s3://b/a b.wav", "s3://b/a b.wav"),
    ],
)
def test_relative_names_are_relative_to_the_manifests_folder(tmp_path, entry, expected):
    folder = tmp_path / "lists"
    folder.mkdir()
    [(uri, _)] = entries(folder, "list.csv", f"uri\n{entry}\n")
    assert uri == expected.format(folder=folder, parent=tmp_path)


def test_a_manifest_may_be_named_as_file_uri(tmp_path):
    (tmp_path / "list.csv").write_text("uri\na.wav\n")
    assert read_manifest(f"file://{tmp_path}/list.csv", {})["uri"].to_pylist() == [f"{tmp_path}/a.wav"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_name_that_comes_twice_is_taken_the_first_time(tmp_path, kind):
    rows = [{"uri": "/b", "n": "1"}, {"uri": "/a", "n": "2"}, {"uri": "/b", "n": "3"}]
    assert entries(tmp_path, f"list.{kind}", WRITERS[kind](rows)) == [("/b", {"n": "1"}), ("/a", {"n": "2"})]


def test_two_spellings_of_one_place_are_one_recording(tmp_path):
    found = entries(tmp_path, "list.csv", f"uri,n\na.wav,1\n./a.wav,2\n{tmp_path}/a.wav,3\n")
    assert found == [(f"{tmp_path}/a.wav", {"n": "1"})]


@pytest.mark.parametrize("spelling", ["{folder}/a.wav", "file://{folder}/a.wav", "{folder}/./a.wav", "{folder}//a.wav"])
def test_a_spelling_stays_where_it_is_the_only_one_and_makes_way_for_the_plain_path(tmp_path, spelling):
    other = spelling.format(folder=tmp_path)
    assert entries(tmp_path, "list.csv", f"uri,n\n{other},1\n") == [(other, {"n": "1"})]
    both = entries(tmp_path, "list.csv", f"uri,n\n{other},1\n{tmp_path}/b.wav,2\n{tmp_path}/a.wav,3\n")
    assert both == [(f"{tmp_path}/a.wav", {"n": "1"}), (f"{tmp_path}/b.wav", {"n": "2"})]


def test_both_spellings_of_s3_are_one_place(tmp_path):
    assert entries(tmp_path, "list.csv", "uri\ns3a://b/a\n") == [("s3a://b/a", {})]
    assert entries(tmp_path, "list.csv", "uri\ns3a://b/a\ns3://b/a\ns3://b//a\n") == [
        ("s3://b/a", {}),
        ("s3://b//a", {}),
    ]


def test_two_dots_may_lead_elsewhere_and_stay(tmp_path):
    assert len(entries(tmp_path, "list.csv", "uri\n/d/link/../a.wav\n/d/a.wav\n")) == 2


def test_rows_that_are_left_out_are_told_with_their_number(tmp_path, caplog):
    rows = [{"audio_filepath": "a.wav", "offset": float(n), "duration": 1.0, "text": str(n)} for n in range(3)]
    [(_, metadata)] = entries(tmp_path, "list.jsonl", as_jsonl(rows))
    assert metadata["text"] == "0"
    [record] = caplog.records
    assert all(
        part in record.getMessage() for part in ("list.jsonl: rows left out", ": 2,", f"{tmp_path}/a.wav", "offset")
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.csv", "uri,n\n/a,1\n,2\n"),
        ("list.jsonl", '{"uri": "/a", "n": 1}\n{"uri": null, "n": 2}\n{"uri": "", "n": 3}\n'),
    ],
)
def test_rows_without_a_name_are_passed_over(tmp_path, name, content):
    assert entries(tmp_path, name, content) == [("/a", {"n": "1"})]


def test_csv_keeps_every_value_as_it_is_written(tmp_path):
    content = 'uri,id,date,flag,text,none\n/a,007,2024-05-01,true,"a ""b"", c\nd",NULL\n'
    assert entries(tmp_path, "list.csv", content) == [
        ("/a", {"id": "007", "date": "2024-05-01", "flag": "true", "text": 'a "b", c\nd', "none": "NULL"})
    ]


def test_json_keeps_text_as_it_is_written_and_writes_numbers_as_text(tmp_path):
    content = '{"uri": "/a", "id": "007", "date": "2024-05-01", "take": 3, "gain": 0.5, "none": null}\n'
    assert entries(tmp_path, "list.jsonl", content) == [
        ("/a", {"id": "007", "date": "2024-05-01", "take": "3", "gain": "0.5"})
    ]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ('{"uri": "/a", "id": 1}', '{"uri": "/b", "id": "x"}', ["1", "x"]),
        ('{"uri": "/a", "id": 1}', '{"uri": "/b", "id": {"k": [1]}}', ["1", "{'k': [1]}"]),
        ('{"uri": "/a", "id": true}', '{"uri": "/b", "id": "2024-05-01"}', ["True", "2024-05-01"]),
        ('{"uri": "/a", "id": [1, "x"]}', '{"uri": "/b", "id": "\\ud800"}', ["[1, 'x']", "\\ud800"]),
    ],
)
def test_a_json_column_may_hold_values_of_several_types(tmp_path, first, second, expected):
    content = f"\ufeff{first}\n\n{second}\r\n"
    assert entries(tmp_path, "list.jsonl", content) == [("/a", {"id": expected[0]}), ("/b", {"id": expected[1]})]


def test_a_json_line_may_be_long(tmp_path):
    rows = [{"uri": "/a", "peaks": "x" * 3_000_000}, {"uri": "/b", "late": "yes"}]
    found = entries(tmp_path, "list.jsonl", as_jsonl(rows))
    assert [len(found[0][1]["peaks"]), found[1]] == [3_000_000, ("/b", {"late": "yes"})]


def test_a_mixed_json_manifest_of_many_batches_keeps_its_columns_and_its_nulls(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.manifest.BATCH_ROWS", 7)
    rows = [{"uri": f"/{number:03d}", "id": number if number % 2 else "x"} for number in range(40)]
    rows.append({"uri": None, "id": 1, "late": 2})
    rows.append({"uri": "/last", "late": 2})
    found = entries(tmp_path, "list.jsonl", as_jsonl(rows))
    assert found[:40] == [(row["uri"], {"id": str(row["id"])}) for row in rows[:40]]
    assert found[40:] == [("/last", {"late": "2"})]


def test_a_lhotse_manifest_of_several_types_names_its_sources(tmp_path):
    sources = [{"type": "file", "source": "a.wav"}]
    rows = [{"id": 1, "sources": sources, "channel_ids": [0]}, {"id": "x", "sources": []}]
    assert entries(tmp_path, "list.jsonl", as_jsonl(rows)) == [(f"{tmp_path}/a.wav", {"id": "1"})]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"uri": "/a"}\n{"uri": \n', "line 2 is no JSON"),
        (b'[{"uri": "/a"}]\n', "line 1 is no JSON object"),
        (b'{"uri": "/a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "line 1 is no JSON: .*recursion"),
    ],
    ids=["half", "list", "deep"],
)
def test_the_line_that_is_no_json_is_named(tmp_path, content, told):
    with pytest.raises(RecipeError, match=told):
        entries(tmp_path, "list.jsonl", content)


def test_parquet_values_become_text_and_nulls_are_left_out(tmp_path):
    rows = [{"uri": "/a", "take": 3, "gain": 0.5, "ok": True, "none": None}]
    assert entries(tmp_path, "list.parquet", as_parquet(rows)) == [("/a", {"take": "3", "gain": "0.5", "ok": "True"})]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_manifest_whose_names_are_no_names_is_refused(tmp_path, kind):
    with pytest.raises(RecipeError, match=r"its column uri holds struct<.*>, and no names"):
        entries(tmp_path, f"list.{kind}", WRITERS[kind]([{"uri": {"bucket": "b", "key": "k"}}]))


def test_columns_that_begin_late_in_a_json_manifest_are_kept(tmp_path):
    rows = [{"uri": f"/{number:06d}", "filler": "x" * 100} for number in range(15_000)]  # 2 MB: more than one block
    rows.append({"uri": "/last", "late": "yes"})
    assert entries(tmp_path, "list.jsonl", as_jsonl(rows))[-1] == ("/last", {"late": "yes"})


def test_a_csv_may_begin_with_a_byte_order_mark_and_end_lines_as_on_windows(tmp_path):
    assert entries(tmp_path, "list.csv", b"\xef\xbb\xbfuri,n\r\n/a,1\r\n") == [("/a", {"n": "1"})]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_manifest_without_names_is_refused_with_the_columns_it_has(tmp_path, kind):
    with pytest.raises(RecipeError, match=r"neither a column uri nor path; it has file, take"):
        entries(tmp_path, f"list.{kind}", WRITERS[kind]([{"file": "a", "take": "1"}]))


def test_a_column_that_comes_twice_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="uri"):
        entries(tmp_path, "list.csv", "uri,uri\n/a,/b\n")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.csv", b""),
        ("list.csv", b"uri,n\n/a,1,2,3\n"),
        ("list.csv", b"uri\n\xff\xfe\n"),
        ("list.jsonl", b"not json\n"),
        ("list.jsonl", b'{"uri": "/a"'),
        ("list.parquet", b"PAR1 nothing"),
        ("list.parquet", b""),
        ("list.csv.gz", b"uri\n/a\n"),
        ("list.csv.gz", gzip.compress(b"uri\n" + b"/a\n" * 1000, mtime=0)[:-12]),
        ("list.csv.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03" + b"\xff" * 40),
        ("list.parquet", as_parquet(ROWS)[:40] + b"\xff" * 60 + as_parquet(ROWS)[100:]),
    ],
)
def test_an_unreadable_manifest_is_refused_with_its_name(tmp_path, name, content):
    with pytest.raises(RecipeError) as caught:
        entries(tmp_path, name, content)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("name", ["list.txt", "list", "list.gz", "list.xlsx"])
def test_a_manifest_of_unknown_kind_is_refused_with_the_known_ones(tmp_path, name):
    content = gzip.compress(b"uri\n/a\n") if name.endswith(".gz") else b"uri\n/a\n"
    with pytest.raises(RecipeError, match=r"its name must end in \.csv, \.jsonl or \.parquet"):
        entries(tmp_path, name, content)


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"there is no manifest at .*/none\.csv"):
        read_manifest(str(tmp_path / "none.csv"), {})


def test_a_folder_is_no_manifest(tmp_path):
    (tmp_path / "list.csv").mkdir()
    with pytest.raises(PhonolakeError, match=r"list\.csv"):
        read_manifest(str(tmp_path / "list.csv"), {})
