"""The single rules of `tessera/type/v1/rules.proto`, each as a predicate and a sentence."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from google.protobuf.descriptor import FieldDescriptor

from tessera.type.v1.rules_pb2 import FieldRules
from tessera_kit import names

__all__ = ["Rule", "all_of", "collection_rules", "entry_rules", "value_rules", "well_known_rules"]

Predicate = Callable[[Any], bool]


class Rule(NamedTuple):
    """One rule of a value."""

    ok: Predicate
    """Whether a value satisfies it; never raises for a value of the field's type."""
    text: str
    """What the value must be, to follow the field's name."""


def all_of(rules: Sequence[Rule]) -> Predicate:
    """Join rules into one predicate; true of everything when there is none."""
    if not rules:
        return lambda _: True
    if len(rules) == 1:
        return rules[0].ok
    if len(rules) == 2:
        first, second = rules[0].ok, rules[1].ok
        return lambda value: first(value) and second(value)
    head, tail = rules[0].ok, all_of(rules[1:])
    return lambda value: head(value) and tail(value)


def value_rules(field: FieldDescriptor, rules: FieldRules) -> list[Rule]:
    """Return the rules of one value of the field: of each item where the field is repeated."""
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return (
            _bytes_rules(rules) if field.type == FieldDescriptor.TYPE_BYTES else _text_rules(rules)
        )
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return _enum_rules(field, rules)
    if kind in (FieldDescriptor.CPPTYPE_MESSAGE, FieldDescriptor.CPPTYPE_BOOL):
        return []
    return _number_rules(rules)


def _text_rules(rules: FieldRules) -> list[Rule]:
    found = [Rule(lambda text: "\0" not in text, "must not hold a NUL character")]
    if rules.HasField("min_length"):
        least = rules.min_length
        found.append(
            Rule(lambda text: len(text) >= least, f"must have at least {least} characters")
        )
    if rules.HasField("max_length"):
        most = rules.max_length
        found.append(Rule(lambda text: len(text) <= most, f"must have at most {most} characters"))
    if rules.HasField("min_bytes"):
        least_bytes = rules.min_bytes
        found.append(
            Rule(
                lambda text: len(text.encode()) >= least_bytes,
                f"must have at least {least_bytes} bytes",
            )
        )
    if rules.HasField("max_bytes"):
        most_bytes = rules.max_bytes
        found.append(
            Rule(
                lambda text: len(text.encode()) <= most_bytes,
                f"must have at most {most_bytes} bytes",
            )
        )
    if rules.HasField("pattern"):
        search = re.compile(_closed(rules.pattern)).search
        found.append(
            Rule(lambda text: not text or search(text) is not None, f"must match {rules.pattern}")
        )
    if rules.name:
        found.append(Rule(lambda text: not text or names.is_name(text), names.NAME_RULE))
    if rules.HasField("full_name_parts"):
        found.append(_full_name_rule(rules.full_name_parts))
    return found


def _closed(pattern: str) -> str:
    # Python's `$` lets a trailing line feed through, which no author of a contract means.
    if pattern.endswith("$") and not pattern.endswith("\\$"):
        return pattern[:-1] + r"\Z"
    return pattern


def _full_name_rule(parts: int) -> Rule:
    def ok(text: str) -> bool:
        if not text:
            return True
        found = text.split(".")
        return len(found) == parts and all(map(names.is_name, found))

    return Rule(ok, f"must be {parts} names joined by dots, each of which {names.NAME_RULE}")


def _bytes_rules(rules: FieldRules) -> list[Rule]:
    found = []
    if rules.HasField("min_bytes"):
        least = rules.min_bytes
        found.append(Rule(lambda data: len(data) >= least, f"must have at least {least} bytes"))
    if rules.HasField("max_bytes"):
        most = rules.max_bytes
        found.append(Rule(lambda data: len(data) <= most, f"must have at most {most} bytes"))
    return found


def _number_rules(rules: FieldRules) -> list[Rule]:
    found = []
    if rules.finite:
        found.append(Rule(math.isfinite, "must be a finite number"))
    # Not-a-number compares false with everything, so it fails each of these.
    if rules.HasField("gte"):
        gte = rules.gte
        found.append(Rule(lambda number: number >= gte, f"must be at least {gte:g}"))
    if rules.HasField("lte"):
        lte = rules.lte
        found.append(Rule(lambda number: number <= lte, f"must be at most {lte:g}"))
    if rules.HasField("gt"):
        gt = rules.gt
        found.append(Rule(lambda number: number > gt, f"must be greater than {gt:g}"))
    if rules.HasField("lt"):
        lt = rules.lt
        found.append(Rule(lambda number: number < lt, f"must be less than {lt:g}"))
    return found


def _enum_rules(field: FieldDescriptor, rules: FieldRules) -> list[Rule]:
    found = []
    if rules.defined_only and field.enum_type is not None:
        declared = frozenset(field.enum_type.values_by_number)
        found.append(
            Rule(lambda number: number in declared, f"must be a value of {field.enum_type.name}")
        )
    if rules.not_unspecified:
        found.append(Rule(lambda number: number != 0, "must be set to one of its values"))
    return found


def collection_rules(rules: FieldRules) -> list[Rule]:
    """Return the rules of a list as a whole."""
    found = []
    if rules.required:
        found.append(Rule(lambda items: len(items) > 0, "must not be empty"))
    if rules.HasField("min_items"):
        least = rules.min_items
        found.append(Rule(lambda items: len(items) >= least, f"must have at least {least} items"))
    if rules.HasField("max_items"):
        most = rules.max_items
        found.append(Rule(lambda items: len(items) <= most, f"must have at most {most} items"))
    if rules.unique:
        found.append(Rule(_all_differ, "must not hold the same item twice"))
    return found


def _all_differ(items: Sequence[Any]) -> bool:
    try:
        return len(set(items)) == len(items)
    except TypeError:  # messages have no hash
        serialized = {item.SerializeToString(deterministic=True) for item in items}
        return len(serialized) == len(items)


def entry_rules(
    field: FieldDescriptor, rules: FieldRules
) -> tuple[list[Rule], list[Rule], list[Rule]]:
    """Return the rules of a map as a whole, of its keys and of its values."""
    whole: list[Rule] = []
    keys: list[Rule] = []
    values: list[Rule] = []
    if rules.required:
        whole.append(Rule(lambda pairs: len(pairs) > 0, "must not be empty"))
    if rules.HasField("map_max_pairs"):
        most = rules.map_max_pairs
        whole.append(Rule(lambda pairs: len(pairs) <= most, f"must have at most {most} entries"))
    entry = field.message_type
    if entry is None:
        raise TypeError(f"{field.full_name} is not a map")
    value_field = entry.fields_by_name["value"]
    if entry.fields_by_name["key"].type == FieldDescriptor.TYPE_STRING:
        keys.append(Rule(lambda key: "\0" not in key, "must not hold a NUL character in a key"))
        if rules.HasField("map_key_max_length"):
            longest = rules.map_key_max_length
            keys.append(
                Rule(
                    lambda key: 0 < len(key) <= longest,
                    f"must have keys of 1 to {longest} characters",
                )
            )
    if value_field.type != FieldDescriptor.TYPE_STRING:
        values += value_rules(value_field, rules)
    else:
        values.append(Rule(lambda text: "\0" not in text, "must not hold a NUL character"))
        if rules.HasField("map_value_max_length"):
            most_characters = rules.map_value_max_length
            values.append(
                Rule(
                    lambda text: len(text) <= most_characters,
                    f"must have at most {most_characters} characters",
                )
            )
    return whole, keys, values


# The ranges that google/protobuf/timestamp.proto and duration.proto give.
_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799
_LONGEST_DURATION = 315_576_000_000


def _timestamp_ok(stamp: Any) -> bool:
    in_years: bool = _FIRST_SECOND <= stamp.seconds <= _LAST_SECOND
    return in_years and 0 <= stamp.nanos < 1_000_000_000


def _duration_ok(span: Any) -> bool:
    seconds, nanos = span.seconds, span.nanos
    in_range: bool = abs(seconds) <= _LONGEST_DURATION and abs(nanos) < 1_000_000_000
    return in_range and (seconds == 0 or nanos == 0 or (seconds > 0) == (nanos > 0))


def _value_ok(value: Any) -> bool:
    return math.isfinite(value.number_value)


well_known_rules: dict[str, Rule] = {
    "google.protobuf.Timestamp": Rule(_timestamp_ok, "must be a time of the years 1 to 9999"),
    "google.protobuf.Duration": Rule(_duration_ok, "must be a duration of at most 10,000 years"),
    "google.protobuf.Value": Rule(_value_ok, "must hold finite numbers only"),
}
