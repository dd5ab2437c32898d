"""Alembic's versions of the service's database, and SQL files of its ClickHouse database."""
