-- Base tables end in _log or are internal; analysts read the views.
CREATE TABLE IF NOT EXISTS predictions_log
(
    deployment LowCardinality(String),
    deployment_version UInt32,
    association_id String,
    request_id String,
    occurred_at DateTime64(6, 'UTC'),
    recorded_at DateTime64(6, 'UTC'),
    model_id LowCardinality(String),
    role LowCardinality(String),
    replay_id LowCardinality(String),
    features_num Map(LowCardinality(String), Float64),
    features_cat Map(LowCardinality(String), String),
    predicted_value Float64,
    predicted_class LowCardinality(String),
    probabilities Array(Float64),
    latency_us Float64,
    consumer LowCardinality(String),
    humility LowCardinality(String),
    event_id String,
    source LowCardinality(String),
    sequence UInt64,
    features String ALIAS multiIf(empty(features_num), toJSONString(features_cat), empty(features_cat), toJSONString(features_num), concat(substring(toJSONString(features_num), 1, length(toJSONString(features_num)) - 1), ',', substring(toJSONString(features_cat), 2))),
    INDEX occurred occurred_at TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(recorded_at)
ORDER BY (deployment, recorded_at, event_id)
SETTINGS min_bytes_for_wide_part = 67108864, index_granularity = 512, min_compress_block_size = 8192;

CREATE TABLE IF NOT EXISTS association_index
(
    deployment LowCardinality(String),
    association_id String,
    recorded_at DateTime64(6, 'UTC'),
    event_id String
)
ENGINE = ReplacingMergeTree
ORDER BY (deployment, association_id, recorded_at, event_id)
SETTINGS index_granularity = 256;

CREATE MATERIALIZED VIEW IF NOT EXISTS association_index_feed TO association_index AS
SELECT deployment, association_id, recorded_at, event_id
FROM predictions_log
WHERE association_id != '';

CREATE TABLE IF NOT EXISTS actuals_log
(
    deployment LowCardinality(String),
    association_id String,
    actual String,
    actual_value Nullable(Float64),
    actual_class String,
    retracted Bool,
    occurred_at DateTime64(6, 'UTC'),
    recorded_at DateTime64(6, 'UTC'),
    event_id String,
    source LowCardinality(String),
    sequence UInt64,
    earliest UInt64 MATERIALIZED 18446744073709551615 - toUInt64(toUnixTimestamp64Micro(recorded_at)),
    INDEX occurred occurred_at TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(earliest)
ORDER BY (deployment, association_id, event_id)
SETTINGS index_granularity = 256;

CREATE TABLE IF NOT EXISTS outcomes_log
(
    deployment LowCardinality(String),
    deployment_version UInt32,
    association_id String,
    request_id String,
    occurred_at DateTime64(6, 'UTC'),
    recorded_at DateTime64(6, 'UTC'),
    model_id LowCardinality(String),
    role LowCardinality(String),
    replay_id LowCardinality(String),
    features_num Map(LowCardinality(String), Float64),
    features_cat Map(LowCardinality(String), String),
    predicted_value Float64,
    predicted_class LowCardinality(String),
    probabilities Array(Float64),
    latency_us Float64,
    consumer LowCardinality(String),
    humility LowCardinality(String),
    event_id String,
    actual_value Nullable(Float64),
    actual_class LowCardinality(String),
    actual_at DateTime64(6, 'UTC'),
    actual_received_at DateTime64(6, 'UTC'),
    actual_event_id String,
    retracted Bool,
    rank UInt256,
    features String ALIAS multiIf(empty(features_num), toJSONString(features_cat), empty(features_cat), toJSONString(features_num), concat(substring(toJSONString(features_num), 1, length(toJSONString(features_num)) - 1), ',', substring(toJSONString(features_cat), 2))),
    INDEX occurred occurred_at TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(rank)
PARTITION BY toYYYYMM(recorded_at)
ORDER BY (deployment, recorded_at, event_id)
SETTINGS min_bytes_for_wide_part = 67108864;

CREATE TABLE IF NOT EXISTS events_log
(
    sequence UInt64,
    event_id String,
    type LowCardinality(String),
    version UInt16,
    occurred_at DateTime64(6, 'UTC'),
    actor String,
    deployment LowCardinality(String),
    payload String,
    hash String,
    INDEX occurred occurred_at TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
ORDER BY (sequence, event_id);

-- Proposals that the fold refused: whoever replays the topic must not judge them again by a later state.
CREATE TABLE IF NOT EXISTS refused_events
(
    event_id String,
    reason String
)
ENGINE = ReplacingMergeTree
ORDER BY event_id;

CREATE TABLE IF NOT EXISTS refusals_log
(
    deployment LowCardinality(String),
    recorded_at DateTime64(6, 'UTC'),
    request_id String,
    status UInt16,
    code LowCardinality(String),
    latency_us Float64,
    consumer LowCardinality(String),
    source LowCardinality(String),
    sequence UInt64
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(recorded_at)
ORDER BY (deployment, recorded_at, source, sequence);

-- A minute of a deployment's champion rows as counts over its baseline's bins; and, with an empty
-- deployment, the position of the whole source partition, in the same insert and so in one part.
CREATE TABLE IF NOT EXISTS drift_log
(
    partition_id UInt32,
    deployment LowCardinality(String),
    baseline_id LowCardinality(String),
    minute DateTime('UTC'),
    counts Array(UInt32),
    position String,
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (partition_id, deployment, baseline_id, minute);

CREATE TABLE IF NOT EXISTS log_progress_log
(
    source String,
    sequence UInt64,
    recorded_at DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(sequence)
ORDER BY source;

CREATE TABLE IF NOT EXISTS heartbeats
(
    part LowCardinality(String),
    instance String,
    at DateTime64(6, 'UTC'),
    detail String
)
ENGINE = ReplacingMergeTree(at)
ORDER BY (part, instance);

CREATE VIEW IF NOT EXISTS predictions AS
SELECT *, features FROM predictions_log FINAL;

CREATE VIEW IF NOT EXISTS actuals AS
SELECT deployment, association_id, actual, actual_value, actual_class, retracted, occurred_at, recorded_at, event_id, source, sequence
FROM actuals_log FINAL;

CREATE VIEW IF NOT EXISTS outcomes AS
SELECT * EXCEPT (retracted, rank), features FROM outcomes_log FINAL WHERE NOT retracted;

CREATE VIEW IF NOT EXISTS events AS
SELECT sequence, event_id, type, version, occurred_at, actor, deployment, payload, hash FROM events_log FINAL;

CREATE VIEW IF NOT EXISTS refusals AS
SELECT * FROM refusals_log FINAL;

CREATE VIEW IF NOT EXISTS drift_counts AS
SELECT deployment, baseline_id, partition_id, minute, counts FROM drift_log FINAL WHERE deployment != '';

CREATE VIEW IF NOT EXISTS log_progress AS
SELECT source, sequence, recorded_at FROM log_progress_log FINAL
