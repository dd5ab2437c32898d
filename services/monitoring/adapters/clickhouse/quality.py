"""The SELECTs that count windows and judge predictions by labels, by window and slice."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from services.monitoring.adapters.clickhouse.engine import Query, quote, text
from services.monitoring.adapters.clickhouse.rows import request_conditions
from services.monitoring.domain.columns import RowSchema
from services.monitoring.domain.monitor import InferenceProfile, PhysicalTable, ProblemType
from services.monitoring.domain.windows import RequestRange

__all__ = ["LABELS", "labelled_rows", "window_select"]

LABELS: Final = "labels"
_SLICE_VALUES: Final = 100
# Probabilities are kept this far from 0 and 1, where the logarithm is not finite.
_CLIP: Final = 1e-15
# sklearn.metrics.mean_absolute_percentage_error divides by at least this.
_EPSILON: Final = 2.220446049250313e-16


def labelled_rows(
    database: str,
    table: PhysicalTable,
    rows: Query,
    ranges: Iterable[RequestRange] | None,
) -> Query:
    """`rows` of an inference table with the column `label`, null where none came.

    A label is of a request; it counts only where the request had one row. A label by our id goes
    before one by the caller's.
    """
    conditions, parameters = request_conditions(ranges, None)
    requests = f"FROM {quote(table.database)}.{quote(table.table)} WHERE {' AND '.join(conditions)}"

    def labels(kind: str, column: str) -> str:
        return (
            f"(SELECT endpoint, request_id, value FROM {quote(database)}.{LABELS} "
            f"WHERE id_kind = '{kind}' AND (endpoint, request_id) IN "
            f"(SELECT endpoint, {column} {requests} AND {column} != ''))"
        )

    return Query(
        "SELECT r.*, if(rows_of_request = 1, ifNull(own.value, their.value), NULL) AS label "
        f"FROM ({rows.sql}) AS r "
        f"LEFT ANY JOIN {labels('tessera', 'tessera_request_id')} AS own "
        "ON r.endpoint = own.endpoint AND r.tessera_request_id = own.request_id "
        f"LEFT ANY JOIN {labels('client', 'client_request_id')} AS their "
        "ON r.endpoint = their.endpoint AND r.client_request_id = their.request_id",
        {**rows.parameters, **parameters},
    )


def window_select(rows: Query, schema: RowSchema, profile: InferenceProfile | None) -> Query:
    """Counts and quality by window and slice.

    Args:
        rows: Of `labelled_rows` for an inference table; of `rows` for another.
        schema: What `rows` reads.
        profile: How the prediction is judged; None for a table without predictions.

    Returns:
        Rows of `window_start`, `slice_key`, `slice_value`, `row_count` and, for an inference
        table, the quality metrics by name; null where there is none.
    """
    slices = ["('', '')", *(f"({text(c.name)}, s{i})" for i, c in enumerate(schema.slices))]
    metrics = [] if profile is None else _quality(profile)
    return Query(
        "SELECT window_start, slice.1 AS slice_key, slice.2 AS slice_value, "
        f"{', '.join(['count() AS row_count', *metrics])} "
        f"FROM ({rows.sql}) ARRAY JOIN [{', '.join(slices)}] AS slice "
        "WHERE window_start IN {starts:Array(Int64)} "
        "GROUP BY window_start, slice_key, slice_value "
        f"ORDER BY row_count DESC, slice_value LIMIT {_SLICE_VALUES} BY window_start, slice_key",
        {
            **rows.parameters,
            **({} if profile is None else {"threshold": profile.decision_threshold}),
        },
    )


def _quality(profile: InferenceProfile) -> list[str]:
    if profile.problem_type is ProblemType.REGRESSION:
        return _regression()
    return _binary()


def _named(metrics: dict[str, str]) -> list[str]:
    return [f"{value} AS {name}" for name, value in metrics.items()]


def _ratio(above: str, below: str) -> str:
    return f"if({below} = 0, NULL, ({above}) / ({below}))"


def _binary() -> list[str]:
    # `isNotNull` first: a comparison with null is null, and countIf takes null for false.
    judged = "isNotNull(label) AND isFinite(ifNull(prediction, nan)) AND label IN (0, 1)"
    positive = "prediction >= {threshold:Float64}"
    chance = f"least(greatest(assumeNotNull(prediction), {_CLIP}), 1 - {_CLIP})"
    loss = f"-if(label = 1, log({chance}), log(1 - {chance}))"
    scores = f"groupArrayIf(assumeNotNull(prediction), {judged})"
    truths = f"groupArrayIf(toUInt8(assumeNotNull(label)), {judged})"
    one_class = "true_positives + false_negatives = 0 OR true_negatives + false_positives = 0"
    return _named(
        {
            "label_count": f"countIf({judged})",
            "true_positives": f"countIf({judged} AND label = 1 AND {positive})",
            "false_positives": f"countIf({judged} AND label = 0 AND {positive})",
            "true_negatives": f"countIf({judged} AND label = 0 AND NOT ({positive}))",
            "false_negatives": f"countIf({judged} AND label = 1 AND NOT ({positive}))",
            "accuracy": _ratio("true_positives + true_negatives", "label_count"),
            "precision": _ratio("true_positives", "true_positives + false_positives"),
            "recall": _ratio("true_positives", "true_positives + false_negatives"),
            "f1_score": _ratio(
                "2 * true_positives", "2 * true_positives + false_positives + false_negatives"
            ),
            "roc_auc": f"if({one_class}, NULL, arrayROCAUC({scores}, {truths}))",
            "log_loss": _ratio(f"sumIf({loss}, {judged})", "label_count"),
        }
    )


def _regression() -> list[str]:
    judged = "isFinite(ifNull(label, nan)) AND isFinite(ifNull(prediction, nan))"
    error = "(assumeNotNull(prediction) - assumeNotNull(label))"
    share = f"abs({error}) / greatest(abs(assumeNotNull(label)), {_EPSILON})"
    spread = f"varPopStableIf(assumeNotNull(label), {judged})"
    return _named(
        {
            "label_count": f"countIf({judged})",
            "mean_squared_error": _ratio(f"sumIf(pow({error}, 2), {judged})", "label_count"),
            "root_mean_squared_error": "sqrt(mean_squared_error)",
            "mean_absolute_error": _ratio(f"sumIf(abs({error}), {judged})", "label_count"),
            "mean_absolute_percentage_error": _ratio(f"sumIf({share}, {judged})", "label_count"),
            "r2_score": f"if(label_count < 2 OR {spread} = 0, NULL, "
            f"1 - mean_squared_error / {spread})",
        }
    )
