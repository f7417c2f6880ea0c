"""Answers as parts of the page: what each says in a sentence, its drawing, its table."""

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pipelines.page.charts import FULL, HALF, PHONE, Chart, Columns
from pipelines.page.figures import (
    DURATION_EDGES,
    LEVEL_SEGMENTS,
    LEVEL_STEP_DB,
    MOST_NIGHTS,
    RUNS_SHOWN,
    SCORE,
    SEGMENT_EDGES,
    Answer,
)
from pipelines.page.words import count, in_hours, length, night, seconds, size

NONE, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
MOST_SERIES: Final = 4  # corpora with a shade of their own


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table: words or a number, and how far its bar reaches, 0 to 100."""

    text: str
    number: bool = False
    bar: float | None = None
    code: bool = False


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart at both widths, its legend, and what it shows for who cannot see it."""

    title: str
    says: str
    wide: Chart
    narrow: Chart
    legend: tuple[str, ...] = ()
    tone: str = "plain"
    edges: bool = False  # labels belong to the columns' left edges


@dataclass(frozen=True, slots=True)
class Panel:
    """A section of the page."""

    answer: Answer
    lead: str
    headings: tuple[str, ...] = ()
    rows: list[list[Cell]] = field(default_factory=list)
    drawings: tuple[Drawing, ...] = ()
    missing: str = ""

    @property
    def name(self) -> str:
        """What links call it."""
        return self.answer.figure.name


def panels(answers: dict[str, Answer], unit: str, reasons: dict[str, str]) -> dict[str, Panel]:
    """Return the panels by name; `reasons` says why a figure is not there."""
    made = {name: make(answers[name], unit) for name, make in _MAKERS.items() if name in answers}
    return {
        name: panel if panel.rows or not reasons.get(name) else Panel(panel.answer, "", missing=reasons[name])
        for name, panel in made.items()
    }


def _number(text: str) -> Cell:
    return Cell(text, number=True)


def _bars(values: Sequence[float]) -> list[float]:
    most = max(values, default=0) or 1
    return [100 * value / most for value in values]


def _draw(title: str, says: str, columns: Columns, width: float = HALF, tone: str = "plain") -> Drawing:
    legend = tuple(name for name, _ in columns.series) if len(columns.series) > 1 else ()
    return Drawing(title, says, columns.drawn(width), columns.drawn(PHONE), legend, tone, columns.between)


def _corpora(answer: Answer, _: str) -> Panel:
    rows, (unit, text) = answer.rows, in_hours([row["hours"] for row in answer.rows])
    bars = _bars([row["hours"] for row in rows])
    cells = [
        [
            Cell(row["corpus"], bar=bar),
            _number(count(row["recordings"])),
            _number(text(row["hours"])),
            _number(f"{row['speech_hours'] / row['hours']:.0%}" if row["speech_hours"] and row["hours"] else NONE),
            _number(str(row["last_night"])),
        ]
        for row, bar in zip(rows, bars, strict=True)
    ]
    headings = ("Corpus", "Recordings", unit, "Speech", "Last night")
    return Panel(answer, "The latest version of every recording, by corpus.", headings, cells)


def _nights(answer: Answer, unit: str) -> Panel:
    rows, (measure, text) = answer.rows, in_hours([row["hours"] for row in answer.rows])
    cells = [
        [
            Cell(str(row["night"])),
            Cell(row["corpus"]),
            *(_number(shown) for shown in (count(row["runs"]), text(row["hours"]))),
            *(_number(count(row[name])) for name in ("ok", "partial", "failed")),
        ]
        for row in reversed(rows)
    ]
    headings = (unit.capitalize(), "Corpus", "Runs", measure, "Ok", "Partial", "Failed")
    lead = f"What runs brought in, by the {unit} they were planned (UTC)."
    return Panel(answer, lead, headings, cells, _night_drawings(rows, unit, measure))


def _night_drawings(rows: list[dict[str, Any]], unit: str, measure: str) -> tuple[Drawing, ...]:
    shown = _periods(sorted({row["night"] for row in rows}), unit)
    if len(shown) < 2:
        return ()
    labels = [night(day, unit) for day in shown]
    factor = 1 if measure == "Hours" else 60
    scaled = [{**row, "hours": row["hours"] * factor} for row in rows]
    outcomes = tuple((name, _by_night(rows, shown, name)) for name in ("ok", "partial", "failed"))
    span = f"from {shown[0]} to {shown[-1]}"
    return (
        _draw(
            f"{measure} of audio a {unit}",
            f"{measure} of audio a {unit}, {span}.",
            Columns(labels, _by_corpus(scaled, shown), measure.lower()),
            FULL,
        ),
        _draw(
            f"Recordings a {unit}",
            f"Recordings a {unit} that went well, in part, or failed, {span}.",
            Columns(labels, outcomes, "recordings"),
            FULL,
            "outcome",
        ),
    )


def _by_night(rows: list[dict[str, Any]], shown: Sequence[datetime.date], name: str) -> list[float]:
    total = dict.fromkeys(shown, 0.0)
    for row in rows:
        if row["night"] in total:
            total[row["night"]] += row[name]
    return list(total.values())


def _by_corpus(rows: list[dict[str, Any]], shown: Sequence[datetime.date]) -> list[tuple[str, list[float]]]:
    hours: dict[str, float] = {}
    for row in rows:
        hours[row["corpus"]] = hours.get(row["corpus"], 0.0) + row["hours"]
    names = sorted(hours, key=lambda name: (-hours[name], name))
    if len(names) > MOST_SERIES:
        names = names[: MOST_SERIES - 1]
    series = [(name, _by_night([row for row in rows if row["corpus"] == name], shown, "hours")) for name in names]
    rest = [row for row in rows if row["corpus"] not in names]
    return [*series, ("all others", _by_night(rest, shown, "hours"))] if rest else series


def _periods(nights: list[datetime.date], unit: str) -> list[datetime.date]:
    """Return the days, weeks or months from the first to the last, those without a run too; the last ones of many."""
    if not nights:
        return []
    found, step = [nights[0]], {"day": 1, "week": 7, "month": 31}[unit]
    while found[-1] < nights[-1]:
        following = found[-1] + datetime.timedelta(step)
        found.append(following.replace(day=1) if unit == "month" else following)
    return found[-MOST_NIGHTS:]


def _lengths(what: str, edges: Sequence[float], lead: str) -> Callable[[Answer, str], Panel]:
    def make(answer: Answer, _: str) -> Panel:
        rows = {row["from_seconds"]: row for row in answer.rows}
        if not rows:
            return Panel(answer, lead)
        last = edges.index(max(rows))
        first = edges.index(min(rows))
        kept = edges[first : last + 1]
        names = [length(edge) for edge in kept]
        counts = [float(rows[edge][what]) if edge in rows else 0.0 for edge in kept]
        measure, text = in_hours([row["hours"] for row in answer.rows])
        upper = [*(length(edge) for edge in edges[first + 1 : last + 1]), None]
        upper[-1] = length(edges[last + 1]) if last + 1 < len(edges) else None
        cells = [
            [
                Cell(f"{low} to {high}" if high else f"{low} and longer"),
                _number(count(rows[edge][what] if edge in rows else 0)),
                _number(text(rows[edge]["hours"] if edge in rows else 0.0)),
            ]
            for edge, low, high in zip(kept, names, upper, strict=True)
        ]
        drawing = _draw(
            f"{what.capitalize()} by length",
            f"How many {what} are how long, from {names[0]} to {upper[-1] or 'over ' + names[-1]}.",
            Columns(names, [("", counts)], what, between=True),
        )
        return Panel(answer, lead, ("Length", what.capitalize(), measure), cells, (drawing,))

    return make


def _languages(answer: Answer, _: str) -> Panel:
    rows, (unit, text) = answer.rows, in_hours([row["hours"] for row in answer.rows])
    several = len({row["model"] for row in rows}) > 1
    cells = [
        [
            Cell(row["language"], bar=bar),
            *([Cell(row["model"])] if several else []),
            _number(count(row["segments"])),
            _number(text(row["hours"])),
            _number(NONE if row["mean_probability"] is None else f"{row['mean_probability']:.2f}"),
        ]
        for row, bar in zip(rows, _bars([row["hours"] for row in rows]), strict=True)
    ]
    headings = ("Language", *(("Model",) if several else ()), "Segments", unit, "Mean probability")
    return Panel(answer, "What transcribers heard, segment by segment.", headings, cells)


def _tags(answer: Answer, _: str) -> Panel:
    rows = answer.rows
    several = len({row["model"] for row in rows}) > 1
    cells = [
        [
            Cell(row["label"], bar=bar),
            *([Cell(row["model"])] if several else []),
            _number(count(row["segments"])),
            _number(f"{row['mean_score']:.2f}"),
        ]
        for row, bar in zip(rows, _bars([row["segments"] for row in rows]), strict=True)
    ]
    headings = ("Label", *(("Model",) if several else ()), "Segments", "Mean score")
    return Panel(answer, f"Labels that score {SCORE} or more, by the segments they are in.", headings, cells)


def _doubts(answer: Answer, _: str) -> Panel:
    cells = [
        [Cell(row["flag"].replace("_", " "), bar=bar), Cell(row["model"]), _number(count(row["segments"]))]
        for row, bar in zip(answer.rows, _bars([row["segments"] for row in answer.rows]), strict=True)
    ]
    lead = "Transcripts with a flag: looping, unsure, or words where there is silence."
    return Panel(answer, lead, ("Flag", "Model", "Segments"), cells)


def _levels(answer: Answer, _: str) -> Panel:
    rows = {row["from_db"]: row["segments"] for row in answer.rows}
    lead = f"Mean level of {sum(rows.values())} segments (of the first {LEVEL_SEGMENTS} of the last night), in dBFS."
    if not rows:
        return Panel(answer, lead)
    edges = range(min(rows), max(rows) + 1, LEVEL_STEP_DB)
    cells = [
        [Cell(f"{edge} to {edge + LEVEL_STEP_DB} dB".replace("-", MINUS)), _number(count(rows.get(edge, 0)))]
        for edge in edges
    ]
    drawing = _draw(
        "Segments by level",
        f"How many segments are how loud, from {edges[0]} to {edges[-1] + LEVEL_STEP_DB} dB below full scale.",
        Columns(
            [str(edge).replace("-", MINUS) for edge in edges],
            [("", [rows.get(edge, 0) for edge in edges])],
            "segments",
            between=True,
        ),
    )
    return Panel(answer, lead, ("Level", "Segments"), cells, (drawing,))


def _failures(answer: Answer, _: str) -> Panel:
    cells = [
        [
            Cell(row["code"], bar=bar, code=True),
            Cell(row["stage"]),
            _number(count(row["failures"])),
            Cell("may pass" if row["may_pass"] else "stays"),
            Cell("\n".join(_example(uri, said) for uri, said in zip(row["examples"], row["messages"], strict=True))),
        ]
        for row, bar in zip(answer.rows, _bars([row["failures"] for row in answer.rows]), strict=True)
    ]
    lead = "What could not be done, as things stand. What may pass is tried again by phonolake retry."
    return Panel(answer, lead, ("Code", "Stage", "Failures", "", "For example"), cells)


def _example(uri: str, message: str) -> str:
    return f"{tail(uri)}: {message.removeprefix(uri).lstrip(': ')}"


def tail(uri: str) -> str:
    """Return the end of a uri that people know an object by."""
    return "/".join(uri.rstrip("/").split("/")[-2:])


def _runs(answer: Answer, _: str) -> Panel:
    rows = answer.rows
    measured = any(row["core_hours"] for row in rows)
    cells = [
        [
            Cell(f"{row['planned_at']:%Y-%m-%d %H:%M}"),
            Cell(f"{row['corpus']} {row['run']}"),
            *(_number(count(row[name])) for name in ("recordings", "failed", "attempts")),
            _number(seconds(row["seconds"])),
            _number(f"{row['times_real_time']:,.1f} x"),
            *([_number(_per_core(row))] if measured else []),
        ]
        for row in rows
    ]
    headings = (
        *("Planned (UTC)", "Run", "Recordings", "Failed", "Attempts", "Took", "Speed"),
        *(("Per core hour",) if measured else ()),
    )
    which = f"The last {len(rows)} runs" if len(rows) > 1 else "The only run"
    lead = f"{which}: from plan to seal, and audio seconds a second of that."
    return Panel(answer, lead, headings, cells, _speed(rows))


def _per_core(row: dict[str, Any]) -> str:
    return f"{row['hours'] / row['core_hours']:,.1f} h" if row["core_hours"] else NONE


def _speed(rows: list[dict[str, Any]]) -> tuple[Drawing, ...]:
    shown = [row for row in reversed(rows) if row["recordings"]]
    if len(shown) < 2:
        return ()
    labels = [f"{row['planned_at']:%-d %b}" for row in shown]
    columns = Columns(labels, [("", [row["times_real_time"] for row in shown])], "times real time")
    return (_draw("Times real time, run by run", f"How fast each of the last {len(shown)} runs was.", columns, FULL),)


def _stages(answer: Answer, _: str) -> Panel:
    whole = sum(row["seconds"] for row in answer.rows) or 1
    cells = [
        [Cell(row["stage"], bar=bar), _number(seconds(row["seconds"])), _number(f"{row['seconds'] / whole:.0%}")]
        for row, bar in zip(answer.rows, _bars([row["seconds"] for row in answer.rows]), strict=True)
    ]
    lead = f"Seconds of work of all workers, in the last {RUNS_SHOWN} runs that left a record."
    return Panel(answer, lead, ("Stage", "Work", "Share"), cells)


def _tables(answer: Answer, _: str) -> Panel:
    cells = [
        [
            Cell(row["name"], bar=bar),
            *(_number(text) for text in (count(row["rows"]), count(row["files"]), size(row["size_bytes"]))),
        ]
        for row, bar in zip(answer.rows, _bars([row["size_bytes"] for row in answer.rows]), strict=True)
    ]
    return Panel(answer, "What sealed runs have published.", ("Table", "Rows", "Files", "Size"), cells)


_MAKERS: Final[dict[str, Callable[[Answer, str], Panel]]] = {
    "nights": _nights,
    "corpora": _corpora,
    "durations": _lengths("recordings", DURATION_EDGES, "Of what decoded."),
    "segments": _lengths("segments", SEGMENT_EDGES, "As recordings were cut."),
    "languages": _languages,
    "tags": _tags,
    "levels": _levels,
    "doubts": _doubts,
    "failures": _failures,
    "runs": _runs,
    "stages": _stages,
    "tables": _tables,
}
