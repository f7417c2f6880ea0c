"""The dataset card and the Croissant file, of lakes that never were: what stands in the data stays data."""

import json
import logging

import mlcroissant
import pytest
import yaml

from pipelines.card import card, escape
from pipelines.croissant import croissant
from pipelines.description import Corpus, Description, Failed, Model, Share
from schemas.records import Seal
from schemas.tables import TABLES

EVIL = "<script>alert(1)</script> | [x](http://x) `y`\n# z"
PLANNED, SEALED = "2026-03-01T02:00:00+00:00", "2026-03-02T03:00:00+00:00"
SEAL = Seal("calls", "00003", PLANNED, SEALED, 1, 5, 3, 1, 1, 60.0, "", [], [], "")


def lake(**changes) -> Description:
    recipe = {"corpus": "calls", "source": {"uri": "/in"}, "tags": [{"model": f"```\n{EVIL}"}]}
    given = {
        "corpora": [Corpus("calls", 3, SEAL, recipe)],
        "rows": dict.fromkeys(TABLES, 12),
        "recordings": 1234,
        "hours": 2.5,
        "size_bytes": 10_000_000,
        "languages": [Share("en", 10, 1.5), Share(EVIL, 1, 0.1)],
        "licences": [Share("CC-BY 4.0", 5, 1.0), Share(EVIL, 2, 0.2)],
        "models": [Model("tags", EVIL, "abc", 9)],
        "failures": [Failed("decode", "not_audio", 2)],
    }
    return Description(**(given | changes))


def head_and_page(text: str) -> tuple[dict, str]:
    _, head, page = text.split("---\n", 2)
    return yaml.safe_load(head), page


def test_what_the_data_says_is_neither_html_nor_markup_on_the_page():
    head, page = head_and_page(card(lake()))
    prose, recipe, *rest = page.split("````")
    assert "<script>" not in prose
    assert "&lt;script&gt;alert(1)&lt;/script&gt; \\| \\[x\\](http://x) \\`y\\` # z" in prose
    assert "<script>" in recipe  # between fences that are longer than any in it
    assert rest == ["\n"]
    assert head["language"] == ["en"]
    assert head["license"] == ["cc-by-4.0", "other"]


def test_the_recipe_is_shown_without_what_is_not_set():
    source = {"uri": "/in", "manifest": None, "include": [], "storage": {"region": None}}
    recipe = {"corpus": "calls", "source": source, "clips": None, "tags": [{"model": "yamnet", "options": {}}]}
    _, page = head_and_page(card(lake(corpora=[Corpus("calls", 1, SEAL, recipe)])))
    shown = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])
    assert shown == {"corpus": "calls", "source": {"uri": "/in"}, "tags": [{"model": "yamnet"}]}
    assert "in 1 run. Run 00003 of 2026-03-01 did 5 recordings (3 ok, 1 partial, 1 failed)" in page


def test_escaped_values_stay_on_one_line_and_have_a_length():
    assert escape("a\r\n\n# b\u2028c") == "a # b c"
    assert len(escape("x" * 1000)) == 200


def test_a_lake_without_licences_languages_or_failures_says_so():
    head, page = head_and_page(card(lake(licences=[], languages=[], failures=[], rows={"segments": 3})))
    assert head["license"] == ["unknown"]
    assert "language" not in head
    assert "says nothing of licences" in page
    assert "Nothing failed." in page
    assert "## Languages" not in page


@pytest.mark.parametrize(("recordings", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (10**7, "10M<n<100M")])
def test_the_size_is_of_the_hubs_categories(recordings, size):
    assert head_and_page(card(lake(recordings=recordings)))[0]["size_categories"] == [size]


def test_only_a_table_with_a_map_lists_its_columns():
    head, _ = head_and_page(card(lake()))
    assert [one["config_name"] for one in head["configs"]] == list(TABLES)
    [listed] = [one for one in head["configs"] if "columns" in one]
    assert listed["columns"] == [name for name in TABLES["recordings"].names if name != "metadata"]
    assert [feature["name"] for feature in head["dataset_info"][0]["features"]] == listed["columns"]


@pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning")
def test_croissant_has_every_column_of_every_table_and_mlcroissant_takes_it(tmp_path):
    logging.disable(logging.WARNING)
    (tmp_path / "croissant.json").write_text(croissant(lake(), "https://example.org/lake"))
    found = mlcroissant.Dataset(jsonld=tmp_path / "croissant.json")
    logging.disable(logging.NOTSET)
    assert found.metadata.issues.errors == set()
    assert str(found.metadata.ctx.conforms_to.value).endswith("croissant/1.1")
    fields = {records.id: [field.id for field in records.fields] for records in found.metadata.record_sets}
    assert fields == {table: [f"{table}/{name}" for name in TABLES[table].names] for table in TABLES}


def test_croissant_names_files_relative_to_the_lake_and_its_latest_night():
    content = json.loads(croissant(lake(), "https://example.org/lake"))
    assert {one["includes"] for one in content["distribution"]} == {f"data/{table}/**/*.parquet" for table in TABLES}
    assert (content["version"], content["datePublished"]) == ("3.0.0", "2026-03-02")
    assert content["license"] == ["CC-BY 4.0", EVIL]
