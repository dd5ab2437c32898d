CREATE TABLE IF NOT EXISTS metric_points
(
    run_id String,
    key LowCardinality(String),
    step Int64,
    timestamp DateTime64(6, 'UTC'),
    value Float64
)
ENGINE = ReplacingMergeTree
ORDER BY (run_id, key, step, timestamp, value)
COMMENT 'Points of metrics. The same point twice is one: read with FINAL.';
