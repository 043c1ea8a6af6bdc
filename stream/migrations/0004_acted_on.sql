-- Whether someone acted on the prediction: then its outcome is not what would have happened anyway.
ALTER TABLE actuals_log ADD COLUMN IF NOT EXISTS acted_on Bool DEFAULT false;

CREATE OR REPLACE VIEW actuals AS
SELECT deployment, association_id, actual, actual_value, actual_class, retracted, occurred_at, recorded_at, event_id, source, sequence, acted_on
FROM actuals_log FINAL
