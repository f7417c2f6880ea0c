"""Merging: what is cut into slices and read by row groups comes out as if it were sorted in one piece."""

import io
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipelines.merge
import pipelines.parquet
from pipelines.merge import LocalFragment, Span, merged
from pipelines.parquet import to_parquet, write_parquet
from schemas.tables import TABLES, leading_key
from workers.tabulate import in_order

IDS = [f"{n:032x}" for n in range(4)]


def spectrograms(rows: list[tuple[int, int, str]], mark: float) -> pa.Table:
    """Rows (recording, segment, kind) of the spectrograms table, in order."""
    table = pa.Table.from_pylist(
        [
            {
                "recording_id": IDS[recording],
                "run_id": "00001",
                "corpus_id": "prompts",
                "ingested_at": 0,
                "segment_id": f"{IDS[recording]}-{index:05d}",
                "kind": kind,
                "n_frames": 1,
                "n_bins": 1,
                "hop_seconds": 0.01,
                "values": [mark],
            }
            for recording, index, kind in rows
        ],
        TABLES["spectrograms"],
    )
    return in_order("spectrograms", table)


def fragment(folder: Path, table: pa.Table, winning: list[str]) -> LocalFragment:
    path = folder / f"{uuid.uuid4().hex}.parquet"
    path.write_bytes(to_parquet(table, leading_key("spectrograms")))
    return LocalFragment(path, pa.array(winning, pa.string()))


def winning_rows(one: LocalFragment) -> pa.Table:
    rows = pq.read_table(one.path, partitioning=None)
    return rows.filter(pc.is_in(rows["segment_id"], value_set=one.winning))


KEYS = st.tuples(st.integers(0, 3), st.integers(0, 2), st.sampled_from(["log_mel", "mfcc", "power"]))


@settings(max_examples=60)
@given(
    st.dictionaries(KEYS, st.integers(0, 2), min_size=1),
    st.lists(st.lists(KEYS, max_size=6), min_size=3, max_size=3),
    st.sampled_from([(IDS[0], None), (IDS[1], IDS[3]), (IDS[2], None)]),
    st.sampled_from([1, 200, 1 << 20]),
)
def test_any_split_of_the_rows_merges_to_the_same(tmp_path_factory, won, lost, span, piece):
    """`won` says which fragment holds a row that counts; `lost` are rows of each fragment that do not."""
    folder = tmp_path_factory.mktemp("fragments")
    with pytest.MonkeyPatch.context() as sizes:
        sizes.setattr(pipelines.parquet, "ROW_GROUP_BYTES", piece)
        sizes.setattr(pipelines.merge, "SLICE_BYTES", piece)
        fragments = []
        winners = {f"{IDS[recording]}-{index:05d}": home for (recording, index, _), home in sorted(won.items())}
        for home in range(3):
            mine = {key for key in won if winners[f"{IDS[key[0]]}-{key[1]:05d}"] == home} | set(lost[home])
            if mine:
                winning = [key for key, at in winners.items() if at == home]
                fragments.append(fragment(folder, spectrograms(sorted(mine), float(home)), winning))
        found = [TABLES["spectrograms"].empty_table(), *merged("spectrograms", fragments, Span(*span))]
    rows = pa.concat_tables(found)
    assert rows.equals(in_order("spectrograms", rows))
    held = pa.concat_tables([winning_rows(one) for one in fragments])
    expected = {
        (row["kind"], row["segment_id"], row["values"][0])
        for row in held.to_pylist()
        if span[0] <= row["recording_id"] < (span[1] or "g")
    }
    assert sorted(expected) == [(row["kind"], row["segment_id"], row["values"][0]) for row in rows.to_pylist()]


def test_a_slice_is_all_that_is_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(pipelines.parquet, "ROW_GROUP_BYTES", 1)
    monkeypatch.setattr(pipelines.merge, "SLICE_BYTES", 1)
    fragments = [fragment(tmp_path, spectrograms([(n, 0, "power")], 0.0), [f"{IDS[n]}-00000"]) for n in range(4)]
    assert [piece.num_rows for piece in merged("spectrograms", fragments, Span(IDS[0], None))] == [1, 1, 1, 1]


def test_row_groups_end_where_the_kind_changes(tmp_path: Path):
    rows = spectrograms([(n, 0, kind) for n in range(3) for kind in ("log_mel", "mfcc")], 0.0)
    write_parquet(tmp_path / "x.parquet", rows.schema, [rows], "kind")
    for data in (tmp_path / "x.parquet", io.BytesIO(to_parquet(rows, "kind"))):
        metadata = pq.read_metadata(data)
        column = rows.schema.names.index("kind")
        spans = [metadata.row_group(n).column(column).statistics for n in range(metadata.num_row_groups)]
        assert [(one.min, one.max) for one in spans] == [("log_mel", "log_mel"), ("mfcc", "mfcc")]
