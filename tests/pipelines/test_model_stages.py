"""Stages of one model: what they cannot do together is refused when it is planned, and a language is part of them."""

import pytest

from pipelines.errors import RecipeError
from pipelines.recipe import Recipe, parse_recipe
from pipelines.stages import stages_of
from pipelines.worker_settings import pool_spec, pools_of
from tests.tiny_ctc_model import write_ctc, write_languages
from tests.tiny_speech_models import save
from workers.actors import PoolMember

SMALLEST = {"corpus": "prompts", "source": {"manifest": "/prompts.csv"}, "lake": {"uri": "/lake"}}
WINDOW = {"options": {"max_window_seconds": 20}}


def recipe(**sections) -> Recipe:
    return parse_recipe({**SMALLEST, "segments": {"by": "whole"}, **sections}, "recipe.yaml")


@pytest.fixture(scope="module")
def mms(tmp_path_factory):
    return str(write_languages(tmp_path_factory.mktemp("mms")))


def transcripts(model, language):
    return {"transcripts": [{"model": model, "language": language}]}


def test_tables_of_a_classifier_with_different_windows_are_refused(tmp_path):
    model = str(save(tmp_path, "hubert with group norm", "ForSequenceClassification", num_labels=3))
    with pytest.raises(RecipeError, match=r"one max_window_seconds in `options`, not 20 for emb.*, 60 for tags"):
        stages_of(recipe(embeddings=[{"model": model} | WINDOW], tags=[{"model": model}]))
    stages_of(recipe(embeddings=[{"model": model} | WINDOW], tags=[{"model": model} | WINDOW]))


def test_transcripts_and_references_with_different_windows_are_refused(tmp_path):
    model = str(write_ctc(tmp_path))
    reference = {"model": "reference", "align_with": model}
    with pytest.raises(RecipeError, match=r"20 for .*, 60 for transcripts/reference"):
        stages_of(recipe(transcripts=[{"model": model} | WINDOW, reference]))
    stages_of(
        recipe(transcripts=[{"model": model} | WINDOW, reference | WINDOW], embeddings=[{"model": model} | WINDOW])
    )


def test_another_language_is_another_stage(mms):
    english, french = (stages_of(recipe(**transcripts(mms, language)))[-1] for language in ("eng", "fra"))
    assert english.fingerprint != french.fingerprint
    assert english.checkpoint.digest != french.checkpoint.digest


def test_an_unknown_language_is_refused_with_the_model_and_its_languages(mms):
    with pytest.raises(RecipeError, match=f"transcripts: {mms}: it has no language 'en'; name one of eng, fra"):
        stages_of(recipe(**transcripts(mms, "en")))


def test_a_model_hears_one_language_in_a_recipe(mms):
    guess, reference = {"model": mms, "language": "eng"}, {"model": "reference", "align_with": mms}
    for one in (
        {"transcripts": [guess, reference]},
        {"transcripts": [guess, reference | {"language": "fra"}]},
        {"transcripts": [guess], "embeddings": [{"model": mms}]},
    ):
        with pytest.raises(RecipeError, match=r"through the adapter of one language, and the recipe has .*eng for"):
            stages_of(recipe(**one))
    stages_of(recipe(transcripts=[guess, reference | {"language": "eng"}]))
    stages_of(recipe(transcripts=[{"model": mms}], embeddings=[{"model": mms}]))


def test_a_pool_loads_the_adapter_that_was_planned(mms):
    made = recipe(**transcripts(mms, "fra"))
    [pool] = pools_of(stages_of(made))
    assert PoolMember(pool_spec(pool, made, threads=1)).hear_silence() == {f"transcripts/{mms}": 1}
