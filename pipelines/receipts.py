"""What the receipts of a run prove: which recordings are covered, and which receipt wins."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.scratch import database, spans, within
from pipelines.sink import RECEIPT_HEADER
from pipelines.store import Store
from schemas import layout, records, wire
from schemas.records import Plan, Receipt

READERS: Final = 16
FAILURES_LOOKED_AT: Final = 64  # fragments, to say what failed

_WINNERS: Final = """
WITH closings AS (  -- of several closing rows in one attempt, a success counts, then the first receipt
    SELECT recording_id, attempt, arg_min(
        struct_pack(receipt, n_segments, outcome, seconds), ((outcome = 'failed')::BIGINT << 32) + receipt) AS closing
    FROM rows WHERE segment_index IS NULL GROUP BY recording_id, attempt
),
segments AS (  -- of several receipts of a segment, the one in which the fewest stages failed, then the first
    SELECT recording_id, attempt, segment_index,
        (min((coalesce(failed_stages, 0)::BIGINT << 32) + receipt) & 4294967295)::INTEGER AS receipt
    FROM rows WHERE segment_index IS NOT NULL GROUP BY recording_id, attempt, segment_index
),
complete AS (  -- all segments up to the last, from one attempt; a failure needs none
    SELECT c.recording_id, c.attempt, any_value(c.closing) AS closing
    FROM closings c LEFT JOIN segments s
        ON s.recording_id = c.recording_id AND s.attempt = c.attempt AND s.segment_index < c.closing.n_segments
    GROUP BY c.recording_id, c.attempt HAVING count(s.segment_index) = any_value(c.closing.n_segments)
),
chosen AS (
    SELECT recording_id,
        arg_min(struct_pack(attempt, closing), ((closing.outcome = 'failed')::BIGINT << 32) + attempt) AS winner
    FROM complete GROUP BY recording_id
)
SELECT recording_id, NULL::INTEGER AS segment_index, winner.closing.receipt AS receipt,
    winner.closing.outcome AS outcome, winner.closing.seconds AS seconds FROM chosen
UNION ALL
SELECT c.recording_id, s.segment_index, s.receipt, NULL, NULL FROM chosen c JOIN segments s
    ON s.recording_id = c.recording_id AND s.attempt = c.winner.attempt
    AND s.segment_index < c.winner.closing.n_segments AND c.winner.closing.outcome <> 'failed'
ORDER BY ALL
"""
"""What is to be the least is packed into one number: an aggregate that sorts would hold all rows of all recordings."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All receipts of a run.

    Attributes:
        paths: where they are, sorted; a receipt's position here is its number.
        headers: their attempts and fragments, in the same order.
        rows: what they cover, schema wire.RECEIPT with `receipt` and `attempt`.
    """

    paths: list[str]
    headers: list[Receipt]
    rows: pa.Table

    def winners(self) -> pa.Table:
        """Return which receipt counts for every complete recording and segment, schema records.VERDICT.

        Per recording one attempt, per segment one receipt, success before failure; the rest is lower numbers first,
        so that everyone who sees the same receipts decides the same.
        """
        parts = []
        for span in spans(self.rows["recording_id"], self.rows.num_rows):
            with database(rows=within(self.rows, "recording_id", span)) as scratch:
                parts.append(scratch.sql(_WINNERS).to_arrow_table().cast(records.VERDICT))
        return pa.concat_tables(parts)


def collect(store: Store, plan: Plan) -> Evidence:
    """Read all receipts of a run."""
    staged = store.list(layout.staging_folder(plan.corpus, plan.run))
    paths = sorted(path for path in staged if path.split("/")[-2] == "receipts")
    with ThreadPoolExecutor(READERS) as readers:
        tables = list(readers.map(lambda path: pq.read_table(pa.BufferReader(store.read(path))), paths))
    headers = [records.read_receipt(table.schema.metadata[RECEIPT_HEADER.encode()]) for table in tables]
    return Evidence(paths, headers, _numbered(tables, headers))


def _numbered(tables: list[pa.Table], headers: list[Receipt]) -> pa.Table:
    schema = wire.RECEIPT.append(pa.field("receipt", pa.int32())).append(pa.field("attempt", pa.int32()))
    parts = [schema.empty_table()]
    for number, (table, header) in enumerate(zip(tables, headers, strict=True)):
        columns = [
            *table.select(wire.RECEIPT.names).columns,
            pa.repeat(pa.scalar(number, pa.int32()), table.num_rows),
            pa.repeat(pa.scalar(header.attempt, pa.int32()), table.num_rows),
        ]
        parts.append(pa.Table.from_arrays(columns, schema=schema))
    return pa.concat_tables(parts)


def covered(winners: pa.Table) -> pa.Array:
    """Return the recordings that are complete."""
    return winners.filter(pc.is_null(winners["segment_index"]))["recording_id"].combine_chunks()


def worth_another_try(evidence: Evidence, winners: pa.Table) -> pa.Array:
    """Return the recordings whose best outcome so far is a failure that trying again may mend."""
    failed = winners.filter(pc.equal(winners["outcome"], "failed"))["recording_id"]
    transient = evidence.rows.filter(pc.fill_null(evidence.rows["transient"], False))["recording_id"]
    return failed.filter(pc.is_in(failed, value_set=transient.combine_chunks())).combine_chunks()


def commonest_failure(store: Store, evidence: Evidence) -> str | None:
    """Say why most recordings failed, with one of them; None where no receipt tells of a failure."""
    fragments = [one for header in evidence.headers for one in header.fragments if one.table == "failures"]
    tables = [
        pq.read_table(pa.BufferReader(store.read(one.path)), columns=["code", "message"])
        for one in fragments[:FAILURES_LOOKED_AT]
    ]
    found = Counter(code for table in tables for code in table["code"].to_pylist())
    if not found:
        return None
    [(code, count)] = found.most_common(1)
    rows = pa.concat_tables(tables).filter(pc.field("code") == code)
    return f"{code} ({count}), as {rows['message'][0].as_py()}"
