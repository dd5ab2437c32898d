"""Checks requests against the rules that their contract states (`tessera/type/v1/rules.proto`).

The rules of a message type are compiled once into predicates. A good message runs through those
alone; only a bad one is walked again, to say where and why. A type without a rule, in itself or
below, costs one look-up.

Beside the stated rules, every `Timestamp` and `Duration` must be in the range that its own contract
gives, a number in a `Struct` must be finite, and a text that has rules must not hold NUL.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import islice
from operator import attrgetter
from typing import Any, Final, NamedTuple, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from tessera.type.v1 import rules_pb2
from tessera_kit.errors import FieldViolation, InvalidArgument
from tessera_kit.rpc.field_rules import (
    Rule,
    all_of,
    collection_rules,
    entry_rules,
    value_rules,
    well_known_rules,
)

__all__ = ["InvalidRequest", "rules_without", "validate", "violations_of"]

_MOST_VIOLATIONS: Final = 100

Ok = Callable[[Any], bool]
Walk = Callable[[Any, str], Iterator[FieldViolation]]


class InvalidRequest(InvalidArgument):
    """The request breaks rules of its contract; one violation per wrong field."""

    reason = "INVALID_REQUEST"


def validate(message: Message) -> None:
    """Return when the message satisfies its contract's rules.

    Raises:
        InvalidRequest: It does not; `violations` name the fields, as `metrics[3].key`.
    """
    kind = type(message)
    try:
        check = _by_type[kind]
    except KeyError:
        check = _by_type[kind] = _check_of(cast(Descriptor, message.DESCRIPTOR))
    if check is None or check.ok(message):
        return
    violations = violations_of(message)
    first = violations[0]
    more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
    raise InvalidRequest(f"{first.field} {first.description}{more}", violations=violations)


def violations_of(message: Message) -> list[FieldViolation]:
    """Return what is wrong with the message, at most 100 entries; empty when nothing is."""
    check = _check_of(cast(Descriptor, message.DESCRIPTOR))
    return [] if check is None else list(islice(check.walk(message, ""), _MOST_VIOLATIONS))


def rules_without(kind: type[Message], names: Collection[str]) -> Callable[[Message], bool]:
    """Whether the other fields of a message satisfy their rules.

    For who reads many messages that are alike: one with a field's value was validated before.

    Args:
        kind: The message's type.
        names: The fields that are not looked at.
    """
    check = _MessageCheck()
    descriptor = cast(Descriptor, kind.DESCRIPTOR)
    fields = [one for one in descriptor.fields if one.name not in names]
    check.add([rules for field in fields if (rules := _compile(field)) is not None])
    return check.ok


class _Compiled(NamedTuple):
    """The rules of one field."""

    ok: Ok
    """Of the message; of the field's value where `name` is given."""
    walk: Walk
    name: str = ""
    """The field, where its value when nothing was set (0, an empty text or list) is good."""


class _MessageCheck:
    """The compiled rules of one message type; filled after it is registered, as types may recur."""

    __slots__ = ("goods", "oks", "read", "walks")

    def __init__(self) -> None:
        self.oks: list[Ok] = []
        """Of whole messages."""
        self.read: Callable[[Any], tuple[Any, ...]] | None = None
        """Reads the fields that may be unset, all at once; None where there is none."""
        self.goods: tuple[Ok, ...] = ()
        """Of the values that `read` gives, where they are set."""
        self.walks: list[Walk] = []

    def ok(self, message: Any) -> bool:
        for ok in self.oks:
            if not ok(message):
                return False
        if self.read is not None:
            for value, good in zip(self.read(message), self.goods, strict=True):
                if value and not good(value):
                    return False
        return True

    def add(self, compiled: list[_Compiled]) -> None:
        """Take the rules of fields."""
        plain: dict[str, Ok] = {}
        for one in compiled:
            self.walks.append(one.walk)
            if one.name:
                plain[one.name] = one.ok
            else:
                self.oks.append(one.ok)
        if plain:
            # Given one name alone, `attrgetter` returns no tuple.
            names = list(plain) if len(plain) > 1 else list(plain) * 2
            self.read = attrgetter(*names)
            self.goods = tuple(plain[name] for name in names)

    def walk(self, message: Any, path: str) -> Iterator[FieldViolation]:
        for walk in self.walks:
            yield from walk(message, path)


_by_type: dict[type[Message], _MessageCheck | None] = {}
_by_descriptor: dict[Descriptor, _MessageCheck | None] = {}


def _check_of(descriptor: Descriptor) -> _MessageCheck | None:
    if descriptor in _by_descriptor:
        return _by_descriptor[descriptor]
    if not _has_rules(descriptor):
        _by_descriptor[descriptor] = None
        return None
    check = _by_descriptor[descriptor] = _MessageCheck()
    known = well_known_rules.get(descriptor.full_name)
    if known is not None:
        check.oks.append(known.ok)
        check.walks.append(lambda value, path: iter(_broken([known], value, path)))
    check.add([one for field in descriptor.fields if (one := _compile(field)) is not None])
    return check


def _has_rules(root: Descriptor) -> bool:
    """Whether the type or one that it can hold states a rule."""
    seen, todo = {root}, [root]
    while todo:
        descriptor = todo.pop()
        if descriptor.full_name in well_known_rules:
            return True
        for field in descriptor.fields:
            if field.GetOptions().HasExtension(rules_pb2.field):
                return True
            below = field.message_type
            if below is not None and below not in seen:
                seen.add(below)
                todo.append(below)
    return False


def _compile(field: FieldDescriptor) -> _Compiled | None:
    rules = field.GetOptions().Extensions[rules_pb2.field]
    if field.is_repeated:
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            return _map(field, rules)
        return _list(field, rules)
    if field.message_type is not None:
        return _message(field, rules)
    return _scalar(field, rules)


def _scalar(field: FieldDescriptor, rules: rules_pb2.FieldRules) -> _Compiled | None:
    name, get = field.name, attrgetter(field.name)
    stated = field.GetOptions().HasExtension(rules_pb2.field)
    checked = value_rules(field, rules) if stated else []
    if not field.has_presence:
        if rules.required:
            checked.insert(0, Rule(bool, "must be set"))
        if not checked:
            return None
        good = all_of(checked)

        def walk_value(message: Any, path: str) -> Iterator[FieldViolation]:
            return iter(_broken(checked, get(message), path + name))

        if good(field.default_value):
            return _Compiled(good, walk_value, name)
        return _Compiled(lambda message: good(get(message)), walk_value)
    if not checked and not rules.required:
        return None
    good, required = all_of(checked), rules.required

    def ok(message: Any) -> bool:
        return good(get(message)) if message.HasField(name) else not required

    def walk(message: Any, path: str) -> Iterator[FieldViolation]:
        if message.HasField(name):
            yield from _broken(checked, get(message), path + name)
        elif required:
            yield FieldViolation(path + name, "must be set")

    return _Compiled(ok, walk)


def _message(field: FieldDescriptor, rules: rules_pb2.FieldRules) -> _Compiled | None:
    name, get, required = field.name, attrgetter(field.name), rules.required
    below = _check_of(field.message_type) if field.message_type is not None else None
    if below is None and not required:
        return None

    def ok(message: Any) -> bool:
        if message.HasField(name):
            return below is None or below.ok(get(message))
        return not required

    def walk(message: Any, path: str) -> Iterator[FieldViolation]:
        if not message.HasField(name):
            if required:
                yield FieldViolation(path + name, "must be set")
        elif below is not None:
            yield from _below(below, get(message), path + name)

    return _Compiled(ok, walk)


def _list(field: FieldDescriptor, rules: rules_pb2.FieldRules) -> _Compiled | None:
    name, get = field.name, attrgetter(field.name)
    stated = field.GetOptions().HasExtension(rules_pb2.field)
    whole = collection_rules(rules)
    each = value_rules(field, rules) if stated else []
    below = _check_of(field.message_type) if field.message_type is not None else None
    if not whole and not each and below is None:
        return None
    whole_ok, each_ok = all_of(whole), (below.ok if below is not None else all_of(each))
    any_each = below is not None or bool(each)

    def good(items: Any) -> bool:
        return whole_ok(items) and (not any_each or all(map(each_ok, items)))

    def walk(message: Any, path: str) -> Iterator[FieldViolation]:
        items = get(message)
        yield from _broken(whole, items, path + name)
        for index, item in enumerate(items):
            place = f"{path}{name}[{index}]"
            if below is not None:
                yield from _below(below, item, place)
            else:
                yield from _broken(each, item, place)

    if whole_ok(()):
        return _Compiled(good, walk, name)
    return _Compiled(lambda message: good(get(message)), walk)


def _map(field: FieldDescriptor, rules: rules_pb2.FieldRules) -> _Compiled | None:
    name, get = field.name, attrgetter(field.name)
    entry = field.message_type
    value_type = entry.fields_by_name["value"].message_type if entry is not None else None
    below = _check_of(value_type) if value_type is not None else None
    stated = field.GetOptions().HasExtension(rules_pb2.field)
    whole, keys, values = entry_rules(field, rules) if stated else ([], [], [])
    if not whole and not keys and not values and below is None:
        return None
    whole_ok, key_ok = all_of(whole), all_of(keys)
    value_ok = below.ok if below is not None else all_of(values)

    def good(pairs: Any) -> bool:
        return whole_ok(pairs) and all(map(key_ok, pairs)) and all(map(value_ok, pairs.values()))

    def walk(message: Any, path: str) -> Iterator[FieldViolation]:
        pairs = get(message)
        yield from _broken([*whole], pairs, path + name)
        for key in pairs:
            place = f"{path}{name}[{key!r}]"
            yield from _broken(keys, key, place)
            if below is not None:
                yield from _below(below, pairs[key], place)
            else:
                yield from _broken(values, pairs[key], place)

    if whole_ok({}):
        return _Compiled(good, walk, name)
    return _Compiled(lambda message: good(get(message)), walk)


def _below(check: _MessageCheck, value: Any, place: str) -> Iterator[FieldViolation]:
    for violation in check.walk(value, place + "."):
        # A well-known type is wrong as a whole: its violation has no field of its own.
        yield (
            FieldViolation(place, violation.description)
            if violation.field == place + "."
            else violation
        )


def _broken(rules: list[Rule], value: Any, place: str) -> list[FieldViolation]:
    """The first broken rule of a value: one violation per field."""
    for rule in rules:
        if not rule.ok(value):
            return [FieldViolation(place, rule.text)]
    return []
