"""The recipe: what it takes, what it refuses, and what its messages say."""

import datetime
import textwrap
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from pipelines.errors import RecipeError
from pipelines.recipe import Recipe, load_recipe, parse_recipe
from pipelines.recipe_reference import reference, section_in
from pipelines.recipe_sections import Section

DOCS = Path(__file__).resolve().parents[2] / "docs"
SMALLEST = {"corpus": "prompts", "source": {"uri": "s3://corpora/prompts/"}, "lake": {"uri": "s3://lake/speech"}}


def recipe(**changes) -> Recipe:
    return parse_recipe({**SMALLEST, **changes}, "recipe.yaml")


def refusal(**changes) -> str:
    with pytest.raises(RecipeError) as caught:
        recipe(**changes)
    assert caught.value.exit_code == 2
    return str(caught.value)


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(textwrap.dedent(text))
    return path


@pytest.fixture
def smallest(tmp_path) -> Path:
    return written(tmp_path, yaml.safe_dump(SMALLEST))


def test_the_smallest_recipe_gets_the_designs_defaults():
    found = recipe()
    assert found.audio.sample_rate == 16_000
    assert (found.segments.by, found.segments.max_seconds) == ("speech", 30.0)
    assert (found.spectrograms, found.embeddings, found.tags, found.transcripts) == ((), (), (), ())
    assert found.limits.max_failed_fraction == 0.5
    assert found.pools.actors is None
    assert found.source.storage.options() == {}


def test_every_section_is_read():
    found = recipe(
        segments={"by": "windows", "max_seconds": 10, "hop_seconds": 5},
        spectrograms=[{"kind": "log_mel", "n_bins": 80}, {"kind": "mfcc", "n_bins": 40}],
        embeddings=[{"model": "yamnet"}],
        tags=[{"model": "yamnet", "top_k": 3}],
        transcripts=[{"model": "openai/whisper-tiny.en", "language": "en"}],
        limits={"max_seconds": 60},
        pools={"actors": 2, "gpus_per_actor": 0.5},
    )
    assert [one.kind for one in found.spectrograms] == ["log_mel", "mfcc"]
    assert (found.tags[0].top_k, found.transcripts[0].task, found.embeddings[0].pooling) == (3, "transcribe", "mean")
    assert (found.segments.hop_seconds, found.limits.max_seconds, found.pools.gpus_per_actor) == (5.0, 60.0, 0.5)


@pytest.mark.parametrize("section", ["source", "limits", "pools", "segments", "audio", "lake"])
def test_a_recipe_cannot_be_changed(section):
    with pytest.raises(ValidationError):
        setattr(recipe(), section, None)


@pytest.mark.parametrize(
    ("changes", "where", "nearest"),
    [
        ({"trascripts": []}, "trascripts", "transcripts"),
        ({"lakes": {}}, "lakes", "lake"),
        ({"segments": {"max_second": 3}}, "segments.max_second", "max_seconds"),
        ({"source": {"uri": "/x", "exlude": ["a"]}}, "source.exlude", "exclude"),
        ({"source": {"uri": "/x", "storage": {"endpoint": "http://x"}}}, "source.storage.endpoint", "endpoint_url"),
        ({"embeddings": [{"model": "yamnet"}, {"modle": "yamnet"}]}, "embeddings.1.modle", "model"),
        ({"limits": {"max_failed_fractions": 1}}, "limits.max_failed_fractions", "max_failed_fraction"),
    ],
)
def test_an_unknown_key_is_refused_with_where_it_is_and_the_nearest_known_one(changes, where, nearest):
    message = refusal(**changes)
    assert f"{where}: unknown key; did you mean {nearest}?" in message
    assert message.startswith("recipe.yaml is not a valid recipe")


def test_an_unknown_key_that_resembles_nothing_is_refused_with_all_known_ones():
    assert "audio.qqqq: unknown key; known are channels, on_partial, sample_rate, track" in refusal(audio={"qqqq": 1})


def test_every_problem_is_named_at_once():
    message = refusal(lakes={}, limits={"max_bytes": "many"}, segments={"by": "mood"})
    assert all(where in message for where in ("lakes:", "limits.max_bytes:", "segments.by:"))


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"segments": {"max_seconds": "long"}}, "segments.max_seconds"),
        ({"segments": {"max_seconds": 0}}, "segments.max_seconds"),
        ({"segments": {"by": "sentence"}}, "segments.by"),
        ({"segments": 30}, "segments"),
        ({"spectrograms": {"kind": "log_mel"}}, "spectrograms"),
        ({"spectrograms": [{"kind": "cqt"}]}, "spectrograms.0.kind"),
        ({"audio": {"sample_rate": 8000}}, "audio.sample_rate"),
        ({"limits": {"max_failed_fraction": 1.5}}, "limits.max_failed_fraction"),
        ({"limits": {"max_channels": 0}}, "limits.max_channels"),
        ({"pools": {"actors": 0}}, "pools.actors"),
        ({"tags": [{"model": "yamnet", "top_k": 0}]}, "tags.0.top_k"),
        ({"transcripts": [{"language": "en"}]}, "transcripts.0.model"),
        ({"source": {"uri": 7}}, "source.uri"),
        ({"corpus": "No/Slash"}, "corpus"),
        ({"corpus": None}, "corpus"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(changes, where):
    assert f"\n  {where}: " in refusal(**changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"corpus": "My Corpus"}, "corpus: 'My Corpus' cannot name folders and tables everywhere: lower-case letters"),
        ({"corpus": "My Corpus"}, "; such as my-corpus"),
        ({"corpus": 2024}, 'corpus: a text; write "2024", in quotes'),
        ({"source": {"uri": "/x", "include": "*.wav"}}, 'source.include: a list, such as ["*.wav"]'),
        ({"source": "s3://foo/"}, 'source: write {uri: "s3://foo/"}; its keys are uri, manifest, tar'),
        ({"lake": "../l"}, 'lake: write {uri: "../l"}; its keys are uri, storage'),
        ({"source": ["a"]}, "source: a section with the keys uri, manifest"),
        ({"segments": 30}, "segments: a section with the keys by, max_seconds"),
        ({"spectrograms": {"kind": "log_mel"}}, 'spectrograms: a list, such as [{kind: "log_mel"}]'),
        ({"tags": "yamnet"}, 'tags: a list, such as [{model: "yamnet"}]'),
        ({"tags": ["yamnet"]}, 'tags.0: write {model: "yamnet"}; its keys are model, top_k'),
        ({"warehouse": {"iceberg": "glue"}}, 'warehouse.iceberg: write {catalog: "glue"}'),
        ({"enhance": 3}, "enhance: write {model: 3}"),
    ],
)
def test_a_value_of_the_wrong_shape_is_refused_with_what_to_write(changes, said):
    message = refusal(**changes)
    assert said in message
    for foreign in ("tuple", "dictionary", "instance", "pattern", "Section"):
        assert foreign not in message


@pytest.mark.parametrize("missing", SMALLEST)
def test_corpus_source_and_lake_are_needed(missing):
    with pytest.raises(RecipeError, match=f"{missing}: Field required"):
        parse_recipe({name: value for name, value in SMALLEST.items() if name != missing}, "recipe.yaml")


@pytest.mark.parametrize("table", ["embeddings", "tags", "transcripts"])
def test_a_model_is_listed_once_a_table(table):
    message = refusal(**{table: [{"model": "m"}, {"model": "other"}, {"model": "m"}]})
    assert f"{table}: m is listed 2 times" in message
    assert (
        "see docs/models.md, Two layers of one model: a second name for a model's folder, or a second corpus" in message
    )


def test_a_model_under_two_names_is_two(tmp_path):
    names = [{"model": "/models/hubert", "layer": 6}, {"model": "/models/hubert-9", "layer": 9}]
    assert len(recipe(embeddings=names).embeddings) == 2
    assert "**Two layers of one model.**" in (DOCS / "models.md").read_text()


def test_a_kind_of_spectrogram_is_listed_once():
    assert "power is listed 2 times" in refusal(spectrograms=[{"kind": "power"}, {"kind": "power", "n_bins": 3}])


def test_one_model_may_fill_several_tables():
    assert recipe(embeddings=[{"model": "yamnet"}], tags=[{"model": "yamnet"}])


def test_a_hop_belongs_to_windows():
    assert "hop_seconds belongs to `by: windows`" in refusal(segments={"by": "speech", "hop_seconds": 1})


@pytest.mark.parametrize("source", [{}, {"uri": "/x", "manifest": "/x.csv"}])
def test_a_source_is_one_of_its_kinds(source):
    assert "source: give one of uri" in refusal(source=source)


@pytest.mark.parametrize("key", ["key", "secret", "aws_secret_access_key", "token", "password", "Credentials"])
@pytest.mark.parametrize("section", ["source", "lake"])
def test_secrets_are_refused_and_never_repeated(section, key):
    message = refusal(**{section: {"uri": "s3://x/", "storage": {key: "hunter2"}}})
    assert f"{section}.storage.{key}: unknown key; credentials come from the environment, never a recipe" in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("limits.max_failed_fraction=1", lambda found: found.limits.max_failed_fraction == 1),
        ("corpus=other", lambda found: found.corpus == "other"),
        ("pools.gpus_per_actor=0.5", lambda found: found.pools.gpus_per_actor == 0.5),
        ("segments={by: windows, hop_seconds: 2}", lambda found: found.segments.hop_seconds == 2),
        ("tags=[{model: yamnet, top_k: 4}]", lambda found: found.tags[0].top_k == 4),
        ("source.storage.endpoint_url=http://h:1/?a=b", lambda f: f.source.storage.endpoint_url == "http://h:1/?a=b"),
        ("source.storage.region=null", lambda found: found.source.storage.region is None),
    ],
)
def test_set_changes_a_key_and_reads_its_value_as_yaml(smallest, override, read):
    assert read(load_recipe(smallest, [override]))


def test_later_overrides_win(smallest):
    assert load_recipe(smallest, ["corpus=a", "corpus=b"]).corpus == "b"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("limits.max_bytes", "write it as key.path=value"),
        ("corpus.deeper=1", "corpus is not a section"),
        ("limits.max_byte=1", "did you mean max_bytes"),
        ("limits.max_bytes=[1", "--set limits.max_bytes=[1"),
    ],
)
def test_an_override_that_makes_no_sense_is_refused(smallest, override, said):
    with pytest.raises(RecipeError) as caught:
        load_recipe(smallest, [override])
    assert said in str(caught.value)


def test_relative_paths_are_anchored_at_the_recipes_folder(tmp_path, monkeypatch):
    path = written(tmp_path, "corpus: c\nsource: {uri: audio/}\nlake: {uri: ./lake}\n")
    monkeypatch.chdir("/")
    found = load_recipe(path)
    assert found.source.uri == f"{tmp_path}/audio/"
    assert found.lake.uri == f"{tmp_path}/lake"


def test_a_path_upwards_is_made_plain_so_that_globs_match_it(tmp_path):
    (tmp_path / "recipes").mkdir()
    path = written(tmp_path / "recipes", "corpus: c\nsource: {uri: '../audio/*.wav'}\nlake: {uri: ../lake}\n")
    found = load_recipe(path)
    assert found.source.uri == f"{tmp_path}/audio/*.wav"
    assert found.lake.uri == f"{tmp_path}/lake"


def test_a_relative_manifest_is_anchored_too(tmp_path):
    path = written(tmp_path, "corpus: c\nsource: {manifest: list.csv}\nlake: {uri: lake}\n")
    assert load_recipe(path).source.manifest == f"{tmp_path}/list.csv"


@pytest.mark.parametrize("uri", ["s3://bucket/x/", "s3a://bucket/x", "/absolute/x", "file:///x/"])
def test_absolute_places_stay_as_they_are(tmp_path, uri):
    lake = uri.rstrip("/") + "-lake"
    path = written(tmp_path, yaml.safe_dump({**SMALLEST, "source": {"uri": uri}, "lake": {"uri": lake}}))
    found = load_recipe(path)
    assert (found.source.uri, found.lake.uri) == (uri, lake)


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    path = written(tmp_path, "corpus: c\nsource: {uri: ~/audio/}\nlake: {uri: lake}\n")
    assert load_recipe(path).source.uri == f"{tmp_path}/me/audio/"


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: [1", "not a readable YAML file"), ("- a\n- b\n", "must be a mapping"), ("", "must be a mapping")],
)
def test_a_file_that_is_no_recipe_is_refused_with_its_name(tmp_path, text, said):
    path = written(tmp_path, text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(RecipeError, match="not a readable YAML file"):
        load_recipe(tmp_path / "recipe.yaml")


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"no recipe at .*/none\.yaml"):
        load_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "changes",
    [
        {"pools": {"actors": 3, "gpus_per_actor": 0.25, "batch_size": 1}},
        {"limits": {"max_failed_fraction": 0.01}},
        {"audio": {"sample_rate": 16000}},  # the default, spelled out
    ],
)
def test_the_fingerprint_ignores_resources_the_failure_budget_and_spelled_out_defaults(changes):
    assert recipe(**changes).fingerprint() == recipe().fingerprint()


@pytest.mark.parametrize(
    "changes",
    [
        {"corpus": "other"},
        {"source": {"uri": "s3://corpora/other/"}},
        {"source": {"uri": "s3://corpora/prompts/", "exclude": ["*.mp3"]}},
        {"segments": {"max_seconds": 29}},
        {"segments": {"by": "whole"}},
        {"spectrograms": [{"kind": "mfcc"}]},
        {"tags": [{"model": "yamnet"}]},
        {"transcripts": [{"model": "yamnet"}]},
        {"limits": {"max_seconds": 60}},
        {"limits": {"max_bytes": 60}},
    ],
)
def test_the_fingerprint_covers_all_that_decides_which_rows_are_written(changes):
    assert recipe(**changes).fingerprint() != recipe().fingerprint()


def test_the_resolved_recipe_is_a_recipe_with_the_same_fingerprint():
    found = recipe(
        tags=[{"model": "yamnet"}], transcripts=[{"model": "m"}], source={"uri": "/x/", "include": ["*.wav"]}
    )
    again = parse_recipe(yaml.safe_load(found.as_yaml()), "again")
    assert again == found
    assert again.fingerprint() == found.fingerprint()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": {"uri": "/clips/"}}, "needs texts: a manifest, tar or parquet source"),
        ({"audio": {"channels": "each"}}, "one text a recording"),
        ({"segments": {"by": "windows"}}, "segments.by: whole"),
    ],
)
def test_texts_are_aligned_where_there_are_any_and_to_one_whole_recording(changes, said):
    content = {
        "corpus": "c",
        "source": {"manifest": "/m.csv"},
        "lake": {"uri": "/lake"},
        "segments": {"by": "whole"},
        "transcripts": [{"model": "reference", "align_with": "ctc"}],
    }
    parse_recipe(content, "a recipe")
    with pytest.raises(RecipeError, match=said):
        parse_recipe({**content, **changes}, "a recipe")


def test_precision_is_part_of_what_a_recipe_writes_and_resources_are_not():
    content = {"corpus": "c", "source": {"uri": "/c/"}, "lake": {"uri": "/lake"}}
    plain = parse_recipe(content, "a recipe").fingerprint()
    assert parse_recipe({**content, "pools": {"actors": 3, "batch_seconds": 9}}, "a recipe").fingerprint() == plain
    assert parse_recipe({**content, "pools": {"dtype": "bfloat16"}}, "a recipe").fingerprint() != plain


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"embeddings": [{"model": "m", "options": {"since": datetime.date(2026, 1, 1)}}]},
            "options are texts, numbers",
        ),
        ({"tags": [{"model": "m", "options": {"least": float("nan")}}]}, "options are texts, numbers"),
        ({"embeddings": [{"model": "m", "layer": {6: float("nan")}}]}, "the weights of layers are finite"),
        ({"transcripts": [{"model": "m", "text_column": "said"}]}, "text_column belongs to `model: reference`"),
    ],
)
def test_what_a_model_could_not_be_told_is_refused_with_its_key(changes, said):
    assert said in refusal(**changes)


def test_the_reference_of_keys_is_that_of_the_sections():
    assert (DOCS / "recipe.md").read_text() == reference(), "python -m pipelines.recipe_reference > docs/recipe.md"


def keys(kind: type[Section]):
    for name, field in kind.model_fields.items():
        yield kind.__name__, name, field.description
        if (inner := section_in(field.annotation)) is not None:
            yield from keys(inner)


@pytest.mark.parametrize(("section", "key", "description"), list(dict.fromkeys(keys(Recipe))))
def test_every_key_says_what_it_does(section, key, description):
    assert description
    assert description.endswith(".")
    assert f"| `{key}` |" in reference()
