"""A campaign: mutants through the real decoder child, each checked against the rules, odd ones kept.

Between the mutants stand recordings whose lengths are known and all differ, so that an answer that went to the wrong
request, or a child that a mutant left broken, is seen.
"""

import hashlib
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path

import numpy as np

from tests.fuzz.mutations import Mutant
from tests.fuzz.rules import broken_rules
from workers import decoder as decoding
from workers.decode_settings import DecodeLimits, DecodeSettings
from workers.decoded import AudioInfo, Ending
from workers.decoder import Answer, Decoder, Failed, Request

LIMITS = DecodeLimits(max_seconds=60, max_channels=8, max_decoded_bytes=60 * 8 * 48_000 * 4)
SETTINGS = (
    DecodeSettings(16_000, LIMITS),
    DecodeSettings(16_000, LIMITS, channels="each"),
    DecodeSettings(48_000, LIMITS),
    DecodeSettings(8_000, LIMITS, channels="left", track="eng"),
)
TIMEOUT_SECONDS = 20.0
WITNESS_EACH = 8  # mutants
MUCH_MEMORY = 320 << 20  # bytes that a child of small files should never need; it has some 100 MB when it starts
_OWN_ERROR = re.compile(r"^[A-Z]\w+(Error|Exception): ")


@dataclass(frozen=True, slots=True)
class Finding:
    """A mutant that somebody should look at, and why; `broken` where a rule does not hold."""

    mutant: Mutant
    reason: str
    broken: bool


@dataclass(slots=True)
class Tally:
    """What came of a campaign."""

    tried: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    examples: dict[str, Mutant] = field(default_factory=dict)  # the smallest of each outcome
    peak_bytes: int = 0  # of the child

    def note(self, mutant: Mutant, outcome: str) -> None:
        """Count an outcome, and keep the mutant where it is the smallest of its kind."""
        self.tried += 1
        self.outcomes[outcome] += 1
        if outcome not in self.examples or len(mutant.content) < len(self.examples[outcome].content):
            self.examples[outcome] = mutant

    @property
    def broken(self) -> list[Finding]:
        """Findings that break a rule."""
        return [finding for finding in self.findings if finding.broken]


def run(mutants: Iterable[Mutant], settings: DecodeSettings, tally: Tally) -> None:
    """Decode `mutants` with one decoder and add what comes of them to `tally`."""
    decoder = Decoder(settings)
    sent: deque[Mutant] = deque()
    try:
        answers: list[Answer] = []
        for answer in decoder.stream(_requests(mutants, sent)):
            answers.append(answer)
            if isinstance(answer, Ending | Failed):
                _judge(sent.popleft(), answers, decoder, settings, tally)
                answers = []
        if answers or sent:
            tally.findings.append(Finding(Mutant("the end", b""), f"{len(sent)} requests got no last answer", True))
    finally:
        decoder.close()


@contextmanager
def impatient(seconds: float = TIMEOUT_SECONDS) -> Iterator[None]:
    """Let a child be silent for `seconds` only."""
    patience = decoding.BASE_TIMEOUT_SECONDS
    decoding.BASE_TIMEOUT_SECONDS = seconds
    try:
        yield
    finally:
        decoding.BASE_TIMEOUT_SECONDS = patience


def alone(mutant: Mutant, settings: DecodeSettings) -> list[Answer]:
    """Return the answers of a child of its own."""
    decoder = Decoder(settings)
    try:
        return list(decoder.stream([Request(mutant.content, raw=mutant.raw)]))
    finally:
        decoder.close()


def outcome_of(answers: Sequence[Answer]) -> str:
    """Say in a word or two what came of a request."""
    last = answers[-1]
    if isinstance(last, Failed):
        told = f" {last.message.partition(':')[0]}" if _OWN_ERROR.match(last.message) else ""
        return f"{last.code}{told}"
    return "partial" if isinstance(last, Ending) and last.damage else "ok"


def file_name(mutant: Mutant, outcome: str) -> str:
    """Return a name for a mutant's file; the ending is the format that a headerless one has."""
    told = re.sub(r"[^a-z0-9]+", "-", f"{outcome} {mutant.name.split()[0]}".lower()).strip("-")
    suffix = mutant.raw.format if mutant.raw else "bin"
    return f"{told}-{hashlib.sha256(mutant.content).hexdigest()[:8]}.{suffix}"


def keep(tally: Tally, folder: Path) -> None:
    """Write down the mutants of findings, and one of each outcome."""
    folder.mkdir(parents=True, exist_ok=True)
    for finding in {finding.reason[:20]: finding for finding in tally.findings}.values():
        (folder / file_name(finding.mutant, f"finding {finding.reason[:40]}")).write_bytes(finding.mutant.content)
    for outcome, mutant in tally.examples.items():
        (folder / file_name(mutant, outcome)).write_bytes(mutant.content)


def child_peak_bytes(decoder: Decoder) -> int:
    """Return the most memory that the decoder's child has had since the last call; 0 where it has no child."""
    child = decoder._child
    if child is None:
        return 0
    try:
        peak = peak_bytes(child.pid)
        Path(f"/proc/{child.pid}/clear_refs").write_text("5")  # sets the peak to what it has now
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return peak


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process has had, from VmHWM; 0 where it is no more."""
    told = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(told[1]) << 10 if told else 0


def _requests(mutants: Iterable[Mutant], sent: deque[Mutant]) -> Iterator[Request]:
    source, number = iter(mutants), count(1)
    while batch := list(islice(source, WITNESS_EACH)):
        for mutant in [*batch, _witness(next(number))]:
            sent.append(mutant)
            yield Request(mutant.content, raw=mutant.raw)


_WITNESS = "witness"


def _witness(number: int) -> Mutant:
    """Return a two-channel WAV that lasts 10 * (1 + number % 97) milliseconds and nothing else."""
    frames = 160 * (1 + number % 97)
    body = np.full((frames, 2), number % 1000, np.int16).tobytes()
    head = b"RIFF" + (36 + len(body)).to_bytes(4, "little") + b"WAVEfmt \x10\x00\x00\x00\x01\x00\x02\x00"
    head += (16_000).to_bytes(4, "little") + (64_000).to_bytes(4, "little") + b"\x04\x00\x10\x00"
    return Mutant(f"{_WITNESS} {frames / 16_000}", head + b"data" + len(body).to_bytes(4, "little") + body)


def _judge(mutant: Mutant, answers: list[Answer], decoder: Decoder, settings: DecodeSettings, tally: Tally) -> None:
    wrong, outcome = broken_rules(answers, settings), outcome_of(answers)
    if mutant.name.startswith(_WITNESS):
        if answers[-1] != Ending(float(mutant.name.split()[1]), None):
            wrong.append(f"a good recording behind it came to {answers[-1]}")
    else:
        tally.note(mutant, outcome)
    tally.findings += [Finding(mutant, reason, broken=True) for reason in wrong]
    if outcome in ("decoder_crashed", "decoder_timeout"):
        tally.findings.append(Finding(mutant, f"{outcome}: {answers[-1]}", broken=False))
    peak = child_peak_bytes(decoder)
    tally.peak_bytes = max(tally.peak_bytes, peak)
    if peak > MUCH_MEMORY:
        facts = answers[0] if isinstance(answers[0], AudioInfo) else answers[-1]
        tally.findings.append(Finding(mutant, f"the child took {peak >> 20} MB: {facts}", broken=False))
