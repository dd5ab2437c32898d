"""Where an INSERT's data begins, and which format a query asks for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstack.clickhouse.statement import read_statement


@pytest.mark.parametrize(
    ("text", "head", "insert_format", "data"),
    [
        (b"INSERT INTO t FORMAT Native\n\x01\x02", b"INSERT INTO t ", "Native", b"\x01\x02"),
        (b"insert into t format CSV 1,2", b"insert into t ", "CSV", b"1,2"),
        (b"INSERT INTO t (a) VALUES (1)", b"INSERT INTO t (a) ", "Values", b" (1)"),
        (b"INSERT INTO t", b"INSERT INTO t", "Values", b""),
        (b"INSERT INTO `FORMAT` FORMAT TSV\n1", b"INSERT INTO `FORMAT` ", "TSV", b"1"),
        (b"/* SELECT */ INSERT INTO t FORMAT X\n", b"/* SELECT */ INSERT INTO t ", "X", b""),
        (b"-- x\nINSERT INTO t SETTINGS a='FORMAT' FORMAT X\nd", None, "X", b"d"),
        (b"INSERT INTO FUNCTION file('VALUES', CSV) FORMAT X\n\n", None, "X", b"\n"),
        (b"INSERT INTO t FORMAT X\r\nd", None, "X", b"d"),
    ],
)
def test_data_follows_the_format(
    text: bytes, head: bytes | None, insert_format: str, data: bytes
) -> None:
    statement = read_statement(text)
    assert statement.insert_format == insert_format
    assert text[statement.data_offset :] == data
    if head is not None:
        assert statement.text == head


@given(st.binary())
def test_any_bytes_may_be_data(data: bytes) -> None:
    statement = read_statement(b"INSERT INTO t FORMAT RowBinary\n" + data)
    assert statement.insert_format == "RowBinary"
    assert statement.data_offset == len(b"INSERT INTO t FORMAT RowBinary\n")


@given(st.binary())
def test_any_bytes_can_be_read(text: bytes) -> None:
    assert read_statement(text).data_offset <= len(text)


@pytest.mark.parametrize(
    "text",
    [
        b"INSERT INTO t SELECT 1",
        b"INSERT INTO t (a) WITH 1 AS x SELECT x",
        b"INSERT INTO t FROM INFILE 'x' FORMAT CSV",
    ],
)
def test_an_insert_without_data_is_left_whole(text: bytes) -> None:
    statement = read_statement(text)
    assert statement.insert_format is None
    assert statement.text == text


@pytest.mark.parametrize(
    ("text", "output_format"),
    [
        (b"SELECT 1 FORMAT JSON", "JSON"),
        (b"SELECT 1 format CSV SETTINGS a = 1;", "CSV"),
        (b"SELECT 'FORMAT JSON'", None),
        (b"SELECT (SELECT 1 FORMAT JSON)", None),
        (b"SELECT 1 -- FORMAT JSON", None),
        (b"SELECT $$ FORMAT JSON $$", None),
        (b"SELECT 'it''s' FORMAT TSV", "TSV"),
        (b"SELECT '\\' FORMAT' FORMAT TSV", "TSV"),
    ],
)
def test_the_format_is_the_one_outside_quotes(text: bytes, output_format: str | None) -> None:
    assert read_statement(text).output_format == output_format


@pytest.mark.parametrize(
    ("text", "selects", "changes_session"),
    [
        (b"SELECT 1", True, False),
        (b"with 1 as x select x", True, False),
        (b"SHOW TABLES", False, False),
        (b"SET a = 1", False, True),
        (b"use d", False, True),
        (b"CREATE TEMPORARY TABLE t (n UInt8)", False, True),
        (b"CREATE TABLE temporary (n UInt8)", False, True),
        (b"CREATE TABLE t (n UInt8)", False, False),
        (b"", False, False),
    ],
)
def test_what_a_statement_is(text: bytes, selects: bool, changes_session: bool) -> None:
    statement = read_statement(text)
    assert (statement.selects, statement.changes_session) == (selects, changes_session)
