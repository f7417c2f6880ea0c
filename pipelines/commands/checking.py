"""The command that checks before a night does: doctor."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.options import AsJson, Overrides
from pipelines.commands.output import print_json
from pipelines.recipe import load_recipe

MaybeRecipe = Annotated[Path | None, typer.Argument(metavar="[RECIPE]", help="Also check what this recipe needs.")]


def doctor(recipe: MaybeRecipe = None, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check machine, packages, Ray and GPUs, and a recipe's stores and models; exit code 1 where a check failed."""
    from pipelines.doctor.diagnosis import diagnose

    found = []
    for check in diagnose(load_recipe(recipe, overrides) if recipe else None):
        found.append(check)
        if not as_json:
            print(f"{check.state:<8} {check.name:<18} {check.said}", flush=True)
            if check.do:
                print(f"{'':<27} -> {check.do}", flush=True)
    if as_json:
        print_json([asdict(check) for check in found])
    if any(check.state == "failed" for check in found):
        raise typer.Exit(1)
