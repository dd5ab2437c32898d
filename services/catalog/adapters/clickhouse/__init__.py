"""The `TableEngine` port over ClickHouse."""

from services.catalog.adapters.clickhouse.engine import ClickHouseTableEngine, EngineSettings

__all__ = ["ClickHouseTableEngine", "EngineSettings"]
