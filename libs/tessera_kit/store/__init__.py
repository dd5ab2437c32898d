"""Stores: SQL with a unit of work, ClickHouse, and objects in S3."""
