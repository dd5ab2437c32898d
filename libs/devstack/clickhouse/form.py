"""multipart/form-data bodies: query and parameters as fields, and external tables as files.

Sources: RFC 7578; ClickHouse, "External data for query processing".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message

from devstack.clickhouse.errors import BAD_ARGUMENTS, QueryError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class ExternalTable:
    """A table that a request brings with it."""

    name: str
    structure: str
    """Columns as in CREATE TABLE."""
    format: str
    data: bytes


@dataclass(frozen=True)
class Form:
    """The parts of a form."""

    fields: Mapping[str, str]
    files: Mapping[str, bytes]


def read_form(content_type: str, body: bytes) -> Form:
    """Splits a multipart body into its plain fields and its files.

    Raises:
        QueryError: the body is no such form.
    """
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_param("boundary")
    if not isinstance(boundary, str) or not boundary:
        raise _bad("the form has no boundary")
    fields: dict[str, str] = {}
    files: dict[str, bytes] = {}
    # The first delimiter has no line break before it; the last is followed by two dashes.
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary.encode())[1:]:
        if part.startswith(b"--"):
            return Form(fields, files)
        head, found, data = part.partition(b"\r\n\r\n")
        if not found:
            raise _bad("a part of the form has no data")
        name, is_file = _disposition(head)
        if is_file:
            files[name] = data
        else:
            fields[name] = data.decode(errors="replace")
    raise _bad("the form does not end")


def external_tables(form: Form, settings: Mapping[str, str]) -> tuple[ExternalTable, ...]:
    """The files of a form with the URL's `<name>_structure` (or `_types`) and `<name>_format`.

    Raises:
        QueryError: a file without a structure, or with a name that no table can have.
    """
    tables = []
    for name, data in form.files.items():
        if _NAME.fullmatch(name) is None:
            raise _bad(f"{name!r} is no name of an external table")
        structure = settings.get(f"{name}_structure") or _numbered(settings.get(f"{name}_types"))
        if not structure:
            raise _bad(f"neither structure nor types of external table {name} are given")
        data_format = settings.get(f"{name}_format", "TabSeparated")
        tables.append(ExternalTable(name, structure, data_format, data))
    return tuple(tables)


def setting_names(tables: tuple[ExternalTable, ...]) -> frozenset[str]:
    """The URL parameters that describe the tables, and are no settings."""
    suffixes = ("structure", "types", "format")
    return frozenset(f"{table.name}_{suffix}" for table in tables for suffix in suffixes)


def _disposition(head: bytes) -> tuple[str, bool]:
    header = Message()
    for line in head.decode(errors="replace").split("\r\n"):
        key, found, value = line.partition(":")
        if found and key.strip().lower() == "content-disposition":
            header["Content-Disposition"] = value.strip()
    name = header.get_param("name", header="content-disposition")
    if not isinstance(name, str):
        raise _bad("a part of the form has no name")
    return name, header.get_filename() is not None


def _numbered(types: str | None) -> str:
    """Types without names get the names `_1`, `_2`, …; brackets may hold commas."""
    columns, depth, current = [], 0, ""
    for character in types or "":
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            columns.append(current)
            current = ""
        else:
            current += character
    columns.append(current)
    named = [f"_{number} {column.strip()}" for number, column in enumerate(columns, 1)]
    return ", ".join(named) if types else ""


def _bad(message: str) -> QueryError:
    return QueryError.own(BAD_ARGUMENTS, "BAD_ARGUMENTS", message)
