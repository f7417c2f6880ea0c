"""The panels on what was heard: lengths, languages, tags, levels, doubts."""

from collections.abc import Callable, Sequence
from typing import Final

from pipelines.page.charts import Columns
from pipelines.page.figures import (
    DURATION_EDGES,
    LEVEL_SEGMENTS,
    LEVEL_STEP_DB,
    SCORE,
    SEGMENT_EDGES,
    Answer,
)
from pipelines.page.panel import Cell, Panel, bars, draw, number
from pipelines.page.words import count, in_hours, length

NONE: Final = "\N{EN DASH}"
MINUS: Final = "\N{MINUS SIGN}"


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
                number(count(rows[edge][what] if edge in rows else 0)),
                number(text(rows[edge]["hours"] if edge in rows else 0.0)),
            ]
            for edge, low, high in zip(kept, names, upper, strict=True)
        ]
        drawing = draw(
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
            number(count(row["segments"])),
            number(text(row["hours"])),
            number(NONE if row["mean_probability"] is None else f"{row['mean_probability']:.2f}"),
        ]
        for row, bar in zip(rows, bars([row["hours"] for row in rows]), strict=True)
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
            number(count(row["segments"])),
            number(f"{row['mean_score']:.2f}"),
        ]
        for row, bar in zip(rows, bars([row["segments"] for row in rows]), strict=True)
    ]
    headings = ("Label", *(("Model",) if several else ()), "Segments", "Mean score")
    return Panel(answer, f"Labels that score {SCORE} or more, by the segments they are in.", headings, cells)


def _doubts(answer: Answer, _: str) -> Panel:
    cells = [
        [Cell(row["flag"].replace("_", " "), bar=bar), Cell(row["model"]), number(count(row["segments"]))]
        for row, bar in zip(answer.rows, bars([row["segments"] for row in answer.rows]), strict=True)
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
        [Cell(f"{edge} to {edge + LEVEL_STEP_DB} dB".replace("-", MINUS)), number(count(rows.get(edge, 0)))]
        for edge in edges
    ]
    drawing = draw(
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


AUDIO_PANELS: Final[dict[str, Callable[[Answer, str], Panel]]] = {
    "durations": _lengths("recordings", DURATION_EDGES, "Of what decoded."),
    "segments": _lengths("segments", SEGMENT_EDGES, "As recordings were cut."),
    "languages": _languages,
    "tags": _tags,
    "levels": _levels,
    "doubts": _doubts,
}
