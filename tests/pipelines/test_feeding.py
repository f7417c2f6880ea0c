"""The warehouse as a section of the recipe, and as the last step of a command."""

import pytest
from hand_made import RECIPE
from warehouse_lake import sealed

from pipelines.commands import running
from pipelines.errors import RecipeError, WarehouseError
from pipelines.recipe import Recipe, load_recipe, parse_recipe
from pipelines.store import Store
from pipelines.warehouse import check_warehouse, feed_warehouse
from schemas import layout, records
from schemas.tables import TABLES


def recipe(folder, catalog: str | None = "sqlite:///catalog.db") -> Recipe:
    """A recipe in a file, as a command reads it."""
    warehouse = f"warehouse: {{iceberg: {{catalog: '{catalog}', namespace: night}}}}" if catalog else ""
    path = folder / "recipe.yaml"
    path.write_text(f"corpus: prompts\nsource: {{uri: clips/}}\nlake: {{uri: lake}}\n{warehouse}\n")
    return load_recipe(path)


@pytest.fixture
def lake(tmp_path) -> Store:
    return Store(str(tmp_path / "lake"))


def test_the_warehouse_does_not_change_what_a_run_is(tmp_path):
    assert recipe(tmp_path).fingerprint() == recipe(tmp_path, None).fingerprint()


def test_a_relative_sqlite_catalog_lies_beside_the_recipe(tmp_path):
    assert recipe(tmp_path).warehouse.iceberg.catalog == f"sqlite:///{tmp_path}/catalog.db"
    for other in ("sqlite:////srv/catalog.db", "http://catalog:8181", "nightly"):
        assert recipe(tmp_path, other).warehouse.iceberg.catalog == other


def test_a_password_in_a_catalogs_uri_is_refused_and_not_repeated():
    content = RECIPE.model_dump(mode="json", exclude_none=True)
    section = {"iceberg": {"catalog": "postgresql://ada:secret@db/catalog"}}
    with pytest.raises(RecipeError, match=r"warehouse\.iceberg\.catalog: holds credentials") as refused:
        parse_recipe({**content, "warehouse": section}, "hand-made")
    assert "secret@" not in str(refused.value)


def test_a_catalog_that_nobody_configured_is_refused_before_a_night_is_spent(tmp_path):
    with pytest.raises(RecipeError, match="pyiceberg knows no catalog nightly"):
        check_warehouse(recipe(tmp_path, "nightly"))
    check_warehouse(recipe(tmp_path))
    check_warehouse(recipe(tmp_path, None))


def test_a_recipe_without_a_warehouse_feeds_none(tmp_path, lake):
    sealed(lake, 1)
    fed = feed_warehouse(recipe(tmp_path, None))
    assert (fed.facts(), fed.text(), fed.check()) == ({}, "", None)


def test_what_is_sealed_and_not_yet_registered_is_registered_once(tmp_path, lake):
    assert feed_warehouse(recipe(tmp_path)).made == [], "before the first run"
    sealed(lake, 1)
    fed = feed_warehouse(recipe(tmp_path))
    assert len(fed.facts()["warehouse"]) == len(TABLES)
    assert fed.text() == "\n  warehouse: run 00001 of corpus prompts: 8 files, 8 rows in 8 tables of night"
    fed.check()
    assert feed_warehouse(recipe(tmp_path)).text() == "\n  warehouse: nothing new for the tables of night"


def test_what_stands_is_told_where_the_next_is_refused(tmp_path, lake):
    sealed(lake, 1)
    seal = sealed(lake, 2)
    lake.put(layout.seal_file(seal.corpus, seal.run), records.to_json(seal).replace(b'"tags"', b'"chords"'))
    fed = feed_warehouse(recipe(tmp_path))
    assert {one.run for one in fed.made} == {"00001"}
    with pytest.raises(WarehouseError, match="the lake itself is whole, what ended is sealed") as refused:
        fed.check()
    assert "chords" in str(refused.value)
    assert refused.value.exit_code == 1


@pytest.mark.parametrize("new", [True, False], ids=["a run that ended", "nothing new"])
def test_a_command_says_what_it_did_before_it_says_what_the_catalog_refused(tmp_path, lake, capsys, new):
    seal = sealed(lake, 1)
    with pytest.raises(WarehouseError, match="cannot open the catalog"):
        running._carry(
            recipe(tmp_path, "sqlite:///away/c.db"), lambda: seal if new else None, "nothing new", False, None
        )
    assert ("run 00001 of corpus prompts" if new else "corpus prompts: nothing new") in capsys.readouterr().out
    (tmp_path / "away").mkdir()
    running._carry(recipe(tmp_path, "sqlite:///away/c.db"), lambda: None, "nothing new", False, None)
    assert "warehouse: run 00001 of corpus prompts: 8 files" in capsys.readouterr().out
