-- How many rows of a request a value of the wrong type spoilt, by input. Status 200: the other rows of the request were answered.
ALTER TABLE refusals_log ADD COLUMN IF NOT EXISTS wrong Map(LowCardinality(String), UInt32);

CREATE OR REPLACE VIEW refusals AS
SELECT deployment, recorded_at, request_id, status, code, latency_us, consumer, source, sequence, wrong
FROM refusals_log FINAL
