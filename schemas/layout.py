"""Where everything lies under a lake's root. Paths are relative to it, with forward slashes.

data/<table>/corpus=<corpus>/dt=<YYYY-MM-DD>/<run>-<nnnn>.parquet     what readers see
runs/<corpus>/<run>/{plan.json, attempts/, verdict.json, ledger.parquet, seal.json}
runs/<corpus>/<run>/{measures/<n>.json, record.json}                  what it took; the protocol does without
runs/<corpus>/shards/<digest>.parquet                                 what lies inside the shards of a source
staging/<corpus>/<run>/<attempt>/{<table>,receipts}/<uuid>.parquet    gone after the seal
iceberg/                                                              metadata of Iceberg tables, where no catalog says
"""

from typing import Final

RUN_DIGITS: Final = 5
CORPUS_PATTERN: Final = r"^[a-z0-9][a-z0-9._-]{0,63}$"

DATA: Final = "data"
RUNS: Final = "runs"
STAGING: Final = "staging"
ICEBERG: Final = "iceberg"
TEMPORARY: Final = f"{STAGING}/.tmp"  # no corpus is called so


def run_name(number: int) -> str:
    """Return the id of a corpus's run number `number` (from 1), zero-padded so that names sort."""
    return f"{number:0{RUN_DIGITS}d}"


def data_file(table: str, corpus: str, day: str, run: str, number: int) -> str:
    """Return the final path of file `number` of `table` in a run; `day` is YYYY-MM-DD."""
    return f"{DATA}/{table}/corpus={corpus}/dt={day}/{run}-{number:04d}.parquet"


def run_folder(corpus: str, run: str) -> str:
    """Return the folder of a run's records."""
    return f"{RUNS}/{corpus}/{run}"


def shards_folder(corpus: str) -> str:
    """Return the folder that keeps what lies inside a corpus's shards."""
    return f"{RUNS}/{corpus}/shards"


def shard_file(corpus: str, version: str) -> str:
    """Return where that of one shard is kept; `version` is a digest of its uri and version."""
    return f"{shards_folder(corpus)}/{version}.parquet"


def plan_file(corpus: str, run: str) -> str:
    """Return the create-once record that starts a run."""
    return f"{run_folder(corpus, run)}/plan.json"


def attempt_file(corpus: str, run: str, attempt: int) -> str:
    """Return the create-once record of an attempt (from 1)."""
    return f"{run_folder(corpus, run)}/attempts/{attempt:04d}.json"


def verdict_file(corpus: str, run: str) -> str:
    """Return the create-once record that decides which receipts count."""
    return f"{run_folder(corpus, run)}/verdict.json"


def ledger_file(corpus: str, run: str) -> str:
    """Return the list of the run's recordings with their outcome and stages."""
    return f"{run_folder(corpus, run)}/ledger.parquet"


def seal_file(corpus: str, run: str) -> str:
    """Return the create-once record that ends a run."""
    return f"{run_folder(corpus, run)}/seal.json"


def measures_folder(corpus: str, run: str) -> str:
    """Return the folder of what each attempt of a run took."""
    return f"{run_folder(corpus, run)}/measures"


def measures_file(corpus: str, run: str, attempt: int) -> str:
    """Return the record of what an attempt took."""
    return f"{measures_folder(corpus, run)}/{attempt:04d}.json"


def record_file(corpus: str, run: str) -> str:
    """Return the create-once record of what a sealed run took."""
    return f"{run_folder(corpus, run)}/record.json"


def staging_folder(corpus: str, run: str) -> str:
    """Return the folder of a run's unpublished files, of all attempts."""
    return f"{STAGING}/{corpus}/{run}"


def fragment_file(corpus: str, run: str, attempt: int, table: str, name: str) -> str:
    """Return the path of a staged file; `name` is unique."""
    return f"{staging_folder(corpus, run)}/{attempt:04d}/{table}/{name}.parquet"


def receipt_file(corpus: str, run: str, attempt: int, name: str) -> str:
    """Return the path of a receipt; `name` is unique."""
    return fragment_file(corpus, run, attempt, "receipts", name)
