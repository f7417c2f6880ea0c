"""The page itself: one HTML file that asks nothing of a network, runs no script, and escapes whatever a lake holds."""

import base64
import hashlib
import shlex
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, Final

import duckdb
from jinja2 import Environment, StrictUndefined

from pipelines.lake import open_lake
from pipelines.page import figures as known
from pipelines.page.clips import Clip, chosen, clips
from pipelines.page.figures import Answer, LevelGround, ask, period
from pipelines.page.ground import Ground, find_ground
from pipelines.page.levels import power_weights
from pipelines.page.panel import tail
from pipelines.page.panels import panels
from pipelines.page.words import count, in_hours
from pipelines.runs import load_plan
from pipelines.store import Store

NO_RUN: Final = "No run is sealed yet; what an open run has done shows when it ends (phonolake status)."
REASONS: Final = {
    "nights": NO_RUN,
    "runs": NO_RUN,
    "tables": NO_RUN,
    "corpora": "Nothing has decoded yet.",
    "durations": "Nothing has decoded yet.",
    "segments": "There are no segments.",
    "languages": "There are no transcripts.",
    "tags": f"There are no tags, or none that scores {known.SCORE}.",
    "doubts": "No transcript has a flag.",
    "failures": "Nothing has failed.",
    "stages": "No run has left a record of what it took.",
    "levels": "Levels are read off log-mel spectrograms, and the last night has none that tell them.",
}
_NIGHTS: Final = "SELECT count(DISTINCT planned_at::DATE), min(planned_at), max(planned_at) FROM {seals}"
_LAST_LOG_MEL: Final = """\
SELECT corpus, dt::VARCHAR AS day, max(run_id) FROM spectrograms WHERE kind = 'log_mel'
GROUP BY ALL ORDER BY day DESC, corpus LIMIT 1"""


@dataclass(frozen=True, slots=True)
class Report:
    """What a page shows."""

    lake: str
    endpoint_url: str | None
    made_at: str
    unit: str
    span: str
    answers: dict[str, Answer]
    clips: list[Clip]

    def facts(self) -> dict[str, Any]:
        """Return the figures, each with its query and rows, and the clips without picture and sound."""
        told = ("segment_id", "corpus", "uri", "start_seconds", "end_seconds", "language", "text", "model", "tags")
        return {
            "lake": self.lake,
            "made_at": self.made_at,
            "figures": {
                name: {"sql": answer.figure.sql, "command": self.command(answer.figure.sql), "rows": answer.rows}
                for name, answer in self.answers.items()
            },
            "clips": [{name: asdict(clip)[name] for name in told} for clip in self.clips],
        }

    def command(self, sql: str) -> str:
        """Return the command that asks a query again."""
        endpoint = f" --endpoint-url {shlex.quote(self.endpoint_url)}" if self.endpoint_url else ""
        return f"phonolake query {shlex.quote(self.lake)} {_quoted(sql)}{endpoint}"


def _quoted(sql: str) -> str:
    """Quote a query for a shell, in double quotes: SQL is full of single ones."""
    for special in ("\\", '"', "$", "`"):
        sql = sql.replace(special, "\\" + special)
    return f'"{sql}"'


def make_report(store: Store, lake: str, endpoint_url: str | None, *, most_clips: int, sound: bool) -> Report:
    """Ask a lake everything that its report shows."""
    connection, ground = open_lake(store), find_ground(store)
    [(nights, first, last)] = connection.sql(_NIGHTS.format(seals=ground.seals)).fetchall()
    unit = period(nights)
    found = [*known.figures(ground, unit, _level_ground(store, connection)), chosen(most_clips)]
    answers = ask(connection, found if most_clips else found[:-1])
    shown = clips(store, connection, answers["clips"].rows, sound=sound) if most_clips else []
    return Report(
        lake,
        endpoint_url,
        datetime.now(UTC).isoformat(timespec="seconds"),
        unit,
        _span(first, last, ground),
        answers,
        shown,
    )


def _span(first: datetime | None, last: datetime | None, ground: Ground) -> str:
    if first is None or last is None:
        return "no sealed run"
    runs = f"{ground.sealed_runs:,} run" + ("s" if ground.sealed_runs > 1 else "")
    return f"{runs}, {first:%-d %B %Y}" + (f" to {last:%-d %B %Y}" if last.date() > first.date() else "")


def _level_ground(store: Store, connection: duckdb.DuckDBPyConnection) -> LevelGround | None:
    """Return where levels can be read, if the run that made the last spectrograms says how."""
    for corpus, day, run in connection.sql(_LAST_LOG_MEL).fetchall():
        recipe = load_plan(store, corpus, run).recipe
        kinds = [one for one in recipe.get("spectrograms", []) if one.get("kind") == "log_mel"]
        if kinds:
            settings = {name: value for name, value in kinds[0].items() if value is not None}
            weights = power_weights(settings, recipe["audio"]["sample_rate"])
            return LevelGround(corpus, day, tuple(weights)) if weights else None
    return None


def render(report: Report) -> str:
    """Return a report as HTML."""
    style = files("pipelines.page").joinpath("report.css").read_text()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"tail": tail, "clock": _clock}
    template = environment.from_string(files("pipelines.page").joinpath("report.html.jinja").read_text())
    return template.render(
        report=report,
        style=style,
        style_digest=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        panels=panels(report.answers, report.unit, REASONS),
        reasons=REASONS,
        key_figures=_key_figures(report.answers["totals"].rows[0]),
    )


def _key_figures(totals: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the figures that a glance is for: value, unit or noun, and a remark."""
    unit, text = in_hours([totals["hours"]])
    tried = totals["recordings"] + totals["failed_recordings"]
    failed = f"{totals['failed_recordings'] / tried:.1%} of {count(tried)}" if tried else ""
    speech = (
        f"{totals['speech_hours'] / totals['hours']:.0%} speech" if totals["speech_hours"] and totals["hours"] else ""
    )
    partial = f"{count(totals['partial_recordings'])} in part" if totals["partial_recordings"] else "all of them whole"
    also = f"and {count(totals['failed_segments'])} segments" if totals["failed_segments"] else failed
    return [
        (text(totals["hours"]), f"{unit.lower()} of audio", speech),
        (count(totals["recordings"]), "recordings", partial if totals["recordings"] else ""),
        (count(totals["segments"]), "segments", ""),
        (count(totals["failed_recordings"]), "failed", also),
    ]


def _clock(value: float) -> str:
    """Return a time in a recording: 1:04.5."""
    minutes, rest = divmod(value, 60)
    return f"{int(minutes)}:{rest:04.1f}"
