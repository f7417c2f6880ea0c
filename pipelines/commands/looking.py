"""Commands that look at a lake or look after it: status, failures, query, verify, gc."""

from dataclasses import asdict
from typing import Annotated

import duckdb
import pyarrow as pa
import typer
from rich.markup import escape
from rich.table import Table

from pipelines.commands.options import AsJson, Endpoint, Lake
from pipelines.commands.output import cell, lake_store, print_json, print_table, say
from pipelines.errors import RecipeError

MOST_COLUMNS = 8  # a wider result is shown a line per value


def status(lake: Lake, endpoint_url: Endpoint = None, as_json: AsJson = False) -> None:
    """Show the corpora of a lake, their runs, and what is open."""
    from pipelines.report import megabytes
    from pipelines.report import status as read_status

    store = lake_store(lake, endpoint_url)
    found = read_status(store)
    lines = []
    for one in found:
        lines.append(
            f"{one.corpus}: {one.runs} sealed runs, {one.recordings:,} recordings, {one.hours:.2f} h, "
            f"{one.failed:,} failed, {megabytes(one.size_bytes)}, last sealed {one.last_sealed or 'never'}"
        )
        if one.open_run:
            lines.append(
                f"  run {one.open_run} is open: {one.open_recordings:,} recordings, {one.open_attempts} attempts"
            )
    say([asdict(one) for one in found], "\n".join(lines), as_json)


def failures(
    lake: Lake,
    history: Annotated[bool, typer.Option("--history", help="Also what a later run or version put right.")] = False,
    endpoint_url: Endpoint = None,
    as_json: AsJson = False,
) -> None:
    """List what could not be done, and why: as things stand, or in all runs."""
    from pipelines.report import failures as read_failures

    rows = read_failures(lake_store(lake, endpoint_url), history=history)
    if as_json:
        print_json(rows)
        return
    table = Table("stage", "code", "message", "segment", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row["stage"], row["code"], escape(row["message"]), (row["segment_id"] or "")[-5:])
    print_table(table)
    print(f"{len(rows)} failures")


def query(
    lake: Lake,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="Any DuckDB SQL over the views of the tables.")],
    endpoint_url: Endpoint = None,
    as_json: AsJson = False,
) -> None:
    """Ask a lake in SQL: the views <table> and current_<table> of every table."""
    from pipelines.lake import open_lake

    try:
        result = open_lake(lake_store(lake, endpoint_url)).sql(sql)
        found = result.to_arrow_table() if result is not None else pa.table({})
    except duckdb.Error as error:
        raise RecipeError(f"the query failed: {error}") from None
    if len(set(found.column_names)) < found.num_columns:
        raise RecipeError(f"the query names two columns alike: {', '.join(found.column_names)}; use AS")
    rows = found.to_pylist(maps_as_pydicts="lossy")
    if as_json:
        print_json(rows)
        return
    if found.num_columns > MOST_COLUMNS:
        for row in rows:
            print("\n".join(f"{name:<24} {cell(value)}" for name, value in row.items()), end="\n\n")
        return
    table = Table(*map(escape, found.column_names), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(escape(cell(value)) for value in row.values()))
    print_table(table)


def verify(lake: Lake, endpoint_url: Endpoint = None, as_json: AsJson = False) -> None:
    """Check every promise of a lake from its bytes: files, rows, completeness. Exit code 1 where one is broken."""
    from pipelines.report import verification_text
    from pipelines.verify import verify as check

    found = check(lake_store(lake, endpoint_url))
    say(asdict(found), verification_text(found), as_json)
    if found.findings:
        raise typer.Exit(1)


def gc(lake: Lake, endpoint_url: Endpoint = None, as_json: AsJson = False) -> None:
    """Delete what sealed runs left in staging; an open run's work stays."""
    from pipelines.gc import collect_garbage
    from pipelines.report import megabytes

    found = collect_garbage(lake_store(lake, endpoint_url))
    text = (
        f"deleted {found.objects:,} objects ({megabytes(found.size_bytes)}) of {len(found.folders)} sealed runs, and "
        f"{found.orphans + found.temporary} files that losing and dying writers left"
    )
    say(asdict(found), text, as_json)
