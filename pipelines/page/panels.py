"""The panels of a report, by the name of their figure."""

from pipelines.page.audio_panels import AUDIO_PANELS
from pipelines.page.figures import Answer
from pipelines.page.panel import Panel
from pipelines.page.run_panels import RUN_PANELS


def panels(answers: dict[str, Answer], unit: str, reasons: dict[str, str]) -> dict[str, Panel]:
    """Return the panels by name; `reasons` says why a figure is not there."""
    made = {name: make(answers[name], unit) for name, make in (RUN_PANELS | AUDIO_PANELS).items() if name in answers}
    return {
        name: panel if panel.rows or not reasons.get(name) else Panel(panel.answer, "", missing=reasons[name])
        for name, panel in made.items()
    }
