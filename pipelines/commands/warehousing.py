"""Commands that feed a warehouse: publish, ddl."""

from dataclasses import asdict
from typing import Annotated, Literal

import typer

from pipelines.commands.options import AsJson, Endpoint, Lake
from pipelines.commands.output import named_lake, say

Dialect = Literal["duckdb", "bigquery", "snowflake", "athena", "redshift", "spark", "clickhouse"]
Catalog = Annotated[str, typer.Option(help="A uri (sqlite:///..., http://...), or a name that pyiceberg knows.")]


def publish(
    lake: Lake,
    catalog: Catalog,
    to: Annotated[Literal["iceberg"], typer.Option("--to", help="What kind of tables.")],
    namespace: Annotated[str, typer.Option(help="Where the tables stand.")] = "phonolake",
    endpoint_url: Endpoint = None,
    as_json: AsJson = False,
) -> None:
    """Register the files of sealed runs in a warehouse's catalog: each run once, however often this is called."""
    from pipelines.iceberg import register, registration_text

    made = list(register(named_lake(lake, endpoint_url), catalog, namespace))
    say([asdict(one) for one in made], registration_text(made, namespace), as_json)


def ddl(
    lake: Lake,
    dialect: Annotated[Dialect, typer.Option(help="Whose SQL.")],
    schema: Annotated[str, typer.Option(help="BigQuery's data set, Redshift's external schema.")] = "phonolake",
    location: Annotated[str | None, typer.Option(help="The lake's uri as the engine names it, if otherwise.")] = None,
    endpoint_url: Endpoint = None,
    as_json: AsJson = False,
) -> None:
    """Print the SQL that lets a warehouse read the files: a table or view each, and the views of current rows."""
    from pipelines.ddl import script, statements
    from pipelines.lake_files import look_at

    found = statements(look_at(named_lake(lake, endpoint_url), location), dialect, schema)
    say({"dialect": dialect, "statements": found}, script(found), as_json)
