"""What a run took: versions, resources, seconds. For people and reports; nothing in the protocol reads it.

Both records are written by whoever carried the run out, after what they tell of; a driver that is killed before leaves
none, and nobody writes it later. So who reads them must do without.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, TypeVar

SECONDS_AN_HOUR: Final = 3600.0

_Kind = TypeVar("_Kind")


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A model of a run: its name in the recipe, what runs it, its weights, and the stages it filled."""

    name: str
    kind: str
    revision: str
    digest: str
    stages: list[str]


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """`measures/<n>.json`: what one attempt took, as far as its driver heard; what was done twice counts twice.

    Attributes:
        outcome: `ended`, `over_budget`, `failed`, or `unknown` where its driver left no measures.
        seconds: on the clock; None where unknown, as what follows is empty then.
        nodes: alive when it began, as `cpus` and `gpus` are what the cluster had then.
        stage_seconds: seconds of work, summed over all workers, by stage id; besides, `ingest` (fetch, decode, cut),
            `enhance`, and `stage` (sort and write fragments).
        pool_wait_seconds: by model, seconds in which its actors had nothing to do, summed.
        counts: what passed: `recordings`, `ok`, `partial`, `failed`, `segments`, `audio_seconds` (decoded),
            `segment_seconds`, `source_bytes`, `staged_bytes`.
        failures: by code.
        batch_fill: by model, the part of its batches that was audio and not padding.
        versions: of what ran it, by package.
    """

    attempt: int
    started_at: str | None = None
    outcome: str = "unknown"
    seconds: float | None = None
    nodes: int = 0
    cpus: float = 0.0
    gpus: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=dict)
    pool_wait_seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    failures: dict[str, float] = field(default_factory=dict)
    batch_fill: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """`record.json`: how a sealed run was carried out, and what it took.

    Attributes:
        versions: of Python, Phonolake and the libraries that decide what rows hold, by name.
        code: the version of each table's code, as stage fingerprints cover it.
        recipe: the resolved recipe, as in the plan.
        rows: published, by table.
        step_seconds: of the driver that sealed: list (source and ledger), plan, attempt, verdict, publish, seal.
        attempts: of all drivers, in their order.
    """

    corpus: str
    run: str
    planned_at: str
    sealed_at: str
    retry: bool
    versions: dict[str, str]
    code: dict[str, str]
    models: list[ModelRecord]
    recipe: dict[str, Any]
    recordings: int
    ok: int
    partial: int
    failed: int
    returned: int
    audio_seconds: float
    source_bytes: int
    published_bytes: int
    published_files: int
    rows: dict[str, int]
    step_seconds: dict[str, float]
    attempts: list[AttemptRecord]
    writer: str

    @property
    def attempt_seconds(self) -> float:
        """Seconds on the clock of all attempts that are known."""
        return sum(one.seconds or 0.0 for one in self.attempts)

    @property
    def core_hours(self) -> float:
        """Cores that the cluster had, times hours, over all attempts that are known."""
        return sum(one.cpus * (one.seconds or 0.0) for one in self.attempts) / SECONDS_AN_HOUR

    @property
    def gpu_hours(self) -> float:
        """GPUs that the cluster had, times hours, over all attempts that are known."""
        return sum(one.gpus * (one.seconds or 0.0) for one in self.attempts) / SECONDS_AN_HOUR

    @property
    def audio_hours(self) -> float:
        """Hours of decoded audio that the run holds."""
        return self.audio_seconds / SECONDS_AN_HOUR

    @property
    def audio_seconds_per_second(self) -> float | None:
        """How much faster than real time the attempts were; None where no attempt is known."""
        return self.audio_seconds / self.attempt_seconds if self.attempt_seconds else None

    @property
    def audio_hours_per_core_hour(self) -> float | None:
        """What one core gave; None where no attempt is known."""
        return self.audio_hours / self.core_hours if self.core_hours else None

    @property
    def audio_hours_per_gpu_hour(self) -> float | None:
        """What one GPU gave; None where there was none."""
        return self.audio_hours / self.gpu_hours if self.gpu_hours else None

    @property
    def stage_seconds(self) -> dict[str, float]:
        """Seconds of work by stage, over all attempts that are known."""
        return _summed(one.stage_seconds for one in self.attempts)

    @property
    def failures(self) -> dict[str, float]:
        """Failures by code, over all attempts that are known."""
        return _summed(one.failures for one in self.attempts)


def _summed(parts: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            found[name] = found.get(name, 0.0) + value
    return dict(sorted(found.items()))


def to_json(record: RunRecord | AttemptRecord) -> bytes:
    """Return a record as indented JSON."""
    return json.dumps(asdict(record), indent=1).encode()


def read_attempt_record(data: bytes) -> AttemptRecord:
    """Read measures/<n>.json."""
    return _read(AttemptRecord, json.loads(data))


def read_run_record(data: bytes) -> RunRecord:
    """Read record.json."""
    content = json.loads(data)
    content["models"] = [_read(ModelRecord, one) for one in content["models"]]
    content["attempts"] = [_read(AttemptRecord, one) for one in content["attempts"]]
    return _read(RunRecord, content)


def _read(kind: type[_Kind], content: dict[str, Any]) -> _Kind:
    """Make a record; keys of later releases are passed over."""
    names = {one.name for one in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in content.items() if name in names})
