"""Reads filters and orders: recursive descent over tokens, one method per rule of the grammar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from services.tracking.domain.search.lexer import LexicalError, Token, TokenKind, tokens
from services.tracking.domain.search.regex import check_regex
from services.tracking.domain.search.syntax import (
    DATASET_KEYS,
    SPAN_ATTRIBUTES,
    SPAN_KEYS,
    Comparison,
    Field,
    FieldKind,
    Filter,
    Operator,
    OrderKey,
    Schema,
    ValueKind,
)
from services.tracking.errors import InvalidFilter, InvalidOrderBy

__all__ = ["parse_filter", "parse_order_by"]

_ORDERED = frozenset(
    {
        Operator.EQUAL,
        Operator.NOT_EQUAL,
        Operator.LESS,
        Operator.LESS_EQUAL,
        Operator.GREATER,
        Operator.GREATER_EQUAL,
    }
)
_TEXTUAL = frozenset({Operator.EQUAL, Operator.NOT_EQUAL, Operator.LIKE, Operator.ILIKE})
_PATTERNS = frozenset({Operator.LIKE, Operator.ILIKE, Operator.RLIKE})
_LISTS = frozenset({Operator.IN, Operator.NOT_IN})
_NULLS = frozenset({Operator.IS_NULL, Operator.IS_NOT_NULL})
_UNORDERED = frozenset(
    {
        FieldKind.DATASET,
        FieldKind.SPAN,
        FieldKind.FEEDBACK,
        FieldKind.EXPECTATION,
        FieldKind.ISSUE,
        FieldKind.LINK,
    }
)
_ASSESSMENTS = frozenset({FieldKind.FEEDBACK, FieldKind.EXPECTATION})

# The greatest time in milliseconds whose microseconds still fit 64 bits.
_MAX_MILLIS = (2**63 - 1) // 1000 - 1
_MAX_LIST = 1000
# Matching takes up to the product of both lengths.
_MAX_PATTERN = 1000
_MAX_COMPARISONS = 100


def parse_filter(text: str, schema: Schema) -> Filter:
    """Return the conditions of a filter; none for an empty text.

    Raises:
        InvalidFilter: It does not follow the grammar, or asks for what the schema does not have;
            the message says where.
    """
    try:
        return _Parser(tokens(text), schema).filter()
    except LexicalError as error:
        raise InvalidFilter(
            f"filter: {error.message}, at character {error.position}", error.position
        ) from None
    except _SyntaxError as error:
        raise InvalidFilter(
            f"filter: {error.message}, at character {error.position}", error.position
        ) from None


def parse_order_by(entries: Sequence[str], schema: Schema) -> tuple[OrderKey, ...]:
    """Return the keys of an order, the most significant first.

    Raises:
        InvalidOrderBy: An entry does not follow the grammar, or names what cannot be ordered by.
    """
    keys: list[OrderKey] = []
    for index, entry in enumerate(entries):
        try:
            keys.append(_Parser(tokens(entry), schema).order_key())
        except (LexicalError, _SyntaxError) as error:
            raise InvalidOrderBy(
                f"order_by[{index}]: {error.message}, at character {error.position}",
                f"order_by[{index}]",
                position=str(error.position),
            ) from None
    return tuple(keys)


class _SyntaxError(Exception):
    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.message = message
        self.position = position


class _Parser:
    def __init__(self, found: list[Token], schema: Schema) -> None:
        self._tokens = found
        self._at = 0
        self._schema = schema

    # Rules

    def filter(self) -> Filter:
        comparisons: list[Comparison] = []
        if self._peek().kind is TokenKind.END:
            return ()
        comparisons.append(self._comparison())
        while self._peek().kind is not TokenKind.END:
            if not self._keyword("AND"):
                hint = "; OR is not supported" if self._is_keyword("OR") else ""
                self._fail(f"expected AND or the end{hint}")
            if len(comparisons) == _MAX_COMPARISONS:
                self._fail(f"more than {_MAX_COMPARISONS} conditions")
            comparisons.append(self._comparison())
        return tuple(comparisons)

    def order_key(self) -> OrderKey:
        start = self._peek()
        field = self._field()
        if field.kind in _UNORDERED:
            self._fail_at(f"a {field.kind.value} cannot be ordered by", start)
        descending = self._keyword("DESC")
        if not descending:
            self._keyword("ASC")
        if self._peek().kind is not TokenKind.END:
            self._fail("expected ASC, DESC or the end")
        return OrderKey(field, descending)

    def _comparison(self) -> Comparison:
        field = self._field()
        at = self._peek()
        operator = self._operator()
        if operator not in (allowed := self._allowed(field)):
            known = " ".join(sorted(allowed))
            self._fail_at(f"{operator} cannot be asked of {_name(field)}; use one of {known}", at)
        if operator in _NULLS:
            return Comparison(field, operator, None)
        if operator in _LISTS:
            return Comparison(field, operator, self._list())
        if operator in _PATTERNS:
            return Comparison(field, operator, self._pattern(field, operator))
        if field.values is ValueKind.ANY:
            return Comparison(field, operator, self._any(field, operator))
        if field.values is ValueKind.TEXT:
            return Comparison(field, operator, self._text(_name(field)))
        if field.values is ValueKind.TIME:
            return Comparison(field, operator, self._millis(field))
        return Comparison(field, operator, float(self._number(field)))

    def _allowed(self, field: Field) -> frozenset[Operator]:
        if field.values in {ValueKind.NUMBER, ValueKind.TIME}:
            return _ORDERED
        special = self._schema.operators
        if (own := special.get(field, special.get(field.kind))) is not None:
            return own
        if field.kind in {FieldKind.PARAM, FieldKind.TAG}:
            return _TEXTUAL | _NULLS
        if field.kind is FieldKind.DATASET or field.key in self._schema.lists:
            return _TEXTUAL | _LISTS
        return _TEXTUAL

    def _field(self) -> Field:
        token = self._next()
        if token.kind is TokenKind.PATH:
            kind = self._schema.kinds.get(token.prefix)
            if kind is None:
                known = ", ".join(dict.fromkeys(kind.value for kind in self._schema.kinds.values()))
                self._fail_at(
                    f"invalid entity type '{token.prefix}'; valid values are {known}", token
                )
            return self._field_of(kind, token.value, token)
        if token.kind in {TokenKind.WORD, TokenKind.BACKTICKED, TokenKind.DOUBLE_QUOTED}:
            return self._field_of(FieldKind.ATTRIBUTE, token.value or token.text, token)
        self._fail_at("expected a field such as metrics.auc or attributes.status", token)

    def _field_of(self, kind: FieldKind, key: str, token: Token) -> Field:
        if kind is FieldKind.ATTRIBUTE and key in self._schema.stand_ins:
            return self._schema.stand_ins[key]
        if kind is FieldKind.ATTRIBUTE:
            attribute = self._schema.attributes.get(key)
            if attribute is None:
                known = ", ".join(sorted({*self._schema.attributes, *self._schema.stand_ins}))
                self._fail_at(f"invalid attribute key '{key}'; valid keys are {known}", token)
            return Field(kind, *attribute)
        if kind is FieldKind.DATASET and key not in DATASET_KEYS:
            known = ", ".join(DATASET_KEYS)
            self._fail_at(f"invalid dataset key '{key}'; valid keys are {known}", token)
        if kind is FieldKind.SPAN and key not in SPAN_KEYS and not _names_attribute(key):
            known = ", ".join(SPAN_KEYS)
            self._fail_at(
                f"invalid span attribute '{key}'; valid keys are {known}, attributes.<name>", token
            )
        if kind is FieldKind.ISSUE and key != "id":
            self._fail_at(f"invalid issue attribute '{key}'; the valid key is id", token)
        if not key:
            self._fail_at(f"the name of the {kind.value} is empty", token)
        if "\x00" in key:
            self._fail_at("a name must not hold a NUL character", token)
        if kind in _ASSESSMENTS:
            return Field(kind, key, ValueKind.ANY)
        values = ValueKind.NUMBER if kind is FieldKind.METRIC else ValueKind.TEXT
        return Field(kind, key, values)

    def _operator(self) -> Operator:
        token = self._peek()
        if token.kind is TokenKind.OPERATOR:
            self._next()
            return Operator(token.text)
        for word in (Operator.LIKE, Operator.ILIKE, Operator.RLIKE, Operator.IN):
            if self._keyword(word):
                return word
        if self._keyword("NOT"):
            if self._keyword("IN"):
                return Operator.NOT_IN
            self._fail("expected IN after NOT")
        if self._keyword("IS"):
            negated = self._keyword("NOT")
            if not self._keyword("NULL"):
                self._fail("expected NULL")
            return Operator.IS_NOT_NULL if negated else Operator.IS_NULL
        self._fail("expected a comparison such as =, >= or LIKE")

    def _text(self, what: str) -> str:
        token = self._next()
        if token.kind not in {TokenKind.SINGLE_QUOTED, TokenKind.DOUBLE_QUOTED}:
            self._fail_at(f"expected a quoted string value for {what}", token)
        if "\x00" in token.value:
            self._fail_at("a value must not hold a NUL character", token)
        return token.value

    def _pattern(self, field: Field, operator: Operator) -> str:
        token = self._peek()
        pattern = self._text(_name(field))
        if len(pattern) > _MAX_PATTERN:
            self._fail_at(f"a pattern of more than {_MAX_PATTERN} characters", token)
        if operator is Operator.RLIKE and (wrong := check_regex(pattern)):
            self._fail_at(f"not a regular expression of RE2's: {wrong}", token)
        return pattern

    def _any(self, field: Field, operator: Operator) -> float | str:
        if self._peek().kind is TokenKind.NUMBER or operator in _ORDERED - _TEXTUAL:
            return float(self._number(field))
        return self._text(_name(field))

    def _list(self) -> tuple[str, ...]:
        self._punctuation("(")
        values = [self._text("the list")]
        while self._peek().text == ",":
            self._next()
            values.append(self._text("the list"))
            if len(values) > _MAX_LIST:
                self._fail(f"a list of more than {_MAX_LIST} values")
        self._punctuation(")")
        return tuple(values)

    def _number(self, field: Field) -> str:
        token = self._next()
        if token.kind is not TokenKind.NUMBER:
            self._fail_at(f"expected numeric value type for {_name(field)}", token)
        return token.text

    def _millis(self, field: Field) -> int:
        token = self._peek()
        value = float(self._number(field))
        if not abs(value) <= _MAX_MILLIS:
            self._fail_at("the time is out of range", token)
        if not value.is_integer():
            self._fail_at("a time is given in whole milliseconds since 1970", token)
        # An integer is read as one: a double keeps only 53 bits of it.
        return int(token.text) if token.text.lstrip("+-").isdecimal() else int(value)

    # Tokens

    def _peek(self) -> Token:
        return self._tokens[self._at]

    def _next(self) -> Token:
        token = self._tokens[self._at]
        if token.kind is not TokenKind.END:
            self._at += 1
        return token

    def _is_keyword(self, word: str) -> bool:
        token = self._peek()
        return token.kind is TokenKind.WORD and token.text.upper() == word

    def _keyword(self, word: str) -> bool:
        if self._is_keyword(word):
            self._next()
            return True
        return False

    def _punctuation(self, text: str) -> None:
        if self._peek().text != text:
            self._fail(f"expected '{text}'")
        self._next()

    def _fail(self, message: str) -> NoReturn:
        self._fail_at(message, self._peek())

    def _fail_at(self, message: str, token: Token) -> NoReturn:
        found = "the end" if token.kind is TokenKind.END else f"'{_cut(token.text)}'"
        raise _SyntaxError(f"{message}, found {found}", token.position)


def _names_attribute(key: str) -> bool:
    return key.startswith(SPAN_ATTRIBUTES) and key != SPAN_ATTRIBUTES


def _name(field: Field) -> str:
    return f"{field.kind.value} '{_cut(field.key)}'"


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
