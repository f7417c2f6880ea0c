"""What plan prints: the resolved recipe says which spectrogram each kind is."""

import re
from contextlib import nullcontext
from dataclasses import replace

import pytest
import yaml
from hand_made import RECIPE, STAGES, planned

from pipelines.errors import OpenRunConflict
from pipelines.forecast import forecast_text
from pipelines.recipe import Recipe, parse_recipe
from pipelines.run import check_same, what_differs

SMALLEST = {"corpus": "prompts", "source": {"uri": "/clips/"}, "lake": {"uri": "/lake"}}
COUNTS = ("listed", "new", "changed", "stage_only", "gone", "recordings", "size_bytes")
FACTS = dict.fromkeys(COUNTS, 0) | {"corpus": "x", "estimated_hours": None, "stages": {}, "open_run": None}


def printed(**changes: object) -> tuple[Recipe, str]:
    recipe = parse_recipe({**SMALLEST, **changes}, "recipe.yaml")
    return recipe, forecast_text(FACTS, recipe).partition("the resolved recipe:\n")[2]


@pytest.mark.parametrize(
    ("rate", "section", "said"),
    [
        (
            16_000,
            {"kind": "power"},
            "n_bins 257, window_seconds 0.025, hop_seconds 0.01, f_min 0, f_max 8000; FFT of 512",
        ),
        (
            48_000,
            {"kind": "log_mel"},
            "n_bins 80, window_seconds 0.025, hop_seconds 0.01, f_min 0, f_max 24000; FFT of 2048",
        ),
        (16_000, {"kind": "mfcc", "hop_seconds": 0.02}, "n_bins 40, window_seconds 0.025, hop_seconds 0.02"),
        (16_000, {"kind": "log_mel", "preset": "whisper"}, "FFT of 400 samples"),
    ],
)
def test_what_a_spectrogram_does_not_say_is_filled_in_behind_its_kind(rate, section, said):
    _, text = printed(spectrograms=[section], audio={"sample_rate": rate})
    assert f"- kind: {section['kind']}  # " in text
    assert said in text


def test_the_printed_recipe_is_still_the_same_recipe():
    recipe, text = printed(spectrograms=[{"kind": "power"}, {"kind": "log_mel", "n_bins": 64}, {"kind": "mfcc"}])
    assert parse_recipe(yaml.safe_load(text), "again").fingerprint() == recipe.fingerprint()


OTHER_STAGES = [STAGES[0], replace(STAGES[1], fingerprint="other")]
OTHER_RECIPE = parse_recipe({**SMALLEST, "audio": {"sample_rate": 48_000}}, "other")


@pytest.mark.parametrize(
    ("recipe", "stages", "said"),
    [
        (RECIPE, STAGES, "will be resumed first"),
        (RECIPE, OTHER_STAGES, "was planned with other weights or code for tags/toy: run would end with code 4"),
        (OTHER_RECIPE, STAGES, "was planned with another recipe"),
    ],
)
def test_plan_says_of_an_open_run_what_run_will_do_with_it(store, recipe, stages, said):
    plan, _ = planned(store, 3)
    differs = what_differs(recipe, stages, plan)
    facts = {**FACTS, "open_run": plan.run, "open_recordings": plan.recordings, "open_run_differs": differs}
    assert f"run 00001 is open with 3 recordings, and {said}" in forecast_text(facts, recipe)
    with nullcontext() if differs is None else pytest.raises(OpenRunConflict, match=re.escape(differs)):
        check_same(recipe, stages, plan, store)
