"""The ports' implementations: in memory, in SQL, in ClickHouse."""
