"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change the recipe.")]
LogJson = Annotated[
    str | None,
    typer.Option(
        "--log-json",
        metavar="PATH",
        envvar="PHONOLAKE_LOG_JSON",
        help="Append a JSON line per event to a file; - is standard error.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print facts as JSON.")]
Lake = Annotated[str, typer.Argument(metavar="LAKE", help="The lake: a folder or an s3:// uri.")]
Endpoint = Annotated[str | None, typer.Option("--endpoint-url", help="S3 endpoint, if not AWS's.")]
