"""Where everything lies: paths as released, so that old lakes stay readable."""

import re

import pytest

from schemas import layout


def test_paths_are_those_of_the_design():
    assert layout.data_file("segments", "prompts", "2024-05-01", "00007", 3) == (
        "data/segments/corpus=prompts/dt=2024-05-01/00007-0003.parquet"
    )
    assert layout.plan_file("prompts", "00007") == "runs/prompts/00007/plan.json"
    assert layout.attempt_file("prompts", "00007", 2) == "runs/prompts/00007/attempts/0002.json"
    assert layout.verdict_file("prompts", "00007") == "runs/prompts/00007/verdict.json"
    assert layout.ledger_file("prompts", "00007") == "runs/prompts/00007/ledger.parquet"
    assert layout.seal_file("prompts", "00007") == "runs/prompts/00007/seal.json"
    assert layout.fragment_file("prompts", "00007", 2, "segments", "x") == (
        "staging/prompts/00007/0002/segments/x.parquet"
    )
    assert layout.receipt_file("prompts", "00007", 2, "x") == "staging/prompts/00007/0002/receipts/x.parquet"


def test_run_names_sort_as_their_numbers():
    names = [layout.run_name(number) for number in (1, 2, 9, 10, 99, 100, 12_345)]
    assert names[0] == "00001"
    assert sorted(names) == names


def test_everything_of_a_run_lies_in_its_own_folders():
    staged = [
        layout.fragment_file("c", "00001", 1, "tags", "x"),
        layout.receipt_file("c", "00001", 1, "x"),
    ]
    recorded = [
        layout.plan_file("c", "00001"),
        layout.attempt_file("c", "00001", 1),
        layout.verdict_file("c", "00001"),
        layout.ledger_file("c", "00001"),
        layout.seal_file("c", "00001"),
    ]
    assert all(path.startswith(layout.staging_folder("c", "00001") + "/") for path in staged)
    assert all(path.startswith(layout.run_folder("c", "00001") + "/") for path in recorded)


@pytest.mark.parametrize("name", ["prompts", "a", "0", "fleurs-en_us.v2", "x" * 64])
def test_corpus_names_that_are_safe_in_every_path_are_taken(name):
    assert re.match(layout.CORPUS_PATTERN, name)


@pytest.mark.parametrize("name", ["", "Prompts", "a/b", "..", ".a", "-a", "a=b", "a b", "ä", "x" * 65])
def test_corpus_names_that_could_leave_their_folder_are_refused(name):
    assert not re.match(layout.CORPUS_PATTERN, name)
