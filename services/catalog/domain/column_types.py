"""The grammar of column types that tables may have: ClickHouse's notation, parsed and written anew.

What is not in the grammar is refused, so text from outside never reaches a statement: statements
are written from the parsed tree.
"""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["ColumnType", "TypeSyntaxError", "parse_type", "quote_literal"]

_MAX_DEPTH = 8
_MAX_ITEMS = 1000
_TOKEN = re.compile(
    r"\s*(?:([A-Za-z_][A-Za-z0-9_]*)|(-?\d{1,20})|'((?:[^'\\]|\\['\\])*)'|([(),=])"
    r"|`([A-Za-z_][A-Za-z0-9_]*)`)"
)
_TOKEN_KINDS = ("word", "number", "text", "mark", "name")

INTEGERS = frozenset(f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64, 128, 256))
FLOATS = frozenset({"Float32", "Float64", "BFloat16"})
_PLAIN = INTEGERS | FLOATS | {"Bool", "String", "Date", "Date32", "UUID", "IPv4", "IPv6", "JSON"}
_DECIMALS = {"Decimal32": 9, "Decimal64": 18, "Decimal128": 38, "Decimal256": 76}
_NEVER_NULLABLE = frozenset({"Array", "Map", "Tuple", "Nullable", "LowCardinality", "JSON"})
_LOW_CARDINALITY = (INTEGERS | FLOATS | {"String", "FixedString", "Date", "DateTime"}) - {
    "Int128",
    "Int256",
    "UInt128",
    "UInt256",
    "BFloat16",
}
_MAP_KEYS = INTEGERS | {
    "String",
    "FixedString",
    "Date",
    "Date32",
    "DateTime",
    "DateTime64",
    "UUID",
    "LowCardinality",
    "Bool",
    "IPv4",
    "IPv6",
}


class TypeSyntaxError(ValueError):
    """The text is not a type of the grammar; the message says why."""


@dataclass(frozen=True, slots=True)
class ColumnType:
    """One parsed type."""

    name: str
    """Family, as `Nullable` or `Decimal`."""
    arguments: tuple[ColumnType, ...] = ()
    """Types inside it."""
    numbers: tuple[int, ...] = ()
    """Length, precision, scale; values of an enum."""
    texts: tuple[str, ...] = ()
    """Time zone; names of an enum's values or of a tuple's elements."""

    @property
    def nullable(self) -> bool:
        """Whether a value may be null."""
        inner = self.arguments[0] if self.name == "LowCardinality" else self
        return inner.name == "Nullable"

    @property
    def base(self) -> ColumnType:
        """The type without Nullable and LowCardinality around it."""
        kind = self
        while kind.name in ("Nullable", "LowCardinality"):
            kind = kind.arguments[0]
        return kind

    @property
    def sortable(self) -> bool:
        """Whether rows may be ordered on disk by it."""
        return not self.nullable and self.base.name not in ("Map", "JSON", "Array", "Tuple")

    def __str__(self) -> str:
        parts = _WRITERS.get(self.name, _plain_arguments)(self)
        return f"{self.name}({', '.join(parts)})" if parts else self.name


@lru_cache(maxsize=4096)
def parse_type(text: str) -> ColumnType:
    """Parse a type such as `LowCardinality(Nullable(String))`.

    Raises:
        TypeSyntaxError: It is not in the grammar.
    """
    parser = _Parser(text)
    found = parser.type(0)
    parser.end()
    return found


def quote_literal(text: str) -> str:
    """The text as a string literal of ClickHouse.

    Raises:
        ValueError: It holds NUL.
    """
    if "\0" in text:
        raise ValueError("a literal may not hold NUL")
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _plain_arguments(kind: ColumnType) -> list[str]:
    return [str(argument) for argument in kind.arguments] + [str(n) for n in kind.numbers]


def _with_texts(kind: ColumnType) -> list[str]:
    return [str(n) for n in kind.numbers] + [quote_literal(text) for text in kind.texts]


def _enum_arguments(kind: ColumnType) -> list[str]:
    pairs = zip(kind.texts, kind.numbers, strict=True)
    return [f"{quote_literal(text)} = {number}" for text, number in pairs]


def _tuple_arguments(kind: ColumnType) -> list[str]:
    if not kind.texts:
        return _plain_arguments(kind)
    pairs = zip(kind.texts, kind.arguments, strict=True)
    return [f"`{name}` {argument}" for name, argument in pairs]


_WRITERS: dict[str, Callable[[ColumnType], list[str]]] = {
    "DateTime": _with_texts,
    "DateTime64": _with_texts,
    "Enum8": _enum_arguments,
    "Enum16": _enum_arguments,
    "Tuple": _tuple_arguments,
}


class _Parser:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str]] = []
        position = 0
        while text[position:].strip():
            match = _TOKEN.match(text, position)
            if match is None:
                raise TypeSyntaxError(f"unexpected character at {position}")
            kind = _TOKEN_KINDS[(match.lastindex or 1) - 1]
            value = match.group(match.lastindex or 1)
            if kind == "text":
                value = re.sub(r"\\(['\\])", r"\1", value)
            self._tokens.append((kind, value))
            position = match.end()
        self._next = 0

    def type(self, depth: int) -> ColumnType:
        if depth > _MAX_DEPTH:
            raise TypeSyntaxError(f"types may be nested {_MAX_DEPTH} deep")
        name = self._take("word", "a type's name")
        if name in _PLAIN:
            return ColumnType(name)
        parse = _PARAMETRIC.get(name)
        if parse is None:
            raise TypeSyntaxError(f"{name[:40]} is not a type that columns may have")
        if name == "DateTime" and not self.peek("("):
            return ColumnType(name)
        self.mark("(")
        found = parse(self, name, depth + 1)
        self.mark(")")
        return found

    def end(self) -> None:
        if self._next != len(self._tokens):
            raise TypeSyntaxError(f"unexpected {self._tokens[self._next][1][:40]!r} after the type")

    def peek(self, mark: str, ahead: int = 0) -> bool:
        index = self._next + ahead
        return index < len(self._tokens) and self._tokens[index] == ("mark", mark)

    def at_word_pair(self) -> bool:
        """Whether a name and then a type follow, as in a named tuple."""
        kinds = [kind for kind, _ in self._tokens[self._next : self._next + 2]]
        return kinds in (["word", "word"], ["name", "word"])

    def mark(self, mark: str) -> None:
        if not self.peek(mark):
            raise TypeSyntaxError(f"{mark!r} expected")
        self._next += 1

    def _take(self, kind: str, what: str) -> str:
        if self._next >= len(self._tokens) or self._tokens[self._next][0] != kind:
            raise TypeSyntaxError(f"{what} expected")
        value = self._tokens[self._next][1]
        self._next += 1
        return value

    def number(self, low: int, high: int, what: str) -> int:
        value = int(self._take("number", what))
        if not low <= value <= high:
            raise TypeSyntaxError(f"{what} must be {low} to {high}")
        return value

    def string(self, what: str) -> str:
        return self._take("text", what)

    def element_name(self) -> str:
        quoted = self._next < len(self._tokens) and self._tokens[self._next][0] == "name"
        return self._take("name" if quoted else "word", "an element's name")


def _nullable(parser: _Parser, name: str, depth: int) -> ColumnType:
    inner = parser.type(depth)
    if inner.name in _NEVER_NULLABLE:
        raise TypeSyntaxError(f"Nullable({inner.name}) is not a type")
    return ColumnType(name, (inner,))


def _low_cardinality(parser: _Parser, name: str, depth: int) -> ColumnType:
    inner = parser.type(depth)
    base = inner.arguments[0] if inner.name == "Nullable" else inner
    if base.name not in _LOW_CARDINALITY:
        raise TypeSyntaxError(f"LowCardinality({base.name}) is not a type")
    return ColumnType(name, (inner,))


def _array(parser: _Parser, name: str, depth: int) -> ColumnType:
    return ColumnType(name, (parser.type(depth),))


def _map(parser: _Parser, name: str, depth: int) -> ColumnType:
    key = parser.type(depth)
    if key.name not in _MAP_KEYS or key.nullable:
        raise TypeSyntaxError(f"a map's key may not be {key.name}")
    parser.mark(",")
    return ColumnType(name, (key, parser.type(depth)))


def _tuple(parser: _Parser, name: str, depth: int) -> ColumnType:
    named = parser.at_word_pair()
    names: list[str] = []
    types: list[ColumnType] = []
    while True:
        if named:
            names.append(parser.element_name())
        types.append(parser.type(depth))
        if not parser.peek(","):
            break
        parser.mark(",")
    if len(types) > _MAX_ITEMS or len(set(names)) != len(names):
        raise TypeSyntaxError("a tuple's elements must differ in name and be few")
    return ColumnType(name, tuple(types), texts=tuple(names))


def _enum(parser: _Parser, name: str, _: int) -> ColumnType:
    bound = 1 << (7 if name == "Enum8" else 15)
    texts: list[str] = []
    numbers: list[int] = []
    while True:
        text = parser.string("a value's name in quotes")
        if "\0" in text:
            raise TypeSyntaxError("an enum's value may not hold NUL")
        texts.append(text)
        parser.mark("=")
        numbers.append(parser.number(-bound, bound - 1, "an enum's number"))
        if not parser.peek(","):
            break
        parser.mark(",")
    if (
        len(texts) > _MAX_ITEMS
        or len(set(texts)) != len(texts)
        or len(set(numbers)) != len(numbers)
    ):
        raise TypeSyntaxError("an enum's names and numbers must differ and be few")
    return ColumnType(name, numbers=tuple(numbers), texts=tuple(texts))


def _zone(parser: _Parser) -> tuple[str, ...]:
    zone = parser.string("a time zone in quotes")
    if zone not in _zones():
        raise TypeSyntaxError("the time zone is not known")
    return (zone,)


def _date_time(parser: _Parser, name: str, _: int) -> ColumnType:
    return ColumnType(name, texts=_zone(parser))


def _date_time_64(parser: _Parser, name: str, _: int) -> ColumnType:
    precision = parser.number(0, 9, "the precision")
    if not parser.peek(","):
        return ColumnType(name, numbers=(precision,))
    parser.mark(",")
    return ColumnType(name, numbers=(precision,), texts=_zone(parser))


def _decimal(parser: _Parser, name: str, _: int) -> ColumnType:
    precision = parser.number(1, 76, "the precision")
    parser.mark(",")
    return ColumnType(name, numbers=(precision, parser.number(0, precision, "the scale")))


def _sized_decimal(parser: _Parser, name: str, _: int) -> ColumnType:
    return ColumnType(name, numbers=(parser.number(0, _DECIMALS[name], "the scale"),))


def _fixed_string(parser: _Parser, name: str, _: int) -> ColumnType:
    return ColumnType(name, numbers=(parser.number(1, 65_536, "the length"),))


_PARAMETRIC: dict[str, Callable[[_Parser, str, int], ColumnType]] = {
    "Nullable": _nullable,
    "LowCardinality": _low_cardinality,
    "Array": _array,
    "Map": _map,
    "Tuple": _tuple,
    "Enum8": _enum,
    "Enum16": _enum,
    "DateTime": _date_time,
    "DateTime64": _date_time_64,
    "Decimal": _decimal,
    **dict.fromkeys(_DECIMALS, _sized_decimal),
    "FixedString": _fixed_string,
}


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones()) | {"UTC"}
