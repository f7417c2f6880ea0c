import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import obstore
import pytest
from botocore.validate import ParamValidator
from guarded_s3 import GuardedS3, Policy, serving
from hand_made import CORPUS, decided, planned, whole, write_receipt
from manifests import DEPLOY

from pipelines.errors import StoreError
from pipelines.gc import TEMPORARY_SECONDS, collect_garbage
from pipelines.lake import open_lake
from pipelines.publish import copied
from pipelines.recipe import load_recipe
from pipelines.runs import find_runs, load_seal
from pipelines.seal import seal
from pipelines.sources import list_source
from pipelines.store import Store
from schemas import layout
from schemas.records import PublishedFile
from workers.stores import s3_store

WRITER, READER = (Policy(DEPLOY / "s3" / f"{name}-policy.json") for name in ("writer", "reader"))
RECIPE = load_recipe(DEPLOY / "kubernetes" / "recipe.yaml")
BIG = 33 << 20  # uploaded in parts


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setattr("pipelines.store.FIRST_PAUSE_SECONDS", 0.0)


@pytest.fixture
def s3() -> Iterator[GuardedS3]:
    with serving(WRITER) as server:
        yield server


def lake(s3: GuardedS3) -> Store:
    return Store(RECIPE.lake.uri, {"endpoint_url": s3.url, "region": "eu-central-1"})


def a_run(store: Store) -> None:
    """A whole run of two recordings, the second attempt's verdict adopted; only publishing by rewriting is left out."""
    store.check_create_once(f"{layout.RUNS}/{CORPUS}/create-once-x")
    plan, ids = planned(store, 2)
    write_receipt(store, plan, 1, [*whole(ids[0], 1), *whole(ids[1], 2)])
    decided(store, plan)
    verdict = decided(store, plan)  # leaves rows of a verdict that was not the first
    files: list[PublishedFile] = [copied(store, file) for file in verdict.files]
    seal(store, plan, verdict, files)


def test_the_writer_may_do_all_that_a_run_does_and_asks_for_nothing_else(s3: GuardedS3) -> None:
    store = lake(s3)
    a_run(store)
    assert find_runs(store, CORPUS).open is None
    assert collect_garbage(store).orphans == 1
    assert s3.refused == set()
    assert not [key for key in s3.objects if "/staging/" in key]
    assert {action for action, _ in s3.asked} == {"s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject"}


def test_the_writer_may_upload_in_parts_and_give_up(s3: GuardedS3, tmp_path: Path) -> None:
    store = lake(s3)
    (tmp_path / "big").write_bytes(bytes(BIG))
    assert store.create_from("data/segments/corpus=x/dt=2026-11-24/00001-0000.parquet", tmp_path / "big")
    for folder in ("data", "runs", "staging"):
        assert WRITER.allows("s3:AbortMultipartUpload", f"my-lake/speech/{folder}/x")
    assert s3.refused == set()
    assert len(store.read("data/segments/corpus=x/dt=2026-11-24/00001-0000.parquet")) == BIG


def test_the_writer_reads_its_corpus_and_writes_nothing_there(s3: GuardedS3) -> None:
    s3.objects["my-bucket/calls/2026/a.wav"] = b"RIFF"
    options = {"endpoint_url": s3.url, "region": "eu-central-1"}
    source = RECIPE.source.model_copy(update={"storage": type(RECIPE.source.storage)(**options)})
    assert list_source(source)["uri"].to_pylist() == ["s3://my-bucket/calls/2026/a.wav"]
    corpus = s3_store("my-bucket", tuple(sorted(options.items())))
    assert bytes(obstore.get(corpus, "calls/2026/a.wav").bytes()) == b"RIFF"
    assert s3.refused == set()
    for action in ("s3:PutObject", "s3:DeleteObject"):
        assert not WRITER.allows(action, "my-bucket/calls/2026/a.wav")
    assert not WRITER.allows("s3:GetObject", "my-bucket/payroll/a.csv")


@pytest.mark.parametrize(
    "path",
    [
        "data/tags/corpus=prompts/dt=2026-11-24/00001-0000.parquet",
        "runs/prompts/00001/plan.json",
        "runs/prompts/00001/verdict.json",
        "runs/prompts/00001/seal.json",
        "runs/prompts/00001/ledger.parquet",
    ],
)
def test_not_even_the_writer_deletes_what_is_published_or_recorded(s3: GuardedS3, path: str) -> None:
    s3.objects[f"my-lake/speech/{path}"] = b"kept"
    with pytest.raises(StoreError, match="cannot delete"):
        lake(s3).delete(path)
    assert s3.objects[f"my-lake/speech/{path}"] == b"kept"


def test_the_writer_stays_in_its_lake(s3: GuardedS3) -> None:
    elsewhere = Store("s3://my-lake/other", {"endpoint_url": s3.url, "region": "eu-central-1"})
    with pytest.raises(StoreError):
        elsewhere.put("data/x", b"x")
    with pytest.raises(StoreError):
        lake(s3).put("x", b"beside the lake's folders")
    assert s3.objects == {}


def test_the_reader_reads_tables_and_records_and_no_more(s3: GuardedS3) -> None:
    store = lake(s3)
    a_run(store)
    s3.objects["my-lake/speech/staging/prompts/00002/0001/tags/x.parquet"] = b"not yet"
    before = dict(s3.objects)
    s3.policy, s3.asked = READER, set()
    assert open_lake(store).sql("SELECT count(*) FROM segments").fetchall() == [(3,)]
    assert load_seal(store, CORPUS, find_runs(store, CORPUS).names[-1]).recordings == 2
    assert s3.refused == set()
    assert {action for action, _ in s3.asked} == {"s3:ListBucket", "s3:GetObject"}
    published = next(key for key in before if "/data/" in key).removeprefix("my-lake/speech/")
    for act in (
        lambda: store.delete(published),
        lambda: store.put("data/tags/x.parquet", b"x"),
        lambda: store.create("runs/prompts/00002/plan.json", b"x"),
        lambda: store.read("staging/prompts/00002/0001/tags/x.parquet"),
        lambda: store.list("staging"),
        lambda: store.delete_folder("staging"),
    ):
        with pytest.raises(StoreError):
            act()
    assert s3.objects == before


def lifecycle() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DEPLOY / "s3" / "lifecycle.json").read_text())
    return found


def test_the_lifecycle_is_one_that_s3_takes() -> None:
    model = botocore.session.get_session().get_service_model("s3")
    shape = model.operation_model("PutBucketLifecycleConfiguration").input_shape
    report = ParamValidator().validate({"Bucket": "my-lake", "LifecycleConfiguration": lifecycle()}, shape)
    assert report.generate_report() == ""


def test_nothing_but_staging_ever_expires_and_no_open_run_loses_its_work() -> None:
    folder = f"{RECIPE.lake.uri.removeprefix('s3://my-lake/')}/"
    expiring = [rule for rule in lifecycle()["Rules"] if "Expiration" in rule]
    assert [rule["Filter"]["Prefix"] for rule in expiring] == [f"{folder}{layout.STAGING}/"]
    assert expiring[0]["Expiration"] == {"Days": 90}
    [uploads] = [rule for rule in lifecycle()["Rules"] if "AbortIncompleteMultipartUpload" in rule]
    assert uploads["Filter"] == {"Prefix": folder}  # parts are left by killed writers of every folder
    assert uploads["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] * 24 * 3600 > TEMPORARY_SECONDS


def test_the_policies_and_the_recipe_speak_of_the_same_places() -> None:
    assert RECIPE.lake.uri == "s3://my-lake/speech"
    assert RECIPE.source.uri == "s3://my-bucket/calls/"
