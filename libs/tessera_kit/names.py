"""Names of securables: what every service accepts as a thing's name and as the path to it."""

from __future__ import annotations

import re

from tessera_kit.errors import FieldViolation, InvalidArgument

__all__ = [
    "MAX_NAME_LENGTH",
    "NAME_RULE",
    "InvalidName",
    "check_name",
    "is_name",
    "join_name",
    "parse_full_name",
]

MAX_NAME_LENGTH = 128
NAME_RULE = (
    "must start with a lower-case letter, a digit or '_', and hold only these and '-', "
    f"at most {MAX_NAME_LENGTH} characters"
)
# `\Z`, not `$`: the latter would let a trailing line feed through.
_match = re.compile(r"[a-z0-9_][a-z0-9_-]{0,127}\Z").match


class InvalidName(InvalidArgument):
    """A name breaks the rule that `NAME_RULE` states."""

    reason = "INVALID_NAME"


def is_name(text: str) -> bool:
    """Whether the text may name one securable (no dots)."""
    return _match(text) is not None


def check_name(name: str, field: str = "name") -> str:
    """Return `name` unchanged when it may name one securable.

    Raises:
        InvalidName: It may not; the violation names `field`.
    """
    if _match(name) is None:
        raise InvalidName(f"{field} {NAME_RULE}", violations=[FieldViolation(field, NAME_RULE)])
    return name


def parse_full_name(
    full_name: str, parts: int | None = None, field: str = "full_name"
) -> tuple[str, ...]:
    """Split a dotted path such as `catalog.schema.table` into its checked names.

    Args:
        full_name: The path.
        parts: How many names it must have; any number when None.
        field: What to call it in a violation.

    Raises:
        InvalidName: A name is not valid, or their number is not `parts`.
    """
    names = tuple(full_name.split("."))
    if parts is not None and len(names) != parts:
        rule = f"must be {parts} names joined by dots"
        raise InvalidName(f"{field} {rule}", violations=[FieldViolation(field, rule)])
    for name in names:
        if _match(name) is None:
            rule = f"each name of the path {NAME_RULE}"
            raise InvalidName(f"{field}: {rule}", violations=[FieldViolation(field, rule)])
    return names


def join_name(*names: str) -> str:
    """The dotted path of checked names.

    Raises:
        InvalidName: A name is not valid.
    """
    return ".".join(check_name(name) for name in names)
