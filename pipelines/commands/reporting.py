"""The command that shows a lake to people: report."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.options import AsJson, Endpoint, Lake
from pipelines.commands.output import named_lake, print_json
from pipelines.errors import RecipeError

DEFAULT_PAGE = Path("report.html")
AUDIO_HELP = "Read the clips' sound from their sources; not for a lake of strangers, which says what is read."


def report(
    lake: Lake,
    out: Annotated[Path | None, typer.Option("--out", help="The page to write.  [default: report.html]")] = None,
    clips: Annotated[int, typer.Option("--clips", min=0, max=24, help="How many segments to look at and hear.")] = 6,
    audio: Annotated[
        bool,
        typer.Option(
            "--audio/--no-audio",
            help=AUDIO_HELP,
        ),
    ] = True,
    endpoint_url: Endpoint = None,
    as_json: AsJson = False,
) -> None:
    """Make one page of a lake: hours, lengths, languages, tags, levels, failures, speed, and some clips to hear.

    With --json the same figures are printed instead, and the page is written only where --out names it.
    """
    from pipelines.page.page import make_report, render

    page = out or (None if as_json else DEFAULT_PAGE)
    if page and not page.absolute().parent.is_dir():
        raise RecipeError(f"{page} cannot be written: there is no folder {page.absolute().parent}")
    store = named_lake(lake, endpoint_url)
    made = make_report(store, lake, endpoint_url, most_clips=clips, sound=audio and page is not None)
    if page:
        try:
            page.write_text(render(made), encoding="utf-8")
        except OSError as error:
            raise RecipeError(f"{page} cannot be written: {error}; name another place with --out") from None
    if as_json:
        print_json(made.facts())
    elif page:
        print(f"{page}: {page.stat().st_size / 1e6:.1f} MB, {len(made.answers)} figures, {len(made.clips)} clips")
