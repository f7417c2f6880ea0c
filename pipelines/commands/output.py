"""How commands open a lake and print what they found: text for people, JSON for programs."""

import base64
import csv
import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from pipelines.errors import RecipeError
from pipelines.store import Store
from schemas import layout


def named_lake(lake: str, endpoint_url: str | None) -> Store:
    """Return the store of a lake that a command names.

    Raises:
        RecipeError: there are no runs in it.
    """
    store = Store(lake.rstrip("/"), {"endpoint_url": endpoint_url} if endpoint_url else {})
    if not store.list(layout.RUNS):
        raise RecipeError(f"{lake} holds no runs; is it a lake?")
    return store


def say(facts: Any, text: str, as_json: bool) -> None:
    """Print facts as JSON or as text."""
    if as_json:
        print_json(facts)
    else:
        print(text)


def print_json(facts: Any) -> None:
    """Print facts as JSON; bytes are base64."""
    print(json.dumps(facts, indent=1, default=_plain, ensure_ascii=False))


def print_csv(names: list[str], rows: list[dict[str, Any]]) -> None:
    """Print rows as CSV with a header; lists, structs and maps are JSON in their cell, bytes base64, nulls empty."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_as_text(value) for value in row.values()])


def _as_text(value: Any) -> Any:
    if isinstance(value, list | dict):
        return json.dumps(value, default=_plain, ensure_ascii=False)
    return _plain(value) if isinstance(value, bytes) else value


def _plain(value: Any) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def print_table(table: Table) -> None:
    """Print a table; to a file or pipe its rows are not folded."""
    Console(width=None if sys.stdout.isatty() else 200, soft_wrap=not sys.stdout.isatty()).print(table)


def cell(value: Any) -> str:
    """Return a value as a cell of a table, cut to 200 characters."""
    text = "" if value is None else str(value)
    return text if len(text) <= 200 else text[:197] + "..."
