"""What the ports stand on: SQL, ClickHouse, the catalog, Faust; and in-memory twins of each."""
