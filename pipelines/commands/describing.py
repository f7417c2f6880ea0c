"""The command that describes a lake to others: card."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.options import AsJson, Endpoint, Lake
from pipelines.commands.output import named_lake, print_json
from pipelines.errors import RecipeError


def card(
    lake: Lake,
    out: Annotated[Path | None, typer.Option("--out", help="A folder to write both to.")] = None,
    in_lake: Annotated[bool, typer.Option("--in-lake", help="Write both into the lake's root.")] = False,
    url: Annotated[str | None, typer.Option("--url", help="Where the lake can be had; else where it lies.")] = None,
    endpoint_url: Endpoint = None,
    as_json: AsJson = False,
) -> None:
    """Describe a lake: a dataset card, README.md, that Hugging Face's loader reads, and croissant.json.

    Both name files relative to the lake's root, where they belong: with --in-lake, or beside a copy of its data.
    Without a place to write to, the card is printed.
    """
    from pipelines import card as page
    from pipelines import croissant
    from pipelines.description import describe

    if out and in_lake:
        raise RecipeError("card: --out and --in-lake are two places; give one")
    store = named_lake(lake, endpoint_url)
    found = describe(store)
    files = {page.NAME: page.card(found), croissant.NAME: croissant.croissant(found, url or store.uri)}
    written = [store.url(name) for name in files] if in_lake else [str(out / name) for name in files] if out else []
    if in_lake:
        for name, text in files.items():
            store.put(name, text.encode())  # a later card takes the place of an earlier one
    elif out:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (out / name).write_text(text)
    if as_json:
        print_json({"files": written, **asdict(found)})
    else:
        print("\n".join(f"wrote {name}" for name in written) or files[page.NAME])
