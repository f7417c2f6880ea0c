-- The views current_<table> of a Phonolake lake: of every uri the latest version, of that what was computed last.
-- Made by `python -m pipelines.views > deploy/sql/current_views.sql`; what they mean stands in pipelines/views.py.
--
-- Assumed: the lake's eight tables are registered under their names (recordings, segments, spectrograms, embeddings,
-- transcripts, tags, clips, failures) in the current schema or data set. The views stand on each other: run all, in
-- this order. Most engines fix a view's columns when it is made: run this again after a release that adds some.

CREATE OR REPLACE VIEW current_recordings AS
WITH tries AS (
    SELECT corpus_id, uri, recording_id, run_id, 1 AS decoded FROM recordings
    UNION ALL
    SELECT corpus_id, uri, recording_id, run_id, 0 AS decoded FROM failures WHERE segment_id IS NULL
),
versions AS (
    SELECT corpus_id, uri, recording_id, max(run_id) AS last_run, max(CASE WHEN decoded = 1 THEN run_id END) AS base_run
    FROM tries GROUP BY corpus_id, uri, recording_id
),
placed AS (
    SELECT corpus_id, recording_id, base_run,
        row_number() OVER (PARTITION BY corpus_id, uri ORDER BY last_run DESC, recording_id DESC) AS place
    FROM versions
),
latest AS (
    SELECT corpus_id, recording_id, base_run FROM placed WHERE place = 1
)
SELECT r.*
FROM recordings r
JOIN latest l ON l.corpus_id = r.corpus_id AND l.recording_id = r.recording_id AND l.base_run = r.run_id;

CREATE OR REPLACE VIEW current_segments AS
SELECT s.*
FROM segments s
JOIN current_recordings r ON r.corpus_id = s.corpus_id AND r.recording_id = s.recording_id AND r.run_id = s.run_id;

CREATE OR REPLACE VIEW current_spectrograms AS
WITH newest AS (
    SELECT t.corpus_id, t.recording_id, t.segment_id, t.kind, max(t.run_id) AS run_id
    FROM spectrograms t
    JOIN current_recordings r ON r.corpus_id = t.corpus_id AND r.recording_id = t.recording_id AND r.run_id <= t.run_id
    GROUP BY t.corpus_id, t.recording_id, t.segment_id, t.kind
)
SELECT t.*
FROM spectrograms t
JOIN newest n ON n.corpus_id = t.corpus_id AND n.recording_id = t.recording_id AND n.run_id = t.run_id
    AND n.segment_id = t.segment_id AND n.kind = t.kind;

CREATE OR REPLACE VIEW current_embeddings AS
WITH newest AS (
    SELECT t.corpus_id, t.recording_id, t.segment_id, t.model, max(t.run_id) AS run_id
    FROM embeddings t
    JOIN current_recordings r ON r.corpus_id = t.corpus_id AND r.recording_id = t.recording_id AND r.run_id <= t.run_id
    GROUP BY t.corpus_id, t.recording_id, t.segment_id, t.model
)
SELECT t.*
FROM embeddings t
JOIN newest n ON n.corpus_id = t.corpus_id AND n.recording_id = t.recording_id AND n.run_id = t.run_id
    AND n.segment_id = t.segment_id AND n.model = t.model;

CREATE OR REPLACE VIEW current_transcripts AS
WITH newest AS (
    SELECT t.corpus_id, t.recording_id, t.segment_id, t.model, max(t.run_id) AS run_id
    FROM transcripts t
    JOIN current_recordings r ON r.corpus_id = t.corpus_id AND r.recording_id = t.recording_id AND r.run_id <= t.run_id
    GROUP BY t.corpus_id, t.recording_id, t.segment_id, t.model
)
SELECT t.*
FROM transcripts t
JOIN newest n ON n.corpus_id = t.corpus_id AND n.recording_id = t.recording_id AND n.run_id = t.run_id
    AND n.segment_id = t.segment_id AND n.model = t.model;

CREATE OR REPLACE VIEW current_tags AS
WITH newest AS (
    SELECT t.corpus_id, t.recording_id, t.segment_id, t.model, max(t.run_id) AS run_id
    FROM tags t
    JOIN current_recordings r ON r.corpus_id = t.corpus_id AND r.recording_id = t.recording_id AND r.run_id <= t.run_id
    GROUP BY t.corpus_id, t.recording_id, t.segment_id, t.model
)
SELECT t.*
FROM tags t
JOIN newest n ON n.corpus_id = t.corpus_id AND n.recording_id = t.recording_id AND n.run_id = t.run_id
    AND n.segment_id = t.segment_id AND n.model = t.model;

CREATE OR REPLACE VIEW current_clips AS
WITH newest AS (
    SELECT t.corpus_id, t.recording_id, t.segment_id, t.format, max(t.run_id) AS run_id
    FROM clips t
    JOIN current_recordings r ON r.corpus_id = t.corpus_id AND r.recording_id = t.recording_id AND r.run_id <= t.run_id
    GROUP BY t.corpus_id, t.recording_id, t.segment_id, t.format
)
SELECT t.*
FROM clips t
JOIN newest n ON n.corpus_id = t.corpus_id AND n.recording_id = t.recording_id AND n.run_id = t.run_id
    AND n.segment_id = t.segment_id AND n.format = t.format;

CREATE OR REPLACE VIEW current_failures AS
WITH tries AS (
    SELECT corpus_id, uri, recording_id, run_id, 1 AS decoded FROM recordings
    UNION ALL
    SELECT corpus_id, uri, recording_id, run_id, 0 AS decoded FROM failures WHERE segment_id IS NULL
),
versions AS (
    SELECT corpus_id, uri, recording_id, max(run_id) AS last_run, max(CASE WHEN decoded = 1 THEN run_id END) AS base_run
    FROM tries GROUP BY corpus_id, uri, recording_id
),
placed AS (
    SELECT corpus_id, recording_id, base_run,
        row_number() OVER (PARTITION BY corpus_id, uri ORDER BY last_run DESC, recording_id DESC) AS place
    FROM versions
),
latest AS (
    SELECT corpus_id, recording_id, base_run FROM placed WHERE place = 1
),
recent AS (
    SELECT f.corpus_id, f.recording_id, f.segment_id, f.stage, f.run_id
    FROM failures f
    JOIN latest l ON l.corpus_id = f.corpus_id AND l.recording_id = f.recording_id
    WHERE l.base_run IS NULL OR l.base_run <= f.run_id
),
failed AS (
    SELECT corpus_id, recording_id, min(run_id) AS first_run FROM recent GROUP BY corpus_id, recording_id
),
wholes AS (
    SELECT corpus_id, recording_id, max(run_id) AS run_id
    FROM recent WHERE segment_id IS NULL GROUP BY corpus_id, recording_id
),
parts AS (
    SELECT corpus_id, recording_id, segment_id, stage, max(run_id) AS run_id
    FROM recent WHERE segment_id IS NOT NULL GROUP BY corpus_id, recording_id, segment_id, stage
),
later AS (
    SELECT t.corpus_id, t.recording_id, t.segment_id, 'spectrograms/' || t.kind AS stage, max(t.run_id) AS run_id
    FROM spectrograms t
    JOIN failed f ON f.corpus_id = t.corpus_id AND f.recording_id = t.recording_id AND f.first_run < t.run_id
    GROUP BY t.corpus_id, t.recording_id, t.segment_id, t.kind
    UNION ALL
    SELECT t.corpus_id, t.recording_id, t.segment_id, 'embeddings/' || t.model AS stage, max(t.run_id) AS run_id
    FROM embeddings t
    JOIN failed f ON f.corpus_id = t.corpus_id AND f.recording_id = t.recording_id AND f.first_run < t.run_id
    GROUP BY t.corpus_id, t.recording_id, t.segment_id, t.model
    UNION ALL
    SELECT t.corpus_id, t.recording_id, t.segment_id, 'transcripts/' || t.model AS stage, max(t.run_id) AS run_id
    FROM transcripts t
    JOIN failed f ON f.corpus_id = t.corpus_id AND f.recording_id = t.recording_id AND f.first_run < t.run_id
    GROUP BY t.corpus_id, t.recording_id, t.segment_id, t.model
    UNION ALL
    SELECT t.corpus_id, t.recording_id, t.segment_id, 'tags/' || t.model AS stage, max(t.run_id) AS run_id
    FROM tags t
    JOIN failed f ON f.corpus_id = t.corpus_id AND f.recording_id = t.recording_id AND f.first_run < t.run_id
    GROUP BY t.corpus_id, t.recording_id, t.segment_id, t.model
    UNION ALL
    SELECT t.corpus_id, t.recording_id, t.segment_id, 'clips/' || t.format AS stage, max(t.run_id) AS run_id
    FROM clips t
    JOIN failed f ON f.corpus_id = t.corpus_id AND f.recording_id = t.recording_id AND f.first_run < t.run_id
    GROUP BY t.corpus_id, t.recording_id, t.segment_id, t.format
),
reached AS (
    SELECT corpus_id, recording_id, run_id FROM later
    UNION ALL
    SELECT corpus_id, recording_id, run_id FROM parts
),
later_wholes AS (
    SELECT corpus_id, recording_id, max(run_id) AS run_id FROM reached GROUP BY corpus_id, recording_id
)
SELECT f.*
FROM failures f
JOIN wholes w ON w.corpus_id = f.corpus_id AND w.recording_id = f.recording_id AND w.run_id = f.run_id
LEFT JOIN later_wholes d ON d.corpus_id = f.corpus_id AND d.recording_id = f.recording_id AND d.run_id > f.run_id
WHERE f.segment_id IS NULL AND d.run_id IS NULL
UNION ALL
SELECT f.*
FROM failures f
JOIN parts p ON p.corpus_id = f.corpus_id AND p.recording_id = f.recording_id AND p.run_id = f.run_id
    AND p.segment_id = f.segment_id AND p.stage = f.stage
LEFT JOIN later d ON d.corpus_id = f.corpus_id AND d.recording_id = f.recording_id AND d.run_id > f.run_id
    AND d.segment_id = f.segment_id AND d.stage = f.stage
WHERE d.run_id IS NULL;
