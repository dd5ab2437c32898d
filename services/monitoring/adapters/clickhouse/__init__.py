"""Statistics in ClickHouse: SQL text in small builders, run by `analytics`."""
