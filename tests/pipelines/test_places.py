"""A lake never reads itself: what is refused, what is let through, and what the messages say to write."""

import importlib.util
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.errors import RecipeError
from pipelines.places import OWN_FILES, refuse_unreachable
from pipelines.recipe import Recipe, load_recipe
from pipelines.sources import list_source


def loaded(folder: Path, source: dict[str, object], lake: object) -> Recipe:
    where = lake if isinstance(lake, dict) else {"uri": lake}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"corpus": "calls", "source": source, "lake": where}))
    return load_recipe(folder / "recipe.yaml")


def refusal(folder: Path, source: dict[str, object], lake: object) -> str:
    with pytest.raises(RecipeError) as caught:
        loaded(folder, source, lake)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    "uri", ["src", "src/", "./src/", ".", "src/**", "src/**/*.parquet", "src/la*/**", "file://{}/src"]
)
def test_a_lake_inside_its_source_is_refused_with_what_to_write(tmp_path: Path, uri: str) -> None:
    (tmp_path / "src").mkdir()
    message = refusal(tmp_path, {"uri": uri.format(tmp_path)}, "src/lake")
    assert f"lake {tmp_path}/src/lake lies inside the source" in message
    assert f'source.exclude: ["{tmp_path}/src/lake/**"]' in message


@pytest.mark.parametrize("name", ["lake", "lake [v1]", "la*ke"])
def test_what_the_message_says_to_write_leaves_the_lake_out_and_nothing_else(tmp_path: Path, name: str) -> None:
    lake = tmp_path / "src" / name
    for path in OWN_FILES:
        (lake / path).parent.mkdir(parents=True, exist_ok=True)
        (lake / path).write_bytes(b"{}")
    (tmp_path / "src" / "a.wav").write_bytes(b"RIFF")
    pattern = refusal(tmp_path, {"uri": "src"}, f"src/{name}").partition("source.exclude: ")[2]
    recipe = loaded(tmp_path, {"uri": "src", "exclude": yaml.safe_load(pattern)}, f"src/{name}")
    assert list_source(recipe.source)["uri"].to_pylist() == [f"{tmp_path}/src/a.wav"]


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk" / "calls").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assert "lies inside the source" in refusal(tmp_path, {"uri": "disk/calls"}, "link/calls/lake")
    assert "lies inside the source" in refusal(tmp_path, {"uri": "link"}, "disk/lake")


@pytest.mark.parametrize(
    "source",
    [
        {"uri": "src/*.wav"},
        {"uri": "src", "include": ["*.wav"]},
        {"uri": "src", "exclude": ["lake/**"]},
        {"tar": "src"},
        {"manifest": "src/calls.csv"},
        {"uri": "src/show [2024]/"},
    ],
)
def test_a_source_that_leaves_the_lake_out_may_lie_around_it(tmp_path: Path, source: dict[str, object]) -> None:
    (tmp_path / "src" / "show [2024]").mkdir(parents=True)
    assert loaded(tmp_path, source, "src/lake")


def test_a_parquet_source_around_its_lake_would_read_the_tables(tmp_path: Path) -> None:
    assert "lies inside the source" in refusal(tmp_path, {"parquet": "src"}, "src/lake")


@pytest.mark.parametrize(
    "source", [{"uri": "lake/audio/"}, {"uri": "lake/audio/*.wav"}, {"parquet": "lake/data/clips"}]
)
def test_a_source_inside_the_lake_is_refused(tmp_path: Path, source: dict[str, object]) -> None:
    message = refusal(tmp_path, source, "lake")
    assert f"lies inside the lake {tmp_path}/lake" in message
    assert f"lake: {{uri: {tmp_path}/lake-lake}}" in message


@pytest.mark.parametrize("source", ["s3://b/src", "s3a://b/src/", "s3://b/", "s3://b", "s3://b/src/**"])
def test_a_lake_inside_its_source_is_refused_on_s3(tmp_path: Path, source: str) -> None:
    assert "/src/lake/**" in refusal(tmp_path, {"uri": source}, "s3://b/src/lake/")


def test_a_source_inside_the_lake_is_refused_on_s3(tmp_path: Path) -> None:
    assert "lies inside the lake s3://b" in refusal(tmp_path, {"uri": "s3://b/calls/"}, "s3://b")


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
@pytest.mark.parametrize("named", ["source", "lake"])
def test_a_store_that_the_environment_names_is_the_one_that_the_recipe_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, named: str
) -> None:
    monkeypatch.setenv(variable, "http://one:9000")
    sections: dict[str, dict[str, object]] = {"source": {"uri": "s3://b/src"}, "lake": {"uri": "s3://b/src/lake"}}
    sections[named]["storage"] = {"endpoint_url": "http://one:9000/"}
    assert "lies inside the source" in refusal(tmp_path, sections["source"], sections["lake"])
    sections[named]["storage"] = {"endpoint_url": "http://two:9000"}
    assert loaded(tmp_path, sections["source"], sections["lake"])


@pytest.mark.parametrize(
    ("source", "lake"),
    [
        ({"uri": "s3://b/src/"}, "s3://b/src-lake"),
        ({"uri": "s3://b/src"}, "s3://b2/src/lake"),
        ({"uri": "/b/src"}, "s3://b/src/lake"),
        ({"uri": "s3://b/src", "storage": {"endpoint_url": "http://one"}}, "s3://b/src/lake"),
        ({"uri": "gs://b/src"}, "s3://b/src/lake"),
        ({"uri": "src"}, "src-lake"),
    ],
)
def test_places_beside_each_other_are_no_matter(tmp_path: Path, source: dict[str, object], lake: str) -> None:
    assert loaded(tmp_path, source, lake)


@pytest.mark.parametrize(
    ("uri", "package"),
    [("gs://b/calls/", "gcsfs"), ("az://b/calls/*.wav", "adlfs"), ("abfs://b/calls", "adlfs"), ("oss://b/c", "ossfs")],
)
@pytest.mark.parametrize("command", ["run", "plan", "retry"])
def test_a_store_whose_package_is_missing_is_refused_with_what_to_install(
    tmp_path: Path, uri: str, package: str, command: str
) -> None:
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed here")
    loaded(tmp_path, {"uri": uri}, "lake")
    error = CliRunner().invoke(app, [command, str(tmp_path / "recipe.yaml")]).exception
    assert isinstance(error, RecipeError)
    assert f"the source {uri} needs a package that is not installed here: pip install {package}" in str(error)
    assert not (tmp_path / "lake").exists()


def test_a_store_that_nobody_knows_is_refused_with_those_there_are(tmp_path: Path) -> None:
    recipe = loaded(tmp_path, {"uri": "r2://b/calls/"}, "lake")
    with pytest.raises(RecipeError, match="lies in no store that is known here; s3://, a folder"):
        refuse_unreachable(recipe.source)


@pytest.mark.parametrize("uri", ["s3://b/c", "/c", "file:///c", "memory://c", "https://h/c"])
def test_a_store_that_is_known_is_no_matter(tmp_path: Path, uri: str) -> None:
    refuse_unreachable(loaded(tmp_path, {"uri": uri}, "lake").source)
