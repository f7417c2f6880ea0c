"""The records of a run: small JSON objects, each written once. What they name in Parquet lies beside them."""

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

import pyarrow as pa

PLACE: Final = pa.struct(
    [
        pa.field("shard", pa.string()),  # uri of the tar or Parquet file that a recording lies in
        pa.field("shard_bytes", pa.int64()),
        pa.field("piece", pa.int32()),  # what can only be read from its beginning; null in a .tar
        pa.field("offset", pa.int64()),  # byte, member or row that it begins at
    ]
)
PROBLEM: Final = pa.struct([pa.field("code", pa.string()), pa.field("message", pa.string())])
"""Why a recording cannot be read, where listing it showed that already."""

PLAN: Final = pa.schema(
    [
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("modified_ns", pa.int64()),
        pa.field("metadata", pa.map_(pa.string(), pa.string())),
        pa.field("stages", pa.list_(pa.string())),  # ids of the stages it still needs
        pa.field("only", pa.list_(pa.string())),  # not null: just these, as <stage id>#<segment index>
        pa.field("place", PLACE),  # null: an object of its own
        pa.field("problem", PROBLEM),
    ]
)
"""Planned recordings: objects by recording_id, then the members of each shard in the order they lie there.

Consecutive rows are units of work, as many as Plan.unit_rows says.
"""

VERDICT: Final = pa.schema(
    [
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("segment_index", pa.int32()),  # null: the closing row
        pa.field("receipt", pa.int32(), nullable=False),  # position in Verdict.receipts
        pa.field("outcome", pa.string()),  # on the closing row only
        pa.field("seconds", pa.float64()),  # on the closing row only: decoded audio
    ]
)
"""Which receipt counts: one row per closing row and segment that is published."""

LEDGER: Final = pa.schema(
    [
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),  # ok, partial or failed
        pa.field("stages", pa.list_(pa.string())),  # keys (id@fingerprint) of the stages this run did
    ]
)
"""What a sealed run did, a row a recording."""


@dataclass(frozen=True, slots=True)
class StageRecord:
    """A stage as a run's records name it."""

    id: str
    table: str
    fingerprint: str
    revision: str | None

    @property
    def key(self) -> str:
        """What the ledger books as done."""
        return f"{self.id}@{self.fingerprint}"


@dataclass(frozen=True, slots=True)
class Plan:
    """`plan.json`: what a run will do. Written once; every attempt reads it."""

    corpus: str
    run: str
    planned_at: str  # ISO 8601, UTC
    recipe_fingerprint: str
    recipe: dict[str, Any]
    recordings_file: str
    recordings: int
    size_bytes: int
    unit_rows: list[int]
    unit_bytes: list[int]
    stages: list[StageRecord]
    writer: str
    retry: bool = False  # planned by phonolake retry

    def without_units(self) -> "Plan":
        """Return what tasks need of a plan: all but the lists that grow with it."""
        return replace(self, unit_rows=[], unit_bytes=[], recipe={})

    @property
    def day(self) -> str:
        """The path key `dt` of everything the run publishes, YYYY-MM-DD."""
        return self.planned_at[:10]


@dataclass(frozen=True, slots=True)
class Attempt:
    """`attempts/<n>.json`: one Ray Data execution on behalf of a run."""

    attempt: int
    started_at: str
    writer: str


@dataclass(frozen=True, slots=True)
class Fragment:
    """One staged file, as its receipt names it."""

    table: str
    path: str
    rows: int
    size_bytes: int
    sha256: str
    first: str  # the lowest recording_id in it
    last: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """The header of a receipt, kept in its Parquet footer; its rows are schemas.wire.RECEIPT."""

    attempt: int
    fragments: list[Fragment]


@dataclass(frozen=True, slots=True)
class Source:
    """A fragment that a final file is made of, and the position of its receipt in Verdict.receipts."""

    path: str
    receipt: int
    size_bytes: int
    sha256: str
    rows: int


@dataclass(frozen=True, slots=True)
class FinalFile:
    """One file to publish: what wins of `table` in `sources`, with first <= recording_id < before (None: to the end).

    `whole` says that it has one source, which wins whole, so that the file is that fragment under another name.
    """

    table: str
    path: str
    first: str
    before: str | None
    sources: list[Source]
    whole: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """`verdict.json`: which receipt counts, and which files come of it. The only input of publishing.

    `abandoned` says that it was reached before every planned recording was covered; the others return to the next plan.
    """

    rows_file: str
    receipts: list[str]
    files: list[FinalFile]
    writer: str
    abandoned: bool = False


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One published file, as the seal lists it."""

    table: str
    path: str
    rows: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Seal:
    """`seal.json`: the end of a run. `returned` planned recordings were given back to the next plan."""

    corpus: str
    run: str
    planned_at: str
    sealed_at: str
    attempts: int
    recordings: int
    ok: int
    partial: int
    failed: int
    audio_seconds: float
    ledger_file: str
    files: list[PublishedFile]
    stages: list[StageRecord]
    writer: str
    returned: int = 0


Record = Plan | Attempt | Receipt | Verdict | Seal


def to_json(record: Record) -> bytes:
    """Return a record as indented JSON."""
    return json.dumps(asdict(record), indent=1).encode()


def _known(kind: type[Any], content: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of `content` that `kind` has; keys of later releases are passed over."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in content.items() if name in names}


def _stages(content: dict[str, Any]) -> dict[str, Any]:
    return {**content, "stages": [StageRecord(**_known(StageRecord, stage)) for stage in content["stages"]]}


def read_plan(data: bytes) -> Plan:
    """Read plan.json."""
    return Plan(**_known(Plan, _stages(json.loads(data))))


def read_receipt(data: bytes) -> Receipt:
    """Read a receipt's header."""
    content = json.loads(data)
    return Receipt(content["attempt"], [Fragment(**_known(Fragment, one)) for one in content["fragments"]])


def read_verdict(data: bytes) -> Verdict:
    """Read verdict.json."""
    content = json.loads(data)
    for file in content["files"]:
        file["sources"] = [Source(**_known(Source, source)) for source in file["sources"]]
    content["files"] = [FinalFile(**_known(FinalFile, file)) for file in content["files"]]
    return Verdict(**_known(Verdict, content))


def read_seal(data: bytes) -> Seal:
    """Read seal.json."""
    content = _stages(json.loads(data))
    content["files"] = [PublishedFile(**_known(PublishedFile, file)) for file in content["files"]]
    return Seal(**_known(Seal, content))
