"""Commands that carry a recipe out: run, retry, abandon, plan, demo."""

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.commands.options import AsJson, Codes, LogJson, Overrides, RecipePath, known_codes
from pipelines.commands.output import say
from pipelines.places import refuse_unreachable
from pipelines.recipe import Recipe, load_recipe
from pipelines.warehouse import check_warehouse, feed_warehouse
from schemas.records import Seal


def run(recipe: RecipePath, overrides: Overrides = None, log: LogJson = None, as_json: AsJson = False) -> None:
    """Plan, resume or finish a run; print progress and a closing summary."""
    from pipelines.run import run as carry_out

    loaded = _reachable(recipe, overrides)
    _carry(loaded, lambda: carry_out(loaded), "nothing new", as_json, log)


def retry(
    recipe: RecipePath,
    code: Codes = None,
    overrides: Overrides = None,
    log: LogJson = None,
    as_json: AsJson = False,
) -> None:
    """Plan again what failed, and carry it out: by default what failed for a reason that may pass."""
    from pipelines.retry import standing_failures
    from pipelines.run import retry as carry_out
    from pipelines.store import lake_store

    loaded, codes = _reachable(recipe, overrides), known_codes(code)
    standing = standing_failures(lake_store(loaded.lake), loaded.corpus, codes)

    def not_tried(seal: Seal | None) -> Told:
        planned = seal.recordings if seal else 0
        said = standing.said(planned, codes)
        return Told({"left_to_run": standing.left(planned), "other_failures": standing.others}, said)

    _carry(loaded, lambda: carry_out(loaded, codes), "nothing to try again", as_json, log, not_tried)


def abandon(recipe: RecipePath, overrides: Overrides = None, log: LogJson = None, as_json: AsJson = False) -> None:
    """Close the open run of a corpus: what is done is published, the rest returns to the next plan."""
    from pipelines.run import abandon as carry_out

    loaded = load_recipe(recipe, overrides)
    _carry(loaded, lambda: carry_out(loaded), "no run is open", as_json, log)


def plan(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show what a run would do: recordings, hours, bytes, stages. Changes nothing."""
    from pipelines.forecast import forecast, forecast_text

    loaded = _reachable(recipe, overrides)
    facts = forecast(loaded)
    say({**facts, "recipe": loaded.model_dump(mode="json")}, forecast_text(facts, loaded), as_json)


def demo(
    lake: Annotated[Path, typer.Option(help="Where to write; made anew each time.")] = Path("demo-lake"),
    as_json: AsJson = False,
) -> None:
    """Run the whole pipeline on the shipped clips with real models, and show what came out."""
    from pipelines.demo.show import run_demo

    run_demo(lake, as_json=as_json)


@dataclass(frozen=True, slots=True)
class Told:
    """What a command adds to what it did: facts for --json, and the same as text."""

    facts: dict[str, Any] = field(default_factory=dict)
    text: str = ""


def _carry(
    recipe: Recipe,
    carry_out: Callable[[], Seal | None],
    otherwise: str,
    as_json: bool,
    log: str | None,
    add: Callable[[Seal | None], Told] = lambda _: Told(),
) -> None:
    """Carry out a command that may end in a seal, and say what it did."""
    from pipelines.operation import operating
    from pipelines.report import summary, summary_text, without_speech
    from pipelines.store import lake_store

    check_warehouse(recipe)
    started = time.monotonic()
    with operating(recipe, lambda: lake_store(recipe.lake), log):
        seal = carry_out()
    fed, added = feed_warehouse(recipe), add(seal)
    if seal is None:
        facts = {"corpus": recipe.corpus, "recordings": 0, **added.facts, **fed.facts()}
        more = f"; {added.text}" if added.text else ""
        say(facts, f"corpus {recipe.corpus}: {otherwise}{more}{fed.text()}", as_json)
        fed.check()
        return
    seconds, speechless = time.monotonic() - started, without_speech(lake_store(recipe.lake), seal)
    text = summary_text(seal, seconds, recipe.lake.uri, speechless)
    if seal.failed:
        text += f"\n  see why: phonolake failures {_as_arguments(recipe)}"
    if seal.returned:
        text += f"\n  {seal.returned:,} recordings return to the next plan"
    if added.text:
        text += f"\n  {added.text}"
    say({**summary(seal, speechless), **added.facts, **fed.facts()}, text + fed.text(), as_json)
    fed.check()


def _reachable(path: Path, overrides: list[str] | None) -> Recipe:
    """Read a recipe whose source is listed on this machine."""
    recipe = load_recipe(path, overrides)
    refuse_unreachable(recipe.source)
    return recipe


def _as_arguments(recipe: Recipe) -> str:
    """Return a recipe's lake as a command takes it, ready for a shell."""
    endpoint = recipe.lake.storage.endpoint_url
    return shlex.join([recipe.lake.uri, *(("--endpoint-url", endpoint) if endpoint else ())])
