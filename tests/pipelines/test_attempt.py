"""How many failures stop a run."""

from dataclasses import replace

import pytest
from hand_made import RECIPE, planned

from pipelines.attempt import allowed_failures, stopped
from pipelines.recipe_sections import LimitsSection


@pytest.mark.parametrize(
    ("recordings", "fraction", "tolerated", "allowed"),
    [
        (1, 0.5, 10, 10),  # one bad file does not hold up a small night
        (1_000_000, 0.5, 10, 500_000),
        (1_000, 0.001, 0, 1),
        (100, 0.29, 0, 29),  # which is 28.999 in floating point
        (1, 0.5, 0, 0),
        (1_000, 0.0, 10, 0),  # not one is wanted
    ],
)
def test_a_few_failures_never_stop_a_run_unless_none_is_wanted(store, recordings, fraction, tolerated, allowed):
    plan, _ = planned(store, 1)
    limits = LimitsSection(max_failed_fraction=fraction, tolerated_failures=tolerated)
    recipe = RECIPE.model_copy(update={"limits": limits})
    assert allowed_failures(recipe, replace(plan, recordings=recordings)) == allowed


def test_a_retry_has_no_budget_since_it_is_about_what_failed(store):
    plan, _ = planned(store, 3)
    recipe = RECIPE.model_copy(update={"limits": LimitsSection(max_failed_fraction=0)})
    assert allowed_failures(recipe, replace(plan, retry=True)) == 3


class OfRay(Exception):
    """As Ray tells an error of a worker: as text."""


CAUSED = "\n\nThe above exception was the direct cause of the following exception:\n\n"
TOLD = {
    "ours says where": (
        "  File x\nOSError: [Errno 28] No space left on device"
        f"{CAUSED}  File y\npipelines.errors.StoreError: cannot write /lake/a.parquet: OSError: [Errno 28] No space"
        f"{CAUSED}ray.exceptions.UserCodeException: UDF failed",
        "cannot write /lake/a.parquet: OSError: [Errno 28] No space",
    ),
    "without any the first": (
        f"  File x\npyarrow.lib.ArrowInvalid: a.b: no\n{CAUSED}ray.exceptions.UserCodeException: UDF failed",
        "ArrowInvalid: a.b: no",
    ),
    "nothing caused it": ("UDF failed", "OfRay: UDF failed"),
}


@pytest.mark.parametrize("case", TOLD)
def test_what_a_worker_raised_is_told_and_not_what_ray_says_of_it(store, case):
    plan, _ = planned(store, 1)
    text, said = TOLD[case]
    assert str(stopped(plan, OfRay(text))) == f"run 00001 stopped: {said}; run the same command to resume"
