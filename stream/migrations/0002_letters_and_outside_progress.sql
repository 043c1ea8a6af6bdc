CREATE TABLE IF NOT EXISTS dead_letters_log
(
    letter_id String,
    topic LowCardinality(String),
    partition_id Int32,
    `offset` Int64,
    reason String,
    size UInt64,
    payload String,
    recorded_at DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree
ORDER BY letter_id;

-- The payload is base64, the first 64 KiB of it.
CREATE VIEW IF NOT EXISTS dead_letters AS
SELECT letter_id, topic, partition_id, `offset`, reason, size, payload, recorded_at FROM dead_letters_log FINAL;

-- An outside partition feeds the folds of all our partitions: it has a row "source@place/of" a place, and is
-- as far as the slowest of them, once all of them have spoken.
CREATE OR REPLACE VIEW log_progress AS
SELECT splitByChar('@', place)[1] AS source, min(confirmed) AS sequence, max(at) AS recorded_at
FROM (SELECT source AS place, sequence AS confirmed, recorded_at AS at FROM log_progress_log FINAL)
GROUP BY source
HAVING max(position(place, '@')) = 0 OR count() = max(toUInt32OrZero(splitByChar('/', splitByChar('@', place)[2])[2]));
