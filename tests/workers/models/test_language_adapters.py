"""A CTC checkpoint of many languages hears in the one that is asked for, as transformers' load_adapter makes it."""

import json

import numpy as np
import pytest
import torch
import transformers

from tests.tiny_ctc_model import LANGUAGES, write_ctc, write_languages
from tests.tiny_speech_models import CPU, noise, outputs, save
from workers.models import ctc
from workers.models.alignment import Vocabulary, align
from workers.models.ctc import CtcModel
from workers.models.kinds import KINDS
from workers.models.model import Clip, Loading, ModelStage

SETTINGS = {"language": None, "task": "transcribe", "pack": False, "align_with": None, "options": {}}
GUESS = CtcModel._guess


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_languages(tmp_path_factory.mktemp("mms"))


def stage(language, align_with=None):
    return ModelStage("transcripts/m", "transcripts", SETTINGS | {"language": language, "align_with": align_with})


def load(folder, *stages):
    return CtcModel.load(Loading(folder, CPU, torch.float32, stages, 16, 60.0))


def adapted(folder, language):
    """transformers' own class and tokenizer in a language, as its documentation has them loaded."""
    network = transformers.Wav2Vec2ForCTC.from_pretrained(folder, attn_implementation="eager").eval()
    network.load_adapter(language)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.set_target_lang(language)
    return network, tokenizer


@pytest.mark.parametrize("language", LANGUAGES)
def test_probabilities_and_texts_are_those_of_load_adapter(folder, language, monkeypatch):
    network, tokenizer = adapted(folder, language)
    model, waves = load(folder, stage(language)), [noise(size, size) for size in (5_000, 31_000, 16_000)]
    seen = []
    monkeypatch.setattr(CtcModel, "_guess", lambda self, clip, found: seen.append(found) or GUESS(self, clip, found))
    results = model.run([Clip(wave) for wave in waves])
    for wave, found, result in zip(waves, seen, results, strict=True):
        logits = outputs(network, folder, wave).logits[0]
        assert found.shape == (len(logits), len(LANGUAGES[language]))
        np.testing.assert_allclose(found, logits.log_softmax(-1).numpy(), atol=1e-4)
        [row] = model.rows(result, stage(language))
        assert row["text"] == tokenizer.decode(logits.argmax(-1)).strip()
        assert row["language"] == language
    assert any(result.transcript["text"] for result in results)


def test_each_language_hears_something_else_and_so_does_the_checkpoint_alone(folder):
    clip = Clip(noise(40_000))
    heard = [load(folder, stage(language)).run([clip])[0].transcript["text"] for language in (None, *LANGUAGES)]
    assert len(set(heard)) == 3


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_reference_is_aligned_with_the_letters_of_the_language(folder, language):
    network, _ = adapted(folder, language)
    numbers = {label: number for number, label in enumerate(LANGUAGES[language]) if len(label) == 1}
    vocabulary = Vocabulary(numbers, LANGUAGES[language].index("<pad>"), numbers["|"])
    assert ctc._vocabulary(ctc.read_tokenizer(folder, language)) == vocabulary
    wave, told = noise(48_000), stage(language, "m")
    log_probs = outputs(network, folder, wave).logits[0].log_softmax(-1).numpy()
    expected = align(log_probs, "Garçon, où est-il?", vocabulary)
    model = load(folder, told)
    [row] = model.rows(model.run([Clip(wave, reference="Garçon, où est-il?")])[0], told)
    probabilities = [word["probability"] for word in row["words"]]
    assert probabilities == pytest.approx([word.probability for word in expected], abs=1e-4)


def test_a_language_without_a_delimiter_is_aligned_without_one(tmp_path):
    write_languages(tmp_path)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    vocabulary["fra"]["¦"] = vocabulary["fra"].pop("|")
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    assert ctc._vocabulary(ctc.read_tokenizer(tmp_path, "fra")).delimiter is None
    assert ctc._vocabulary(ctc.read_tokenizer(tmp_path, "eng")).delimiter == 4


def refused(folder, language, match):
    with pytest.raises(ValueError, match=match):
        KINDS["ctc"].check(folder, "transcripts", SETTINGS | {"language": language})


def test_a_language_it_has_not_is_refused_with_those_it_has(folder):
    for language in (None, *LANGUAGES):
        KINDS["ctc"].check(folder, "transcripts", SETTINGS | {"language": language})
    refused(folder, "fr", r"it has no language 'fr'; name one of fra, eng$")


def test_of_a_thousand_languages_the_likely_ones_are_named(tmp_path):
    write_languages(tmp_path)
    many = {f"q{number:03d}": {"a": 0} for number in range(1_000)} | {"deu": {"a": 0}}
    (tmp_path / "vocab.json").write_text(json.dumps(many))
    refused(tmp_path, "de", r"name one of deu, q000, .* and 981 more, the keys of its vocab\.json")


def test_a_missing_adapter_is_refused_with_the_remedy(tmp_path):
    write_languages(tmp_path)
    (tmp_path / "adapter.fra.safetensors").rename(tmp_path / "adapter.fra.bin")
    refused(tmp_path, "fra", r"lacks adapter\.fra\.safetensors, .* those of eng; add the file .*converted")
    (tmp_path / "adapter.eng.safetensors").unlink()
    refused(tmp_path, "fra", "there is none of any language")


def test_a_checkpoint_of_languages_that_has_none_by_default_wants_one(tmp_path):
    write_languages(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"target_lang": None}))
    refused(tmp_path, None, "none by default; name one in `language`: eng, fra")
    assert load(tmp_path, stage("fra")).run([Clip(noise(9_000))])[0].transcript is not None


def test_a_network_without_a_place_for_adapters_is_refused(tmp_path):
    save(tmp_path, "hubert with layer norms", "ForCTC", vocab_size=9)
    (tmp_path / "vocab.json").write_text(json.dumps({"eng": {"a": 0}}))
    refused(tmp_path, "eng", "no place for adapters")


def test_a_model_of_one_language_takes_any_unless_it_has_adapters(tmp_path):
    write_ctc(tmp_path)
    KINDS["ctc"].check(tmp_path, "transcripts", SETTINGS | {"language": "en"})
    write_ctc(tmp_path, "wav2vec2 with attention adapters")
    refused(tmp_path, "en", "of one language, with no others to choose from")
