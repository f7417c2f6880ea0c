"""Commands that look at a lake or look after it: status, failures, query, verify, gc."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import duckdb
import pyarrow as pa
import typer
from rich.markup import escape
from rich.table import Table

from pipelines.commands.options import AsJson, Codes, Endpoint, Lake, known_codes
from pipelines.commands.output import cell, named_lake, print_csv, print_json, print_table, say
from pipelines.errors import RecipeError
from pipelines.lake import open_lake
from pipelines.report import Failures
from pipelines.runs import corpora
from schemas.failures import CODES

SHOWN_RUNS = 5
SHOWN_FAILURES = 50
MOST_COLUMNS = 8  # a wider result is shown a line per value


def status(lake: Lake, endpoint_url: Endpoint = None, as_json: AsJson = False) -> None:
    """Show the corpora of a lake, their last runs, and what is open; with --json, all their runs."""
    from pipelines.corpus_status import status as read_status
    from pipelines.corpus_status import status_text

    found = read_status(named_lake(lake, endpoint_url), None if as_json else SHOWN_RUNS)
    say([asdict(one) for one in found], "\n".join(map(status_text, found)), as_json)


def failures(
    lake: Lake,
    history: Annotated[bool, typer.Option("--history", help="Also what a later run or version put right.")] = False,
    code: Codes = None,
    corpus: Annotated[str | None, typer.Option("--corpus", metavar="NAME", help="Only this corpus.")] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help=f"How many rows to show.  [default: {SHOWN_FAILURES}; with --json, all]"),
    ] = None,
    endpoint_url: Endpoint = None,
    as_json: AsJson = False,
) -> None:
    """List what could not be done, and why: as things stand, or in all runs; first how often each code."""
    from pipelines.report import failures as read_failures

    store, codes = named_lake(lake, endpoint_url), known_codes(code)
    if corpus is not None and corpus not in (known := corpora(store)):
        raise RecipeError(f"{lake} has no corpus {corpus}; it has {', '.join(known)}")
    shown = limit if limit or as_json else SHOWN_FAILURES
    found = read_failures(store, history=history, codes=codes, corpus=corpus, limit=shown)
    if as_json:
        print_json(found.rows)
    else:
        _show_failures(found)


def _show_failures(found: Failures) -> None:
    """Print failures: how often each code, then row by row."""
    if found.counts:
        table = Table("code", "failures", "transient", "means", box=None, pad_edge=False)
        for one in found.counts:
            table.add_row(one.code, f"{one.failures:,}", _yes_no(one.transient), escape(CODES.get(one.code, "")))
        print_table(table)
        print()
        table = Table("corpus", "stage", "code", "transient", "message", "segment", box=None, pad_edge=False)
        for row in found.rows:
            said = row["message"] if row["uri"] in row["message"] else f"{row['uri']}: {row['message']}"
            cells = (row["corpus"], row["stage"], row["code"], _yes_no(row["transient"]), said, row["segment_id"] or "")
            table.add_row(*map(escape, cells))
        print_table(table)
    if more := found.total - len(found.rows):
        print(f"… and {more:,} more: --limit, --code, --corpus, or --json for all")
    print(f"{found.total:,} failures")


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"


def query(
    lake: Lake,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="Any DuckDB SQL over the views of the tables.")],
    endpoint_url: Endpoint = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print rows as CSV.")] = False,
) -> None:
    """Ask a lake in SQL: the views <table> and current_<table> of every table.

    Every statement's rows are printed, one after the other. COPY (SELECT ...) TO 'rows.parquet' writes a file.
    """
    if as_json and as_csv:
        raise RecipeError("query: --json and --csv are two forms; give one")
    try:
        for found in _results(open_lake(named_lake(lake, endpoint_url)), sql, one=as_json or as_csv):
            _show_rows(found, as_json, as_csv)
    except duckdb.Error as error:
        raise RecipeError(f"the query failed: {error}") from None


def _results(connection: duckdb.DuckDBPyConnection, sql: str, *, one: bool) -> Iterator[pa.Table]:
    """Carry out statements in their order, and give the rows of each that has any; SET and the like have none."""
    statements = connection.extract_statements(sql)
    with_rows = [duckdb.ExpectedResultType.NOTHING not in statement.expected_result_type for statement in statements]
    if not any(with_rows) or (one and sum(with_rows) > 1):
        raise RecipeError(
            f"the query has {sum(with_rows)} statements with rows; "
            f"{'--json and --csv take one at a time' if one else 'write one, such as SELECT count(*) FROM recordings'}"
        )
    for statement, has_rows in zip(statements, with_rows, strict=True):
        result = connection.sql(statement)
        if not has_rows:
            continue
        found = result.to_arrow_table()
        if len(set(found.column_names)) < found.num_columns:
            raise RecipeError(f"the query names two columns alike: {', '.join(found.column_names)}; use AS")
        yield found


def _show_rows(found: pa.Table, as_json: bool, as_csv: bool) -> None:
    """Print a result in the form that was asked for; a wide one as a line per value."""
    rows = found.to_pylist(maps_as_pydicts="lossy")
    if as_json:
        print_json(rows)
    elif as_csv:
        print_csv(found.column_names, rows)
    elif not rows:
        print(f"{'  '.join(found.column_names)}\n0 rows")
    elif found.num_columns > MOST_COLUMNS:
        for row in rows:
            print("\n".join(f"{name:<24} {cell(value)}" for name, value in row.items()), end="\n\n")
    else:
        table = Table(*map(escape, found.column_names), box=None, pad_edge=False)
        for row in rows:
            table.add_row(*(escape(cell(value)) for value in row.values()))
        print_table(table)


def verify(lake: Lake, endpoint_url: Endpoint = None, as_json: AsJson = False) -> None:
    """Check every promise of a lake from its bytes: files, rows, completeness. Exit code 1 where one is broken."""
    from pipelines.report import verification_text
    from pipelines.verify import verify as check

    found = check(named_lake(lake, endpoint_url))
    say(asdict(found), verification_text(found), as_json)
    if found.findings:
        raise typer.Exit(1)


def gc(lake: Lake, endpoint_url: Endpoint = None, as_json: AsJson = False) -> None:
    """Delete what sealed runs left in staging; an open run's work stays."""
    from pipelines.gc import collect_garbage
    from pipelines.report import megabytes

    found = collect_garbage(named_lake(lake, endpoint_url))
    text = (
        f"deleted {found.objects:,} objects ({megabytes(found.size_bytes)}) of {len(found.folders)} sealed runs, and "
        f"{found.orphans + found.temporary} files that losing and dying writers left"
    )
    say(asdict(found), text, as_json)
