-- Why the champion said what it said of the rows that a deployment has explained; `effects` in the scale of the score.
CREATE TABLE IF NOT EXISTS explanations_log
(
    deployment LowCardinality(String),
    model_id LowCardinality(String),
    association_id String,
    request_id String,
    occurred_at DateTime64(6, 'UTC'),
    recorded_at DateTime64(6, 'UTC'),
    event_id String,
    explained_class LowCardinality(String),
    score Float64,
    typical_score Float64,
    effects Map(LowCardinality(String), Float64)
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(recorded_at)
ORDER BY (deployment, recorded_at, event_id);

CREATE VIEW IF NOT EXISTS explanations AS
SELECT deployment, model_id, association_id, request_id, occurred_at, recorded_at, event_id, explained_class, score, typical_score, effects FROM explanations_log FINAL;
