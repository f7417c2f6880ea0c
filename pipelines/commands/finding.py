"""Commands that find segments by sound: search, similar."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from pipelines.commands.options import AsJson, Endpoint, Lake
from pipelines.commands.output import named_lake, print_json, print_table
from pipelines.search import Found

Model = Annotated[str | None, typer.Option("--model", help="Whose embeddings; needed where the lake has several.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="How many segments to show.")]


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

    _show_found(find(named_lake(lake, endpoint_url), text, model, limit), as_json)


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

    _show_found(find(named_lake(lake, endpoint_url), segment_id, model, limit), as_json)


def _show_found(found: Found, as_json: bool) -> None:
    """Print what a search found."""
    if as_json:
        facts = asdict(found)
        print_json({**facts.pop("space"), **facts})
        return
    table = Table("score", "seconds", "segment", "uri", box=None, pad_edge=False)
    for match in found.matches:
        seconds = f"{match.start_seconds:.2f}-{match.end_seconds:.2f}"
        table.add_row(f"{match.score:.4f}", seconds, match.segment_id, escape(match.uri))
    print_table(table)
    others = f"; {found.left_out:,} of another revision, layer or pooling left out" if found.left_out else ""
    print(f"{found.compared:,} segments compared by {found.space.model}{others}")
