"""What a recipe may ask of a speech encoder is told from its config files, before anything is loaded."""

import json

import pytest

from workers.models.kinds import KINDS
from workers.models.speech_settings import layer_mix, mix_name, read_preparation, window_seconds


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "wavlm", "num_hidden_layers": 4}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False}))
    return tmp_path


def settings(**given):
    return {"layer": None, "pooling": "mean", "options": {}} | given


def refused(kind, folder, table, match, **given):
    with pytest.raises(ValueError, match=match):
        KINDS[kind].check(folder, table, settings(**given))


@pytest.mark.parametrize("kind", ["speech", "ctc", "classifier"])
def test_a_layer_must_be_one_of_the_transformer_s(kind, folder):
    for layer in (None, 0, 4, -1, -5, {1: 0.5, -1: 2}):
        KINDS[kind].check(folder, "embeddings", settings(layer=layer))
    for layer, told in ((5, "not 5"), (-6, "not -6"), ({2: 1.0, 9: 1.0}, "not 9")):
        refused(kind, folder, "embeddings", f"layers 0 to 4 .*{told}", layer=layer)
    refused(kind, folder, "embeddings", "names no layer", layer={})


def test_a_config_that_is_silent_has_twelve_layers(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "hubert"}))
    KINDS["speech"].check(folder, "embeddings", settings(layer=12))
    refused("speech", folder, "embeddings", "layers 0 to 12", layer=13)


@pytest.mark.parametrize("seconds", [0, 0.5, 601, "60", True, None])
def test_windows_are_of_one_second_to_ten_minutes(seconds, folder):
    refused("speech", folder, "embeddings", "max_window_seconds is 1 to 600", options={"max_window_seconds": seconds})
    assert window_seconds({}) == 60.0
    assert window_seconds({"options": {"max_window_seconds": 30}}) == 30.0


def test_other_options_are_refused(folder):
    refused("speech", folder, "embeddings", "its option is max_window_seconds, not hop", options={"hop": 1})


def test_a_speaker_has_no_layers_and_its_own_pooling(folder):
    for pooling in ("mean", "mean_std"):
        KINDS["xvector"].check(folder, "embeddings", settings(pooling=pooling))
    refused("xvector", folder, "embeddings", "has no layers to choose from", layer=1)
    refused("xvector", folder, "embeddings", "leave `pooling` out", pooling="frames")


def test_a_number_is_no_label(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "wav2vec2", "problem_type": "regression"}))
    refused("classifier", folder, "tags", "gives a number")
    KINDS["classifier"].check(folder, "embeddings", settings())


def test_an_adapter_is_refused_before_it_is_loaded(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "wav2vec2", "add_adapter": True}))
    refused("speech", folder, "embeddings", "add_adapter")


def test_whether_samples_are_normalised_is_never_assumed(folder):
    assert read_preparation(folder) == {"sampling_rate": 16_000, "do_normalize": False}
    (folder / "preprocessor_config.json").rename(folder / "elsewhere.json")
    refused("speech", folder, "embeddings", "holds no preprocessor_config.json")
    nested = {"feature_extractor": {"do_normalize": True, "sampling_rate": 8_000}}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    assert read_preparation(folder) == {"sampling_rate": 8_000, "do_normalize": True}


def test_mixes_have_names_that_say_what_they_are():
    for layer, name in ((None, "last_hidden_state"), (-1, "4"), (0, "0"), ({3: 0.5, 1: 2}, "2*1+0.5*3")):
        assert mix_name(layer_mix(layer, 4)) == name
    assert layer_mix({4: 0.5, -1: 0.25}, 4) == {4: 0.75}
