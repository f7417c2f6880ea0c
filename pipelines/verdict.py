"""The verdict: the one decision which receipt counts for every segment, and which files come of it."""

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from pipelines.parquet import to_parquet
from pipelines.receipts import Evidence
from pipelines.runs import writer_id
from pipelines.store import Store
from schemas import layout, records
from schemas.records import FinalFile, Fragment, Plan, Source, Verdict
from schemas.tables import TABLES

GOOD_BYTES: Final = 64 << 20  # a fragment of this size that wins whole is published as it is
TARGET_BYTES: Final = 128 << 20  # smaller ones are gathered up to this, each file by a task of its own
PAST_SEGMENTS: Final = "~"  # an id with this at its end sorts after the ids of all its segments


def decide(store: Store, plan: Plan, evidence: Evidence, winners: pa.Table, *, abandoned: bool = False) -> Verdict:
    """Write the verdict, create-once; adopt another writer's if it was first.

    The winners must cover the plan, unless the run is abandoned.
    """
    rows_file = f"{layout.run_folder(plan.corpus, plan.run)}/verdict-{uuid.uuid4().hex}.parquet"
    store.put(rows_file, to_parquet(winners))
    files = [file for table in TABLES for file in final_files(plan, table, evidence, winners)]
    verdict = Verdict(rows_file, evidence.paths, files, writer_id(), abandoned)
    store.create(layout.verdict_file(plan.corpus, plan.run), records.to_json(verdict))
    return load_verdict(store, plan)


def load_verdict(store: Store, plan: Plan) -> Verdict:
    """Read the verdict; FileNotFoundError where there is none yet."""
    return records.read_verdict(store.read(layout.verdict_file(plan.corpus, plan.run)))


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A fragment, its receipt's number, and whether all its rows win."""

    fragment: Fragment
    receipt: int
    clean: bool

    @property
    def good(self) -> bool:
        """Whether it may be published as it is."""
        return self.clean and self.fragment.size_bytes >= GOOD_BYTES

    @property
    def source(self) -> Source:
        fragment = self.fragment
        return Source(fragment.path, self.receipt, fragment.size_bytes, fragment.sha256, fragment.rows)


def final_files(plan: Plan, table: str, evidence: Evidence, winners: pa.Table) -> list[FinalFile]:
    """Divide a table's fragments into files: good ones alone, the rest gathered up to about TARGET_BYTES.

    Every fragment goes into one file, and what wins of it with it; so files share no row, whatever ids they span.
    """
    candidates = sorted(_candidates(table, evidence, winners), key=lambda one: (one.fragment.first, one.fragment.path))
    groups = [[one] for one in candidates if one.good]
    groups += _gathered(one for one in candidates if not one.good)
    groups.sort(key=lambda group: (group[0].fragment.first, group[0].fragment.path))
    files = []
    for number, group in enumerate(groups):
        path = layout.data_file(table, plan.corpus, plan.day, plan.run, number)
        end = max(one.fragment.last for one in group) + PAST_SEGMENTS
        whole = len(group) == 1 and group[0].clean
        files.append(FinalFile(table, path, group[0].fragment.first, end, [one.source for one in group], whole))
    return files


def _candidates(table: str, evidence: Evidence, winners: pa.Table) -> Iterator[_Candidate]:
    count = len(evidence.headers)
    won = np.bincount(winners["receipt"].to_numpy(), minlength=count)
    held = np.bincount(evidence.rows["receipt"].to_numpy(), minlength=count)
    for number, header in enumerate(evidence.headers):
        if won[number]:
            for fragment in header.fragments:
                if fragment.table == table:
                    yield _Candidate(fragment, number, bool(won[number] == held[number]))


def _gathered(candidates: Iterable[_Candidate]) -> Iterator[list[_Candidate]]:
    """Gather neighbours up to TARGET_BYTES."""
    group: list[_Candidate] = []
    held = 0
    for one in candidates:
        if group and held + one.fragment.size_bytes > TARGET_BYTES:
            yield group
            group, held = [], 0
        group.append(one)
        held += one.fragment.size_bytes
    if group:
        yield group
