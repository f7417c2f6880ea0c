"""The panels on what runs did: nights, corpora, failures, speed, where time went, tables."""

import datetime
from collections.abc import Callable, Sequence
from typing import Any, Final

from pipelines.page.charts import FULL, Columns
from pipelines.page.figures import (
    MOST_NIGHTS,
    RUNS_SHOWN,
    Answer,
)
from pipelines.page.panel import Cell, Drawing, Panel, bars, draw, number, tail
from pipelines.page.words import count, in_hours, night, seconds, size

NONE: Final = "\N{EN DASH}"
MOST_SERIES: Final = 4  # corpora with a shade of their own


def _corpora(answer: Answer, _: str) -> Panel:
    rows, (unit, text) = answer.rows, in_hours([row["hours"] for row in answer.rows])
    reach = bars([row["hours"] for row in rows])
    cells = [
        [
            Cell(row["corpus"], bar=bar),
            number(count(row["recordings"])),
            number(text(row["hours"])),
            number(f"{row['speech_hours'] / row['hours']:.0%}" if row["speech_hours"] and row["hours"] else NONE),
            number(str(row["last_night"])),
        ]
        for row, bar in zip(rows, reach, strict=True)
    ]
    headings = ("Corpus", "Recordings", unit, "Speech", "Last night")
    return Panel(answer, "The latest version of every recording, by corpus.", headings, cells)


def _nights(answer: Answer, unit: str) -> Panel:
    rows, (measure, text) = answer.rows, in_hours([row["hours"] for row in answer.rows])
    cells = [
        [
            Cell(str(row["night"])),
            Cell(row["corpus"]),
            *(number(shown) for shown in (count(row["runs"]), text(row["hours"]))),
            *(number(count(row[name])) for name in ("ok", "partial", "failed")),
        ]
        for row in reversed(rows)
    ]
    headings = (unit.capitalize(), "Corpus", "Runs", measure, "Ok", "Partial", "Failed")
    lead = f"What runs brought in, by the {unit} they were planned (UTC)."
    return Panel(answer, lead, headings, cells, _night_drawings(rows, unit, measure))


def _night_drawings(rows: list[dict[str, Any]], unit: str, measure: str) -> tuple[Drawing, ...]:
    shown = periods(sorted({row["night"] for row in rows}), unit)
    if len(shown) < 2:
        return ()
    labels = [night(day, unit) for day in shown]
    factor = 1 if measure == "Hours" else 60
    scaled = [{**row, "hours": row["hours"] * factor} for row in rows]
    outcomes = tuple((name, _by_night(rows, shown, name)) for name in ("ok", "partial", "failed"))
    span = f"from {shown[0]} to {shown[-1]}"
    return (
        draw(
            f"{measure} of audio a {unit}",
            f"{measure} of audio a {unit}, {span}.",
            Columns(labels, _by_corpus(scaled, shown), measure.lower()),
            FULL,
        ),
        draw(
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


def periods(nights: list[datetime.date], unit: str) -> list[datetime.date]:
    """Return the days, weeks or months from the first to the last, those without a run too; the last ones of many."""
    if not nights:
        return []
    found, step = [nights[0]], {"day": 1, "week": 7, "month": 31}[unit]
    while found[-1] < nights[-1]:
        following = found[-1] + datetime.timedelta(step)
        found.append(following.replace(day=1) if unit == "month" else following)
    return found[-MOST_NIGHTS:]


def _failures(answer: Answer, _: str) -> Panel:
    cells = [
        [
            Cell(row["code"], bar=bar, code=True),
            Cell(row["stage"]),
            number(count(row["failures"])),
            Cell("may pass" if row["may_pass"] else "stays"),
            Cell("\n".join(_example(uri, said) for uri, said in zip(row["examples"], row["messages"], strict=True))),
        ]
        for row, bar in zip(answer.rows, bars([row["failures"] for row in answer.rows]), strict=True)
    ]
    lead = "What could not be done, as things stand. What may pass is tried again by phonolake retry."
    return Panel(answer, lead, ("Code", "Stage", "Failures", "", "For example"), cells)


def _example(uri: str, message: str) -> str:
    return f"{tail(uri)}: {message.removeprefix(uri).lstrip(': ')}"


def _runs(answer: Answer, _: str) -> Panel:
    rows = answer.rows
    measured = any(row["core_hours"] for row in rows)
    cells = [
        [
            Cell(f"{row['planned_at']:%Y-%m-%d %H:%M}"),
            Cell(f"{row['corpus']} {row['run']}"),
            *(number(count(row[name])) for name in ("recordings", "failed", "attempts")),
            number(seconds(row["seconds"])),
            number(f"{row['times_real_time']:,.1f} x"),
            *([number(_per_core(row))] if measured else []),
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
    return (draw("Times real time, run by run", f"How fast each of the last {len(shown)} runs was.", columns, FULL),)


def _stages(answer: Answer, _: str) -> Panel:
    whole = sum(row["seconds"] for row in answer.rows) or 1
    cells = [
        [Cell(row["stage"], bar=bar), number(seconds(row["seconds"])), number(f"{row['seconds'] / whole:.0%}")]
        for row, bar in zip(answer.rows, bars([row["seconds"] for row in answer.rows]), strict=True)
    ]
    lead = f"Seconds of work of all workers, in the last {RUNS_SHOWN} runs that left a record."
    return Panel(answer, lead, ("Stage", "Work", "Share"), cells)


def _tables(answer: Answer, _: str) -> Panel:
    cells = [
        [
            Cell(row["name"], bar=bar),
            *(number(text) for text in (count(row["rows"]), count(row["files"]), size(row["size_bytes"]))),
        ]
        for row, bar in zip(answer.rows, bars([row["size_bytes"] for row in answer.rows]), strict=True)
    ]
    return Panel(answer, "What sealed runs have published.", ("Table", "Rows", "Files", "Size"), cells)


RUN_PANELS: Final[dict[str, Callable[[Answer, str], Panel]]] = {
    "nights": _nights,
    "corpora": _corpora,
    "failures": _failures,
    "runs": _runs,
    "stages": _stages,
    "tables": _tables,
}
