"""The command line. Facts go to standard output, progress and errors to standard error."""

import json
import logging
import sys
import time
from collections.abc import Callable
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
from pipelines.recipe import Recipe, load_recipe
from pipelines.store import Store
from schemas import layout
from schemas.failures import CODES
from schemas.records import Seal

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
    from pipelines.run import run as carry_out

    loaded = load_recipe(recipe, overrides)
    _carry(loaded, lambda: carry_out(loaded), "nothing new", as_json)


@app.command()
def retry(
    recipe: RecipePath,
    code: Annotated[list[str] | None, typer.Option("--code", help="Only these failure codes; may be repeated.")] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Plan again what failed, and carry it out: by default what failed for a reason that may pass."""
    from pipelines.run import retry as carry_out

    unknown = sorted(set(code or ()) - CODES.keys())
    if unknown:
        raise RecipeError(f"there is no failure code {', '.join(unknown)}; there are {', '.join(sorted(CODES))}")
    loaded = load_recipe(recipe, overrides)
    _carry(loaded, lambda: carry_out(loaded, code or ()), "nothing to try again", as_json)


@app.command()
def abandon(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Close the open run of a corpus: what is done is published, the rest returns to the next plan."""
    from pipelines.run import abandon as carry_out

    loaded = load_recipe(recipe, overrides)
    _carry(loaded, lambda: carry_out(loaded), "no run is open", as_json)


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
def verify(lake: Lake, endpoint_url: Endpoint = None, as_json: AsJson = False) -> None:
    """Check every promise of a lake from its bytes: files, rows, completeness. Exit code 1 where one is broken."""
    from pipelines.report import verification_text
    from pipelines.verify import verify as check

    found = check(_store(lake, endpoint_url))
    _say(asdict(found), verification_text(found), as_json)
    if found.findings:
        raise typer.Exit(1)


@app.command()
def gc(lake: Lake, endpoint_url: Endpoint = None, as_json: AsJson = False) -> None:
    """Delete what sealed runs left in staging; an open run's work stays."""
    from pipelines.gc import collect_garbage
    from pipelines.report import megabytes

    found = collect_garbage(_store(lake, endpoint_url))
    text = (
        f"deleted {found.objects:,} objects ({megabytes(found.size_bytes)}) of {len(found.folders)} sealed runs, and "
        f"{found.orphans + found.temporary} files that losing and dying writers left"
    )
    _say(asdict(found), text, as_json)


@app.command()
def failures(
    lake: Lake,
    history: Annotated[bool, typer.Option("--history", help="Also what a later run or version put right.")] = False,
    endpoint_url: Endpoint = None,
    as_json: AsJson = False,
) -> None:
    """List what could not be done, and why: as things stand, or in all runs."""
    from pipelines.report import failures as read_failures

    rows = read_failures(_store(lake, endpoint_url), history=history)
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
    """Ask a lake in SQL: the views <table> and current_<table> of every table."""
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


Model = Annotated[str | None, typer.Option("--model", help="Whose embeddings; needed where the lake has several.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="How many segments to show.")]


@app.command()
def search(
    lake: Lake,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to listen for, in words.")],
    model: Model = None,
    limit: Limit = 10,
    endpoint_url: Endpoint = None,
    as_json: AsJson = False,
) -> None:
    """Find the segments that sound like a text says, by the embeddings of a CLAP model."""
    from pipelines.search import search as find

    _show_found(find(_store(lake, endpoint_url), text, model, limit), as_json)


@app.command()
def similar(
    lake: Lake,
    segment_id: Annotated[str, typer.Argument(metavar="SEGMENT_ID", help="The segment, as in the table segments.")],
    model: Model = None,
    limit: Limit = 10,
    endpoint_url: Endpoint = None,
    as_json: AsJson = False,
) -> None:
    """Find the segments that are most like one segment, by the embeddings of any model."""
    from pipelines.search import similar as find

    _show_found(find(_store(lake, endpoint_url), segment_id, model, limit), as_json)


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
    except duckdb.Error as error:  # of a lake's own files, or of the store below them; a user's SQL was caught before
        print(f"phonolake: the lake could not be read: {error}; phonolake verify says what is wrong", file=sys.stderr)
        sys.exit(PhonolakeError.exit_code)


def _carry(recipe: Recipe, carry_out: Callable[[], Seal | None], otherwise: str, as_json: bool) -> None:
    """Carry out a command that may end in a seal, and say what it did."""
    from pipelines.report import summary, summary_text

    started = time.monotonic()
    seal = carry_out()
    if seal is None:
        _say({"corpus": recipe.corpus, "recordings": 0}, f"corpus {recipe.corpus}: {otherwise}", as_json)
        return
    text = summary_text(seal, time.monotonic() - started, recipe.lake.uri)
    if seal.failed:
        text += f"\n  see why: phonolake failures {recipe.lake.uri}"
    if seal.returned:
        text += f"\n  {seal.returned:,} recordings return to the next plan"
    _say(summary(seal), text, as_json)


def _show_found(found: Any, as_json: bool) -> None:
    """Print what a search found; `found` is a pipelines.search.Found."""
    if as_json:
        facts = asdict(found)
        _print_json({**facts.pop("space"), **facts})
        return
    table = Table("score", "seconds", "segment", "uri", box=None, pad_edge=False)
    for match in found.matches:
        seconds = f"{match.start_seconds:.2f}-{match.end_seconds:.2f}"
        table.add_row(f"{match.score:.4f}", seconds, match.segment_id, escape(match.uri))
    _print_table(table)
    others = f"; {found.left_out:,} of another revision, layer or pooling left out" if found.left_out else ""
    print(f"{found.compared:,} segments compared by {found.space.model}{others}")


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
