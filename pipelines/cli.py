"""The command line. Facts go to standard output, progress and errors to standard error."""

import json
import logging
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import duckdb
import pyarrow as pa
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.errors import PhonolakeError, RecipeError
from pipelines.recipe import load_recipe
from pipelines.store import Store
from schemas import layout

app = typer.Typer(
    name="phonolake",
    help="A bucket of audio in, typed Parquet tables out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change the recipe.")]
MOST_COLUMNS = 8  # a wider result is shown a line per value

AsJson = Annotated[bool, typer.Option("--json", help="Print facts as JSON.")]
Lake = Annotated[str, typer.Argument(metavar="LAKE", help="The lake: a folder or an s3:// uri.")]
Endpoint = Annotated[str | None, typer.Option("--endpoint-url", help="S3 endpoint, if not AWS's.")]


@app.command()
def run(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Plan, resume or finish a run; print progress and a closing summary."""
    from pipelines.report import summary, summary_text
    from pipelines.run import run as carry_out

    started = time.monotonic()
    loaded = load_recipe(recipe, overrides)
    seal = carry_out(loaded)
    if seal is None:
        _say({"corpus": loaded.corpus, "recordings": 0}, f"corpus {loaded.corpus}: nothing new", as_json)
        return
    text = summary_text(seal, time.monotonic() - started, loaded.lake.uri)
    if seal.failed:
        text += f"\n  see why: phonolake failures {loaded.lake.uri}"
    _say(summary(seal), text, as_json)


@app.command()
def plan(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show what a run would do: recordings, hours, bytes, stages. Changes nothing."""
    from pipelines.forecast import forecast, forecast_text

    loaded = load_recipe(recipe, overrides)
    facts = forecast(loaded)
    _say({**facts, "recipe": loaded.model_dump(mode="json")}, forecast_text(facts, loaded), as_json)


@app.command()
def status(lake: Lake, endpoint_url: Endpoint = None, as_json: AsJson = False) -> None:
    """Show the corpora of a lake, their runs, and what is open."""
    from pipelines.report import megabytes
    from pipelines.report import status as read_status

    store = _store(lake, endpoint_url)
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
    _say([asdict(one) for one in found], "\n".join(lines), as_json)


@app.command()
def failures(lake: Lake, endpoint_url: Endpoint = None, as_json: AsJson = False) -> None:
    """List what could not be done, and why."""
    from pipelines.report import failures as read_failures

    rows = read_failures(_store(lake, endpoint_url))
    if as_json:
        _print_json(rows)
        return
    table = Table("stage", "code", "message", "segment", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row["stage"], row["code"], escape(row["message"]), (row["segment_id"] or "")[-5:])
    _print_table(table)
    print(f"{len(rows)} failures")


@app.command()
def query(
    lake: Lake,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="Any DuckDB SQL over the views of the tables.")],
    endpoint_url: Endpoint = None,
    as_json: AsJson = False,
) -> None:
    """Ask a lake in SQL: one view per table."""
    from pipelines.lake import open_lake

    try:
        result = open_lake(_store(lake, endpoint_url)).sql(sql)
        found = result.to_arrow_table() if result is not None else pa.table({})
    except duckdb.Error as error:
        raise RecipeError(f"the query failed: {error}") from None
    if len(set(found.column_names)) < found.num_columns:
        raise RecipeError(f"the query names two columns alike: {', '.join(found.column_names)}; use AS")
    rows = found.to_pylist(maps_as_pydicts="lossy")
    if as_json:
        _print_json(rows)
        return
    if found.num_columns > MOST_COLUMNS:
        for row in rows:
            print("\n".join(f"{name:<24} {_cell(value)}" for name, value in row.items()), end="\n\n")
        return
    table = Table(*map(escape, found.column_names), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(escape(_cell(value)) for value in row.values()))
    _print_table(table)


@app.command()
def demo(
    lake: Annotated[Path, typer.Option(help="Where to write; made anew each time.")] = Path("demo-lake"),
    as_json: AsJson = False,
) -> None:
    """Run the whole pipeline on the shipped clips with real models, and show what came out."""
    from pipelines.demo.show import run_demo

    run_demo(lake, as_json=as_json)


def main() -> None:
    """Run a command and exit with its code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except PhonolakeError as error:
        print(f"phonolake: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _store(lake: str, endpoint_url: str | None) -> Store:
    store = Store(lake.rstrip("/"), {"endpoint_url": endpoint_url} if endpoint_url else {})
    if not store.list(layout.RUNS):
        raise RecipeError(f"{lake} holds no runs; is it a lake?")
    return store


def _say(facts: Any, text: str, as_json: bool) -> None:
    if as_json:
        _print_json(facts)
    else:
        print(text)


def _print_json(facts: Any) -> None:
    print(json.dumps(facts, indent=1, default=str, ensure_ascii=False))


def _print_table(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else 200, soft_wrap=not sys.stdout.isatty()).print(table)


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= 200 else text[:197] + "..."
