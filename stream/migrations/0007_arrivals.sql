-- Beside the counts of a minute its sums, as integers: of drift the rows, their predicted values in units of the baseline and
-- how many were too large for that; of arrivals (a minute of a deployment's requests over bins of latency) see the view.
ALTER TABLE drift_log ADD COLUMN IF NOT EXISTS sums Array(Int64);

CREATE OR REPLACE VIEW drift_counts AS
SELECT deployment, baseline_id, partition_id, minute, counts, sums FROM drift_log FINAL WHERE deployment != '' AND baseline_id != '@arrivals';

CREATE VIEW IF NOT EXISTS arrivals AS
SELECT deployment, partition_id, minute, sums[1] AS rows, sums[3] AS requests, sums[2] / 10 AS latency_us_sum, counts AS latency_counts
FROM drift_log FINAL WHERE deployment != '' AND baseline_id = '@arrivals';

-- Who asked in a minute: a set, so what is resent changes nothing.
CREATE TABLE IF NOT EXISTS consumers_log
(
    deployment LowCardinality(String),
    minute DateTime('UTC'),
    consumer LowCardinality(String)
)
ENGINE = ReplacingMergeTree
ORDER BY (deployment, minute, consumer);

CREATE MATERIALIZED VIEW IF NOT EXISTS consumers_feed TO consumers_log AS
SELECT DISTINCT deployment, toStartOfMinute(recorded_at) AS minute, consumer
FROM predictions_log
WHERE role = 'champion';

INSERT INTO consumers_log
SELECT DISTINCT deployment, toStartOfMinute(recorded_at) AS minute, consumer
FROM predictions_log
WHERE role = 'champion';

CREATE VIEW IF NOT EXISTS consumers AS
SELECT deployment, minute, consumer FROM consumers_log FINAL
