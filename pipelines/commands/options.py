"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.errors import RecipeError
from schemas.failures import CODES

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
Codes = Annotated[
    list[str] | None, typer.Option("--code", metavar="CODE", help="Only these failure codes; may be repeated.")
]
Endpoint = Annotated[str | None, typer.Option("--endpoint-url", help="S3 endpoint, if not AWS's.")]


def known_codes(codes: list[str] | None) -> list[str]:
    """Return the failure codes that a command was given.

    Raises:
        RecipeError: there is none of that name.
    """
    if unknown := sorted(set(codes or ()) - CODES.keys()):
        raise RecipeError(f"there is no failure code {', '.join(unknown)}; there are {', '.join(sorted(CODES))}")
    return codes or []
