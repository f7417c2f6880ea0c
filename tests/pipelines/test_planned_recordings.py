"""Reading a plan: every task gets its own rows and no others, however the plan's Parquet is divided."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.planned_recordings import planned_recordings
from pipelines.store import Store
from pipelines.tasks import Task
from schemas import records


@pytest.fixture(scope="module")
def lake(tmp_path_factory) -> Store:
    """Plans of 50 recordings with row groups of every size."""
    store = Store(str(tmp_path_factory.mktemp("plans")))
    rows = [
        {"recording_id": f"{number:032x}", "uri": f"/{number}", "size_bytes": number, "stages": ["segments/whole"]}
        for number in range(50)
    ]
    for size in (1, 7, 50, 64):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, records.PLAN), sink, row_group_size=size)
        store.put(f"plan-{size}.parquet", bytes(sink.getvalue()))
    return store


@settings(max_examples=60)
@given(
    st.sampled_from([1, 7, 50, 64]), st.integers(0, 49), st.lists(st.integers(1, 9), min_size=1, max_size=5), st.data()
)
def test_a_task_gives_its_rows_in_order_but_for_those_done(lake, size, first, units, data):
    while first + sum(units) > 50:
        units = units[:-1] or [50 - first]
    done = [data.draw(st.frozensets(st.integers(0, rows - 1))) for rows in units]
    found = planned_recordings(lake, f"plan-{size}.parquet", Task(first, tuple(units), tuple(done)))
    expected, start = [], first
    for rows, finished in zip(units, done, strict=True):
        expected += [f"/{start + row}" for row in range(rows) if row not in finished]
        start += rows
    assert [recording.source.uri for recording in found] == expected
