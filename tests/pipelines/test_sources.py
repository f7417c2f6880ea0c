"""Listing local sources: prefixes, globs, single files and manifests."""

import os
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.errors import RecipeError
from pipelines.globs import matches
from pipelines.recipe_sections import SourceSection
from pipelines.sources import LISTING, list_source

FILES = {"a.wav": b"1", "b.flac": b"22", "deep/c.wav": b"333", "deep/er/d.wav": b"", "deep/notes.txt": b"x"}


@pytest.fixture
def corpus(tmp_path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "corpus" / "empty").mkdir()
    return tmp_path / "corpus"


def listed(corpus: Path, uri: str, **section) -> list[str]:
    table = list_source(SourceSection(uri=uri, **section))
    assert table.schema == LISTING
    return sorted(os.path.relpath(found, corpus) for found in table["uri"].to_pylist())


@pytest.mark.parametrize("shape", ["{}", "{}/", "file://{}", "file://{}/"])
def test_a_prefix_is_every_object_below_it_at_any_depth(corpus, shape):
    assert listed(corpus, shape.format(corpus)) == sorted(FILES)


def test_a_row_has_the_absolute_path_the_size_and_the_time(corpus):
    os.utime(corpus / "deep" / "c.wav", ns=(0, 1_700_000_000_123_456_789))
    [row] = list_source(SourceSection(uri=str(corpus), include=("c.wav",))).to_pylist()
    assert row == {
        "uri": str(corpus / "deep" / "c.wav"),
        "etag": None,
        "size_bytes": 3,
        "modified_ns": 1_700_000_000_123_456_789,
        "metadata": None,
        "place": None,
        "problem": None,
    }


def test_objects_without_bytes_are_listed(corpus):
    assert "deep/er/d.wav" in listed(corpus, str(corpus))


def test_what_macos_puts_beside_the_files_of_a_folder_is_left_out_and_told(corpus, caplog):
    for name in FILES:
        (corpus / name).with_name(f"._{Path(name).name}").write_bytes(b"\0\5\x16\7")
    (corpus / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (corpus / ".hidden.wav").write_bytes(b"1")
    assert listed(corpus, str(corpus)) == sorted([*FILES, ".hidden.wav"])
    assert "left out: 6" in caplog.text
    assert listed(corpus, f"{corpus}/._a.wav") == ["._a.wav"]


def test_a_single_file_is_a_source(corpus):
    assert listed(corpus, str(corpus / "a.wav")) == ["a.wav"]


@pytest.mark.parametrize("scheme", ["", "file://"])
@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("*.wav", ["a.wav"]),
        ("**/*.wav", ["a.wav", "deep/c.wav", "deep/er/d.wav"]),
        ("deep/*", ["deep/c.wav", "deep/notes.txt"]),
        ("*/c.*", ["deep/c.wav"]),
        ("[ab].*", ["a.wav", "b.flac"]),
        ("?.flac", ["b.flac"]),
    ],
)
def test_a_glob_chooses_by_the_whole_path(corpus, scheme, glob, expected):
    assert listed(corpus, f"{scheme}{corpus}/{glob}") == expected


@pytest.mark.parametrize(
    "glob",
    [
        "./deep/*.wav",
        "deep/*.wav",
        "deep//*.wav",
        "er/../deep/*.wav",
        "./deep/./[c].wav",
        "file://{}//deep/../deep/*.wav",
    ],
)
def test_a_glob_may_be_written_from_here_and_in_any_spelling(corpus, monkeypatch, glob):
    monkeypatch.chdir(corpus)
    assert listed(corpus, glob.format(corpus)) == ["deep/c.wav"]


def test_a_glob_from_here_does_not_match_further_down(corpus, monkeypatch):
    (corpus / "deep" / "deep").mkdir()
    (corpus / "deep" / "deep" / "z.wav").write_bytes(b"1")
    monkeypatch.chdir(corpus)
    assert listed(corpus, "deep/*.wav") == ["deep/c.wav"]


@pytest.mark.parametrize("glob", ["s3://b/c/*.wav", "s3a://b/c/*.wav"])
def test_a_glob_of_either_spelling_of_s3_matches_both(glob):
    uris = pa.chunked_array([["s3://b/c/a.wav", "s3a://b/c/a.wav", "s3://b/c/d/a.wav"]])
    assert matches(uris, [glob]).to_pylist() == [True, True, False]


def test_include_may_be_a_file_uri(corpus):
    assert listed(corpus, str(corpus), include=(f"file://{corpus}/*.wav",)) == ["a.wav"]


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (("*.wav",), (), ["a.wav", "deep/c.wav", "deep/er/d.wav"]),
        (("*.wav", "*.flac"), (), ["a.wav", "b.flac", "deep/c.wav", "deep/er/d.wav"]),
        ((), ("*.txt", "deep/er/*"), ["a.wav", "b.flac", "deep/c.wav"]),
        (("*.wav",), ("deep/**",), ["a.wav"]),
        (("er/*.wav",), (), ["deep/er/d.wav"]),
    ],
)
def test_include_and_exclude_are_globs_over_the_end_of_the_path(corpus, include, exclude, expected):
    assert listed(corpus, str(corpus), include=include, exclude=exclude) == expected


def test_include_and_exclude_may_be_whole_paths(corpus):
    assert listed(corpus, str(corpus), include=(f"{corpus}/*.wav",)) == ["a.wav"]


def test_a_dot_in_a_glob_is_a_dot(corpus):
    (corpus / "axwav").write_bytes(b"1")
    assert "axwav" not in listed(corpus, str(corpus), include=("*.wav",))


@pytest.mark.parametrize("name", ["with space.wav", "Überraschung 音.wav", "a+b(1)=x&y.wav", "100%.wav", "it's.wav"])
def test_any_readable_name_is_listed_as_it_is(tmp_path, name):
    (tmp_path / name).write_bytes(b"1")
    assert listed(tmp_path, str(tmp_path), include=("*.wav",)) == [name]


def test_a_link_to_a_file_or_folder_is_followed_and_a_broken_one_is_not(corpus, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "e.wav").write_bytes(b"1")
    (corpus / "linked").symlink_to(outside)
    (corpus / "f.wav").symlink_to(outside / "e.wav")
    (corpus / "broken.wav").symlink_to(tmp_path / "nowhere")
    assert listed(corpus, str(corpus), include=("*.wav",)) == sorted(
        ["a.wav", "deep/c.wav", "deep/er/d.wav", "f.wav", "linked/e.wav"]
    )


def test_a_link_to_itself_or_through_a_file_is_as_broken_as_one_to_nowhere(corpus):
    (corpus / "loop.wav").symlink_to("loop.wav")
    (corpus / "through.wav").symlink_to("a.wav/x")
    assert listed(corpus, str(corpus)) == sorted(FILES)


def test_a_file_that_cannot_be_looked_up_is_listed_and_does_not_end_the_listing(corpus, monkeypatch):
    def refused(path: str, **options) -> os.stat_result:
        if str(path).endswith("c.wav"):
            raise PermissionError(13, "Permission denied", path)
        return stat(path, **options)

    stat = os.stat
    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", refused)
        table = list_source(SourceSection(uri=str(corpus)))
    [row] = [row for row in table.to_pylist() if row["uri"].endswith("c.wav")]
    assert (table.num_rows, row["size_bytes"], row["modified_ns"]) == (len(FILES), 0, None)


def test_a_folder_that_links_back_to_itself_is_listed_once(corpus):
    (corpus / "deep" / "loop").symlink_to(corpus)
    assert listed(corpus, str(corpus)) == sorted(FILES)


@pytest.mark.parametrize("uri", ["missing", "missing/", "missing/*.wav"])
def test_a_missing_folder_is_refused_with_its_name(corpus, uri):
    with pytest.raises(RecipeError, match=f"{corpus}/missing"):
        list_source(SourceSection(uri=f"{corpus}/{uri}"))


@pytest.mark.parametrize(
    "section",
    [{"uri": "{}/empty"}, {"uri": "{}/*.mp3"}, {"uri": "{}", "include": ("*.mp3",)}, {"uri": "{}", "exclude": ("*",)}],
)
def test_a_source_without_objects_is_refused_with_its_name(corpus, section):
    section = {**section, "uri": section["uri"].format(corpus)}
    with pytest.raises(RecipeError, match="there is no object in"):
        list_source(SourceSection(**section))


def test_a_manifests_objects_are_looked_up(corpus):
    (corpus / "list.csv").write_text("path,speaker\ndeep/c.wav,ada\na.wav,bob\n")
    table = list_source(SourceSection(manifest=str(corpus / "list.csv")))
    assert table.schema == LISTING
    first, second = table.to_pylist()
    assert first == {
        "uri": str(corpus / "deep" / "c.wav"),
        "etag": None,
        "size_bytes": 3,
        "modified_ns": (corpus / "deep" / "c.wav").stat().st_mtime_ns,
        "metadata": [("speaker", "ada")],
        "place": None,
        "problem": None,
    }
    assert (second["size_bytes"], second["metadata"]) == (1, [("speaker", "bob")])


def test_what_a_manifest_names_and_is_not_there_is_listed_all_the_same(corpus):
    (corpus / "list.csv").write_text("path\na.wav\ngone.wav\na.wav/below.wav\n")
    rows = list_source(SourceSection(manifest=str(corpus / "list.csv"))).to_pylist()
    assert [(os.path.relpath(row["uri"], corpus), row["size_bytes"], row["etag"]) for row in rows] == [
        ("a.wav", 1, None),
        ("gone.wav", 0, None),
        ("a.wav/below.wav", 0, None),
    ]
    assert [row["modified_ns"] is None for row in rows] == [False, True, True]


def test_include_and_exclude_apply_to_manifests(corpus):
    (corpus / "list.csv").write_text("path\na.wav\nb.flac\ndeep/c.wav\n")
    section = SourceSection(manifest=str(corpus / "list.csv"), include=("*.wav",), exclude=("deep/*",))
    assert list_source(section)["uri"].to_pylist() == [str(corpus / "a.wav")]


def test_a_manifest_without_rows_is_refused(corpus):
    (corpus / "list.csv").write_text("path,speaker\n")
    with pytest.raises(RecipeError, match=r"there is no object in .*list\.csv"):
        list_source(SourceSection(manifest=str(corpus / "list.csv")))
