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
NO_ID: Final = "g"  # sorts after every hexadecimal id


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
    def source(self) -> Source:
        fragment = self.fragment
        return Source(fragment.path, self.receipt, fragment.size_bytes, fragment.sha256, fragment.rows)


def final_files(plan: Plan, table: str, evidence: Evidence, winners: pa.Table) -> list[FinalFile]:
    """Divide a table's winning rows into files: consecutive ranges of recording_id, of about TARGET_BYTES."""
    candidates = sorted(_candidates(table, evidence, winners), key=lambda one: (one.fragment.first, one.fragment.path))
    starts = [group[0].fragment.first for group in _groups(candidates)]
    files = []
    for number, first in enumerate(starts):
        before = starts[number + 1] if number + 1 < len(starts) else None
        inside = [one for one in candidates if _overlaps(one.fragment, first, before)]
        whole = len(inside) == 1 and inside[0].clean and _within(inside[0].fragment, first, before)
        path = layout.data_file(table, plan.corpus, plan.day, plan.run, number)
        files.append(FinalFile(table, path, first, before, [one.source for one in inside], whole))
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


def _groups(candidates: Iterable[_Candidate]) -> Iterator[list[_Candidate]]:
    """Gather neighbours up to TARGET_BYTES; one that is good alone, and overlaps none, stays alone."""
    group: list[_Candidate] = []
    for one in candidates:
        if group and _may_part(group, one):
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _may_part(group: list[_Candidate], one: _Candidate) -> bool:
    """Whether a new file may begin with `one`."""
    size = sum(member.fragment.size_bytes for member in group)
    if size + one.fragment.size_bytes > 2 * TARGET_BYTES:
        return one.fragment.first > group[0].fragment.first
    if any(member.fragment.last >= one.fragment.first for member in group):
        return False
    alone = one.clean and one.fragment.size_bytes >= GOOD_BYTES
    after_alone = len(group) == 1 and group[0].clean and size >= GOOD_BYTES
    return alone or after_alone or size + one.fragment.size_bytes > TARGET_BYTES


def _within(fragment: Fragment, first: str, before: str | None) -> bool:
    return fragment.first >= first and fragment.last < (before or NO_ID)


def _overlaps(fragment: Fragment, first: str, before: str | None) -> bool:
    return fragment.last >= first and fragment.first < (before or NO_ID)
