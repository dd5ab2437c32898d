"""The parts of the ClickHouse door that need no engine."""

from __future__ import annotations

import base64
import zlib

import lz4.frame
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from devstack.clickhouse.cancel import kill_of, killing, marked
from devstack.clickhouse.codec import Encoder, choose_encoding, decoder
from devstack.clickhouse.errors import QueryError
from devstack.clickhouse.form import external_tables, read_form, setting_names
from devstack.clickhouse.request import authenticate, read_envelope
from devstack.secrets import Credentials

ENCODINGS = ("gzip", "deflate", "lz4", "zstd")
KNOWN = Credentials("ada", "s3cret")


def split(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(parts=st.lists(st.binary(max_size=2000), max_size=5), size=st.integers(1, 50))
def test_what_is_encoded_in_parts_is_decoded_in_any_parts(
    encoding: str, parts: list[bytes], size: int
) -> None:
    encoder = Encoder(encoding)
    sent = b"".join([*(encoder.encode(part) for part in parts), encoder.finish()])
    reader = decoder(encoding)
    assert b"".join(reader.decode(chunk) for chunk in split(sent, size)) == b"".join(parts)


@pytest.mark.parametrize("encoding", [*ENCODINGS, "br"])
def test_garbage_is_an_error_of_the_client(encoding: str) -> None:
    with pytest.raises(QueryError) as failure:
        decoder(encoding).decode(b"this is not compressed at all, whatever the header says")
    assert failure.value.code == 354


def test_frames_follow_one_another() -> None:
    for encoding, compress in (
        ("lz4", lz4.frame.compress),
        ("zstd", zstd.compress),
        ("gzip", lambda data: zlib.compress(data, wbits=31)),
    ):
        assert decoder(encoding).decode(compress(b"one ") + compress(b"two")) == b"one two"


def test_the_first_cheap_encoding_is_chosen() -> None:
    assert choose_encoding("br, zstd;q=0.5, gzip") == "zstd"
    assert choose_encoding("br") is None
    assert choose_encoding("") is None


def test_url_parameters_are_sorted() -> None:
    envelope = read_envelope(
        "POST",
        b"query=SELECT+1&database=d&max_threads=2&param_x=a%09b&query_id=q&default_format=CSV"
        b"&session_id=s&session_timeout=5&wait_end_of_query=1&enable_http_compression=1",
        {"accept-encoding": "lz4"},
    )
    assert envelope.query == "SELECT 1"
    assert envelope.settings == {"max_threads": "2"}
    assert envelope.parameters == {"x": "a\tb"}
    assert (envelope.database, envelope.default_format) == ("d", "CSV")
    assert (envelope.session_id, envelope.session_seconds, envelope.query_id) == ("s", 5.0, "q")
    assert envelope.whole and not envelope.readonly
    assert envelope.accepted_encoding == "lz4"


@pytest.mark.parametrize(
    ("query_string", "headers"),
    [
        (b"", {"x-clickhouse-user": "ada", "x-clickhouse-key": "s3cret"}),
        (b"", {"authorization": "Basic " + base64.b64encode(b"ada:s3cret").decode()}),
        (b"user=ada&password=s3cret", {}),
    ],
)
def test_the_right_password_is_accepted(query_string: bytes, headers: dict[str, str]) -> None:
    authenticate(query_string, headers, KNOWN)


@pytest.mark.parametrize(
    ("query_string", "headers"),
    [
        (b"", {}),
        (b"user=ada", {}),
        (b"user=ada&password=", {}),
        (b"user=eve&password=s3cret", {}),
        (b"", {"x-clickhouse-user": "ada"}),
        (b"", {"authorization": "Basic not-base64!"}),
        (b"", {"authorization": "Basic " + base64.b64encode(b"\xff\xfe").decode()}),
        (b"", {"authorization": "Bearer s3cret"}),
        # Headers win over the URL, as they do in ClickHouse.
        (b"user=ada&password=s3cret", {"x-clickhouse-user": "ada", "x-clickhouse-key": "no"}),
    ],
)
def test_any_other_is_refused_without_telling_which_is_wrong(
    query_string: bytes, headers: dict[str, str]
) -> None:
    with pytest.raises(QueryError) as failure:
        authenticate(query_string, headers, KNOWN)
    assert (failure.value.code, failure.value.status) == (516, 403)
    assert "s3cret" not in str(failure.value)


def test_forms_hold_fields_and_files() -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="query"\r\n\r\nSELECT 1\r\n'
        b'--b\r\nContent-Disposition: form-data; name="t"; filename="t.csv"\r\n'
        b"Content-Type: text/csv\r\n\r\n1,2\r\n\r\n--b--\r\n"
    )
    form = read_form('multipart/form-data; boundary="b"', body)
    assert form.fields == {"query": "SELECT 1"}
    assert form.files == {"t": b"1,2\r\n"}
    (table,) = external_tables(
        form, {"t_types": "UInt8,Tuple(a Int8, b String)", "t_format": "CSV"}
    )
    assert table.structure == "_1 UInt8, _2 Tuple(a Int8, b String)"
    assert setting_names((table,)) == {"t_types", "t_structure", "t_format"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b\r\n",
        b"--b\r\nno head",
        b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--",
    ],
)
def test_broken_forms_are_refused(body: bytes) -> None:
    with pytest.raises(QueryError):
        read_form("multipart/form-data; boundary=b", body)


def test_a_table_needs_a_structure_and_a_proper_name() -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="%s"; filename="f"\r\n\r\n1\r\n--b--'
    for name, settings in ((b"t", {}), (b"t; DROP TABLE x", {"t; DROP TABLE x_types": "UInt8"})):
        form = read_form("multipart/form-data; boundary=b", part % name)
        with pytest.raises(QueryError):
            external_tables(form, settings)


@pytest.mark.parametrize(
    ("text", "code", "status"),
    [
        ("Code: 60. DB::Exception: Table t does not exist. (UNKNOWN_TABLE)", 60, 404),
        ("Streaming insert finish failed: Code: 27. DB::Exception: Cannot parse. (X)", 27, 400),
        ("Code: 241. DB::Exception: Memory limit exceeded. (MEMORY_LIMIT_EXCEEDED)", 241, 507),
        ("Code: 395. DB::Exception: thrown. (Y)", 395, 500),
        ("something else", 1001, 500),
    ],
)
def test_the_engines_errors_get_their_status(text: str, code: int, status: int) -> None:
    error = QueryError.of_engine(RuntimeError(text))
    assert (error.code, error.status) == (code, status)
    assert str(error).startswith(f"Code: {code}. ")


@pytest.mark.parametrize("query_id", ["a", "b-1.c:d", "it's */ '; DROP -- \\ ü"])
def test_a_kill_finds_the_statement_with_the_clients_id(query_id: str) -> None:
    statement = marked(b"SELECT 1 -- one ;\n", query_id)
    assert statement.startswith(b"SELECT 1 -- one\n/* ")
    assert statement.count(b"*/") == 1
    literal = query_id.replace("\\", "\\\\").replace("'", "\\'").encode()
    text = b"KILL QUERY WHERE query_id = '" + literal + b"' SYNC"
    rewritten = killing(text)
    assert rewritten.startswith(b"KILL QUERY WHERE (query_id = '" + literal)
    assert rewritten.endswith(b" SYNC")
    mark = statement.rpartition(b"\n")[2]
    assert b"endsWith(query, '" + mark + b"')" in rewritten
    assert mark in kill_of(query_id)


def test_other_conditions_of_a_kill_stay() -> None:
    text = b"KILL QUERY WHERE user = 'x' AND query LIKE '%query_id%'"
    assert killing(text) == text
