"""The command line. Facts go to standard output, progress and errors to standard error."""

import logging
import sys
from collections.abc import Callable
from typing import Annotated, Final

import duckdb
import typer

from pipelines.commands.checking import doctor
from pipelines.commands.describing import card
from pipelines.commands.finding import search, similar
from pipelines.commands.looking import failures, gc, query, status, verify
from pipelines.commands.reporting import report
from pipelines.commands.running import abandon, demo, plan, retry, run
from pipelines.commands.submitting import submit
from pipelines.commands.warehousing import ddl, publish
from pipelines.errors import PhonolakeError
from pipelines.version import version

COMMANDS: Final[tuple[Callable[..., None], ...]] = (
    *(run, plan, retry, abandon, submit),
    *(status, failures, query, report, search, similar),
    *(verify, gc, doctor),
    *(publish, ddl, card),
    demo,
)

app = typer.Typer(
    name="phonolake",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in COMMANDS:
    app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"phonolake {version()}")
        raise typer.Exit


@app.callback()
def _phonolake(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """A bucket of audio in, typed Parquet tables out."""


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
