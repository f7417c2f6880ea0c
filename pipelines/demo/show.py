"""Run the demo, then show what a newcomer wants to see; every figure is read back from the lake just written."""

import json
import os
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Final

import duckdb

from pipelines.errors import RecipeError
from pipelines.lake import open_lake
from pipelines.operation import operating
from pipelines.recipe import load_recipe
from pipelines.report import summary, summary_text, without_speech
from pipelines.run import run
from pipelines.runs import corpora
from pipelines.store import Store
from schemas.tables import TABLES

RECIPE: Final = Path(__file__).with_name("recipe.yaml")
SHOWN_TRANSCRIPTS: Final = 6
TEXT_WIDTH: Final = 96

_TRANSCRIPTS: Final = """
SELECT regexp_extract(uri, '[^/]+/[^/]+$') AS clip, metadata['text'] AS reference, metadata['language'] AS spoken,
    string_agg(t.text, ' ' ORDER BY t.segment_id) AS text, any_value(t.language) AS language
FROM recordings r JOIN transcripts t USING (recording_id)
WHERE metadata['text'] <> '' GROUP BY ALL ORDER BY clip
"""
_READ: Final = """
SELECT count(*) AS recordings, sum(decoded_seconds) AS seconds,
    string_agg(DISTINCT container || '/' || codec, ', ' ORDER BY container || '/' || codec) AS formats FROM recordings
"""
_TAGS: Final = """
SELECT label, count(*) AS segments, round(max(score), 2) AS best FROM tags WHERE score > 0.5
GROUP BY label ORDER BY segments DESC, best DESC LIMIT 6
"""


def run_demo(lake: Path, *, as_json: bool) -> None:
    """Run the pipeline on the shipped clips into `lake`, made anew, and print what came out."""
    _make_room(lake)
    started = time.monotonic()
    print(f"reading {RECIPE.parent / 'corpus'}, writing {lake} ...", file=sys.stderr, flush=True)
    recipe = load_recipe(RECIPE, [f"lake.uri={json.dumps(str(lake.resolve()))}"])
    with operating(recipe, lambda: Store(recipe.lake.uri)):
        seal = run(recipe)
    assert seal is not None  # the lake is new, so everything in it is
    store = Store(str(lake))
    connection, speechless = open_lake(store), without_speech(store, seal)
    if as_json:
        print(json.dumps({**summary(seal, speechless), "word_error_rate": word_error_rate(connection)}, indent=1))
        return
    _show(connection, summary_text(seal, time.monotonic() - started, str(lake), speechless), lake)


def _make_room(lake: Path) -> None:
    """Delete an earlier demo's lake, and nothing else."""
    if not lake.exists():
        return
    names = {path.name for path in lake.iterdir()} if lake.is_dir() else {""}
    if not names <= {"data", "runs", "staging"} or (names and corpora(Store(str(lake))) != ["demo"]):
        raise RecipeError(f"{lake} is there and holds other files; name another place with --lake")
    shutil.rmtree(lake)


def _show(connection: duckdb.DuckDBPyConnection, closing: str, lake: Path) -> None:
    [(recordings, audio_seconds, formats)] = connection.sql(_READ).fetchall()
    print(f"\nREAD      {recordings} recordings, {audio_seconds:.0f} s of audio: {formats}")
    print("\nTABLES")
    for table in TABLES:
        [(rows,)] = connection.sql(f"SELECT count(*) FROM {table}").fetchall()
        if rows:
            print(f"  {table:<13}{rows:>6} rows")
    _show_transcripts(connection)
    print("\nTOP TAGS  segments in which YAMNet gives the label more than 0.5")
    for label, segments, best in connection.sql(_TAGS).fetchall():
        print(f"  {label:<28}{segments:>4}   best {best:.2f}")
    print("\nFAILURES  bad input becomes rows, not the end of the night")
    for stage, code, message in connection.sql("SELECT stage, code, message FROM failures ORDER BY uri").fetchall():
        print(f"  {stage}/{code}: {_short(message.replace(str(RECIPE.parent) + '/', ''))}")
    partial = "SELECT uri, declared_seconds, decoded_seconds FROM recordings WHERE status = 'partial'"
    for uri, declared, decoded in connection.sql(partial).fetchall():
        name = "/".join(Path(uri).parts[-2:])
        print(f"  kept as partial: {name}, {decoded:.1f} s decode of the {declared:.1f} s it declares")
    print(f"\n{closing}\n\nNEXT")
    for command in _next_commands(lake):
        print(f"  {command}")


def _show_transcripts(connection: duckdb.DuckDBPyConnection) -> None:
    rate = word_error_rate(connection)
    print(
        f"\nTRANSCRIPTS  whisper-base; word error rate on the English clips {rate['english']:.1%} "
        f"({rate['english_words']} words), on the Spanish {rate['spanish']:.1%} ({rate['spanish_words']})"
    )
    rows = connection.sql(_TRANSCRIPTS).fetchall()
    step = max(1, len(rows) // SHOWN_TRANSCRIPTS)
    for clip, reference, _, text, language in rows[::step]:
        print(f"  {clip} [{language}]\n    said  {_short(reference)}\n    heard {_short(text)}")


def word_error_rate(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """Return the word error rate per language, after Whisper's own text normalisation."""
    import jiwer
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    facts: dict[str, Any] = {}
    rows = connection.sql(_TRANSCRIPTS).fetchall()
    for name, code, normalise in (
        ("english", "en", EnglishTextNormalizer({})),
        ("spanish", "es", BasicTextNormalizer()),
    ):
        pairs = [(normalise(reference), normalise(text)) for _, reference, spoken, text, _ in rows if spoken == code]
        references, texts = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        facts[name] = jiwer.wer(references, texts) if pairs else None
        facts[f"{name}_words"] = sum(len(reference.split()) for reference in references)
    return facts


def _next_commands(lake: Path) -> list[str]:
    phonolake, where = _command(), shlex.quote(str(lake))
    return [
        f'{phonolake} query {where} "SELECT r.uri, s.start_seconds, t.text FROM transcripts t JOIN segments s '
        'USING (segment_id) JOIN recordings r ON r.recording_id = t.recording_id LIMIT 5"',
        f"{phonolake} failures {where}",
        f"{phonolake} report {where} --out report.html     # one page: figures, pictures, clips to hear",
        f"cp {RECIPE.relative_to(Path.cwd()) if RECIPE.is_relative_to(Path.cwd()) else RECIPE} my-recipe.yaml"
        f"     # point it at your audio, then: {phonolake} plan my-recipe.yaml",
    ]


def _command() -> str:
    """Return how the reader can call this command from here."""
    if shutil.which("phonolake"):
        return "phonolake"
    called = os.path.relpath(sys.argv[0])
    return "python -m pipelines" if called.endswith("__main__.py") else called


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= TEXT_WIDTH else text[: TEXT_WIDTH - 3] + "..."
