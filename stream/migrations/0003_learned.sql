-- The one order in which an online challenger was taught: its state is nothing but this.
CREATE TABLE IF NOT EXISTS learned_log
(
    deployment LowCardinality(String),
    learner LowCardinality(String),
    n UInt64,
    event_id String,
    actual_event_id String,
    actual_class String,
    actual_value Nullable(Float64)
)
ENGINE = ReplacingMergeTree
ORDER BY (deployment, learner, n);

CREATE VIEW IF NOT EXISTS learned AS
SELECT deployment, learner, n, event_id, actual_event_id, actual_class, actual_value FROM learned_log FINAL;
