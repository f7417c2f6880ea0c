"""A recipe at 48 kHz: what it takes and refuses, and what follows from the rate."""

import pytest

from pipelines.errors import RecipeError
from pipelines.recipe import Recipe, parse_recipe
from pipelines.stages import stages_of
from pipelines.worker_settings import (
    MADE_BLOCK_BYTES,
    MODEL_BLOCK_SECONDS,
    bytes_per_second,
    decode_settings,
    ingest_settings,
    pool_spec,
    pools_of,
)

SMALLEST = {"corpus": "prompts", "source": {"uri": "/prompts/"}, "lake": {"uri": "/lake"}}


def recipe(rate: int = 48_000, **sections) -> Recipe:
    return parse_recipe({**SMALLEST, "audio": {"sample_rate": rate}, **sections}, "recipe.yaml")


@pytest.mark.parametrize("rate", [8_000, 24_000, 44_100])
def test_other_rates_are_refused(rate):
    with pytest.raises(RecipeError, match=r"audio.sample_rate: Input should be 16000 or 48000"):
        recipe(rate)


def test_the_rate_reaches_the_decoder_and_the_pools():
    made = recipe(tags=[{"model": "yamnet"}])
    assert decode_settings(made).sample_rate == 48_000
    ((stage,),) = pools_of(stages_of(made))
    assert pool_spec([stage], made, threads=1).sample_rate == 48_000


@pytest.mark.parametrize("by", ["speech", "whole"])
def test_another_rate_computes_everything_anew(by):
    sections = {"segments": {"by": by}, "spectrograms": [{"kind": "mfcc"}], "tags": [{"model": "yamnet"}]}
    narrow, wide = ([stage.fingerprint for stage in stages_of(recipe(rate, **sections))] for rate in (16_000, 48_000))
    assert not set(narrow) & set(wide)
    assert recipe(16_000, **sections).fingerprint() != recipe(48_000, **sections).fingerprint()


@pytest.mark.parametrize("n_bins", [80, 128])
def test_whispers_spectrogram_is_refused_when_it_is_planned(n_bins):
    section = {"kind": "log_mel", "n_bins": n_bins, "preset": "whisper"}
    stages_of(recipe(16_000, spectrograms=[section]))
    with pytest.raises(RecipeError, match="preset 'whisper' needs 16000 Hz, not 48000"):
        stages_of(recipe(spectrograms=[section]))


def test_bands_up_to_24_khz_are_taken():
    kinds = [{"kind": "log_mel", "f_max": 24_000}, {"kind": "mfcc"}, {"kind": "power"}]
    assert len(stages_of(recipe(spectrograms=kinds))) == 4
    with pytest.raises(RecipeError, match="do not fit in 0 to 8000"):
        stages_of(recipe(16_000, spectrograms=kinds))


def test_a_block_has_no_more_bytes_at_48_khz():
    narrow, wide = recipe(16_000), recipe()
    blocks = [ingest_settings(one, stages_of(one)).block_seconds for one in (narrow, wide)]
    assert blocks == [3600, 1200]
    assert bytes_per_second(wide) == 96_000
    fine = recipe(spectrograms=[{"kind": "power"}])  # 1025 bins: 410 kB a second
    assert ingest_settings(fine, stages_of(fine)).block_seconds == pytest.approx(MADE_BLOCK_BYTES / 410_000)
    pooled = recipe(tags=[{"model": "yamnet"}])
    assert ingest_settings(pooled, stages_of(pooled)).block_seconds == MODEL_BLOCK_SECONDS
