"""The store in SQL: SQLite in the embedded profile, PostgreSQL in the cluster's."""
