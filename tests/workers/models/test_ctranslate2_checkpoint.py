"""A CTranslate2 folder is known as one, and what it cannot do is refused before its weights are read."""

import hashlib
import importlib.util
import json
import subprocess
import sys

import huggingface_hub
import pytest

from workers.models import ctranslate2_checkpoint, ctranslate2_weights
from workers.models.ctranslate2_checkpoint import Ctranslate2Checkpoint
from workers.models.kinds import KINDS
from workers.packaged import PACKAGED
from workers.weights import ModelError, resolve

SETTINGS = {
    "language": None,
    "task": "transcribe",
    "identify": "segment",
    "words": False,
    "guards": True,
    "pack": False,
    "options": {},
}


def ctranslate2_folder(folder, multilingual=True, name="vocabulary.txt", **config):
    folder.mkdir(parents=True)
    tokens = ["<|en|>", "<|es|>", *(f"token{number}" for number in range(51_862 + multilingual))]
    text = json.dumps(tokens) if name.endswith("json") else "\n".join(tokens) + "\n"
    (folder / name).write_text(text)
    keys = {"lang_ids": [1, 0], "suppress_ids": [], "suppress_ids_begin": [], "alignment_heads": [[0, 1]]}
    (folder / "config.json").write_text(json.dumps(keys | config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.bin").write_bytes(b"\6\0\0\0")
    return folder


def check(folder, **settings):
    KINDS["ctranslate2_whisper"].check(folder, "transcripts", SETTINGS | settings)


@pytest.mark.parametrize("name", ["vocabulary.txt", "vocabulary.json"])
def test_a_folder_says_which_languages_it_knows(tmp_path, name):
    assert Ctranslate2Checkpoint.read(ctranslate2_folder(tmp_path / "many", name=name)).languages == ("en", "es")
    assert Ctranslate2Checkpoint.read(ctranslate2_folder(tmp_path / "one", False, name)).languages == ()


def test_what_a_multilingual_model_can_do_passes(tmp_path):
    folder = ctranslate2_folder(tmp_path / "model")
    check(folder)
    check(folder, language="es", task="translate", identify="recording", words=True, guards=False)
    check(folder, options={"compute_type": "float32"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"language": "xx"}, "no language 'xx'; it has en, es"),
        ({"options": {"beam": 5}}, "the option compute_type, not beam"),
        ({"options": {"compute_type": "int3"}}, "not 'int3'"),
    ],
)
def test_what_it_cannot_do_is_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        check(ctranslate2_folder(tmp_path / "model"), **settings)


def test_an_english_only_model_neither_hears_nor_makes_another_language(tmp_path):
    folder = ctranslate2_folder(tmp_path / "model", multilingual=False)
    check(folder, language="en")
    with pytest.raises(ValueError, match="no language 'es'; it has en"):
        check(folder, language="es")
    with pytest.raises(ValueError, match="cannot translate"):
        check(folder, task="translate")


def test_words_without_alignment_heads_are_refused(tmp_path):
    folder = ctranslate2_folder(tmp_path / "model", alignment_heads=[])
    check(folder)
    with pytest.raises(ValueError, match="alignment_heads"):
        check(folder, words=True)
    with pytest.raises(ValueError, match="leave `words` and `pack` out"):
        check(folder, pack=True)


@pytest.mark.parametrize("missing", ["tokenizer.json", "vocabulary.txt"])
def test_a_folder_that_lacks_a_file_is_refused_by_its_name(tmp_path, missing):
    folder = ctranslate2_folder(tmp_path / "model")
    (folder / missing).unlink()
    with pytest.raises(ValueError, match=missing):
        check(folder)


def test_a_missing_engine_is_refused_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(ctranslate2_checkpoint.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install -c constraints.txt '\.\[ctranslate2\]'"):
        check(ctranslate2_folder(tmp_path / "model"))


def test_checking_imports_neither_torch_nor_ctranslate2(tmp_path):
    folder = ctranslate2_folder(tmp_path / "model")
    code = (
        "import sys; from pathlib import Path; from workers.models.kinds import KINDS\n"
        f"KINDS['ctranslate2_whisper'].check(Path({str(folder)!r}), 'transcripts', {SETTINGS!r})\n"
        "assert not {'torch', 'ctranslate2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("config", [{}, {"model_type": "whisper"}])
def test_a_folder_with_its_keys_and_weights_is_of_this_kind(tmp_path, config):
    assert resolve(str(ctranslate2_folder(tmp_path / "model", **config))).kind == "ctranslate2_whisper"


def test_another_model_in_the_same_format_is_refused(tmp_path):
    folder = ctranslate2_folder(tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({"bos_token": "<s>"}))
    with pytest.raises(ModelError, match="supported are"):
        resolve(str(folder))


def test_a_hub_gives_its_weights_and_never_a_pickle(tmp_path, monkeypatch):
    folder = ctranslate2_folder(tmp_path / "0123abcd")
    asked = {}

    def give(name, allow_patterns, ignore_patterns):
        asked[name] = allow_patterns
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", give)
    assert resolve("Systran/faster-whisper-large-v3").kind == "ctranslate2_whisper"
    files = ["model.bin", "config.json", "vocabulary.txt", "tokenizer.json", "pytorch_model.bin", "weights.pt", "m.py"]
    fetched = huggingface_hub.utils.filter_repo_objects(files, allow_patterns=asked["Systran/faster-whisper-large-v3"])
    assert list(fetched) == files[:4]


def test_the_packaged_parts_are_joined_and_checked(tmp_path, monkeypatch):
    for number, content in ((1, b"one"), (2, b"two")):
        part = tmp_path / f"part{number}"
        part.mkdir()
        (part / f"model.bin.part{number}").write_bytes(content)
    for name in ctranslate2_weights.SMALL_FILES:
        (tmp_path / "part1" / name).write_text(name)
    (tmp_path / "model").mkdir()
    with pytest.raises(ValueError, match=r"part1 \+ .*part2: the sha256 is 25b6746d.*, not d01c3014"):
        ctranslate2_weights.join_packaged_base(tmp_path / "part1", tmp_path / "part2", tmp_path / "model")
    assert not any((tmp_path / "model").iterdir())
    monkeypatch.setattr(ctranslate2_weights, "BASE_SHA256", hashlib.sha256(b"onetwo").hexdigest())
    ctranslate2_weights.join_packaged_base(tmp_path / "part1", tmp_path / "part2", tmp_path / "model")
    assert (tmp_path / "model" / "model.bin").read_bytes() == b"onetwo"
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"model.bin", *ctranslate2_weights.SMALL_FILES}


@pytest.mark.parametrize("name", ["faster-whisper-tiny.en", "faster-whisper-base"])
def test_a_packaged_model_resolves_to_a_folder_of_this_kind(name, tmp_path, monkeypatch):
    for package in PACKAGED[name].packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")
    monkeypatch.setenv("PHONOLAKE_CACHE", str(tmp_path))
    found = resolve(name)
    assert found.kind == "ctranslate2_whisper"
    assert resolve(str(found.folder)).kind == found.kind
    check(found.folder, words=True)
    assert bool(Ctranslate2Checkpoint.read(found.folder).languages) == (name == "faster-whisper-base")
