"""The grammar of filters and orders: what parses to what, and where the rest goes wrong."""

from __future__ import annotations

import pytest

from services.tracking.domain.search.parser import parse_filter, parse_order_by
from services.tracking.domain.search.syntax import (
    EXPERIMENTS,
    RUNS,
    Comparison,
    Field,
    FieldKind,
    Operator,
    OrderKey,
    ValueKind,
)
from services.tracking.errors import InvalidFilter, InvalidOrderBy

AUC = Field(FieldKind.METRIC, "auc", ValueKind.NUMBER)
STATUS = Field(FieldKind.ATTRIBUTE, "status", ValueKind.TEXT)
NAME = Field(FieldKind.ATTRIBUTE, "run_name", ValueKind.TEXT)
START = Field(FieldKind.ATTRIBUTE, "start_time", ValueKind.TIME)


def param(key: str) -> Field:
    return Field(FieldKind.PARAM, key, ValueKind.TEXT)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("  \n ", ()),
        ("metrics.auc>=.5", (Comparison(AUC, Operator.GREATER_EQUAL, 0.5),)),
        ("metric.`auc` != -1e-3", (Comparison(AUC, Operator.NOT_EQUAL, -0.001),)),
        ('params."a ""b""" = "x"', (Comparison(param('a "b"'), Operator.EQUAL, "x"),)),
        ("param.a.b-c/d:e = 'it''s'", (Comparison(param("a.b-c/d:e"), Operator.EQUAL, "it's"),)),
        ("parameters.1x like '%'", (Comparison(param("1x"), Operator.LIKE, "%"),)),
        ("params.p IS  not NULL", (Comparison(param("p"), Operator.IS_NOT_NULL, None),)),
        ("status = 'FAILED'", (Comparison(STATUS, Operator.EQUAL, "FAILED"),)),
        ("attr.`Run name` ILIKE 'a'", (Comparison(NAME, Operator.ILIKE, "a"),)),
        ("\"run name\" = 'a'", (Comparison(NAME, Operator.EQUAL, "a"),)),
        ("Created = 1664067852747", (Comparison(START, Operator.EQUAL, 1664067852747),)),
        ("start_time > 1.6e12", (Comparison(START, Operator.GREATER, 1600000000000),)),
        (
            "run_id NOT IN ('a' , \"b\") and metrics.auc<1",
            (
                Comparison(
                    Field(FieldKind.ATTRIBUTE, "run_id", ValueKind.TEXT),
                    Operator.NOT_IN,
                    ("a", "b"),
                ),
                Comparison(AUC, Operator.LESS, 1.0),
            ),
        ),
        (
            "datasets.digest = 'x'",
            (Comparison(Field(FieldKind.DATASET, "digest", ValueKind.TEXT), Operator.EQUAL, "x"),),
        ),
    ],
)
def test_what_parses(text: str, expected: tuple[Comparison, ...]) -> None:
    assert parse_filter(text, RUNS) == expected


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("metrics.auc", 12, "expected a comparison such as =, >= or LIKE, found the end"),
        ("metrics.auc > '0.7'", 15, "expected numeric value type for metric 'auc', found ''0.7''"),
        ("metrics.auc LIKE 'x'", 13, "LIKE cannot be asked of metric 'auc'; use one of"),
        ("params.p = 5", 12, "expected a quoted string value for parameter 'p', found '5'"),
        ("params.p > '5'", 10, "> cannot be asked of parameter 'p'"),
        ("status IN ('a')", 8, "IN cannot be asked of attribute 'status'"),
        ("status IS NULL", 8, "IS NULL cannot be asked"),
        ("run_id IN ()", 12, "expected a quoted string value for the list"),
        ("run_id IN ('a'", 15, "expected ')', found the end"),
        ("start_time > 1.5", 14, "whole milliseconds"),
        ("start_time > 1e300", 14, "out of range"),
        (
            "a.b = 'x'",
            1,
            "invalid entity type 'a'; valid values are metric, parameter, tag, attrib",
        ),
        ("attributes.nope = 'x'", 1, "invalid attribute key 'nope'; valid keys are"),
        ("dataset.nope = 'x'", 1, "invalid dataset key 'nope'; valid keys are name, digest, cont"),
        ("params.`` = 'x'", 1, "the name of the parameter is empty"),
        ("params.p = 'x' OR params.q = 'y'", 16, "expected AND or the end; OR is not supported"),
        ("params.p = 'x' params.q = 'y'", 16, "expected AND or the end, found 'params.q'"),
        ("params.p = 'x' AND", 19, "expected a field such as metrics.auc"),
        (f"params.p LIKE '{'%' * 1001}'", 15, "a pattern of more than 1000 characters"),
        ("params.p NOT NULL", 14, "expected IN after NOT"),
        ("params.p IS 'x'", 13, "expected NULL"),
        ("params.p = 'x", 12, "the quote ' is not closed"),
        ("params.p = 'x' ; DROP", 16, "unexpected character ';'"),
        ("'p' = 'x'", 1, "expected a field"),
        ("(params.p = 'x')", 1, "expected a field"),
        ("params.p = 'a\x00b'", 12, "NUL"),
        ("params.`a\x00` = 'b'", 1, "NUL"),
        (" AND ".join(["status = 'x'"] * 101), 1701, "more than 100 conditions"),
    ],
)
def test_what_does_not_parse_says_where_and_why(text: str, position: int, words: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        parse_filter(text, RUNS)
    assert words in caught.value.message
    assert caught.value.message.endswith(f"at character {position}")
    assert caught.value.metadata == {"position": str(position)}


def test_experiments_have_fields_of_their_own() -> None:
    [name, created] = parse_filter("name LIKE 'f%' AND creation_time > 5", EXPERIMENTS)
    assert name.field == Field(FieldKind.ATTRIBUTE, "name", ValueKind.TEXT)
    assert created.field.values is ValueKind.TIME
    with pytest.raises(InvalidFilter, match="invalid entity type 'metrics'"):
        parse_filter("metrics.auc > 1", EXPERIMENTS)


def test_orders() -> None:
    entries = ["metrics.auc desc", "start_time", "params.`a b` ASC"]
    assert parse_order_by(entries, RUNS) == (
        OrderKey(AUC, descending=True),
        OrderKey(START),
        OrderKey(param("a b")),
    )


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("", "expected a field"),
        ("metrics.auc SIDEWAYS", "expected ASC, DESC or the end, found 'SIDEWAYS'"),
        ("metrics.auc DESC ASC", "expected ASC, DESC or the end"),
        ("dataset.name", "a dataset cannot be ordered by"),
        ("nope", "invalid attribute key 'nope'"),
    ],
)
def test_orders_that_do_not_parse(entry: str, words: str) -> None:
    with pytest.raises(InvalidOrderBy, match=words) as caught:
        parse_order_by(["status", entry], RUNS)
    assert caught.value.violations[0].field == "order_by[1]"
