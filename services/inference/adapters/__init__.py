"""The ports' implementations: in memory, SQL, ClickHouse, Triton and the catalog."""
