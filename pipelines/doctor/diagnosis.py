"""All checks, in the order in which one builds on the other."""

from pipelines.doctor.check import Checks, tried
from pipelines.doctor.cluster import check_ray
from pipelines.doctor.decoding import check_decoder
from pipelines.doctor.machine import machine_checks
from pipelines.doctor.models import model_checks
from pipelines.doctor.stores import store_checks
from pipelines.recipe import Recipe


def diagnose(recipe: Recipe | None) -> Checks:
    """Check the machine and its cluster, and with a recipe its stores and models, one after the other."""
    yield from machine_checks()
    yield tried("decoder", check_decoder, "reinstall the project's packages")
    reached = tried("ray", check_ray, "mend RAY_ADDRESS, or see the log in /tmp/ray/session_latest/logs")
    yield reached
    if recipe is not None:
        yield from store_checks(recipe)
        yield from model_checks(recipe, has_ray=reached.state != "failed")
