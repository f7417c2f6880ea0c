"""What must hold between a run's rows, its plan, its verdict and its ledger: complete, nothing more, and none twice."""

from collections.abc import Iterator
from typing import Final

from pipelines.invariants import Finding, RunFacts
from pipelines.row_keys import RowKeys
from schemas import layout
from schemas.records import Plan, Seal

_COMPARE: Final = """
CREATE OR REPLACE TABLE difference AS
WITH decoded AS (
    SELECT p.recording_id, p.stages, p."only" FROM planned p JOIN booked b USING (recording_id)
    WHERE b.outcome <> 'failed'
),
cut AS (
    SELECT recording_id, format('{}-{:05d}', recording_id, segment_index) AS segment_id
    FROM decided WHERE segment_index IS NOT NULL
),
expected AS (
    SELECT 'failures' AS stage, recording_id AS subject FROM booked WHERE outcome = 'failed'
    UNION SELECT 'recordings', recording_id FROM decoded WHERE list_contains(stages, $base)
    UNION SELECT stage, segment_id FROM cut
        JOIN (SELECT recording_id, unnest(stages) AS stage FROM decoded WHERE "only" IS NULL) USING (recording_id)
    UNION SELECT regexp_extract(entry, '^(.*)#', 1),
            format('{}-{:05d}', recording_id, TRY_CAST(regexp_extract(entry, '#([0-9]+)$', 1) AS INTEGER))
        FROM (SELECT recording_id, unnest("only") AS entry FROM decoded)
),
found AS (SELECT stage, subject, min(file) AS file FROM held GROUP BY stage, subject)
SELECT stage, subject, split_part(subject, '-', 1) AS recording_id, path
FROM (FROM expected SELECT *, true AS wanted) FULL JOIN found USING (stage, subject) LEFT JOIN files USING (file)
WHERE wanted IS NULL OR file IS NULL
"""
"""What should have rows of a stage and has none (then without a path), and what has rows and should not."""

_MISSING: Final = """
SELECT $place, CASE stage WHEN 'failures' THEN 'failed recordings have no row in failures'
    WHEN 'recordings' THEN 'decoded recordings have no row in recordings'
    ELSE 'segments have neither a row nor a failure of ' || stage END, subject
FROM difference WHERE path IS NULL
"""
_UNPLANNED: Final = """
SELECT path, 'recordings or segments have rows of ' || stage || CASE
    WHEN p.recording_id IS NULL THEN ', but their recordings were not planned'
    WHEN b.recording_id IS NULL THEN ', but their recordings are not in the ledger'
    WHEN b.outcome = 'failed' THEN ', but their recordings failed as a whole'
    WHEN stage = 'failures' THEN ', but their recordings are booked as done'
    WHEN p."only" IS NOT NULL OR NOT list_contains(p.stages, if(stage = 'recordings', $base, stage))
        THEN ', which was not planned for them'
    ELSE ', but are not in the verdict' END, subject
FROM difference LEFT JOIN planned p USING (recording_id) LEFT JOIN booked b USING (recording_id) WHERE path IS NOT NULL
"""
_DOUBLED: Final = """
SELECT path, 'subjects have more than one row of ' || stage || if(failed, ' among the failures', ''), subject
FROM (
    SELECT max(file) AS file, stage, failed, subject FROM held
    GROUP BY stage, failed, subject, if(stage = 'recordings', NULL, detail) HAVING count(*) > 1
) JOIN files USING (file)
"""
_STATUS: Final = """
SELECT path, 'recordings have another status than the outcome in the ledger', subject
FROM held JOIN booked ON subject = recording_id JOIN files USING (file)
WHERE stage = 'recordings' AND outcome <> 'failed' AND detail <> outcome
"""
_TWICE: Final = """
SELECT $place, 'recordings are listed more than once', recording_id FROM {name}
GROUP BY recording_id HAVING count(*) > 1
"""
_UNBOOKED: Final = "SELECT $place, $sentence, recording_id FROM planned ANTI JOIN booked USING (recording_id)"
_UNPLANNED_RECORDINGS: Final = """
SELECT $place, 'recordings are in the ledger and were not planned', recording_id
FROM booked ANTI JOIN planned USING (recording_id)
"""
_OUTCOMES: Final = """
SELECT $place, 'recordings have another outcome than in the verdict', recording_id
FROM booked b FULL JOIN (SELECT recording_id, outcome FROM decided WHERE segment_index IS NULL) v USING (recording_id)
WHERE b.outcome IS DISTINCT FROM v.outcome
"""
_STAGES: Final = """
SELECT $place, 'recordings are not booked with the stages that were planned for them', recording_id
FROM booked b JOIN planned p USING (recording_id)
WHERE list_sort(b.stages) IS DISTINCT FROM list_sort([s.key FOR s IN $stages IF list_contains(p.stages, s.id)])
"""
_BOOK: Final = """
INSERT INTO done SELECT $ledger, b.uri, b.recording_id, unnest(b.stages), p."only" IS NOT NULL, b.outcome = 'failed'
FROM booked b LEFT JOIN planned p USING (recording_id)
"""
_BOOKED_TWICE: Final = """
WITH cuts AS (  -- each time that another version of a uri was met, or it was cut otherwise: all starts anew
    SELECT uri, ledger FROM (
        SELECT uri, ledger, recording_id || key AS cut, lag(cut) OVER (PARTITION BY uri ORDER BY ledger) AS before
        FROM done WHERE starts_with(key, 'segments/')
    ) WHERE cut IS DISTINCT FROM before
),
since AS (
    SELECT d.ledger, d.recording_id, d.key, d.again, c.ledger AS cut FROM done d
    ASOF LEFT JOIN cuts c ON d.uri = c.uri AND d.ledger >= c.ledger WHERE NOT d.failed
)
SELECT ledger, 'recordings were done before: ' || key, recording_id FROM (
    SELECT *, row_number() OVER (PARTITION BY recording_id, key, cut ORDER BY ledger) AS nth FROM since
) WHERE nth > 1 AND NOT again
"""


def no_row_is_doubled(keys: RowKeys) -> Iterator[Finding]:
    """Nothing has two rows in a run: no recording, segment, result of a stage, tag of one label, or failure."""
    yield from keys.tell("row_doubled", _DOUBLED)


def rows_are_those_that_records_say(keys: RowKeys, run: RunFacts) -> Iterator[Finding]:
    """Everything that was planned and did not fail has its rows, what failed is in failures, and nothing else has any.

    The status in recordings is the outcome in the ledger.
    """
    keys.change(_COMPARE, base=run.base)
    yield from keys.tell("row_missing", _MISSING, place=run.folder)
    yield from keys.tell("row_unplanned", _UNPLANNED, base=run.base)
    yield from keys.tell("row_status", _STATUS)


def records_agree(keys: RowKeys, run: RunFacts, plan: Plan, returned: int) -> Iterator[Finding]:
    """Plan, verdict and ledger of a run agree."""
    yield from no_recording_is_listed_twice(keys, run, plan)
    yield from every_planned_recording_is_booked(keys, run, returned)
    yield from every_booked_recording_was_planned(keys, run)
    yield from the_ledger_says_what_the_verdict_says(keys, run)
    yield from the_ledger_books_the_planned_stages(keys, run)


def no_recording_is_listed_twice(keys: RowKeys, run: RunFacts, plan: Plan) -> Iterator[Finding]:
    """A recording is planned once and booked once."""
    for name, where in (("planned", plan.recordings_file), ("booked", run.ledger)):
        yield from keys.tell("recording_listed_twice", _TWICE.format(name=name), place=where)


def every_planned_recording_is_booked(keys: RowKeys, run: RunFacts, returned: int) -> Iterator[Finding]:
    """Every planned recording is in the ledger, but for those that an abandoned run gave back."""
    [unbooked] = keys.one("SELECT count(*) FROM planned ANTI JOIN booked USING (recording_id)")
    if unbooked != returned:
        sentence = f"planned recordings are not in the ledger, and the run gave back {returned:,}"
        found = list(keys.tell("recording_unbooked", _UNBOOKED, place=run.ledger, sentence=sentence))
        yield from found or [Finding("recording_unbooked", run.ledger, f"0 {sentence}")]


def every_booked_recording_was_planned(keys: RowKeys, run: RunFacts) -> Iterator[Finding]:
    """The ledger holds planned recordings only."""
    yield from keys.tell("recording_unplanned", _UNPLANNED_RECORDINGS, place=run.ledger)


def the_ledger_says_what_the_verdict_says(keys: RowKeys, run: RunFacts) -> Iterator[Finding]:
    """The ledger holds the recordings that the verdict decided on, each with its outcome."""
    yield from keys.tell("ledger_outcome", _OUTCOMES, place=run.ledger)


def the_ledger_books_the_planned_stages(keys: RowKeys, run: RunFacts) -> Iterator[Finding]:
    """A recording is booked with the keys of just those stages that were planned for it."""
    stages = [{"id": id, "key": f"{id}@{fingerprint}"} for id, fingerprint in run.stages.items()]
    yield from keys.tell("ledger_stages", _STAGES, place=run.ledger, stages=stages)


def the_seal_counts_what_the_ledger_holds(keys: RowKeys, run: RunFacts, seal: Seal) -> Iterator[Finding]:
    """The numbers of recordings in a seal are those of its ledger."""
    counts = "SELECT " + ", ".join(f"count(*) FILTER (outcome = '{one}')" for one in ("ok", "partial", "failed"))
    held, said = keys.one(f"{counts} FROM booked"), (seal.ok, seal.partial, seal.failed)
    if held != said:
        where = layout.seal_file(run.corpus, run.run)
        yield Finding("seal_counts", where, f"it counts {said} (ok, partial, failed), and its ledger holds {held}")


def no_stage_is_booked_twice(keys: RowKeys) -> Iterator[Finding]:
    """No ledger books a stage that an earlier one booked as done, unless it did single segments of it again."""
    yield from keys.tell("stage_booked_twice", _BOOKED_TWICE)


def book(keys: RowKeys, run: RunFacts) -> None:
    """Remember what a run's ledger says it did, for the runs that follow."""
    keys.change(_BOOK, ledger=run.ledger)
