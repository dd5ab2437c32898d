"""What comes from outside as text: types, literals, names, paths, locations, edges, page places."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import unquote

from hypothesis import assume, given
from hypothesis import strategies as st

from services.catalog.adapters.clickhouse.ddl import create_table
from services.catalog.convert.requests import page_token, place_of
from services.catalog.domain.column_types import TypeSyntaxError, parse_type, quote_literal
from services.catalog.domain.details import Column, PhysicalTable, TableLayout
from services.catalog.domain.lineage import LineageNode, NodeType
from services.catalog.domain.paths import check_location, check_path
from services.catalog.domain.privileges import Privilege
from services.catalog.domain.securables import SecurableKey, SecurableType
from services.catalog.domain.tables import TableDefinition, check_columns, physical_database
from services.catalog.errors import (
    InvalidColumn,
    InvalidEdge,
    InvalidLocation,
    InvalidPath,
    InvalidSecurable,
)
from tessera.catalog.v1 import authorization_service_pb2, catalog_pb2, model_pb2, securable_pb2
from tessera.catalog.v1 import lineage_service_pb2 as lineage_pb2
from tessera.catalog.v1 import table_data_service_pb2 as rows_pb2
from tessera_kit.names import InvalidName

names = st.from_regex(r"[a-z0-9_][a-z0-9_-]{0,12}", fullmatch=True)
plain = st.sampled_from(["Int8", "UInt64", "Float64", "String", "Date", "UUID", "Bool", "IPv6"])
leaves = st.one_of(
    plain,
    st.integers(1, 9).map("FixedString({})".format),
    st.integers(0, 9).map("DateTime64({}, 'UTC')".format),
    st.tuples(st.integers(1, 76), st.integers(0, 76))
    .filter(lambda pair: pair[1] <= pair[0])
    .map(lambda pair: f"Decimal({pair[0]}, {pair[1]})"),
    st.lists(st.text(max_size=5), min_size=1, max_size=4, unique=True)
    .filter(lambda texts: "\0" not in "".join(texts))
    .map(
        lambda texts: (
            f"Enum16({', '.join(f'{quote_literal(t)} = {n}' for n, t in enumerate(texts))})"
        )
    ),
)
types = st.recursive(
    leaves,
    lambda inner: st.one_of(
        inner.map("Array({})".format),
        inner.map("Map(String, {})".format),
        st.lists(inner, min_size=1, max_size=3).map(lambda items: f"Tuple({', '.join(items)})"),
        st.lists(inner, min_size=1, max_size=3).map(
            lambda items: f"Tuple({', '.join(f'e{n} {item}' for n, item in enumerate(items))})"
        ),
    ),
    max_leaves=5,
)


@given(types)
def test_a_type_written_and_parsed_again_is_the_same(text: str) -> None:
    try:
        parsed = parse_type(text)
    except TypeSyntaxError:
        assume(False)
    assert parse_type(str(parsed)) == parsed
    assert str(parse_type(str(parsed))) == str(parsed)


@given(st.one_of(st.text(), st.text("ArayInt8(64),' \\`;-=*/\0\n", max_size=40)))
def test_any_text_is_a_type_of_the_grammar_or_refused(text: str) -> None:
    try:
        written = str(parse_type(text))
    except TypeSyntaxError:
        return
    assert outside_literals(written).isascii()
    assert not set(outside_literals(written)) & set(";`\\\n\0*/-")


def outside_literals(sql: str) -> str:
    """The statement without its literals and quoted names, which must all be closed."""
    rest = re.sub(r"'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`", "", sql, flags=re.DOTALL)
    assert "'" not in rest
    assert "`" not in rest
    return rest


@given(st.text())
def test_a_literal_holds_its_whole_text(text: str) -> None:
    assume("\0" not in text)
    assert outside_literals(quote_literal(text)) == ""


@given(
    st.lists(st.tuples(st.text(max_size=10), types, st.text(max_size=20)), min_size=1, max_size=4),
    st.text(max_size=30),
)
def test_no_text_of_a_table_reaches_the_statement_unquoted(
    columns: list[tuple[str, str, str]], comment: str
) -> None:
    assume("\0" not in comment + "".join(c for _, _, c in columns))
    try:
        checked = check_columns([Column(*column) for column in columns])
    except InvalidColumn:
        return
    definition = TableDefinition(checked, TableLayout((checked[0].name,)), comment)
    bare = outside_literals(create_table(PhysicalTable("d", "t"), definition))
    words = set(re.findall(r"[A-Za-z_]+", bare))
    known = {"CREATE", "TABLE", "COMMENT", "ENGINE", "MergeTree", "ORDER", "BY", "SETTINGS"}
    kinds = {word for _, kind, _ in columns for word in re.findall(r"[A-Za-z]+", kind)}
    assert words <= known | kinds | {
        "non_replicated_deduplication_window",
        "merge_selector_base",
        "min_bytes_for_wide_part",
    }


@given(st.tuples(names, names), st.tuples(names, names))
def test_different_schemas_have_different_databases(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    databases = {physical_database("p", ".".join(pair)) for pair in (one, other)}
    assert len(databases) == len({one, other})


segments = st.one_of(
    st.sampled_from(["..", ".", "", "a", "%2e%2e", "..%2f", "\\", "C:"]), st.text()
)


@given(st.lists(segments, max_size=6).map("/".join))
def test_an_accepted_path_stays_below_its_root(path: str) -> None:
    try:
        check_path(path)
    except InvalidPath:
        return
    for form in (path, unquote(path)):
        joined = posixpath.normpath(posixpath.join("/root", form))
        assert joined == f"/root/{form}"


@given(st.lists(segments, max_size=6).map("/".join))
def test_an_accepted_location_stays_below_its_prefix(location: str) -> None:
    location = f"external/{location}"
    try:
        check_location(location, ("external/",))
    except InvalidLocation:
        return
    assert posixpath.normpath(location).startswith("external")
    assert ".." not in re.sub(r"\{\d+\.\.\d+\}", "", location)


@given(st.integers(-5, 20), st.text(max_size=30))
def test_any_reference_is_checked_or_refused(kind: int, name: str) -> None:
    try:
        key = SecurableKey.parse(kind, name)
    except (InvalidSecurable, InvalidName):
        return
    assert key.chain[-1].type is SecurableType.METASTORE
    assert len({part.type for part in key.chain}) == len(key.chain)


@given(st.integers(-5, 20), st.text(max_size=30))
def test_any_node_is_checked_or_refused(kind: int, name: str) -> None:
    try:
        node = LineageNode.parse(kind, name, "node")
    except InvalidEdge as error:
        assert error.violations[0].field.startswith("node.")
        return
    if node.securable is not None:
        assert SecurableKey.parse(node.securable.type, node.securable.full_name) == node.securable


@given(st.lists(st.one_of(st.text(), st.integers(-(1 << 63), (1 << 63) - 1)), max_size=4))
def test_places_of_pages_come_back(place: list[str | int]) -> None:
    assume(all(not isinstance(p, str) or p.isprintable() for p in place))
    assert place_of(page_token("scope", *place), "scope") == place


def test_the_domains_numbers_are_the_contracts() -> None:
    from services.catalog.domain.details import TableType
    from services.catalog.domain.lineage import Direction
    from services.catalog.domain.models import VersionStatus
    from services.catalog.domain.principals import PrincipalKind
    from services.catalog.domain.rows import Operator

    for ours, theirs, prefix in [
        (SecurableType, securable_pb2.SecurableType, "SECURABLE_TYPE_"),
        (Privilege, securable_pb2.Privilege, "PRIVILEGE_"),
        (TableType, catalog_pb2.TableType, "TABLE_TYPE_"),
        (VersionStatus, model_pb2.ModelVersionStatus, "MODEL_VERSION_STATUS_"),
        (PrincipalKind, authorization_service_pb2.PrincipalKind, "PRINCIPAL_KIND_"),
        (NodeType, lineage_pb2.LineageNodeType, "LINEAGE_NODE_TYPE_"),
        (Direction, lineage_pb2.LineageDirection, "LINEAGE_DIRECTION_"),
        (Operator, rows_pb2.ComparisonOperator, "COMPARISON_OPERATOR_"),
    ]:
        contract = {name.removeprefix(prefix): number for name, number in theirs.items() if number}
        assert {member.name: member.value for member in ours} == contract
