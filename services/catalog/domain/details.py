"""What tables, volumes and models have beside the fields of every governed object."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = [
    "Column",
    "Details",
    "ModelDetails",
    "PhysicalTable",
    "TableDetails",
    "TableLayout",
    "TableType",
    "VolumeDetails",
]


class TableType(enum.IntEnum):
    """Where rows are kept; the numbers are those of `tessera.catalog.v1.TableType`."""

    MANAGED = 1
    EXTERNAL = 2


@dataclass(frozen=True, slots=True)
class Column:
    """One column; `data_type` is in ClickHouse's notation."""

    name: str
    data_type: str
    comment: str = ""


@dataclass(frozen=True, slots=True)
class TableLayout:
    """How a managed table lies on disk; see `tessera.catalog.v1.TableLayout`."""

    order_by: tuple[str, ...] = ()
    partition_by_month_of: str = ""
    replacing_version_column: str = ""
    retention_days: int = 0


@dataclass(frozen=True, slots=True)
class PhysicalTable:
    """A table's place in ClickHouse."""

    database: str
    table: str


@dataclass(frozen=True, slots=True)
class TableDetails:
    """A table beyond its common fields."""

    type: TableType
    columns: tuple[Column, ...]
    layout: TableLayout = TableLayout()
    physical: PhysicalTable | None = None
    """Set for managed tables."""
    storage_location: str = ""
    """Key or glob in the object store; set for external tables."""


@dataclass(frozen=True, slots=True)
class VolumeDetails:
    """A volume beyond its common fields."""

    storage_location: str
    """Prefix in the object store; ends with a slash."""


@dataclass(frozen=True, slots=True)
class ModelDetails:
    """A registered model beyond its common fields."""

    next_version: int = 1
    """The number that the next version gets; numbers are never used again."""


Details = TableDetails | VolumeDetails | ModelDetails | None
