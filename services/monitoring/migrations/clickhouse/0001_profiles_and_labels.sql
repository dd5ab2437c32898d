CREATE TABLE IF NOT EXISTS column_profiles
(
    monitor_id String,
    monitor_version Int64,
    log_type LowCardinality(String),
    window_start Int64 COMMENT 'Microseconds since 1970, 0 for a baseline.',
    window_end Int64,
    revision Int64,
    slice_key LowCardinality(String),
    slice_value String,
    column_name LowCardinality(String),
    data_type LowCardinality(String),
    row_count UInt64,
    count UInt64 COMMENT 'Values that are not null.',
    num_nan Nullable(UInt64) COMMENT 'Values that are not finite numbers, they are left out of what follows.',
    num_zeros Nullable(UInt64),
    distinct_count UInt64,
    avg Nullable(Float64),
    min Nullable(Float64),
    max Nullable(Float64),
    stddev Nullable(Float64),
    quantiles Array(Float64),
    min_length Nullable(UInt64),
    max_length Nullable(UInt64),
    avg_length Nullable(Float64),
    frequent_items Array(String),
    frequent_counts Array(UInt64),
    numbers Array(Float64) COMMENT 'The distribution: values in order.',
    number_counts Array(UInt64) COMMENT 'How many rows have each number.',
    texts Array(String) COMMENT 'The distribution of texts: values in order.',
    text_counts Array(UInt64) COMMENT 'How many rows have each text.',
    other_count UInt64 COMMENT 'Rows with texts that are not listed.',
    edges Array(Float64) COMMENT 'Distinct deciles.'
)
ENGINE = ReplacingMergeTree(revision)
ORDER BY (monitor_id, log_type, window_start, slice_key, slice_value, column_name);

CREATE TABLE IF NOT EXISTS labels
(
    endpoint LowCardinality(String),
    id_kind Enum8('tessera' = 1, 'client' = 2),
    request_id String,
    value Float64,
    observed_at DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(observed_at)
ORDER BY (endpoint, id_kind, request_id);
