"""The record of a run, as status and reports read it; pipelines.accounting makes it."""

from pipelines.store import Store
from schemas import layout
from schemas.run_record import RunRecord, read_run_record


def load_run_record(store: Store, corpus: str, run: str) -> RunRecord | None:
    """Read what a run took; None where its driver left no record, as those of the first release do."""
    try:
        return read_run_record(store.read(layout.record_file(corpus, run)))
    except FileNotFoundError:
        return None
