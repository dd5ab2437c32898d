"""The catalog's data in SQL: SQLite when embedded, PostgreSQL in a cluster."""

from services.catalog.adapters.sql.store import SqlStore

__all__ = ["SqlStore"]
