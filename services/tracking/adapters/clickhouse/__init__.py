"""What tracking keeps in ClickHouse."""
