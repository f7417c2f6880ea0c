"""What `clips` does to a recipe's stages: one more, and the others stay what they were."""

import pytest

from pipelines.errors import RecipeError
from pipelines.recipe import Recipe, parse_recipe
from pipelines.stages import CODE_VERSIONS, stages_of
from pipelines.worker_settings import block_seconds, clip_stages

SMALLEST = {
    "corpus": "prompts",
    "source": {"uri": "/prompts/"},
    "lake": {"uri": "/lake"},
    "segments": {"by": "whole"},
    "spectrograms": [{"kind": "log_mel"}],
}


def recipe(**sections) -> Recipe:
    return parse_recipe(SMALLEST | sections, "recipe.yaml")


def fingerprints(made: Recipe) -> dict[str, str]:
    return {stage.id: stage.fingerprint for stage in stages_of(made)}


def test_clips_are_a_stage_more_and_change_no_other():
    plain, more = fingerprints(recipe()), fingerprints(recipe(clips={"format": "flac"}))
    assert more.keys() - plain.keys() == {"clips/flac"}
    assert plain.items() <= more.items()
    assert clip_stages(stages_of(recipe(clips={}))) == ["clips/flac"]
    assert clip_stages(stages_of(recipe())) == []


def test_clips_follow_how_segments_are_cut_and_their_own_code(monkeypatch):
    found = {fingerprints(recipe(clips={}, segments={"by": by}))["clips/flac"] for by in ("whole", "windows")}
    found |= {fingerprints(recipe(clips={}, audio={"sample_rate": 48000}))["clips/flac"]}
    monkeypatch.setitem(CODE_VERSIONS, "clips", "next")
    found |= {fingerprints(recipe(clips={}))["clips/flac"]}
    assert len(found) == 4


def test_clips_are_the_sound_itself_where_others_hear_it_enhanced():
    stages = stages_of(recipe(clips={}, enhance={"model": "spectral-gate", "tables": ["spectrograms"]}))
    assert {stage.table: stage.signal for stage in stages}["clips"] == "pcm"


def test_a_block_holds_less_where_spectrograms_and_clips_are_made_of_it():
    made = [recipe(), recipe(clips={}), recipe(clips={}, spectrograms=[])]
    plain, both, clips = (block_seconds(one, stages_of(one)) for one in made)
    assert both < 0.8 * plain
    assert clips == 3600


def test_a_format_that_loses_something_is_refused():
    with pytest.raises(RecipeError, match=r"clips\.format: Input should be 'flac'"):
        recipe(clips={"format": "mp3"})
