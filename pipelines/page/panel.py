"""A section of the page: what it says in a sentence, its drawings, its table."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipelines.page.charts import HALF, PHONE, Chart, Columns
from pipelines.page.figures import Answer


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


def number(text: str) -> Cell:
    """Return a cell that is aligned as a number."""
    return Cell(text, number=True)


def bars(values: Sequence[float]) -> list[float]:
    """Return how far the bar of each value reaches, 0 to 100."""
    most = max(values, default=0) or 1
    return [100 * value / most for value in values]


def draw(title: str, says: str, columns: Columns, width: float = HALF, tone: str = "plain") -> Drawing:
    """Return a chart at the width of its place on a screen, and on a phone."""
    legend = tuple(name for name, _ in columns.series) if len(columns.series) > 1 else ()
    return Drawing(title, says, columns.drawn(width), columns.drawn(PHONE), legend, tone, columns.between)


def tail(uri: str) -> str:
    """Return the end of a uri that people know an object by."""
    return "/".join(uri.rstrip("/").split("/")[-2:])
