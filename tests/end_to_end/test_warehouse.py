"""The warehouse fed by the commands: as a step of a night, and from a lake in S3."""

import datetime
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import yaml
from pyiceberg.catalog import load_catalog
from pyiceberg.table import Table
from test_iceberg import rows_of
from warehouse_lake import sealed

from pipelines.ddl import script, statements
from pipelines.lake import open_lake
from pipelines.lake_files import look_at
from pipelines.store import Store
from schemas.tables import TABLES
from tests.end_to_end.conftest import S3Server

DEMO = Path(__file__).resolve().parents[2] / "pipelines" / "demo" / "corpus"


def phonolake(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=600, check=False
    )


def opened(table: str, **properties: str) -> Table:
    return load_catalog("phonolake", **properties).load_table(f"night.{table}")


def test_a_night_ends_in_the_warehouse_and_one_whose_catalog_was_away_gets_there_by_the_same_command(tmp_path):
    for name in ("en/beep.wav", "en/invalid.wav", "broken/empty.wav"):
        (tmp_path / "clips" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(DEMO / name, tmp_path / "clips" / name)
    catalog = {"catalog": "sqlite:///away/catalog.db", "namespace": "night"}
    content = {"corpus": "clips", "source": {"uri": "clips/"}, "lake": {"uri": "lake"}, "segments": {"by": "whole"}}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**content, "warehouse": {"iceberg": catalog}}))

    done = phonolake("run", recipe)
    assert done.returncode == 1
    assert "3 recordings" in done.stdout
    assert f"cannot open the catalog sqlite:///{tmp_path}/away/catalog.db" in done.stderr
    assert "what ended is sealed; once the catalog takes it, the same command registers" in done.stderr
    assert "Traceback" not in done.stderr

    (tmp_path / "away").mkdir()
    done = phonolake("run", recipe, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["corpus"], facts["recordings"]) == ("clips", 0)
    assert {one["table"]: one["rows"] for one in facts["warehouse"]} == {
        **dict.fromkeys(TABLES, 0),
        "recordings": 2,
        "segments": 2,
        "failures": 1,
    }
    uri = f"sqlite:///{tmp_path}/away/catalog.db"
    lake = open_lake(Store(str(tmp_path / "lake")))
    for table in ("recordings", "segments", "failures"):
        wanted = lake.sql(f"SELECT recording_id FROM {table} ORDER BY ALL").fetchall()
        found = opened(table, uri=uri).scan().to_arrow()["recording_id"].to_pylist()
        assert [(one,) for one in sorted(found)] == wanted

    done = phonolake("run", recipe)
    assert (done.returncode, done.stdout) == (
        0,
        "corpus clips: nothing new\n  warehouse: nothing new for the tables of night\n",
    )


def test_an_unknown_catalog_in_a_recipe_ends_with_2_before_anything_is_read(tmp_path):
    content = {"corpus": "clips", "source": {"uri": "/no/such/"}, "lake": {"uri": "lake"}}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**content, "warehouse": {"iceberg": {"catalog": "nightly"}}}))
    done = phonolake("run", recipe)
    assert done.returncode == 2
    assert "pyiceberg knows no catalog nightly" in done.stderr


def test_a_lake_in_s3_is_registered_and_read_with_what_the_environment_says(s3: S3Server, tmp_path: Path) -> None:
    s3.filesystem().mkdir("warehouse-lake")
    store = Store("s3://warehouse-lake/speech")
    sealed(store, 1)
    command = ("publish", store.uri, "--to", "iceberg", "--catalog", f"sqlite:///{tmp_path}/c.db")
    done = phonolake(*command, "--namespace", "night")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "run 00001 of corpus prompts: 8 files, 8 rows in 8 tables of night\n"
    assert phonolake(*command, "--namespace", "night").stdout == "nothing new for the tables of night\n"
    sealed(store, 2)
    made = json.loads(phonolake(*command, "--namespace", "night", "--json").stdout)
    assert [(one["table"], one["run"]) for one in made][-1] == ("recordings", "00002")

    reader = {"s3.endpoint": s3.environment["AWS_ENDPOINT_URL"], "s3.region": s3.environment["AWS_REGION"]}
    for table in TABLES:
        one = opened(table, uri=f"sqlite:///{tmp_path}/c.db", **reader)
        wanted = open_lake(store).sql(f"SELECT * EXCLUDE (corpus, dt) FROM {table}").to_arrow_table()
        assert rows_of(one.scan().to_arrow()) == rows_of(wanted)
        assert {file["file_path"] for file in one.inspect.files().to_pylist()} == {
            f"s3://warehouse-lake/speech/data/{table}/corpus=prompts/dt=2024-05-01/0000{run}-0000.parquet"
            for run in (1, 2)
        }
        assert one.metadata_location.startswith("s3://warehouse-lake/speech/iceberg/night/")


def test_the_ddl_of_duckdb_reads_a_lake_in_s3_by_a_file_system_of_its_own(s3: S3Server) -> None:
    s3.filesystem().mkdir("ddl-lake")
    store = Store("s3://ddl-lake/speech")
    sealed(store, 1)
    connection = duckdb.connect()
    connection.register_filesystem(store.filesystem)
    connection.execute(script(statements(look_at(store), "duckdb")))
    assert connection.sql("SELECT dt FROM current_recordings").fetchall() == [(datetime.date(2024, 5, 1),)]
    host = s3.environment["AWS_ENDPOINT_URL"].removeprefix("http://")
    assert f"ENDPOINT '{host}'" in phonolake("ddl", store.uri, "--dialect", "duckdb").stdout
