"""The dataset card of a lake: a README.md whose head Hugging Face's `load_dataset` reads, for the root of the lake.

What comes from the data (licences, languages, models, paths) is escaped: a manifest must not write into the page.
"""

import html
import re
from collections.abc import Iterable
from typing import Any, Final

import pyarrow as pa
import yaml

from pipelines.description import Corpus, Description
from pipelines.report import megabytes
from schemas import layout
from schemas.failures import CODES
from schemas.tables import TABLES

NAME: Final = "README.md"
LONGEST: Final = 200  # characters of a value that the page shows
ABOUT: Final = {
    "recordings": "one row per recording: where it lies, format, length, the manifest's own columns",
    "segments": "one row per segment: where it begins and ends",
    "spectrograms": "frames x bins of a segment, row-major",
    "embeddings": "one vector per segment and model",
    "transcripts": "what a model heard in a segment, with its doubts",
    "tags": "labels and scores that a model gives a segment",
    "clips": "the sound of a segment as FLAC",
    "failures": "what could not be done, and why",
}
TASKS: Final = {
    "transcripts": "automatic-speech-recognition",
    "tags": "audio-classification",
    "embeddings": "feature-extraction",
}
SIZES: Final = (
    *((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")),
    *((10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B")),
)
HUB_LICENCES: Final = re.compile(r"cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-[234]\.[05]|apache-2\.0|mit|odc-by|odbl|pddl")
"""Licences that the hub knows by these names; what is none of them is `other` there."""


def card(lake: Description) -> str:
    """Return the card as Markdown with its YAML head."""
    head = yaml.safe_dump(_head(lake), sort_keys=False, allow_unicode=True)
    names = ", ".join(corpus.name for corpus in lake.corpora)
    parts = [
        f"---\n{head}---\n",
        f"# {escape(names)}\n",
        f"{lake.recordings:,} recordings, {lake.hours:,.2f} hours of audio, in {len(lake.rows)} tables of Parquet "
        f"({megabytes(lake.size_bytes)}), as of {lake.sealed_at[:10]}. Texts, labels and vectors are what models made "
        "of the audio; nobody has corrected them.\n",
        _reading(lake),
        _section("Tables", ("table", "rows", "holds"), [(name, n, ABOUT[name]) for name, n in lake.rows.items()]),
        "Tables only grow: a recording that changed is a new one under the same `uri`, and what is computed again is a "
        "later `run_id`. Everything joins by `recording_id` and `segment_id`.\n",
        _section("Languages", ("language", "segments", "hours"), lake.languages, "As the transcribers heard them."),
        _licences(lake),
        _section("Models", ("table", "model", "revision", "segments"), lake.models),
        _failures(lake),
        *(_made(corpus) for corpus in lake.corpora),
    ]
    return "\n".join(part for part in parts if part)


def escape(value: Any) -> str:
    """Return a value of the data as it may stand in Markdown: one line of bounded length, neither HTML nor markup."""
    text = " ".join(str(value).split())
    text = text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(text, quote=False))


def configurations(tables: Iterable[str]) -> list[dict[str, Any]]:
    """Return the configurations of Hugging Face's loader: one a table, relative to the lake's root.

    A table with a map gets the list of its other columns, since `datasets` has no type for maps.
    """
    found: list[dict[str, Any]] = []
    for table in tables:
        one: dict[str, Any] = {"config_name": table, "data_files": f"{layout.DATA}/{table}/**/*.parquet"}
        if len(readable := _readable(table)) < len(TABLES[table]):
            one["columns"] = [field.name for field in readable]
        found.append(one)
    return found


def _readable(table: str) -> list[pa.Field]:
    return [field for field in TABLES[table] if not pa.types.is_map(field.type)]


def _features(table: str) -> dict[str, Any]:
    """Return the features of a table whose columns are not all read; they are plain ones."""
    names = {pa.float32(): "float32", pa.float64(): "float64"}
    plain = [{"name": field.name, "dtype": names.get(field.type, str(field.type))} for field in _readable(table)]
    return {"config_name": table, "features": plain}


def _head(lake: Description) -> dict[str, Any]:
    languages = sorted({share.name for share in lake.languages if re.fullmatch("[a-z]{2,3}", share.name)})
    known = {_hub_licence(share.name) for share in lake.licences}
    partly = [one for one in configurations(lake.rows) if "columns" in one]
    head: dict[str, Any] = {
        "pretty_name": ", ".join(corpus.name for corpus in lake.corpora),
        "language": languages,
        "license": sorted(known) or ["unknown"],
        "task_categories": [task for table, task in TASKS.items() if table in lake.rows],
        "tags": ["audio", "phonolake"],
        "size_categories": [next((name for most, name in SIZES if lake.recordings < most), "n>1T")],
        "configs": configurations(lake.rows),
        "dataset_info": [_features(one["config_name"]) for one in partly],
    }
    return {key: value for key, value in head.items() if value}


def _hub_licence(name: str) -> str:
    plain = "-".join(name.lower().replace("_", " ").replace("-", " ").split())
    return plain if HUB_LICENCES.fullmatch(plain) else "other"


def _reading(lake: Description) -> str:
    table = "transcripts" if "transcripts" in lake.rows else "segments"
    return (
        "```python\nimport datasets\n\n"
        f'rows = datasets.load_dataset("path/to/this/folder", "{table}", split="train")\n```\n'
    )


def _section(title: str, columns: tuple[str, ...], rows: Iterable[tuple[Any, ...]], note: str = "") -> str:
    """Return a heading and a table; nothing where there are no rows."""
    lines = [f"| {' | '.join(_cell(value) for value in row)} |" for row in rows]
    if not lines:
        return ""
    head = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return "\n".join([f"## {title}\n", *([f"{note}\n"] if note else []), *head, *lines, ""])


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.2f}" if isinstance(value, float) else escape(value)


def _licences(lake: Description) -> str:
    silent = lake.recordings - sum(share.number for share in lake.licences)
    if not lake.licences:
        return "## Licences\n\nThe source says nothing of licences. Ask who holds the rights before you pass this on.\n"
    note = f"As the source gives them; it gives none for {silent:,} recordings."
    return _section("Licences", ("licence", "recordings", "hours"), lake.licences, note)


def _failures(lake: Description) -> str:
    rows = [(one.stage, one.code, one.number, CODES.get(one.code, "")) for one in lake.failures]
    return _section("What could not be done", ("stage", "code", "count", "means"), rows) or (
        "## What could not be done\n\nNothing failed.\n"
    )


def _made(corpus: Corpus) -> str:
    """Say how a corpus came about: its latest run and that run's recipe."""
    seal = corpus.latest
    recipe = yaml.safe_dump(_given(corpus.recipe), sort_keys=False, allow_unicode=True).rstrip()
    runs = f"{corpus.runs:,} run{'s' if corpus.runs > 1 else ''}"
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", recipe)), default=0))
    return (
        f"## How `{corpus.name}` was made\n\n"
        f"By Phonolake, in {runs}. Run {seal.run} of {seal.planned_at[:10]} did {seal.recordings:,} "
        f"recordings ({seal.ok:,} ok, {seal.partial:,} partial, {seal.failed:,} failed) with this recipe:\n\n"
        f"{fence}yaml\n{recipe}\n{fence}\n"
    )


def _given(section: Any) -> Any:
    """Return a part of a recipe without what is not set."""
    if not isinstance(section, dict):
        return [_given(one) for one in section] if isinstance(section, list) else section
    kept = {key: _given(value) for key, value in section.items()}
    return {key: value for key, value in kept.items() if value not in (None, {}, [])}
