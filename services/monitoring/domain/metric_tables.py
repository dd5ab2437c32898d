"""The two tables of metrics that a monitor fills: their columns, order and meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from services.monitoring.domain.metrics import DRIFT_METRICS, PROFILE_METRICS, Scope

__all__ = ["DRIFT_TABLE", "PROFILE_TABLE", "TableColumn", "TableShape"]


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of a metric table."""

    name: str
    data_type: str
    """In ClickHouse's notation."""
    comment: str


@dataclass(frozen=True, slots=True)
class TableShape:
    """How a metric table is made."""

    comment: str
    columns: tuple[TableColumn, ...]
    order_by: tuple[str, ...]
    """The key: rows of one key collapse to the one with the greatest revision."""
    version_column: str = "revision"

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return tuple(column.name for column in self.columns)


_TIME: Final = "DateTime64(6, 'UTC')"
_WORD: Final = "LowCardinality(String)"
_NUMBER: Final = "Nullable(Float64)"
_COUNT: Final = "Nullable(UInt64)"

_WINDOW: Final = (
    TableColumn("monitor_name", _WORD, "The monitor."),
    TableColumn("monitor_version", "Int64", "The monitor's version that the row was made by."),
    TableColumn("window_start", _TIME, "When the window begins, inclusive."),
    TableColumn("window_end", _TIME, "When the window ends, exclusive."),
    TableColumn("granularity", _WORD, "The length of the window, in words."),
)
_SUBJECT: Final = (
    TableColumn("slice_key", _WORD, "The slicing column; empty for all rows."),
    TableColumn("slice_value", "String", "The slicing column's value; empty for all rows."),
    TableColumn("column_name", _WORD, "The column; ':table' for the window as a whole."),
    TableColumn("data_type", _WORD, "'numeric', 'categorical', or 'table' for the window."),
)
_REVISION: Final = (
    TableColumn("revision", "UInt64", "How often the window was computed; the greatest counts."),
    TableColumn("computed_at", _TIME, "When the row was computed."),
)
_COUNTS: Final = frozenset(
    {
        *("count", "num_nulls", "num_nan", "num_zeros", "distinct_count"),
        *("min_length", "max_length", "row_count", "label_count"),
        *("true_positives", "false_positives", "true_negatives", "false_negatives"),
    }
)

PROFILE_TABLE: Final = TableShape(
    comment="Profile and quality metrics by window, slice and column.",
    columns=(
        *_WINDOW,
        TableColumn(
            "log_type", _WORD, "INPUT for windows; BASELINE for what they are compared with."
        ),
        *_SUBJECT,
        *_REVISION,
        *(
            TableColumn(
                metric.field,
                _COUNT if metric.field in _COUNTS else _NUMBER,
                "Of the window." if metric.scope is Scope.WINDOW else "Of the column.",
            )
            for metric in PROFILE_METRICS
        ),
        TableColumn(
            "quantiles", "Array(Float64)", "Quantiles in 1000 steps; quantiles[501] is the median."
        ),
        TableColumn(
            "frequent_items", "Array(String)", "The most frequent values, most frequent first."
        ),
        TableColumn("frequent_counts", "Array(UInt64)", "How many rows have each of them."),
    ),
    order_by=(
        *("monitor_name", "log_type", "window_start"),
        *("slice_key", "slice_value", "column_name"),
    ),
)

DRIFT_TABLE: Final = TableShape(
    comment="Drift metrics by window, slice and column.",
    columns=(
        *_WINDOW,
        TableColumn(
            "window_cmp_start", _TIME, "When the compared window begins; 1970 for a baseline."
        ),
        TableColumn("window_cmp_end", _TIME, "When the compared window ends; 1970 for a baseline."),
        TableColumn("drift_type", _WORD, "BASELINE, or CONSECUTIVE for the window before."),
        *_SUBJECT,
        *_REVISION,
        *(
            TableColumn(
                metric.field,
                _NUMBER,
                f"Of the {metric.scope.value}, against what it is compared with.",
            )
            for metric in DRIFT_METRICS
        ),
    ),
    order_by=(
        *("monitor_name", "window_start", "drift_type"),
        *("slice_key", "slice_value", "column_name"),
    ),
)
