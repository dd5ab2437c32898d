"""The SELECT that finds out what requests of an inference table hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from services.monitoring.adapters.clickhouse.engine import Query, quote
from services.monitoring.adapters.clickhouse.rows import request_conditions
from services.monitoring.domain.monitor import PhysicalTable
from services.monitoring.domain.windows import RequestRange

__all__ = ["json_keys_select"]

_SAMPLED_REQUESTS: Final = 1000


def json_keys_select(table: PhysicalTable, ranges: Sequence[RequestRange] | None) -> Query:
    """The keys of inputs and outputs of some requests, each with the JSON types of its values."""
    conditions, parameters = request_conditions(ranges, None)
    # A number that JSON cannot say is written as text.
    kind = (
        "arrayMap(e -> if(e IN ('\"NaN\"', '\"Infinity\"', '\"-Infinity\"'), 'Double', "
        "toString(JSONType(e))), JSONExtractArrayRaw(pair.2))"
    )
    return Query(
        f"SELECT part, pair.1 AS key, groupUniqArrayArray({kind}) AS types FROM ("
        "SELECT body.1 AS part, arrayJoin(JSONExtractKeysAndValuesRaw(body.2)) AS pair FROM ("
        f"SELECT inputs, outputs FROM {quote(table.database)}.{quote(table.table)} "
        f"WHERE {' AND '.join(conditions)} LIMIT {_SAMPLED_REQUESTS}"
        ") ARRAY JOIN [('input', inputs), ('output', outputs)] AS body"
        ") GROUP BY part, key ORDER BY part, key",
        parameters,
    )
