"""Commands that have a cluster do it: submit."""

import sys
from typing import Annotated

import typer

from pipelines.commands.options import AsJson, Overrides, RecipePath
from pipelines.commands.output import say
from pipelines.recipe import load_recipe


def submit(
    recipe: RecipePath,
    address: Annotated[
        str,
        typer.Option(envvar="RAY_API_SERVER_ADDRESS", metavar="URL", help="The cluster's dashboard, http://head:8265."),
    ],
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job, and exit with the run's exit code.")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Run a recipe as a job of a Ray cluster: ships the code and the recipe; one job a night."""
    from pipelines.shipment import local_paths
    from pipelines.submit import follow, job_client
    from pipelines.submit import submit as hand_in

    loaded = load_recipe(recipe, overrides)
    for path in local_paths(loaded):
        print(f"{path} is a path: every node of the cluster must see it at the same place", file=sys.stderr)
    client = job_client(address)
    submission = hand_in(client, loaded, join=wait)
    facts = {"submission_id": submission.id, "address": address, "joined": submission.joined}
    if not wait:
        text = f"job {submission.id} was submitted; follow it with the same command and --wait"
        say(facts, text, as_json)
        return
    if submission.joined:
        print(f"joined job {submission.id}, which is at work on this already", file=sys.stderr)
    outcome = follow(client, submission.id)
    facts |= {"status": outcome.status, "exit_code": outcome.exit_code}
    say(facts, f"job {submission.id}: {outcome.message}", as_json)
    raise typer.Exit(outcome.exit_code)
