"""Verifying a lake: a sound one has no finding, and whatever is damaged is found and named."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hand_made import CORPUS, RECIPE, STAGES, TOY, Row, closing, listing, segment, whole, write_receipt
from hypothesis import given, settings
from hypothesis import strategies as st
from test_publish import publish_here

import pipelines.row_keys
from pipelines.invariants import Finding, rows_out_of_order
from pipelines.ledger import load_ledger
from pipelines.plan import Delta, find_delta, write_plan
from pipelines.receipts import collect
from pipelines.runs import find_runs, read_table, writer_id
from pipelines.seal import seal
from pipelines.store import Store
from pipelines.verdict import decide
from pipelines.verify import Verification, verify
from schemas import layout, records
from schemas.ids import recording_id
from schemas.records import Attempt, Plan, Verdict
from workers.tabulate import in_order

BETTER = [STAGES[0], replace(STAGES[1], fingerprint="f-better")]
A, B, C, D, E = (recording_id(CORPUS, f"/audio/{name}.wav", None, 10, 1) for name in "abcde")
FIRST, SECOND, THIRD = "00001", "00002", "00003"
STRANGER = "f" * 32


def plan_next(store: Store, names: str, stages=STAGES) -> Plan:
    """Plan what these recordings still need."""
    runs = find_runs(store, CORPUS)
    delta = find_delta(store, runs, CORPUS, listing(*(f"/audio/{name}.wav" for name in names)), stages)
    return write_plan(store, RECIPE, runs, delta, stages)


def uri_of(store: Store, recording: str) -> str:
    """The uri under which a recording was planned before."""
    ledger = load_ledger(store, find_runs(store, CORPUS))
    return next(row["uri"] for row in ledger.to_pylist() if row["recording_id"] == recording)


def plan_again(store: Store, recording: str, stages: list[str], only: list[str] | None) -> Plan:
    """Plan stages of a recording once more, as a retry does: `only` for single segments."""
    row = {"recording_id": recording, "uri": uri_of(store, recording), "size_bytes": 10, "stages": stages, "only": only}
    rows = pa.Table.from_pylist([row], records.PLAN)
    return write_plan(store, RECIPE, find_runs(store, CORPUS), Delta(rows, 1, 0, 0, 1, 0), BETTER)


def stage(store: Store, plan: Plan, *attempts: list[Row]) -> None:
    """Write what each attempt did."""
    for number, rows in enumerate(attempts, start=1):
        record = Attempt(number, plan.planned_at, writer_id())
        store.create(layout.attempt_file(CORPUS, plan.run, number), records.to_json(record))
        write_receipt(store, plan, number, rows)


def decide_on(store: Store, plan: Plan, *, abandoned: bool = False) -> Verdict:
    evidence = collect(store, plan)
    return decide(store, plan, evidence, evidence.winners(), abandoned=abandoned)


def finish(store: Store, plan: Plan, *, abandoned: bool = False) -> None:
    verdict = decide_on(store, plan, abandoned=abandoned)
    seal(store, plan, verdict, publish_here(store, plan, verdict))


def needing(rows: Iterable[Row], *stages: str) -> list[Row]:
    """Wire rows of a recording that needs these stages alone."""
    return [{**row, "stages": list(stages)} for row in rows]


def tags_of(recording: str, n_segments: int) -> list[Row]:
    """What a run that computes only the tags of a recording stages."""
    return needing(whole(recording, n_segments), TOY)


def build(store: Store) -> None:
    """Three sealed runs: two attempts, partial and failed; a new stage for old recordings; a retry of one segment."""
    plan = plan_next(store, "abc")
    first = [segment(A, 0, 1.0), segment(A, 1, fails=True), closing(A, 2), segment(B, 0, 1.0)]
    stage(store, plan, first, [*whole(B, 2, "partial", 2.0), *whole(C, 0, "failed")])
    finish(store, plan)
    plan = plan_next(store, "abcde", BETTER)
    stage(store, plan, [*tags_of(A, 2), segment(D, 0), closing(D, 1)], [*tags_of(B, 2), *whole(E, 0)])
    finish(store, plan)
    plan = plan_again(store, A, [TOY], [f"{TOY}#1"])
    untouched = segment(A, 0, fails=True) | {f"error:{TOY}": None}
    stage(store, plan, [*needing([untouched]), *needing([segment(A, 1), closing(A, 2)], TOY)])
    finish(store, plan)


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "lake"
    build(Store(str(folder)))
    return folder


@pytest.fixture
def lake(original, tmp_path) -> Store:
    """A sound lake of three runs, to be damaged."""
    shutil.copytree(original, tmp_path / "lake")
    return Store(str(tmp_path / "lake"))


@dataclass(frozen=True)
class Found:
    """What verifying finds: codes with objects, and the messages of a code."""

    findings: list[Finding]

    @property
    def codes(self) -> set[tuple[str, str]]:
        return {(one.code, one.where) for one in self.findings}

    def told(self, code: str) -> str:
        return "\n".join(one.message for one in self.findings if one.code == code)


def look(store: Store) -> Found:
    return Found(verify(store).findings)


def file_of(store: Store, table: str, run: str = FIRST) -> str:
    """The one file of a table in a run."""
    [path] = [path for path in store.list(f"data/{table}") if f"/{run}-" in path]
    return path


def rows_in(store: Store, path: str) -> pa.Table:
    return pq.read_table(store.full(path), partitioning=None)


def write(store: Store, path: str, rows: pa.Table) -> None:
    """Write a Parquet object; the schema's metadata is its footer."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink)
    store.put(path, bytes(sink.getvalue()))


def edit_json(store: Store, path: str, change: Callable[[dict], None]) -> None:
    content = json.loads(store.read(path))
    change(content)
    store.put(path, json.dumps(content).encode())


def list_anew(store: Store, table: str, path: str, run: str = FIRST) -> None:
    """Make the seal list a file as it is now."""
    data = store.read(path)
    facts = {"rows": rows_in(store, path).num_rows, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def change(content: dict) -> None:
        others = [one for one in content["files"] if one["path"] != path]
        content["files"] = [*others, {"table": table, "path": path, **facts}]

    edit_json(store, layout.seal_file(CORPUS, run), change)


def edit(store: Store, table: str, change: Callable[[pa.Table], pa.Table], run: str = FIRST) -> str:
    """Change the rows of a published file, and the seal with it, so that its bytes alone tell nothing."""
    path = file_of(store, table, run)
    write(store, path, change(rows_in(store, path)))
    list_anew(store, table, path, run)
    return path


def put_rows(rows: pa.Table, **values: object) -> pa.Table:
    """Rows with other values in some columns, each in every row."""
    for name, value in values.items():
        field = rows.schema.field(name)
        column = pa.array([value] * rows.num_rows, field.type)
        rows = rows.set_column(rows.schema.get_field_index(name), field, column)
    return rows


def sorted_with(rows: pa.Table, **values: object) -> pa.Table:
    """A table and a changed copy of its first row, in order of recording and segment."""
    both = pa.concat_tables([rows, put_rows(rows.slice(0, 1), **values)])
    keys = [key for key in ("model", "recording_id", "segment_id") if key in both.column_names]
    return both.sort_by([(key, "ascending") for key in keys])


def without(column: str, value: str) -> Callable[[pa.Table], pa.Table]:
    return lambda rows: rows.filter(pc.not_equal(rows[column], value))


def folder_of(run: str) -> str:
    return layout.run_folder(CORPUS, run)


def record_of(store: Store, run: str, kind: str) -> str:
    """The path of a run's Parquet record: plan, verdict or ledger."""
    [path] = [one for one in store.list(folder_of(run)) if one.endswith(".parquet") and f"/{kind}" in one]
    return path


# Sound lakes.


def test_a_sound_lake_has_no_finding_and_everything_is_counted(lake):
    files = lake.list(layout.DATA)
    rows = sum(pq.read_metadata(lake.full(path)).num_rows for path in files)
    assert verify(lake) == Verification(3, len(files), rows, sum(files.values()), [], [])
    assert {path.split("/")[1] for path in files} == {"recordings", "segments", "tags", "failures"}


def test_the_sound_lake_has_what_is_to_be_told_apart(lake):
    outcomes = [row["outcome"] for run in (FIRST, SECOND, THIRD) for row in ledger_rows(lake, run)]
    assert sorted(outcomes) == ["failed", "ok", "ok", "ok", "ok", "ok", "ok", "partial"]
    assert rows_in(lake, file_of(lake, "tags", THIRD))["segment_id"].to_pylist() == [f"{A}-00001"]
    assert rows_in(lake, file_of(lake, "failures"))["segment_id"].null_count == 1


def ledger_rows(store: Store, run: str) -> list[dict]:
    return read_table(store, layout.ledger_file(CORPUS, run)).to_pylist()


def test_an_empty_store_is_sound(store):
    assert verify(store) == Verification(0, 0, 0, 0, [], [])


def test_verifying_writes_nothing_into_the_lake(lake):
    def everything() -> list[tuple]:
        entries = sorted(Path(lake.full("")).rglob("*"))
        return [(entry, entry.stat().st_mtime_ns, entry.stat().st_ino) for entry in entries]

    before = everything()
    verify(lake)
    assert everything() == before


def test_a_lake_with_an_open_run_before_its_verdict_is_sound_and_noted(lake):
    stage(lake, plan_next(lake, "abcdef", BETTER), [])
    report = verify(lake)
    assert report.findings == []
    assert report.notes == ["run 00004 of corpus prompts is open: it has no verdict yet"]


def half_done(store: Store, published: int) -> Plan:
    """An open run with a verdict on four files, of which so many are published."""
    plan = plan_next(store, "abcdefgh", BETTER)
    f, g, h = read_table(store, plan.recordings_file)["recording_id"].to_pylist()
    stage(store, plan, [*whole(f, 2), segment(g, 0)], [*whole(f, 1), *whole(g, 2)], whole(h, 0, "failed"))
    verdict = decide_on(store, plan)
    assert [file.whole for file in verdict.files] == [False, False, False, True]
    publish_here(store, plan, replace(verdict, files=verdict.files[:published]))
    return plan


@pytest.mark.parametrize("published", range(5))
def test_a_lake_with_an_open_run_that_is_partly_published_is_sound_and_noted(lake, published):
    files = len(lake.list(layout.DATA))
    half_done(lake, published)
    report = verify(lake)
    assert report.findings == []
    assert report.notes == [f"run 00004 of corpus prompts is open: {published} of 4 files are published"]
    assert (report.runs, report.files) == (4, files + published)


def test_an_abandoned_run_is_sound(lake):
    plan = plan_next(lake, "abcdefgh", BETTER)
    f, *_ = read_table(lake, plan.recordings_file)["recording_id"].to_pylist()
    stage(lake, plan, whole(f, 2))
    finish(lake, plan, abandoned=True)
    assert len(ledger_rows(lake, plan.run)) == 1
    assert look(lake).codes == set()


def test_staging_of_a_sealed_run_is_a_note_and_that_of_an_open_one_is_nothing(lake):
    stage(lake, plan_next(lake, "abcdef", BETTER), [])
    for run in (FIRST, "00004"):
        lake.put(layout.fragment_file(CORPUS, run, 1, "tags", "late"), b"1234567")
    report = verify(lake)
    assert report.findings == []
    [note] = [note for note in report.notes if "staging" in note]
    assert note == (
        "run 00001 of corpus prompts is sealed and has left 1 objects in staging, 0.0 MB; "
        f"delete them: phonolake gc {lake.uri}"
    )


def test_what_losers_leave_among_the_records_is_no_run(lake):
    lake.put(f"{folder_of('00004')}/plan-0123.parquet", b"")
    lake.put(f"{layout.RUNS}/{CORPUS}/create-once-0123", b"")
    assert (verify(lake).runs, look(lake).codes) == (3, set())


class Busy(Store):
    """A lake in which another driver publishes, seals and plans while it is verified."""

    def list(self, folder: str) -> dict[str, int]:
        seen = super().list(folder)
        if folder == layout.DATA:
            plan = half_done(Store(self.uri), 4)
            finish(Store(self.uri), plan)
        if folder == layout.RUNS:
            plan_next(Store(self.uri), "abcdefghi", BETTER)
        return seen


def test_a_run_that_goes_on_meanwhile_is_no_finding(lake):
    assert verify(Busy(lake.uri)).findings == []


class Far(Store):
    """A store whose objects must be fetched; it counts the copies that lie on the scratch disk together."""

    def local_copy(self, path: str, folder: Path) -> Path:
        copy = folder / f"{writer_id()}.copy"
        shutil.copy(super().local_copy(path, folder), copy)
        copies = list(Path(tempfile.gettempdir()).rglob("*.copy"))
        object.__setattr__(self, "most", max(getattr(self, "most", 0), len(copies)))
        return copy


def test_one_copy_at_a_time_lies_on_the_scratch_disk_and_none_afterwards(lake, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    far = Far(lake.uri)
    assert verify(far) == verify(lake)
    assert far.most == 1
    assert os.listdir(scratch) == []


# Published files.


def test_a_deleted_file_is_named_and_so_is_what_it_held(lake):
    path = file_of(lake, "tags")
    os.remove(lake.full(path))
    assert look(lake).codes == {("file_missing", path), ("row_missing", folder_of(FIRST))}


@pytest.mark.parametrize("table", ["recordings", "segments", "tags", "failures"])
def test_a_flipped_byte_is_found(lake, table):
    path = file_of(lake, table)
    data = bytearray(lake.read(path))
    data[len(data) // 3] ^= 1
    lake.put(path, bytes(data))
    assert ("file_sha256", path) in look(lake).codes


@pytest.mark.parametrize("size", [0, 100, -1])
def test_a_truncated_file_is_found_and_is_no_parquet(lake, size):
    path = file_of(lake, "tags")
    lake.put(path, lake.read(path)[:size])
    assert look(lake).codes == {("file_size", path), ("file_unreadable", path), ("row_missing", folder_of(FIRST))}


@pytest.mark.parametrize(
    "path",
    [
        f"data/tags/corpus={CORPUS}/dt=2026-01-01/00001-0000.parquet",
        f"data/tags/corpus={CORPUS}/dt=2026-01-01/.hidden",
        "data/notes.txt",
    ],
)
def test_an_object_among_the_data_that_no_seal_lists_is_found(lake, path):
    lake.put(path, lake.read(file_of(lake, "tags")))
    assert look(lake).codes == {("file_stray", path)}


def test_a_file_of_an_open_run_that_its_verdict_does_not_list_is_found(lake):
    plan = half_done(lake, 2)
    path = layout.data_file("tags", CORPUS, plan.day, plan.run, 7)
    lake.put(path, lake.read(file_of(lake, "segments", plan.run)))
    assert look(lake).codes == {("file_stray", path)}


@pytest.mark.parametrize(("table", "is_whole"), [("segments", False), ("failures", True)])
def test_a_damaged_file_of_an_open_run_is_found(lake, table, is_whole):
    plan = half_done(lake, 4)
    path = file_of(lake, table, plan.run)
    lake.put(path, lake.read(path)[:-9])
    assert look(lake).codes == {("file_unreadable", path)} | ({("file_size", path)} if is_whole else set())


def test_another_number_of_rows_than_listed_is_found(lake):
    path = file_of(lake, "tags")
    edit_json(lake, layout.seal_file(CORPUS, FIRST), lambda one: [file.update(rows=99) for file in one["files"]])
    found = look(lake)
    assert ("file_rows", path) in found.codes
    assert "it has 3 rows, and 99 are listed" in found.told("file_rows")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema_version", None),
        ("run_id", None),
        ("run_id", b"00002"),
        ("corpus", b"other"),
        ("stages", None),
        ("stages", b"no json"),
        ("stages", b'{"segments/windows": "f-segments", "tags/toy": "f-better"}'),
    ],
)
def test_a_footer_that_says_something_else_than_the_records_is_found(lake, key, value):
    def change(rows: pa.Table) -> pa.Table:
        footer = {**rows.schema.metadata, f"phonolake.{key}".encode(): value}
        return rows.replace_schema_metadata({name: text for name, text in footer.items() if text is not None})

    path = edit(lake, "tags", change)
    found = look(lake)
    assert found.codes == {("file_footer", path)}
    assert key in found.told("file_footer")


def renamed(rows: pa.Table) -> pa.Table:
    names = ["tag" if name == "label" else name for name in rows.column_names]
    return rows.rename_columns(names).replace_schema_metadata(rows.schema.metadata)


def retyped(rows: pa.Table) -> pa.Table:
    score = rows.schema.get_field_index("score")
    return rows.set_column(score, pa.field("score", pa.float64(), False), rows["score"].cast(pa.float64()))


def loosened(rows: pa.Table) -> pa.Table:
    return rows.cast(rows.schema.set(0, rows.schema.field(0).with_nullable(True)))


def reordered(rows: pa.Table) -> pa.Table:
    return rows.select([*rows.column_names[:-2], rows.column_names[-1], rows.column_names[-2]])


def grown(rows: pa.Table) -> pa.Table:
    return rows.append_column("mood", pa.nulls(rows.num_rows, pa.string()))


@pytest.mark.parametrize("change", [renamed, retyped, loosened, reordered, grown])
def test_other_columns_than_those_of_the_table_are_found(lake, change):
    path = edit(lake, "tags", change)
    assert look(lake).codes == {("file_schema", path), ("row_missing", folder_of(FIRST))}


def of_version(rows: pa.Table, version: str) -> pa.Table:
    return rows.replace_schema_metadata({**rows.schema.metadata, b"phonolake.schema_version": version.encode()})


def test_nullable_columns_at_the_end_that_another_release_has_or_lacks_are_sound(lake):
    edit(lake, "tags", lambda rows: of_version(grown(rows), "2"))
    edit(lake, "recordings", lambda rows: of_version(rows.drop_columns(["decoder", "metadata"]), "0"))
    assert look(lake).codes == set()


def test_a_required_column_that_another_release_has_or_lacks_is_found(lake):
    mood = pa.field("mood", pa.string(), nullable=False)
    more = edit(lake, "tags", lambda rows: of_version(rows.append_column(mood, rows["label"]), "2"))
    less = edit(lake, "segments", lambda rows: of_version(rows.drop_columns(["end_seconds", "speech_ratio"]), "0"))
    assert {("file_schema", more), ("file_schema", less)} <= look(lake).codes


def test_a_file_under_another_table_corpus_or_day_is_found(lake):
    path = file_of(lake, "tags")
    moved = path.replace(f"corpus={CORPUS}", "corpus=other")
    lake.put(moved, lake.read(path))
    os.remove(lake.full(path))
    change = lambda one: [file.update(path=moved) for file in one["files"] if file["path"] == path]  # noqa: E731
    edit_json(lake, layout.seal_file(CORPUS, FIRST), change)
    assert look(lake).codes == {("file_misplaced", moved)}


def test_a_file_of_an_unknown_table_is_found(lake):
    path = file_of(lake, "tags")
    change = lambda one: [file.update(table="moods") for file in one["files"] if file["path"] == path]  # noqa: E731
    edit_json(lake, layout.seal_file(CORPUS, FIRST), change)
    found = look(lake)
    assert {("file_schema", path), ("file_misplaced", path)} <= found.codes
    assert "there is no table moods" in found.told("file_schema")


# Rows of a file.


@pytest.mark.parametrize("column", ["run_id", "corpus_id"])
def test_rows_of_another_run_or_corpus_are_found(lake, column):
    path = edit(lake, "tags", lambda rows: put_rows(rows, **{column: "other"}))
    found = look(lake)
    assert found.codes == {("row_of_another_run", path)}
    assert found.told("row_of_another_run").startswith("3 rows")


@pytest.mark.parametrize("batch", [1, 1 << 17])
@pytest.mark.parametrize("table", ["recordings", "segments", "tags", "failures"])
def test_rows_that_are_not_sorted_are_found(lake, table, batch, monkeypatch):
    monkeypatch.setattr(pipelines.row_keys, "BATCH_ROWS", batch)
    path = edit(lake, table, lambda rows: rows.take(list(reversed(range(rows.num_rows)))))
    assert look(lake).codes == {("row_unsorted", path)}


@pytest.mark.parametrize("batch", [1, 2])
def test_a_sound_lake_is_sound_in_small_batches_too(lake, batch, monkeypatch):
    whole = verify(lake)
    monkeypatch.setattr(pipelines.row_keys, "BATCH_ROWS", batch)
    assert verify(lake) == whole


@pytest.mark.parametrize("table", ["recordings", "segments", "tags", "failures"])
def test_what_publishing_sorts_is_in_order(lake, table):
    rows = rows_in(lake, file_of(lake, table))
    rows = pa.concat_tables([put_rows(rows, segment_id=None) if table == "failures" else rows, rows])
    assert rows_out_of_order(table, in_order(table, rows)) == 0
    assert rows_out_of_order(table, in_order(table, rows).take(list(reversed(range(len(rows)))))) > 0


def test_segments_out_of_order_within_a_recording_and_models_out_of_order_are_found(lake):
    swapped = edit(lake, "segments", lambda rows: rows.take([1, 0, *range(2, rows.num_rows)]))
    models = edit(lake, "tags", lambda rows: pa.concat_tables([put_rows(rows, model="z"), put_rows(rows, model="b")]))
    assert {("row_unsorted", swapped), ("row_unsorted", models)} <= look(lake).codes


@pytest.mark.parametrize(
    ("table", "values"),
    [
        ("segments", {"segment_index": 7}),
        ("segments", {"segment_id": f"{A}-7"}),
        ("tags", {"recording_id": STRANGER}),
        ("tags", {"segment_id": f"{A}-0"}),
        ("failures", {"recording_id": STRANGER}),
    ],
)
def test_a_segment_id_that_does_not_fit_its_row_is_found(lake, table, values):
    def change(rows: pa.Table) -> pa.Table:
        of_a = pc.fill_null(pc.equal(rows["segment_id"], f"{A}-00001" if table == "failures" else f"{A}-00000"), False)
        return pa.concat_tables([put_rows(rows.filter(of_a), **values), rows.filter(pc.invert(of_a))])

    path = edit(lake, table, change)
    found = look(lake)
    assert ("row_misnamed", path) in found.codes
    assert found.told("row_misnamed") == "1 rows have another segment_id than their recording"


# Rows of a run.


@pytest.mark.parametrize("table", ["recordings", "segments", "tags", "failures"])
def test_doubled_rows_in_a_second_file_are_found(lake, table):
    path = file_of(lake, table)
    second = path.replace("-0000.parquet", "-0001.parquet")
    write(lake, second, rows_in(lake, path).slice(1, 1))
    list_anew(lake, table, second)
    found = look(lake)
    assert found.codes == {("row_doubled", second)}
    subject = "segment_id" if table != "recordings" else "recording_id"
    row = rows_in(lake, second).to_pylist()[0]
    assert (row[subject] or row["recording_id"]) in found.told("row_doubled")


def test_a_recording_with_two_statuses_is_doubled(lake):
    path = edit(lake, "recordings", lambda rows: sorted_with(rows, status="partial"), SECOND)
    assert ("row_doubled", path) in look(lake).codes


def test_doubled_rows_in_an_open_run_are_found(lake):
    plan = half_done(lake, 4)
    path = file_of(lake, "tags", plan.run)
    rows = rows_in(lake, path)
    write(lake, path, pa.concat_tables([rows.slice(0, 1), rows]))
    assert ("row_doubled", path) in look(lake).codes


def test_two_labels_of_one_segment_are_not_doubled(lake):
    edit(lake, "tags", lambda rows: sorted_with(rows, label="music"))
    assert look(lake).codes == set()


def test_a_segment_without_its_tags_is_found(lake):
    edit(lake, "tags", without("segment_id", f"{B}-00001"))
    found = look(lake)
    assert found.codes == {("row_missing", folder_of(FIRST))}
    assert found.told("row_missing") == f"1 segments have neither a row nor a failure of {TOY}: {B}-00001"


def test_a_segment_without_tags_whose_failure_is_missing_is_found(lake):
    edit(lake, "failures", lambda rows: rows.filter(pc.is_null(rows["segment_id"])))
    assert look(lake).told("row_missing") == f"1 segments have neither a row nor a failure of {TOY}: {A}-00001"


def test_a_segment_that_the_verdict_holds_and_segments_lacks_is_found(lake):
    edit(lake, "segments", without("segment_id", f"{A}-00000"))
    found = look(lake)
    assert found.codes == {("row_missing", folder_of(FIRST))}
    assert f"of segments/windows: {A}-00000" in found.told("row_missing")


def test_a_recording_that_decoded_and_is_not_in_recordings_is_found(lake):
    edit(lake, "recordings", without("recording_id", E), SECOND)
    found = look(lake)
    assert found.codes == {("row_missing", folder_of(SECOND))}
    assert found.told("row_missing") == f"1 decoded recordings have no row in recordings: {E}"


def test_a_recording_that_failed_and_is_not_in_failures_is_found(lake):
    edit(lake, "failures", lambda rows: rows.filter(pc.is_valid(rows["segment_id"])))
    assert look(lake).told("row_missing") == f"1 failed recordings have no row in failures: {C}"


@pytest.mark.parametrize(
    ("table", "values", "why"),
    [
        ("tags", {"recording_id": STRANGER, "segment_id": f"{STRANGER}-00000"}, "recordings were not planned"),
        ("recordings", {"recording_id": STRANGER}, "recordings were not planned"),
        ("failures", {"recording_id": STRANGER, "segment_id": None}, "recordings were not planned"),
        ("failures", {"recording_id": B, "segment_id": None}, "recordings are booked as done"),
        ("tags", {"recording_id": C, "segment_id": f"{C}-00000"}, "recordings failed as a whole"),
        ("recordings", {"recording_id": C}, "recordings failed as a whole"),
        ("failures", {"recording_id": C, "segment_id": f"{C}-00000", "stage": TOY}, "recordings failed as a whole"),
        ("tags", {"model": "a"}, "which was not planned for them"),
        ("tags", {"segment_id": f"{B}-00009", "recording_id": B}, "are not in the verdict"),
    ],
)
def test_rows_that_nothing_accounts_for_are_found(lake, table, values, why):
    path = edit(lake, table, lambda rows: sorted_with(rows, **values))
    found = look(lake)
    assert ("row_unplanned", path) in found.codes
    assert why in found.told("row_unplanned")
    assert found.codes <= {("row_unplanned", path), ("row_unsorted", path)}


def test_a_recording_written_again_by_a_run_of_another_stage_is_found(lake):
    first, path = rows_in(lake, file_of(lake, "recordings")), file_of(lake, "recordings", SECOND)
    old = put_rows(first.filter(pc.equal(first["recording_id"], A)), run_id=SECOND)
    edit(lake, "recordings", lambda rows: pa.concat_tables([rows, old]).sort_by("recording_id"), SECOND)
    found = look(lake)
    assert found.codes == {("row_unplanned", path)}
    assert f"which was not planned for them: {A}" in found.told("row_unplanned")


def test_a_status_other_than_the_booked_outcome_is_found(lake):
    path = edit(lake, "recordings", lambda rows: put_rows(rows, status="ok"))
    found = look(lake)
    assert found.codes == {("row_status", path)}
    assert B in found.told("row_status")


def test_a_retried_segment_without_result_is_found_and_so_is_a_segment_that_was_not_to_be_retried(lake):
    change = {"segment_id": f"{A}-00000"}
    path = edit(lake, "tags", lambda rows: put_rows(rows, **change), THIRD)
    found = look(lake)
    assert found.codes == {("row_missing", folder_of(THIRD)), ("row_unplanned", path)}
    assert f"{TOY}: {A}-00001" in found.told("row_missing")


def test_many_rows_are_one_finding_that_counts_them_and_names_a_few(lake):
    edit(lake, "tags", lambda rows: rows.slice(0, 0), SECOND)
    found = look(lake)
    assert found.codes == {("row_missing", folder_of(SECOND))}
    ids = sorted([f"{A}-00000", f"{A}-00001", f"{B}-00000", f"{B}-00001", f"{D}-00000"])
    assert found.told("row_missing") == (
        f"5 segments have neither a row nor a failure of {TOY}: {', '.join(ids[:3])} ..."
    )


# Records of a run.


def test_a_run_that_is_open_before_another_is_found(lake):
    os.remove(lake.full(layout.seal_file(CORPUS, SECOND)))
    assert look(lake).codes == {("run_open", folder_of(SECOND))}


def test_a_gap_in_the_numbers_of_runs_is_found(lake):
    shutil.rmtree(lake.full(folder_of(SECOND)))
    strays = {("file_stray", path) for path in lake.list(layout.DATA) if f"/{SECOND}-" in path}
    assert len(strays) == 3
    assert look(lake).codes == {("run_missing", folder_of(SECOND))} | strays


def test_a_first_run_that_is_missing_is_found(lake):
    for run in (FIRST, SECOND):
        shutil.rmtree(lake.full(folder_of(run)))
    found = look(lake)
    assert ("run_missing", folder_of(FIRST)) in found.codes
    assert "there is a run 00003, and 2 right before it are missing" in found.told("run_missing")


@pytest.mark.parametrize("name", ["00002-old", "2", "00000", "backup"])
def test_a_folder_of_records_that_is_called_like_no_run_is_found(lake, name):
    shutil.copytree(lake.full(folder_of(SECOND)), lake.full(folder_of(name)))
    assert look(lake).codes == {("run_name", folder_of(name))}


def test_records_of_another_corpus_are_found(lake):
    shutil.copytree(lake.full(folder_of(FIRST)), lake.full(f"{layout.RUNS}/other/{FIRST}"))
    assert {
        ("record_misplaced", layout.plan_file("other", FIRST)),
        ("record_misplaced", layout.seal_file("other", FIRST)),
    } <= look(lake).codes


RECORDS = {
    "plan": layout.plan_file(CORPUS, FIRST),
    "attempt": layout.attempt_file(CORPUS, FIRST, 2),
    "verdict": layout.verdict_file(CORPUS, FIRST),
    "seal": layout.seal_file(CORPUS, FIRST),
}


@pytest.mark.parametrize("kind", RECORDS)
@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff\xfe", b'{"corpus'])
def test_garbage_instead_of_a_record_is_found(lake, kind, data):
    lake.put(RECORDS[kind], data)
    found = look(lake)
    assert {one for one in found.codes if one[0] == "record_unreadable"} == {("record_unreadable", RECORDS[kind])}
    assert f"it is no {kind}: " in found.told("record_unreadable")


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("plan", {"recordings": "3"}),
        ("plan", {"stages": None}),
        ("plan", {"planned_at": 7}),
        ("attempt", {"attempt": None}),
        ("verdict", {"rows_file": None}),
        ("verdict", {"files": [{"table": "tags"}]}),
        ("seal", {"files": [{"table": "tags", "path": None, "rows": 1, "size_bytes": 1, "sha256": ""}]}),
        ("seal", {"ok": [1]}),
    ],
)
def test_a_record_with_a_value_of_another_kind_is_found_and_the_value_named(lake, kind, change):
    edit_json(lake, RECORDS[kind], lambda content: content.update(change))
    found = look(lake)
    assert ("record_unreadable", RECORDS[kind]) in found.codes
    assert f" in {next(iter(change))}" in found.told("record_unreadable")


def test_what_later_releases_add_to_records_is_passed_over(lake):
    for path in RECORDS.values():
        edit_json(lake, path, lambda content: content.update(mood="good"))
    assert look(lake).codes == set()


@pytest.mark.parametrize("kind", ["plan", "verdict"])
def test_a_missing_record_is_found(lake, kind):
    os.remove(lake.full(RECORDS[kind]))
    assert look(lake).codes == {("record_missing", RECORDS[kind])}


def test_without_readable_seal_the_files_are_those_of_the_verdict(lake):
    lake.put(RECORDS["seal"], b"")
    tags = file_of(lake, "tags")
    os.remove(lake.full(tags))
    assert look(lake).codes == {("record_unreadable", RECORDS["seal"]), ("file_missing", tags)}


@pytest.mark.parametrize("kind", ["plan", "verdict", "ledger"])
@pytest.mark.parametrize("damage", [None, b"", b"PAR1 no", "columns"])
def test_a_parquet_record_that_is_missing_or_garbage_is_found(lake, kind, damage):
    path = record_of(lake, FIRST, kind)
    if damage is None:
        os.remove(lake.full(path))
    elif damage == "columns":
        write(lake, path, read_table(lake, path).drop_columns(["recording_id"]))
    else:
        lake.put(path, damage)
    assert look(lake).codes == {("record_missing" if damage is None else "record_unreadable", path)}


def test_a_ledger_with_a_column_of_another_type_is_found(lake):
    path = record_of(lake, FIRST, "ledger")
    rows = read_table(lake, path)
    write(lake, path, rows.set_column(3, "outcome", pa.array([[1]] * rows.num_rows)))
    assert look(lake).codes == {("record_unreadable", path)}


def edit_record(store: Store, kind: str, change: Callable[[pa.Table], pa.Table], run: str = FIRST) -> str:
    path = record_of(store, run, kind)
    write(store, path, change(read_table(store, path)))
    return path


def test_a_planned_recording_that_is_not_in_the_ledger_is_found(lake):
    path = edit_record(lake, "ledger", without("recording_id", A))
    found = look(lake)
    assert ("recording_unbooked", path) in found.codes
    assert found.told("recording_unbooked") == (
        f"1 planned recordings are not in the ledger, and the run gave back 0: {A}"
    )
    assert "their recordings are not in the ledger" in found.told("row_unplanned")


def test_a_recording_in_the_ledger_that_was_not_planned_is_found(lake):
    path = edit_record(lake, "ledger", lambda rows: sorted_with(rows, recording_id=STRANGER))
    found = look(lake)
    assert ("recording_unplanned", path) in found.codes
    assert STRANGER in found.told("recording_unplanned")


@pytest.mark.parametrize("kind", ["plan", "ledger"])
def test_a_recording_that_is_listed_twice_is_found(lake, kind):
    path = edit_record(lake, kind, lambda rows: pa.concat_tables([rows, rows.slice(0, 1)]))
    assert ("recording_listed_twice", path) in look(lake).codes


def test_an_outcome_other_than_the_verdicts_is_found(lake):
    path = edit_record(lake, "ledger", lambda rows: put_rows(rows, outcome="partial"), THIRD)
    assert look(lake).codes == {("ledger_outcome", path), ("seal_counts", layout.seal_file(CORPUS, THIRD))}


@pytest.mark.parametrize("keys", [["tags/toy@f-better", "tags/toy@f-tags"], [], None, ["segments/windows@f-segments"]])
def test_other_stages_in_the_ledger_than_were_planned_are_found(lake, keys):
    path = edit_record(lake, "ledger", lambda rows: put_rows(rows, stages=keys), THIRD)
    assert ("ledger_stages", path) in look(lake).codes


def test_a_seal_that_counts_otherwise_than_its_ledger_is_found(lake):
    edit_json(lake, RECORDS["seal"], lambda content: content.update(ok=5))
    assert look(lake).codes == {("seal_counts", RECORDS["seal"])}


@pytest.mark.parametrize(
    "change",
    [{"recordings": 9}, {"planned_at": "2020-01-01T00:00:00+00:00"}, {"stages": []}, {"ledger_file": "ledger"}],
    ids=str,
)
def test_a_seal_that_differs_from_its_plan_is_found(lake, change):
    edit_json(lake, RECORDS["seal"], lambda content: content.update(change))
    found = look(lake)
    assert ("seal_differs", RECORDS["seal"]) in found.codes
    assert next(iter(change)) in found.told("seal_differs")


# Abandoned runs, and runs that do again what was done.


def abandoned(store: Store) -> tuple[Plan, list[str]]:
    """A run that gave two recordings back."""
    plan = plan_next(store, "abcdefgh", BETTER)
    ids = read_table(store, plan.recordings_file)["recording_id"].to_pylist()
    stage(store, plan, whole(ids[1], 2))
    finish(store, plan, abandoned=True)
    return plan, ids


@pytest.mark.parametrize("returned", [0, 1, 3])
def test_an_abandoned_run_that_gave_back_another_number_is_found(lake, returned):
    plan, ids = abandoned(lake)
    edit_json(lake, layout.seal_file(CORPUS, plan.run), lambda content: content.update(returned=returned))
    found = look(lake)
    assert found.codes == {("recording_unbooked", layout.ledger_file(CORPUS, plan.run))}
    assert found.told("recording_unbooked") == (
        f"2 planned recordings are not in the ledger, and the run gave back {returned}: {ids[0]}, {ids[2]}"
    )


def test_a_run_that_claims_to_have_given_back_and_has_not_is_found(lake):
    edit_json(lake, RECORDS["seal"], lambda content: content.update(returned=1))
    edit_json(lake, RECORDS["verdict"], lambda content: content.update(abandoned=True))
    assert look(lake).codes == {("recording_unbooked", layout.ledger_file(CORPUS, FIRST))}


def test_a_run_that_was_not_abandoned_gives_nothing_back(lake):
    plan, _ = abandoned(lake)
    edit_json(lake, layout.verdict_file(CORPUS, plan.run), lambda content: content.update(abandoned=False))
    assert look(lake).codes == {("recording_unbooked", layout.ledger_file(CORPUS, plan.run))}


def test_rows_of_a_recording_that_was_given_back_are_found(lake):
    plan, ids = abandoned(lake)
    change = {"recording_id": ids[0], "segment_id": f"{ids[0]}-00000"}
    path = edit(lake, "tags", lambda rows: sorted_with(rows, **change), plan.run)
    found = look(lake)
    assert found.codes == {("row_unplanned", path)}
    assert f"their recordings are not in the ledger: {ids[0]}-00000" in found.told("row_unplanned")


def test_a_stage_that_two_runs_did_is_found(lake):
    plan = plan_again(lake, D, [TOY], None)
    stage(lake, plan, tags_of(D, 1))
    finish(lake, plan)
    found = look(lake)
    assert found.codes == {("stage_booked_twice", layout.ledger_file(CORPUS, plan.run))}
    assert found.told("stage_booked_twice") == f"1 recordings were done before: {TOY}@f-better: {D}"


def test_a_recording_that_failed_and_is_done_later_is_sound(lake):
    plan = plan_again(lake, C, ["segments/windows", TOY], None)
    stage(lake, plan, whole(C, 1))
    finish(lake, plan)
    assert look(lake).codes == set()


def test_what_another_corpus_did_is_not_done_twice(lake):
    shutil.copytree(lake.full(folder_of(FIRST)), lake.full(f"{layout.RUNS}/zebra/{FIRST}"))
    assert {code for code, _ in look(lake).codes} & {"record_misplaced", "stage_booked_twice"} == {"record_misplaced"}


# Whatever is wrong, verifying ends.


@settings(max_examples=12)
@given(st.data())
def test_whichever_byte_is_flipped_it_is_found(original, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("flipped") / "lake"
    shutil.copytree(original, folder)
    store = Store(str(folder))
    path = data.draw(st.sampled_from(sorted(store.list(layout.DATA))))
    content = bytearray(store.read(path))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    store.put(path, bytes(content))
    assert ("file_sha256", path) in look(store).codes
    shutil.rmtree(folder)


@settings(max_examples=12)
@given(st.data())
def test_whatever_a_record_is_cut_to_nothing_is_raised(original, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cut") / "lake"
    shutil.copytree(original, folder)
    store = Store(str(folder))
    path = data.draw(st.sampled_from(sorted(store.list(layout.RUNS))))
    content = store.read(path)
    store.put(path, content[: data.draw(st.integers(0, len(content) - 1))])
    assert ("record_unreadable", path) in look(store).codes
    shutil.rmtree(folder)


def test_a_recipe_that_went_back_to_an_earlier_cut_is_sound(tmp_path):
    store, recut = Store(str(tmp_path)), [replace(one, fingerprint=f"{one.fingerprint}-b") for one in STAGES]
    for stages in (STAGES, recut, STAGES):
        plan = plan_next(store, "a", stages)
        [recording] = read_table(store, plan.recordings_file)["recording_id"].to_pylist()
        stage(store, plan, whole(recording, 2))
        finish(store, plan)
    assert look(store).codes == set()
    assert len(find_delta(store, find_runs(store, CORPUS), CORPUS, listing("/audio/a.wav"), STAGES).recordings) == 0
